//! Debian's own kernel: what most users have. It comes in modules, so it starts with a file system in memory
//! (initramfs) whose first program, `lab-init`, loads those that it takes to reach the host's file system.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::error::{LabError, Result, failed};
use crate::host::debian::{Apt, Suite};
use crate::host::kernel::{self, Kernel};
use crate::host::{cache, process};

/// The package that depends on the release's current kernel.
const PACKAGE: &str = "linux-image-amd64";

/// What of a kernel's package is unpacked: the image, and folders of modules.
const FILES: [&str; 8] = [
    "*boot/vmlinuz-*",
    "*/modules/*/kernel/drivers/vfio/*",
    "*/modules/*/kernel/drivers/virtio/*",
    "*/modules/*/kernel/drivers/nvme/*",
    "*/modules/*/kernel/net/9p/*",
    "*/modules/*/kernel/fs/*",
    "*/modules/*/kernel/[bclav]*",
    "*/modules/*/kernel/drivers/iommu/*",
];

/// The modules that a guest needs. What they depend on is read from the modules themselves. A kernel that has one of
/// them built in has no file of it.
const MODULES: [&str; 8] = [
    "virtio_pci",
    "9pnet_virtio",
    "9p",
    "nvme",
    "vfio_iommu_type1",
    "vfio_pci",
    // ext4 asks for a checksum by its name, which is no dependency that the module tells of.
    "crc32c_generic",
    "ext4",
];

/// The kernel of this machine's Debian release, fetched once, with an initramfs written into `folder` whose first
/// program is `init`.
///
/// # Errors
/// [`LabError::Unavailable`] if it cannot be fetched.
pub fn debian(init: &Path, folder: &Path) -> Result<Kernel> {
    let kept = cache::folder()?.join("debian-kernel");
    cache::keep(&kept, |work| {
        eprintln!("  fetching Debian's kernel into {} (once)", kept.display());
        let is_image = |name: &str| {
            name.strip_prefix("linux-image-")
                .is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
        };
        Apt::with(Suite::ThisMachine, PACKAGE)?.unpack(PACKAGE, is_image, work, &FILES)
    })?;
    let again = || format!("delete {} to fetch it anew", kept.display());
    let files = walk(&kept);
    let is_kernel = |path: &&PathBuf| name(path).starts_with("vmlinuz-");
    let Some(image) = files.iter().find(is_kernel) else {
        return failed(format!("no kernel was unpacked; {}", again()));
    };
    let modules = Modules::find(&files);
    let ordered = modules.ordered(&MODULES)?;
    if ordered.is_empty() {
        return failed(format!("no module was unpacked; {}", again()));
    }
    let release = kernel::release_of(image)?;
    let mut archive = Archive::default();
    for folder in ["proc", "dev", "root", "modules"] {
        archive.folder(folder);
    }
    archive.file("init", 0o755, &read(init)?);
    for (at, module) in ordered.iter().enumerate() {
        archive.file(
            &format!("modules/{at:03}-{}.ko", name(module)),
            0o644,
            &module_bytes(module)?,
        );
    }
    let initramfs = folder.join(format!("initramfs-{release}.cpio"));
    fs::create_dir_all(folder).map_err(|error| LabError::file("make the folder", folder, error))?;
    fs::write(&initramfs, archive.finish())
        .map_err(|error| LabError::file("write", &initramfs, error))?;
    Ok(Kernel { image: image.clone(), release, initramfs: Some(initramfs) })
}

fn name(path: &Path) -> String {
    path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}

fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).map_err(|error| LabError::file("read", path, error))
}

/// Every file below a folder.
fn walk(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            match entry.file_type() {
                Ok(kind) if kind.is_dir() => folders.push(entry.path()),
                Ok(kind) if kind.is_file() => files.push(entry.path()),
                _ => {}
            }
        }
    }
    files.sort();
    files
}

