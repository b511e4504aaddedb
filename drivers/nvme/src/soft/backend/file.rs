//! A namespace in a file, regular or block.
//!
//! The file is never mapped: an image that is truncated under a running controller gives errors, not
//! SIGBUS. All data goes through the kernel's page cache; a write is acknowledged when it is there,
//! and a flush when `fdatasync` is done.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileTypeExt;
use std::path::Path;
use std::sync::Arc;

use rustix::fs::{FlockOperation, SeekFrom, flock, fstat, seek};
use rustix::io::Errno;

use crate::soft::options::OptionError;

/// An open image.
#[derive(Debug, Clone)]
pub(crate) struct FileBackend {
    /// Shared with operations under way in the ring.
    pub(crate) file: Arc<File>,
    /// Size when it was opened.
    opened_len: u64,
    /// A regular file: it may be truncated by others.
    regular: bool,
}

impl FileBackend {
    /// Opens an image and locks it, so that no second controller writes to it. The lock is advisory
    /// (flock): it keeps out who asks.
    pub(crate) fn open(path: &Path, readonly: bool) -> Result<Self, OptionError> {
        let failed = |problem: String| OptionError::Image { path: path.to_owned(), problem };
        let file = OpenOptions::new().read(true).write(!readonly).open(path).map_err(|error| {
            let todo = match error.kind() {
                std::io::ErrorKind::NotFound => {
                    "; make it first, for example: truncate -s 64M PATH"
                }
                std::io::ErrorKind::PermissionDenied => "; change its mode, or add readonly=yes",
                std::io::ErrorKind::IsADirectory => "; name a file or a block device",
                _ => "",
            };
            failed(format!("{error}{todo}"))
        })?;
        let kind = file.metadata().map_err(|error| failed(error.to_string()))?.file_type();
        if !kind.is_file() && !kind.is_block_device() {
            return Err(failed("it is neither a regular file nor a block device".to_owned()));
        }
        let lock = if readonly {
            FlockOperation::NonBlockingLockShared
        } else {
            FlockOperation::NonBlockingLockExclusive
        };
        flock(&file, lock).map_err(|errno| match errno {
            Errno::WOULDBLOCK => {
                failed("another process has it in use; stop that first".to_owned())
            }
            other => failed(format!("it cannot be locked: {other}")),
        })?;
        // Works for block devices too, whose metadata has no length.
        let opened_len = seek(&file, SeekFrom::End(0)).map_err(|e| failed(e.to_string()))?;
        Ok(Self { file: Arc::new(file), opened_len, regular: kind.is_file() })
    }

    /// Size when it was opened, in bytes.
    pub(crate) fn opened_len(&self) -> u64 {
        self.opened_len
    }

    /// False if the file ends before `end`: it was truncated, and a write would make it grow again.
    pub(crate) fn reaches(&self, end: u64) -> bool {
        !self.regular
            || fstat(&self.file)
                .is_ok_and(|stat| u64::try_from(stat.st_size).is_ok_and(|len| len >= end))
    }
}
