//! [`SysfsError`]: what goes wrong when the kernel's files are read.

use std::io;
use std::path::PathBuf;

use crate::pci::Address;

/// A file of the kernel's cannot be read, or says what cannot be.
#[derive(Debug, thiserror::Error)]
pub enum SysfsError {
    /// No such function.
    #[error("no PCI function {0} is here; `doorbell list --all` shows those that are")]
    NoFunction(Address),
    /// A file or folder cannot be read.
    #[error("cannot read {}: {error}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The kernel's error.
        #[source]
        error: io::Error,
    },
    /// A file's text is not what it must be.
    #[error("{} says '{text}', which is no {what}", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// Its text, cut and without control characters.
        text: String,
        /// What was expected.
        what: &'static str,
    },
    /// A file or folder is larger than anything the kernel writes.
    #[error("{} has more than {limit} {what}", path.display())]
    TooMuch {
        /// The file or folder.
        path: PathBuf,
        /// The most that is read.
        limit: usize,
        /// Of what.
        what: &'static str,
    },
}

impl SysfsError {
    /// True if the file is not there: the function was pulled, or the kernel has no such file.
    #[must_use]
    pub fn is_absent(&self) -> bool {
        matches!(self, Self::NoFunction(_))
            || matches!(self, Self::Read { error, .. } if absent(error))
    }
}

/// Not there, or there no longer: a read of a file whose device was pulled is `ENODEV`.
fn absent(error: &io::Error) -> bool {
    let gone = rustix::io::Errno::NODEV.raw_os_error();
    error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(gone)
}
