//! A software IOMMU: translates what a model's DMA names, and refuses what is not mapped.
//!
//! It is owned by the device's thread, so a translation takes no lock and no reference count. A
//! translation that hits costs a hash and two compares; a miss walks a B-tree. Thousands of 4 KiB
//! mappings (a guest behind a translating vIOMMU) cost no more than few large ones.
//!
//! What it does not do: it does not stop a model from using its own pointers. It checks the model's
//! addresses, not the model.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use doorbell_queues::SharedMem;
use slab::Slab;

use crate::bus::proof::PartitionId;
use crate::dma::map::PAGE;
use crate::dma::{Access, DmaError, Fault};

/// Slots of the look-up cache; a power of two.
const CACHE: usize = 64;

/// Faults that are kept until someone asks; older ones are only counted.
pub const FAULT_LOG: usize = 64;

impl Access {
    /// True if a mapping for `self` allows `wanted`.
    #[must_use]
    #[inline]
    pub fn allows(self, wanted: Self) -> bool {
        matches!(
            (self, wanted),
            (Self::ReadWrite, _) | (Self::Read, Self::Read) | (Self::Write, Self::Write)
        )
    }
}

#[derive(Debug)]
struct Mapped {
    /// `None`: a peer has it, and it is reached by messages.
    memory: Option<SharedMem>,
    /// One past the last address.
    end: u64,
    access: Access,
    partition: PartitionId,
}

/// A remembered mapping. `start == end == 0` is an empty slot.
///
/// # Invariants
/// If not empty, `mappings[key]` exists and has this range: unmapping clears the slots of its key.
#[derive(Debug, Clone, Copy)]
struct Cached {
    start: u64,
    end: u64,
    key: usize,
    access: Access,
}

const EMPTY: Cached = Cached { start: 0, end: 0, key: 0, access: Access::Read };

/// One translated piece of a transfer.
#[derive(Debug, Clone, Copy)]
pub struct Piece<'a> {
    /// The mapped memory that the piece lies in.
    pub memory: &'a SharedMem,
    /// Offset of the piece in it.
    pub offset: usize,
    /// Bytes.
    pub len: usize,
}

/// One piece of a transfer, wherever its memory is.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Part<'a> {
    /// Mapped into this process.
    Here(Piece<'a>),
    /// With a peer: address and bytes.
    There(u64, usize),
}

/// The mappings of one device.
#[derive(Debug)]
pub struct SoftIommu {
    /// False while the device is no bus master: then nothing is reachable.
    enabled: bool,
    mappings: Slab<Mapped>,
    /// First address to key in `mappings`. Ranges never overlap.
    tree: BTreeMap<u64, usize>,
    cache: [Cached; CACHE],
    faults: VecDeque<Fault>,
    /// Shared with the host's side, which looks at it without a message.
    fault_count: Arc<AtomicU64>,
}

impl Default for SoftIommu {
    fn default() -> Self {
        Self {
            enabled: true,
            mappings: Slab::new(),
            tree: BTreeMap::new(),
            cache: [EMPTY; CACHE],
            faults: VecDeque::with_capacity(FAULT_LOG),
            fault_count: Arc::default(),
        }
    }
}