/// A module's contents; newer releases compress them.
fn module_bytes(path: &Path) -> Result<Vec<u8>> {
    if name(path).ends_with(".ko") {
        return read(path);
    }
    let plain = tempfile::NamedTempFile::new()
        .map_err(|error| LabError::Failed(format!("cannot make a file: {error}")))?;
    let mut command = process::with_parent("sh");
    command
        .args(["-c", r#"xz --decompress --stdout "$1" > "$2""#, "sh"])
        .arg(path)
        .arg(plain.path());
    let ended = process::run(&mut command, Duration::from_secs(60))?;
    if !ended.status.success() {
        return failed(format!("{} cannot be decompressed: {}", path.display(), ended.complaint()));
    }
    read(plain.path())
}

/// A kernel's modules, by name.
#[derive(Debug, Default)]
struct Modules {
    files: BTreeMap<String, PathBuf>,
}

impl Modules {
    fn find(files: &[PathBuf]) -> Self {
        let module = |path: &PathBuf| {
            let name = name(path);
            let stem = name.strip_suffix(".ko").or_else(|| name.strip_suffix(".ko.xz"))?;
            Some((stem.replace('-', "_"), path.clone()))
        };
        Self { files: files.iter().filter_map(module).collect() }
    }

    /// `wanted` and everything that they depend on, each after what it depends on.
    fn ordered(&self, wanted: &[&str]) -> Result<Vec<PathBuf>> {
        let (mut ordered, mut seen) = (Vec::new(), BTreeSet::new());
        // The last is next; a module is put off until its dependencies are done.
        let mut todo: Vec<(String, bool)> =
            wanted.iter().rev().map(|name| ((*name).to_owned(), false)).collect();
        while let Some((name, ready)) = todo.pop() {
            let Some(path) = self.files.get(&name) else { continue };
            if ready {
                ordered.push(path.clone());
            } else if seen.insert(name.clone()) {
                todo.push((name, true));
                todo.extend(
                    dependencies(&module_bytes(path)?).into_iter().map(|name| (name, false)),
                );
            }
        }
        Ok(ordered)
    }
}

/// The names after `depends=` in a module's `.modinfo` section, which is text that ends with zero bytes.
fn dependencies(module: &[u8]) -> Vec<String> {
    const KEY: &[u8] = b"\0depends=";
    let Some(at) = module.windows(KEY.len()).position(|window| window == KEY) else {
        return Vec::new();
    };
    let text = module.get(at + KEY.len()..).unwrap_or_default();
    let text = text.split(|byte| *byte == 0).next().unwrap_or_default();
    let text = String::from_utf8_lossy(text);
    text.split(',').filter(|name| !name.is_empty()).map(|name| name.replace('-', "_")).collect()
}

/// An archive as the kernel unpacks it (Documentation/driver-api/early-userspace/buffer-format.rst, "newc").
#[derive(Debug, Default)]
struct Archive {
    bytes: Vec<u8>,
    entries: u32,
}

impl Archive {
    fn folder(&mut self, name: &str) {
        self.entry(name, 0o40_755, &[]);
    }

    fn file(&mut self, name: &str, mode: u32, data: &[u8]) {
        self.entry(name, 0o100_000 | mode, data);
    }

    fn entry(&mut self, name: &str, mode: u32, data: &[u8]) {
        self.entries += 1;
        // Inode, mode, owner, group, links, time, size, device (2), its own device (2), length of the name, checksum.
        let fields =
            [self.entries, mode, 0, 0, 1, 0, len(data.len()), 0, 0, 0, 0, len(name.len() + 1), 0];
        self.bytes.extend_from_slice(b"070701");
        for field in fields {
            self.bytes.extend_from_slice(format!("{field:08x}").as_bytes());
        }
        self.bytes.extend_from_slice(name.as_bytes());
        self.bytes.push(0);
        self.align();
        self.bytes.extend_from_slice(data);
        self.align();
    }

    fn align(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }

    fn finish(mut self) -> Vec<u8> {
        self.entry("TRAILER!!!", 0, &[]);
        self.bytes
    }
}

/// A length as the archive's 32 bits; nothing of the lab comes near that.
fn len(bytes: usize) -> u32 {
    u32::try_from(bytes).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may fail by panic")]
    use super::*;

    #[test]
    fn a_module_comes_after_what_it_depends_on() {
        let folder = tempfile::tempdir().unwrap();
        for (name, depends) in
            [("vfio-pci", "vfio-core,vfio"), ("vfio_core", "vfio"), ("vfio", ""), ("x", "")]
        {
            let text = format!("ELF\0license=GPL\0depends={depends}\0retpoline=Y\0");
            fs::write(folder.path().join(format!("{name}.ko")), text).unwrap();
        }
        let modules = Modules::find(&walk(folder.path()));
        let ordered = modules.ordered(&["built_in", "vfio_pci", "vfio"]).unwrap();
        let names: Vec<_> = ordered.iter().map(|path| name(path)).collect();
        assert_eq!(names, ["vfio.ko", "vfio_core.ko", "vfio-pci.ko"]);
    }

    #[test]
    fn an_archive_has_aligned_entries_and_a_trailer() {
        let mut archive = Archive::default();
        archive.file("init", 0o755, b"12345");
        let bytes = archive.finish();
        assert_eq!(&bytes[..14], b"07070100000001");
        assert_eq!(&bytes[14..22], b"000081ed");
        assert_eq!(&bytes[110..115], b"init\0");
        assert_eq!(&bytes[116..121], b"12345");
        assert_eq!(&bytes[124..130], b"070701");
        assert!(bytes.windows(10).any(|window| window == b"TRAILER!!!"));
    }
}
