//! The disk image: an ext4 file system with a few hundred files, and room behind it to write to.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

use super::dice::Dice;
use super::programs::{last_line, program, run, succeed};

/// Bytes of the file system.
pub(crate) const FILE_SYSTEM: u64 = 256 << 20;

/// Bytes behind it in the same image, which belong to no file system: what is written there leaves
/// it clean.
pub(crate) const SCRATCH: u64 = 16 << 20;

/// How many files there are.
const FILES: u64 = 320;

/// How many folders they lie in.
const FOLDERS: u64 = 12;

/// An image that was made.
#[derive(Debug)]
pub(crate) struct Image {
    /// The image.
    pub(crate) path: PathBuf,
    /// How many files are in it.
    pub(crate) files: u64,
    /// Their bytes.
    pub(crate) bytes: u64,
    folder: PathBuf,
}

impl Image {
    /// Makes the files and the image of them in `folder`, and records the files' checksums there.
    ///
    /// # Errors
    /// If the folder has no room, or a program of e2fsprogs or coreutils is missing or fails.
    pub(crate) fn make(folder: &Path, seed: u64) -> Result<Self> {
        let source = folder.join("files");
        let bytes = make_files(&source, &mut Dice::new(seed))?;
        record_checksums(&source, &folder.join("SHA256SUMS"))?;
        let path = folder.join("disk.img");
        let mut mkfs = program("mkfs.ext4")?;
        mkfs.args(["-q", "-F", "-L", "doorbell", "-E", "lazy_itable_init=0,lazy_journal_init=0"]);
        mkfs.arg("-d").arg(&source).arg(&path).arg(format!("{}k", FILE_SYSTEM >> 10));
        succeed(&mut mkfs)?;
        let image = File::options().write(true).open(&path).context("opening the image")?;
        image.set_len(FILE_SYSTEM + SCRATCH).context("making room behind the file system")?;
        image.sync_all().context("writing the image to the disk")?;
        fs::remove_dir_all(&source).context("removing the files that are now in the image")?;
        Ok(Self { path, files: FILES, bytes, folder: folder.to_owned() })
    }

    /// Whether `e2fsck -fn` finds the file system clean; what it said if not.
    ///
    /// # Errors
    /// If it cannot be run.
    pub(crate) fn check(&self) -> Result<Result<(), String>> {
        let mut fsck = program("e2fsck")?;
        fsck.arg("-fn").arg(&self.path);
        let ended = run(&mut fsck)?;
        if ended.status.success() {
            return Ok(Ok(()));
        }
        let text = String::from_utf8_lossy(&ended.stdout);
        Ok(Err(format!("{} ({})", text.trim().replace('\n', "; "), ended.status)))
    }

    /// Takes every file out of the image again and compares the checksums: the names of those that
    /// differ.
    ///
    /// # Errors
    /// If the files cannot be taken out.
    pub(crate) fn compare_files(&self) -> Result<Vec<String>> {
        let out = self.folder.join("out");
        fs::create_dir(&out).context("making a folder for the files of the image")?;
        let mut debugfs = program("debugfs")?;
        debugfs.arg("-R").arg("rdump / out").arg(&self.path).current_dir(&self.folder);
        succeed(&mut debugfs)?;
        let mut check = program("sha256sum")?;
        check.args(["--check", "--quiet", "--strict", "../SHA256SUMS"]).current_dir(&out);
        let ended = run(&mut check)?;
        fs::remove_dir_all(&out).context("removing the files taken out of the image")?;
        if ended.status.success() {
            return Ok(Vec::new());
        }
        let text = String::from_utf8_lossy(&ended.stdout);
        let differing: Vec<String> =
            text.lines().filter_map(|line| line.split(':').next()).map(str::to_owned).collect();
        ensure!(!differing.is_empty(), "sha256sum failed: {}", last_line(&ended.stderr));
        Ok(differing)
    }
}

/// Makes files of mixed sizes, from none to 8 MiB, most of them small, as in any home folder.
fn make_files(source: &Path, dice: &mut Dice) -> Result<u64> {
    let mut total = 0;
    let mut content = Vec::new();
    for number in 0..FILES {
        let folder = source.join(format!("folder-{:02}", number % FOLDERS));
        fs::create_dir_all(&folder).context("making a folder for the image")?;
        let size = match number % 40 {
            0 => 0,
            1 => (4 << 20) + dice.below(4 << 20),
            // Evenly over the powers of two up to 1 MiB, and not a round number.
            _ => (1 << dice.below(20)) + dice.below(1 << 12),
        };
        content.resize(size as usize, 0);
        dice.fill(&mut content);
        let path = folder.join(format!("file-{number:03}.bin"));
        fs::write(&path, &content).with_context(|| {
            format!("writing {} (is the disk full? TMPDIR chooses another)", path.display())
        })?;
        total += size;
    }
    Ok(total)
}

/// Writes the SHA-256 of every file, in the form that `sha256sum --check` reads.
fn record_checksums(source: &Path, to: &Path) -> Result<()> {
    let mut names = Vec::new();
    for folder in fs::read_dir(source).context("listing the files")? {
        let folder = folder.context("listing the files")?;
        for file in fs::read_dir(folder.path()).context("listing the files")? {
            let file = file.context("listing the files")?;
            names.push(Path::new(&folder.file_name()).join(file.file_name()));
        }
    }
    names.sort();
    let mut sum = program("sha256sum")?;
    let ended = succeed(sum.args(&names).current_dir(source))?;
    fs::write(to, ended.stdout).context("writing the checksums")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::FileExt;

    #[test]
    fn an_image_is_clean_and_a_damaged_one_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let image = Image::make(folder.path(), 42).unwrap();
        assert_eq!(fs::metadata(&image.path).unwrap().len(), FILE_SYSTEM + SCRATCH);
        assert!(image.bytes > 20 << 20 && image.bytes < 200 << 20, "{}", image.bytes);
        assert_eq!(image.check().unwrap(), Ok(()));
        assert_eq!(image.compare_files().unwrap(), Vec::<String>::new());

        let file = File::options().write(true).open(&image.path).unwrap();
        file.write_all_at(&[0xff; 4096], FILE_SYSTEM).unwrap();
        assert_eq!(image.check().unwrap(), Ok(()), "what lies behind the file system is not its");
        file.write_all_at(&[0xff; 65_536], 4096).unwrap();
        assert!(image.check().unwrap().is_err());
    }
}