#[inline]
fn cache_slot(iova: u64) -> usize {
    // Fibonacci hashing of the page number: the top bits are the well-mixed ones.
    ((iova / PAGE as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> (64 - CACHE.ilog2())) as usize
}

impl SoftIommu {
    /// Maps the whole of `memory` at `iova`.
    ///
    /// # Errors
    /// [`DmaError::BadRange`] if the range is empty, not page-aligned, wraps, or overlaps a mapping.
    pub fn map(
        &mut self,
        partition: PartitionId,
        iova: u64,
        memory: SharedMem,
        access: Access,
    ) -> Result<(), DmaError> {
        let len = memory.len() as u64;
        self.insert(partition, iova, len, Some(memory), access)
    }

    /// Maps `len` bytes at `iova` that a peer has: they are reached by messages.
    ///
    /// # Errors
    /// As [`SoftIommu::map`].
    #[cfg(feature = "vfio-user")]
    pub(crate) fn map_remote(
        &mut self,
        partition: PartitionId,
        iova: u64,
        len: u64,
        access: Access,
    ) -> Result<(), DmaError> {
        self.insert(partition, iova, len, None, access)
    }

    fn insert(
        &mut self,
        partition: PartitionId,
        iova: u64,
        len: u64,
        memory: Option<SharedMem>,
        access: Access,
    ) -> Result<(), DmaError> {
        let bad = |why| DmaError::BadRange { iova, len, why };
        if len == 0 || !iova.is_multiple_of(PAGE as u64) || !len.is_multiple_of(PAGE as u64) {
            return Err(bad("empty, or not whole pages"));
        }
        let end = iova.checked_add(len).ok_or_else(|| bad("it wraps around"))?;
        let before = self.tree.range(..end).next_back().map(|(_, key)| self.mappings[*key].end);
        if before.is_some_and(|before| before > iova) {
            return Err(bad("it overlaps a mapping"));
        }
        let key = self.mappings.insert(Mapped { memory, end, access, partition });
        self.tree.insert(iova, key);
        Ok(())
    }

    /// Unmaps exactly the mapping of `len` bytes at `iova`. When it returns, no access reaches it.
    ///
    /// # Errors
    /// [`DmaError::BadRange`] if there is no such mapping of that partition.
    pub fn unmap(&mut self, partition: PartitionId, iova: u64, len: u64) -> Result<(), DmaError> {
        let bad = DmaError::BadRange { iova, len, why: "no such mapping of this partition" };
        let Some(key) = self.tree.get(&iova).copied() else { return Err(bad) };
        let mapped = &self.mappings[key];
        if mapped.end - iova != len || mapped.partition != partition {
            return Err(bad);
        }
        self.tree.remove(&iova);
        self.mappings.remove(key);
        for slot in &mut self.cache {
            if slot.start == iova {
                *slot = EMPTY;
            }
        }
        Ok(())
    }

    /// Removes every mapping.
    #[cfg(feature = "vfio-user")]
    pub(crate) fn clear(&mut self) {
        self.tree.clear();
        self.mappings.clear();
        self.cache = [EMPTY; CACHE];
    }

    /// Whether the device may do DMA at all (PCI: bus master enable). The mappings stay.
    #[cfg(feature = "vfio-user")]
    pub(crate) fn set_enabled(&mut self, enabled: bool) {
        self.enabled = enabled;
        // A remembered mapping is used without asking again.
        self.cache = [EMPTY; CACHE];
    }

    /// How many mappings there are.
    #[must_use]
    pub fn mappings(&self) -> usize {
        self.tree.len()
    }

    /// The mapping that holds `len` (positive) bytes from `iova` whole and allows `access`, and the
    /// offset in it. A miss is no fault yet: the range may cross mappings.
    #[inline]
    fn locate(&mut self, iova: u64, len: u64, access: Access) -> Option<(usize, usize)> {
        let slot = cache_slot(iova);
        let mut cached = self.cache[slot];
        if iova < cached.start || iova >= cached.end {
            cached = self.look_up(iova)?;
            self.cache[slot] = cached;
        }
        let inside = len <= cached.end - iova && cached.access.allows(access);
        inside.then(|| (cached.key, (iova - cached.start) as usize))
    }

    #[cold]
    fn look_up(&self, iova: u64) -> Option<Cached> {
        if !self.enabled {
            return None;
        }
        let (start, key) = self.tree.range(..=iova).next_back()?;
        let mapped = self.mappings.get(*key)?;
        let cached = Cached { start: *start, end: mapped.end, key: *key, access: mapped.access };
        (iova < mapped.end).then_some(cached)
    }

    /// As [`SoftIommu::translate`], but a range that one mapping does not hold whole is no fault
    /// yet.
    #[inline]
    pub(crate) fn whole(&mut self, iova: u64, len: u64, access: Access) -> Option<Piece<'_>> {
        let (key, offset) = self.locate(iova, len, access)?;
        let memory = self.mappings.get(key)?.memory.as_ref()?;
        Some(Piece { memory, offset, len: len as usize })
    }

    /// Translates a range that must lie in one mapping, in memory of this process.
    ///
    /// # Errors
    /// [`Fault`], which is also recorded.
    #[inline]
    pub fn translate(&mut self, iova: u64, len: u64, access: Access) -> Result<Piece<'_>, Fault> {
        match self.locate(iova, len.max(1), access) {
            Some((key, offset)) if self.mappings.get(key).is_some_and(|m| m.memory.is_some()) => {
                match &self.mappings[key].memory {
                    Some(memory) => Ok(Piece { memory, offset, len: len as usize }),
                    None => Err(Fault { iova, len, access }),
                }
            }
            _ => Err(self.fault(iova, len, access)),
        }
    }

    /// Calls `each` for every piece of a range, in ascending order, which may cross adjacent
    /// mappings. The whole range is checked first: if it faults, `each` was not called at all.
    ///
    /// # Errors
    /// [`Fault`] with the whole range if any byte of it is not mapped for `access`, or is memory that
    /// only messages reach; it is recorded.
    #[inline]
    pub fn pieces(
        &mut self,
        iova: u64,
        len: u64,
        access: Access,
        mut each: impl FnMut(Piece<'_>),
    ) -> Result<(), Fault> {
        if let Some(piece) = self.whole(iova, len.max(1), access) {
            each(Piece { len: len as usize, ..piece });
            return Ok(());
        }
        let mut here = true;
        self.parts(iova, len, access, |part| here &= matches!(part, Part::Here(_)))?;
        if !here {
            return Err(self.fault(iova, len, access));
        }
        self.parts(iova, len, access, |part| {
            if let Part::Here(piece) = part {
                each(piece);
            }
        })
    }

    /// As [`SoftIommu::pieces`], with memory that a peer has among them.
    ///
    /// # Errors
    /// [`Fault`] with the whole range if any byte of it is not mapped for `access`; it is recorded.
    pub(crate) fn parts(
        &mut self,
        iova: u64,
        len: u64,
        access: Access,
        mut each: impl FnMut(Part<'_>),
    ) -> Result<(), Fault> {
        self.check(iova, len, access)?;
        let (mut at, end) = (iova, iova + len);
        while at < end {
            let Some(cached) = self.look_up(at) else { break };
            let Some(mapped) = self.mappings.get(cached.key) else { break };
            let offset = (at - cached.start) as usize;
            let stop = end.min(cached.end);
            let len = (stop - at) as usize;
            each(match &mapped.memory {
                Some(memory) => Part::Here(Piece { memory, offset, len }),
                None => Part::There(at, len),
            });
            at = stop;
        }
        Ok(())
    }

    /// True if a range lies in one mapping that only messages reach, and allows `access`.
    pub(crate) fn is_remote(&mut self, iova: u64, len: u64, access: Access) -> bool {
        let found = self.locate(iova, len, access).and_then(|(key, _)| self.mappings.get(key));
        found.is_some_and(|mapped| mapped.memory.is_none())
    }

    /// Checks that every byte of a range is mapped for `access`.
    ///
    /// # Errors
    /// [`Fault`], which is also recorded.
    #[inline]
    pub fn check(&mut self, iova: u64, len: u64, access: Access) -> Result<(), Fault> {
        if self.locate(iova, len.max(1), access).is_some() || self.covered(iova, len, access) {
            return Ok(());
        }
        Err(self.fault(iova, len, access))
    }

    /// True if every byte of the range is mapped for `access`.
    fn covered(&self, iova: u64, len: u64, access: Access) -> bool {
        let Some(end) = iova.checked_add(len) else { return false };
        let mut at = iova;
        while at < end {
            let Some(cached) = self.look_up(at) else { return false };
            if !cached.access.allows(access) {
                return false;
            }
            at = cached.end;
        }
        len > 0
    }

    /// Records an access that was refused.
    #[cold]
    pub(crate) fn fault(&mut self, iova: u64, len: u64, access: Access) -> Fault {
        let fault = Fault { iova, len, access };
        // Relaxed: a statistic; whoever sees it change asks the thread for the faults.
        self.fault_count.fetch_add(1, Ordering::Relaxed);
        if self.faults.len() == FAULT_LOG {
            self.faults.pop_front();
        }
        self.faults.push_back(fault);
        fault
    }

    /// Accesses refused since the device started.
    #[must_use]
    pub fn fault_count(&self) -> u64 {
        self.fault_count.load(Ordering::Relaxed)
    }

    pub(crate) fn shared_fault_count(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.fault_count)
    }

    /// Takes the recorded faults, oldest first; at most [`FAULT_LOG`] of the latest.
    pub fn take_faults(&mut self) -> Vec<Fault> {
        self.faults.drain(..).collect()
    }
}
