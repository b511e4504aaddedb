//! [`SharedPages`]: memory that a driver shares with its device and with all clients of it.

use std::collections::BTreeSet;
use std::os::fd::OwnedFd;
use std::sync::{Mutex, PoisonError};

use doorbell_queues::SharedMem;

use super::proof::PartitionQuiesced;
use crate::dma::{Access, DmaError, DmaSpace, HugePages, Mapping, Memfd, Partition, Prefault};

/// Pages that the device, its driver and its clients share: see [`super::Device::alloc_pages`].
#[derive(Debug)]
pub struct SharedPages {
    memfd: Memfd,
    memory: SharedMem,
    iova: u64,
    /// Until [`super::Device::free_pages`].
    mapping: Mutex<Option<Mapping>>,
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
        match mapped {
            Ok(mapping) => Ok(Self { memfd, memory, iova, mapping: Mutex::new(Some(mapping)) }),
            Err(error) => {
                partition.release_unused(iova, memfd.len())?;
                Err(error)
            }
        }
    }

    /// Takes them from the device. Whoever maps them still has them.
    pub(super) fn unmap(
        &self,
        partition: &mut Partition,
        space: &dyn DmaSpace,
    ) -> Result<(), DmaError> {
        let mapping = self.mapping.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(mapping) = mapping else { return Ok(()) };
        // The driver's partition has no queue of a client's, so nothing else is to be proven.
        let proof = PartitionQuiesced::of(partition.id(), &BTreeSet::new(), Vec::new());
        let Ok(proof) = proof else { return Ok(()) };
        match space.unmap(mapping, &proof) {
            Ok(unmapped) => partition.release(unmapped),
            // Its addresses are not used again.
            Err((_, error)) => Err(error),
        }
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
