//! The soft IOMMU as a [`DmaSpace`].

use std::collections::HashMap;
use std::ops::Range;
use std::sync::{Mutex, MutexGuard, PoisonError};

use doorbell_queues::SharedMem;

use crate::bus::proof::{PartitionId, PartitionQuiesced, Unmapped};
use crate::deadline::Deadline;
use crate::dma::iova::{USUAL_RANGES, within};
use crate::dma::map::PAGE;
use crate::dma::{Access, DmaError, DmaSpace, Mapping, Memfd, Prefault};
use crate::soft::Control;
use crate::soft::control::ANSWER;

/// A memfd that is mapped into this process once, however many pieces of it the device sees.
#[derive(Debug)]
struct Backing {
    memory: SharedMem,
    users: usize,
}

/// Whose it is, device and inode. Two memfds of different clients never share a backing, even if one
/// client manages to get a memfd with the inode number of another's.
type Identifier = (PartitionId, (u64, u64));

#[derive(Debug, Default)]
struct Backings {
    memory: HashMap<Identifier, Backing>,
    /// First IOVA of a mapping to the memory behind it.
    mapped: HashMap<u64, Identifier>,
}

impl Backings {
    fn release(&mut self, id: Identifier) {
        if let Some(backing) = self.memory.get_mut(&id) {
            backing.users -= 1;
            if backing.users == 0 {
                self.memory.remove(&id);
            }
        }
    }
}

/// The address space of a software device.
#[derive(Debug)]
pub(super) struct SoftSpace {
    control: Control,
    backings: Mutex<Backings>,
}

impl SoftSpace {
    pub(super) fn new(control: Control) -> Self {
        Self { control, backings: Mutex::default() }
    }

    fn lock(&self) -> MutexGuard<'_, Backings> {
        self.backings.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The memory of `memfd`, mapped into this process, with one more user.
    fn back(
        &self,
        partition: PartitionId,
        memfd: &Memfd,
    ) -> Result<(Identifier, SharedMem), DmaError> {
        let id = (partition, memfd.identity()?);
        let mut backings = self.lock();
        if let Some(backing) = backings.memory.get_mut(&id) {
            backing.users += 1;
            return Ok((id, backing.memory.clone()));
        }
        // Memory that is all there costs only page table entries, and saves the device's thread the
        // faults. Memory that is not stays the donor's to fill.
        let prefault = if memfd.populated()? { Prefault::Yes } else { Prefault::No };
        let memory = memfd.map(prefault)?;
        backings.memory.insert(id, Backing { memory: memory.clone(), users: 1 });
        Ok((id, memory))
    }
}

impl DmaSpace for SoftSpace {
    fn ranges(&self) -> Vec<Range<u64>> {
        USUAL_RANGES.to_vec()
    }

    fn map(
        &self,
        partition: PartitionId,
        iova: u64,
        memory: &Memfd,
        offset: u64,
        len: u64,
        access: Access,
    ) -> Result<Mapping, DmaError> {
        let bad = |why| DmaError::BadRange { iova, len, why };
        let page = PAGE as u64;
        if !offset.is_multiple_of(page) || !len.is_multiple_of(page) || len == 0 {
            return Err(bad("not whole pages of its memory"));
        }
        if offset.checked_add(len).is_none_or(|end| end > memory.len()) {
            return Err(bad("longer than its memory"));
        }
        if !within(&USUAL_RANGES, iova, len) {
            return Err(bad("outside of what the IOMMU can translate"));
        }
        let (id, whole) = self.back(partition, memory)?;
        let part = whole.slice(offset as usize, len as usize);
        let part = part.map_err(|_| bad("longer than its memory"));
        let mapped = part.and_then(|part| {
            let map = self.control.call("map", Deadline::after(ANSWER), move |_, cx| {
                cx.iommu_mut().map(partition, iova, part, access)
            });
            map.unwrap_or_else(|error| Err(DmaError::Unreachable(error.to_string())))
        });
        let mut backings = self.lock();
        if let Err(error) = mapped {
            backings.release(id);
            return Err(error);
        }
        backings.mapped.insert(iova, id);
        Ok(Mapping { iova, len, partition })
    }

    fn unmap(
        &self,
        mapping: Mapping,
        proof: &PartitionQuiesced,
    ) -> Result<Unmapped, (Mapping, DmaError)> {
        if let Err(error) = mapping.check(proof) {
            return Err((mapping, error));
        }
        let Mapping { iova, len, partition } = mapping;
        let unmapped = self.control.call("unmap", Deadline::after(ANSWER), move |_, cx| {
            cx.iommu_mut().unmap(partition, iova, len)
        });
        match unmapped {
            Ok(Ok(())) => {}
            Ok(Err(error)) => return Err((mapping, error)),
            // A thread that has ended accesses nothing any more: its mappings went with it.
            Err(_) if !self.control.alive() => {}
            Err(error) => return Err((mapping, DmaError::Unreachable(error.to_string()))),
        }
        let mut backings = self.lock();
        if let Some(id) = backings.mapped.remove(&iova) {
            backings.release(id);
        }
        Ok(Unmapped::new(iova, len))
    }
}
