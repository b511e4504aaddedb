//! Guest kernels: a ready one, Debian's own, or one built from Debian's source.

use std::env;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

use crate::error::{LabError, Result, failed, unavailable};

/// The variable that names a ready kernel: a bzImage, or a folder that holds some (files whose names begin with
/// `bzImage`).
pub const VARIABLE: &str = "DOORBELL_LAB_KERNEL";

/// The end of the release of a kernel whose VFIO device files give BAR slices that can be mapped and revoked.
pub(crate) const REVOCABLE: &str = "-dmabuf";

/// A kernel to boot.
#[derive(Debug, Clone)]
pub struct Kernel {
    /// The bzImage.
    pub image: PathBuf,
    /// What its header says that it is, as `uname -r` would.
    pub release: String,
    /// For a kernel that comes in modules: the file system that it starts with.
    pub initramfs: Option<PathBuf>,
}

impl Kernel {
    /// A kernel that has everything built in.
    ///
    /// # Errors
    /// If the file cannot be read or is no bzImage.
    pub fn built_in(image: PathBuf) -> Result<Self> {
        let release = release_of(&image)?;
        Ok(Self { image, release, initramfs: None })
    }

    /// Whether it can give BAR slices that are revocable.
    #[must_use]
    pub fn revocable_slices(&self) -> bool {
        self.release.ends_with(REVOCABLE)
    }
}

/// The kernels that `DOORBELL_LAB_KERNEL` names, those without revocable slices first; nothing if it is not set.
///
/// # Errors
/// If it is set and names no kernel.
pub fn ready() -> Result<Vec<Kernel>> {
    env::var_os(VARIABLE).filter(|value| !value.is_empty()).map_or(Ok(Vec::new()), ready_at)
}

/// The same for a given place.
///
/// # Errors
/// If there is no kernel at that place.
pub fn ready_at(place: OsString) -> Result<Vec<Kernel>> {
    let place = PathBuf::from(place);
    let place = fs::canonicalize(&place)
        .map_err(|error| LabError::Failed(format!("{} ({VARIABLE}): {error}", place.display())))?;
    if place.is_file() {
        return Ok(vec![Kernel::built_in(place)?]);
    }
    let entries = fs::read_dir(&place).map_err(|error| LabError::file("read", &place, error))?;
    let is_image = |path: &PathBuf| {
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned());
        path.is_file() && name.is_some_and(|name| name.starts_with("bzImage"))
    };
    let images = entries.flatten().map(|entry| entry.path()).filter(is_image);
    let mut kernels = images.map(Kernel::built_in).collect::<Result<Vec<_>>>()?;
    if kernels.is_empty() {
        return unavailable(format!("{} ({VARIABLE}) holds no file bzImage*", place.display()));
    }
    kernels.sort_by_key(|kernel| (kernel.revocable_slices(), kernel.release.clone()));
    Ok(kernels)
}

/// The release in a bzImage's header (Documentation/arch/x86/boot.rst: "HdrS" at 0x202, at 0x20e where the version's
/// text lies, less 0x200).
pub(crate) fn release_of(image: &Path) -> Result<String> {
    let read = || -> std::io::Result<Vec<u8>> {
        let mut header = Vec::new();
        File::open(image)?.take(0x8000).read_to_end(&mut header)?;
        Ok(header)
    };
    let header = read().map_err(|error| LabError::file("read", image, error))?;
    let Some(release) = release_in(&header) else {
        return failed(format!("{} is no kernel for x86 (bzImage)", image.display()));
    };
    Ok(release)
}

fn release_in(header: &[u8]) -> Option<String> {
    if header.get(0x202..0x206)? != b"HdrS" {
        return None;
    }
    let offset = u16::from_le_bytes([*header.get(0x20e)?, *header.get(0x20f)?]);
    let text = header.get(usize::from(offset) + 0x200..)?;
    let text = text.split(|byte| *byte == 0 || *byte == b' ').next()?;
    String::from_utf8(text.to_vec()).ok().filter(|release| !release.is_empty())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may fail by panic")]
    use super::*;

    fn header(release: &str) -> Vec<u8> {
        let mut header = vec![0; 0x400];
        header[0x202..0x206].copy_from_slice(b"HdrS");
        header[0x20e..0x210].copy_from_slice(&0x100_u16.to_le_bytes());
        header[0x300..0x300 + release.len()].copy_from_slice(release.as_bytes());
        header
    }

    #[test]
    fn a_folder_gives_its_kernels_and_those_with_slices_last() {
        let folder = tempfile::tempdir().unwrap();
        for release in ["9.9-lab-dmabuf (me) #1", "9.9-lab (me) #1"] {
            let name = format!("bzImage-{}", release.split(' ').next().unwrap());
            fs::write(folder.path().join(name), header(release)).unwrap();
        }
        fs::write(folder.path().join("README"), "no kernel").unwrap();
        let kernels = ready_at(folder.path().into()).unwrap();
        let releases: Vec<_> = kernels.iter().map(|kernel| kernel.release.as_str()).collect();
        assert_eq!(releases, ["9.9-lab", "9.9-lab-dmabuf"]);
        assert!(!kernels[0].revocable_slices() && kernels[1].revocable_slices());
        assert_eq!(ready_at(kernels[0].image.clone().into()).unwrap().len(), 1);
    }

    #[test]
    fn what_is_no_kernel_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let error = ready_at(folder.path().into()).unwrap_err().to_string();
        assert!(error.contains("holds no file bzImage*"), "{error}");
        let file = folder.path().join("bzImage");
        for bytes in [&b""[..], b"x", &header("")[..0x210]] {
            fs::write(&file, bytes).unwrap();
            let error = ready_at(folder.path().into()).unwrap_err().to_string();
            assert!(error.contains("is no kernel"), "{error}");
        }
        let error = ready_at(folder.path().join("nowhere").into()).unwrap_err().to_string();
        assert!(error.contains("nowhere") && error.contains(VARIABLE), "{error}");
    }
}
