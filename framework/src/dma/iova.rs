//! Which IOVA ranges may be given out, and to whom.
//!
//! Every client gets a [`Partition`]: a range of its own, 2 MiB aligned, above 4 GiB, clear of the
//! x86 MSI window. Inside it arenas are placed page-aligned (2 MiB aligned from 2 MiB on). A range
//! is given out again only against the proof that it was unmapped; a partition whose mappings are
//! in doubt is **quarantined**: its range is never used again.
//!
//! What it does not do: it maps nothing.

use std::collections::BTreeMap;
use std::ops::Range;

use super::DmaError;
use super::map::{HUGE_PAGE, PAGE};
use crate::bus::proof::{PartitionId, Unmapped};

/// Partitions begin here or above: below lie 32-bit devices' ranges and the MSI window.
const LOWEST: u64 = 4 << 30;

/// Devices that send fewer bits of an address get low partitions.
const LEAST_BITS: u32 = 36;

/// The x86 MSI window: writes there are interrupts, never memory (Intel SDM 3A, 11.11.1).
pub const MSI_HOLE: Range<u64> = 0xfee0_0000..0xfef0_0000;

/// What an x86 IOMMU with 48-bit addresses reports: for address spaces that report nothing.
#[cfg(any(feature = "soft", feature = "vfio", feature = "vfio-user"))]
pub(crate) const USUAL_RANGES: [Range<u64>; 2] = [0..MSI_HOLE.start, MSI_HOLE.end..1 << 48];

/// True if `len` bytes from `iova` lie in one of `ranges`.
#[cfg(any(feature = "soft", feature = "vfio", feature = "vfio-user"))]
pub(crate) fn within(ranges: &[Range<u64>], iova: u64, len: u64) -> bool {
    iova.checked_add(len)
        .is_some_and(|end| ranges.iter().any(|range| range.start <= iova && end <= range.end))
}

/// Free ranges, by first address; neighbours are always merged.
#[derive(Debug, Default)]
pub(super) struct FreeList(BTreeMap<u64, u64>);

impl FreeList {
    /// The lowest range of `len` bytes at a multiple of `align`. Ends are computed by checked sums,
    /// so no input wraps.
    pub(super) fn take(&mut self, len: u64, align: u64) -> Option<u64> {
        let (start, end, at) = self.0.iter().find_map(|(start, size)| {
            let end = start.checked_add(*size)?;
            let at = start.checked_next_multiple_of(align)?;
            (at.checked_add(len)? <= end).then_some((*start, end, at))
        })?;
        self.0.remove(&start);
        if at > start {
            self.0.insert(start, at - start);
        }
        if at + len < end {
            self.0.insert(at + len, end - at - len);
        }
        Some(at)
    }

    /// Exactly this range. False, and nothing changed, if part of it is not free.
    pub(super) fn take_at(&mut self, at: u64, len: u64) -> bool {
        let Some(end) = at.checked_add(len).filter(|_| len > 0) else { return false };
        let Some((start, size)) = self.0.range(..=at).next_back().map(|(s, l)| (*s, *l)) else {
            return false;
        };
        if end > start + size {
            return false;
        }
        self.0.remove(&start);
        if at > start {
            self.0.insert(start, at - start);
        }
        if start + size > end {
            self.0.insert(end, start + size - end);
        }
        true
    }

    /// Gives a range back. False, and nothing changed, if part of it is free already.
    pub(super) fn give(&mut self, start: u64, len: u64) -> bool {
        let Some(end) = start.checked_add(len).filter(|_| len > 0) else { return false };
        let before = self.0.range(..end).next_back().map(|(s, l)| (*s, *s + *l));
        if before.is_some_and(|(_, before_end)| before_end > start) {
            return false;
        }
        let (mut first, mut last) = (start, end);
        if let Some((before_start, _)) = before.filter(|(_, before_end)| *before_end == start) {
            self.0.remove(&before_start);
            first = before_start;
        }
        if let Some(after) = self.0.remove(&end) {
            last = end + after;
        }
        self.0.insert(first, last - first);
        true
    }

    pub(super) fn total(&self) -> u64 {
        self.0.values().sum()
    }
}

/// Gives out partitions.
#[derive(Debug)]
pub struct IovaAllocator {
    free: FreeList,
    next_id: u32,
}

impl IovaAllocator {
    /// Over the ranges that the IOMMU can translate ([`super::DmaSpace::ranges`]). Of these only
    /// what lies above 4 GiB and below `1 << address_bits` is used, in whole 2 MiB, without the MSI
    /// window. A device that sends less than 36 bits has nothing above 4 GiB worth dividing:
    /// it gets all but the first 2 MiB, so that no buffer has the address 0.
    #[must_use]
    pub fn new(ranges: &[Range<u64>], address_bits: u32) -> Self {
        let mut free = FreeList::default();
        let top = 1u64.checked_shl(address_bits).unwrap_or(u64::MAX);
        let lowest = if address_bits < LEAST_BITS { HUGE_PAGE as u64 } else { LOWEST };
        for range in ranges {
            for part in without_hole(range.start.max(lowest)..range.end.min(top)) {
                let align = HUGE_PAGE as u64;
                let Some(start) = part.start.checked_next_multiple_of(align) else { continue };
                let end = part.end - part.end % align;
                if start < end {
                    // Overlapping input ranges are given once: `give` refuses the second.
                    free.give(start, end - start);
                }
            }
        }
        Self { free, next_id: 0 }
    }

