//! What lies behind a namespace: memory, nothing, or a file.

mod file;
mod ram;
#[allow(unsafe_code, reason = "io_uring entries carry addresses; each site lists its obligations")]
mod ring;

pub(crate) use file::FileBackend;
pub(crate) use ram::RamBackend;
pub(crate) use ring::{Erase, Ring};

/// A namespace's content.
#[derive(Debug)]
pub(crate) enum Backend {
    /// Nothing: no data is moved.
    Null,
    /// Memory of the controller.
    Ram(RamBackend),
    /// A file, through io_uring.
    File(FileBackend),
}

impl Backend {
    /// The same content for another controller.
    pub(crate) fn share(&self) -> Self {
        match self {
            Self::Null => Self::Null,
            Self::Ram(ram) => Self::Ram(ram.clone()),
            Self::File(file) => Self::File(file.clone()),
        }
    }
}
