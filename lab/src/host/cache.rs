//! Where unpacked packages and built kernels are kept.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};

use crate::error::{LabError, Result, unavailable};
use crate::host::scratch::Scratch;

/// The variable that puts the cache elsewhere.
pub const VARIABLE: &str = "DOORBELL_LAB_CACHE";

/// The lab's cache folder, made if it is not there: `DOORBELL_LAB_CACHE`, or `doorbell/lab` in the user's cache folder
/// (`XDG_CACHE_HOME`, else `~/.cache`). It may be deleted at any time; what is needed is fetched again.
///
/// # Errors
/// If there is no such place, or it cannot be made.
pub fn folder() -> Result<PathBuf> {
    let set = |name: &str| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let users = || set("XDG_CACHE_HOME").or_else(|| Some(set("HOME")?.join(".cache")));
    let Some(folder) = set(VARIABLE).or_else(|| Some(users()?.join("doorbell/lab"))) else {
        return unavailable(format!("there is no folder to keep QEMU in: set {VARIABLE} or HOME"));
    };
    fs::create_dir_all(&folder)
        .map_err(|error| LabError::file("make the folder", &folder, error))?;
    fs::canonicalize(&folder).map_err(|error| LabError::file("find", &folder, error))
}

/// Makes what is kept in `folder`, unless it is there: `fill` gets an empty folder that takes that name once it has
/// succeeded, so that an interrupted run leaves nothing that looks complete.
///
/// # Errors
/// As `fill`, or if folders cannot be made, renamed or removed.
pub fn keep(folder: &Path, fill: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    if folder.is_dir() {
        return Ok(());
    }
    let parent = folder.parent().unwrap_or(Path::new("/"));
    fs::create_dir_all(parent).map_err(|error| LabError::file("make the folder", parent, error))?;
    let scratch = Scratch::new(".unfinished-", Some(parent))?;
    let work = scratch.join("work");
    fs::create_dir(&work).map_err(|error| LabError::file("make the folder", &work, error))?;
    fill(&work)?;
    match fs::rename(&work, folder) {
        // Another run was faster; what it has made is as good.
        Err(_) if folder.is_dir() => Ok(()),
        other => other.map_err(|error| LabError::file("make the folder", folder, error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::failed;

    #[test]
    #[allow(clippy::unwrap_used, reason = "a test may fail by panic")]
    fn what_was_not_finished_is_not_kept() {
        let place = tempfile::tempdir().unwrap();
        let folder = place.path().join("a/b");
        assert!(keep(&folder, |_| failed("no")).is_err());
        assert!(!folder.exists());
        keep(&folder, |work| {
            fs::write(work.join("file"), "x").unwrap();
            Ok(())
        })
        .unwrap();
        assert!(folder.join("file").is_file());
        keep(&folder, |_| failed("it is not made twice")).unwrap();
        assert_eq!(fs::read_dir(place.path().join("a")).unwrap().count(), 1, "no scratch is left");
    }
}
