//! Memory that a floor's two processes share: a memfd, as the framework makes it.

use std::os::fd::OwnedFd;

use anyhow::{Context, Result, ensure};
use doorbell::dma::{HugePages, Memfd, Prefault};
use doorbell_queues::SharedMem;

/// A sealed memfd, mapped.
#[derive(Debug)]
pub struct Shared {
    memfd: Memfd,
    view: SharedMem,
}

impl Shared {
    /// New memory, of zeroes, with every page present.
    ///
    /// # Errors
    /// If the kernel gives none.
    pub fn create(len: usize) -> Result<Self> {
        let memfd =
            Memfd::create("doorbell-floor", len, HugePages::No).context("making a memfd")?;
        Self::map(memfd)
    }

    /// The memory behind a descriptor from the other process.
    ///
    /// # Errors
    /// If it is not memory of at least `len` bytes.
    pub fn receive(fd: OwnedFd, len: usize) -> Result<Self> {
        let memfd = Memfd::check(fd).context("taking the shared memory of a floor")?;
        ensure!(memfd.len() >= len as u64, "the shared memory of a floor is too small");
        Self::map(memfd)
    }

    fn map(memfd: Memfd) -> Result<Self> {
        let view = memfd.map(Prefault::Yes).context("mapping shared memory")?;
        Ok(Self { memfd, view })
    }

    /// The memory itself.
    #[must_use]
    pub fn view(&self) -> &SharedMem {
        &self.view
    }

    /// A descriptor for the other process.
    ///
    /// # Errors
    /// If this process has none left.
    pub fn descriptor(&self) -> Result<OwnedFd> {
        Ok(self.memfd.try_clone().context("duplicating a memfd")?.into_fd())
    }
}