    /// A partition of `len` bytes, rounded up to 2 MiB, with an id that was never used before.
    ///
    /// # Errors
    /// [`DmaError::NoIova`] if no such range (or no id) is left.
    pub fn partition(&mut self, len: u64) -> Result<Partition, DmaError> {
        let none = DmaError::NoIova { len };
        let align = HUGE_PAGE as u64;
        let Some(size) = len.max(1).checked_next_multiple_of(align) else { return Err(none) };
        let Some(next) = self.next_id.checked_add(1) else { return Err(none) };
        let Some(base) = self.free.take(size, align) else { return Err(none) };
        Ok(self.make(next, base, size))
    }

    /// A partition at exactly this range, which was given out by the allocator of another address
    /// space: a client that moves keeps its addresses.
    ///
    /// # Errors
    /// [`DmaError::BadRange`] if part of it is taken here, or cannot be translated.
    pub fn partition_at(&mut self, range: Range<u64>) -> Result<Partition, DmaError> {
        let len = range.end.saturating_sub(range.start);
        let why = "not free, or not translated, in this address space";
        let bad = DmaError::BadRange { iova: range.start, len, why };
        let Some(next) = self.next_id.checked_add(1) else { return Err(bad) };
        if !self.free.take_at(range.start, len) {
            return Err(bad);
        }
        Ok(self.make(next, range.start, len))
    }

    fn make(&mut self, next: u32, base: u64, len: u64) -> Partition {
        let id = PartitionId(self.next_id);
        self.next_id = next;
        let mut free = FreeList::default();
        free.give(base, len);
        Partition { id, base, len, free }
    }

    /// Takes a partition back; its range may be given out again.
    ///
    /// # Errors
    /// The partition comes back if part of it is still allocated.
    pub fn release(&mut self, partition: Partition) -> Result<(), Partition> {
        if partition.in_use() > 0 || !self.free.give(partition.base, partition.len) {
            return Err(partition);
        }
        Ok(())
    }

    /// Gives a partition up: the device may still reach memory there, so its range is never used
    /// again. Dropping a [`Partition`] does the same; this says so.
    pub fn quarantine(&mut self, partition: Partition) {
        tracing::warn!(
            partition = partition.id.0,
            base = format_args!("{:#x}", partition.base),
            len = partition.len,
            "IOVA partition quarantined: the range is never used again"
        );
        drop(partition);
    }

    /// Bytes that no partition holds and that are not quarantined.
    #[must_use]
    pub fn available(&self) -> u64 {
        self.free.total()
    }
}

/// `range` may be empty.
fn without_hole(range: Range<u64>) -> impl Iterator<Item = Range<u64>> {
    let below = range.start..range.end.min(MSI_HOLE.start);
    let above = range.start.max(MSI_HOLE.end)..range.end;
    [below, above].into_iter().filter(|part| part.start < part.end)
}

/// A client's range of IOVAs. Dropping it quarantines it; [`IovaAllocator::release`] does not.
#[derive(Debug)]
#[must_use = "a dropped partition's range is never used again"]
pub struct Partition {
    id: PartitionId,
    base: u64,
    len: u64,
    free: FreeList,
}

impl Partition {
    /// Its id, never used again.
    #[must_use]
    pub fn id(&self) -> PartitionId {
        self.id
    }

    /// First address and one past the last.
    #[must_use]
    pub fn range(&self) -> Range<u64> {
        self.base..self.base + self.len
    }

    /// True if `len` bytes from `iova` lie inside.
    #[must_use]
    pub fn contains(&self, iova: u64, len: u64) -> bool {
        iova >= self.base && iova.checked_add(len).is_some_and(|end| end <= self.base + self.len)
    }

    /// A range for an arena of `len` bytes: page-aligned, from 2 MiB on 2 MiB aligned.
    ///
    /// # Errors
    /// [`DmaError::NoIova`] if the partition has no such range free.
    pub fn alloc(&mut self, len: u64) -> Result<u64, DmaError> {
        let none = DmaError::NoIova { len };
        let size = len.checked_next_multiple_of(PAGE as u64).filter(|size| *size > 0);
        let Some(size) = size else { return Err(none) };
        let align = if size >= HUGE_PAGE as u64 { HUGE_PAGE } else { PAGE } as u64;
        self.free.take(size, align).ok_or(none)
    }

    /// Takes exactly this range: of an arena that keeps its address in another address space.
    ///
    /// # Errors
    /// [`DmaError::BadRange`] if part of it is taken or lies outside.
    pub fn alloc_at(&mut self, iova: u64, len: u64) -> Result<(), DmaError> {
        if len.is_multiple_of(PAGE as u64) && self.free.take_at(iova, len) {
            return Ok(());
        }
        Err(DmaError::BadRange { iova, len, why: "not a free range of this partition" })
    }

    /// Takes back a range that [`Partition::alloc`] gave and that was never mapped (the map failed).
    ///
    /// # Errors
    /// [`DmaError::BadRange`] if it is not an allocated range of this partition.
    pub(crate) fn release_unused(&mut self, iova: u64, len: u64) -> Result<(), DmaError> {
        let len = len.checked_next_multiple_of(PAGE as u64).unwrap_or(u64::MAX);
        if self.contains(iova, len) && self.free.give(iova, len) {
            return Ok(());
        }
        Err(DmaError::BadRange { iova, len, why: "not an allocated range of this partition" })
    }

    /// Takes back a range that was mapped, against the proof that it no longer is.
    ///
    /// # Errors
    /// [`DmaError::BadRange`] if the proof is not for an allocated range of this partition.
    pub fn release(&mut self, proof: Unmapped) -> Result<(), DmaError> {
        let (iova, len) = proof.into_range();
        self.release_unused(iova, len)
    }

    /// Bytes allocated and not released.
    #[must_use]
    pub fn in_use(&self) -> u64 {
        self.len - self.free.total()
    }
}
