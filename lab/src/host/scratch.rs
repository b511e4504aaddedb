//! Temporary folders that are gone when this program is, however it ends.

use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};

use crate::error::{LabError, Result};

/// A temporary folder. It is removed when this is dropped, and also when the program is killed or interrupted: by a
/// shell that waits for the end of a pipe, and that an interrupt from the terminal does not end.
#[derive(Debug)]
pub struct Scratch {
    folder: tempfile::TempDir,
    reaper: Child,
    /// The reaper's standard input; it goes on when nobody has this any more.
    alive: Option<ChildStdin>,
}

/// What the reaper does. `read` ends at the end of its input.
const REAPER: &str = r#"trap "" INT TERM HUP; read -r line; exec rm -rf -- "$1""#;

impl Scratch {
    /// A new folder in `parent`, or where temporary files usually are.
    ///
    /// # Errors
    /// If it cannot be made, or the shell cannot be started.
    pub fn new(prefix: &str, parent: Option<&Path>) -> Result<Self> {
        let parent = parent.map_or_else(std::env::temp_dir, Path::to_owned);
        let folder = tempfile::Builder::new()
            .prefix(prefix)
            .tempdir_in(&parent)
            .map_err(|error| LabError::file("make a folder in", &parent, error))?;
        let mut shell = Command::new("sh");
        shell.args(["-c", REAPER, "sh"]).arg(folder.path());
        shell.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut reaper = shell
            .spawn()
            .map_err(|error| LabError::Failed(format!("cannot start a shell: {error}")))?;
        let alive = reaper.stdin.take();
        Ok(Self { folder, reaper, alive })
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// A place in it.
    #[must_use]
    pub fn join(&self, name: &str) -> PathBuf {
        self.path().join(name)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        self.alive = None;
        // It removes the folder; if that fails there is nobody to tell.
        let _ = self.reaper.wait();
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may fail by panic")]
    use super::*;

    #[test]
    fn it_is_gone_with_everything_in_it() {
        let place = tempfile::tempdir().unwrap();
        let scratch = Scratch::new("some-", Some(place.path())).unwrap();
        std::fs::create_dir(scratch.join("a")).unwrap();
        std::fs::write(scratch.join("a/b"), "x").unwrap();
        drop(scratch);
        assert_eq!(std::fs::read_dir(place.path()).unwrap().count(), 0);
    }

    #[test]
    fn the_reaper_alone_is_enough() {
        let place = tempfile::tempdir().unwrap();
        let mut scratch = Scratch::new("some-", Some(place.path())).unwrap();
        // What the kernel does when a program is killed.
        scratch.alive = None;
        scratch.reaper.wait().unwrap();
        assert_eq!(std::fs::read_dir(place.path()).unwrap().count(), 0);
    }
}
