//! A file system on the controller's first namespace.
//!
//! What a file holds follows from its number, so that any boot can check the files of another one.

use std::fs;
use std::path::{Path, PathBuf};

use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

use super::{FILES, drop_caches, must, namespace, system};
use crate::host::sites;
use crate::pattern;
use crate::plan::cx::{Cx, Trouble, Verdict, check};

/// Where it is mounted.
const PLACE: &str = "/tmp/files";
/// Large files, in blocks: with holes between allocations, and none a multiple of a page.
const LARGE: [u64; 6] = [1, 7, 1001, 4099, 8191, 12289];
/// The pattern that is left for firmware to copy at the next boot.
pub(super) const LEFT: u64 = 0x1ef7;
/// Small files make metadata.
const SMALL: u64 = 200;

/// A mounted file system; unmounted when this is dropped, if that was not done before.
struct Mounted;

impl Mounted {
    fn now() -> Result<Self, Trouble> {
        fs::create_dir_all(PLACE)?;
        let device = namespace(FILES)?.device;
        mount(&device, PLACE, "ext4", MountFlags::empty(), None).map_err(|error| {
            Trouble::Failed(format!("the file system of {device} cannot be mounted: {error}"))
        })?;
        Ok(Self)
    }

    /// Unmounts it, and tells the host.
    fn end(self, cx: &mut Cx<'_>) -> Result<(), Trouble> {
        std::mem::forget(self);
        unmount(PLACE, UnmountFlags::empty())
            .map_err(|error| Trouble::Failed(format!("{PLACE} cannot be unmounted: {error}")))?;
        cx.file_system(sites::FILES.name)
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        // A proof has failed, which its report says; the next one finds out whether this worked.
        let _ = unmount(PLACE, UnmountFlags::DETACH);
    }
}

/// A file of ours: its name, its seed, its blocks.
fn all(generation: u64) -> impl Iterator<Item = (PathBuf, u64, u64)> {
    let large = LARGE.into_iter().enumerate().map(|(at, blocks)| (at as u64, blocks));
    let small = (0..SMALL).map(|at| (LARGE.len() as u64 + at, 1 + at % 9));
    large.chain(small).map(move |(number, blocks)| {
        let path = Path::new(PLACE).join(format!("generation-{generation}/{}", number % 8));
        (path.join(format!("file-{number}")), generation << 32 | number, blocks)
    })
}

fn write(generation: u64) -> Result<u64, Trouble> {
    let mut bytes = 0;
    for (path, seed, blocks) in all(generation) {
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder)?;
        }
        let data = pattern::blocks(seed, 0, blocks);
        bytes += data.len() as u64;
        fs::write(path, data)?;
    }
    Ok(bytes)
}

fn verify(generation: u64) -> Result<(), Trouble> {
    for (path, seed, blocks) in all(generation) {
        let data = fs::read(&path)?;
        let whole = data.len() as u64 == blocks * pattern::BLOCK as u64;
        let different = pattern::first_difference(seed, 0, &data);
        check(whole && different.is_none(), || {
            format!("{}: {} bytes, wrong from block {different:?}", path.display(), data.len())
        })?;
    }
    Ok(())
}

/// Moves a generation aside, and cuts, removes and writes again.
fn change(from: u64) -> Result<(), Trouble> {
    let folder = |number: u64| Path::new(PLACE).join(format!("generation-{number}"));
    fs::rename(folder(from), folder(0))?;
    for entry in fs::read_dir(folder(0).join("3"))?.flatten() {
        fs::File::options().write(true).open(entry.path())?.set_len(1000)?;
    }
    fs::remove_dir_all(folder(0))?;
    write(from)?;
    Ok(())
}

pub(in crate::plan) fn files(cx: &mut Cx<'_>) -> Verdict {
    let mut command = system("mkfs.ext4")?;
    command.args(["-q", "-F", "-E", "lazy_itable_init=0,lazy_journal_init=0"]);
    must(cx, command.arg(namespace(FILES)?.device))?;
    let mounted = Mounted::now()?;
    let bytes = write(1)?;
    drop_caches()?;
    verify(1)?;
    mounted.end(cx)?;
    drop_caches()?;
    let mounted = Mounted::now()?;
    verify(1)?;
    mounted.end(cx)?;
    Ok(format!("{} files with {bytes} bytes, read back twice", all(1).count()))
}

pub(in crate::plan) fn kept(cx: &mut Cx<'_>) -> Verdict {
    let mounted = there()?;
    verify(1)?;
    change(1)?;
    drop_caches()?;
    verify(1)?;
    mounted.end(cx)?;
    Ok("verified, removed, and written again".to_owned())
}

pub(in crate::plan) fn reboot(cx: &mut Cx<'_>) -> Verdict {
    super::driver::controller()?;
    let mounted = there()?;
    let firmware = again()?;
    verify(1)?;
    let bytes = write(2)?;
    drop_caches()?;
    verify(1)?;
    verify(2)?;
    mounted.end(cx)?;
    Ok(format!(
        "{} files verified, {bytes} more bytes written and verified{firmware}",
        all(1).count()
    ))
}

/// What firmware has copied at this boot, if `guest-format` has left something for it.
fn again() -> Result<&'static str, Trouble> {
    let mut data = [0; pattern::BLOCK];
    let disk = fs::File::open(namespace(super::LOAD)?.device)?;
    std::os::unix::fs::FileExt::read_exact_at(&disk, &mut data, 0)?;
    if data != pattern::block(LEFT, 0) {
        return Ok("");
    }
    super::driver::copied(LEFT)?;
    Ok("; firmware has used the disk again")
}

/// The file system, if an earlier proof has made it.
fn there() -> Result<Mounted, Trouble> {
    let mut magic = [0; 2];
    let file = fs::File::open(namespace(FILES)?.device)?;
    // The superblock begins at 1024, and its magic number 56 bytes further on.
    std::os::unix::fs::FileExt::read_exact_at(&file, &mut magic, 1024 + 56)?;
    if magic != [0x53, 0xef] {
        return Err(Trouble::Skipped("guest-files has made no file system before".to_owned()));
    }
    Mounted::now()
}
