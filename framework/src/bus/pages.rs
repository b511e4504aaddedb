//! [`SharedPages`]: memory that a driver shares with its device and with all clients of it.

use std::os::fd::OwnedFd;

use doorbell_queues::SharedMem;

use crate::dma::{Access, DmaError, DmaSpace, HugePages, Memfd, Partition, Prefault};

/// Pages that the device, its driver and its clients share: see [`super::Device::alloc_pages`].
#[derive(Debug)]
pub struct SharedPages {
    memfd: Memfd,
    memory: SharedMem,
    iova: u64,
}

impl SharedPages {
    pub(super) fn new(
        len: usize,
        partition: &mut Partition,
        space: &dyn DmaSpace,
    ) -> Result<Self, DmaError> {
        let memfd = Memfd::create("doorbell-shared", len, HugePages::No)?;
        let memory = memfd.map(Prefault::Yes)?;
        let iova = partition.alloc(memfd.len())?;
        let mapped = space.map(partition.id(), iova, &memfd, 0, memfd.len(), Access::ReadWrite);
        if let Err(error) = mapped {
            partition.release_unused(iova, memfd.len())?;
            return Err(error);
        }
        Ok(Self { memfd, memory, iova })
    }

    /// Where the device finds them.
    #[must_use]
    pub fn iova(&self) -> u64 {
        self.iova
    }

    /// The pages, in this process.
    #[must_use]
    pub fn memory(&self) -> &SharedMem {
        &self.memory
    }

    /// A descriptor for another process.
    ///
    /// # Errors
    /// [`DmaError::Os`] if the kernel has none left.
    pub fn share(&self) -> Result<OwnedFd, DmaError> {
        self.memfd.try_clone().map(Memfd::into_fd)
    }
}
