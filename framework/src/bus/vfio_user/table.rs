//! What is mapped for the device, for the accesses that its server makes by messages.

use std::collections::BTreeMap;

use doorbell_queues::SharedMem;

use crate::dma::{Access, Fault};

#[derive(Debug)]
struct Mapped {
    len: u64,
    memory: SharedMem,
    access: Access,
}

/// IOVA ranges and the memory behind them.
///
/// # Invariants
/// Ranges do not overlap, do not wrap, and are as long as their memory.
#[derive(Debug, Default)]
pub(super) struct MapTable {
    maps: BTreeMap<u64, Mapped>,
}

/// One part of an access: where it lies in memory.
struct Part<'a> {
    mapped: &'a Mapped,
    offset: usize,
    len: usize,
}

impl MapTable {
    /// How many ranges there are.
    pub(super) fn len(&self) -> usize {
        self.maps.len()
    }

    /// Adds a range; false if it overlaps another, wraps, or is empty.
    #[must_use]
    pub(super) fn insert(&mut self, iova: u64, memory: SharedMem, access: Access) -> bool {
        let len = memory.len() as u64;
        let Some(end) = iova.checked_add(len).filter(|_| len > 0) else { return false };
        let before = self.maps.range(..end).next_back();
        if before.is_some_and(|(start, mapped)| start + mapped.len > iova) {
            return false;
        }
        self.maps.insert(iova, Mapped { len, memory, access });
        true
    }

    /// Removes a range that was added.
    pub(super) fn remove(&mut self, iova: u64) {
        self.maps.remove(&iova);
    }

    /// Reads memory as the device: all of it or nothing.
    pub(super) fn read(&self, iova: u64, to: &mut [u8]) -> Result<(), Fault> {
        let fault = Fault { iova, len: to.len() as u64, access: Access::Read };
        let mut rest = to;
        for part in self.parts(fault)? {
            let (now, later) = rest.split_at_mut_checked(part.len).ok_or(fault)?;
            part.mapped.memory.copy_out(part.offset, now).map_err(|_| fault)?;
            rest = later;
        }
        Ok(())
    }

    /// Writes memory as the device: all of it or nothing.
    pub(super) fn write(&self, iova: u64, from: &[u8]) -> Result<(), Fault> {
        let fault = Fault { iova, len: from.len() as u64, access: Access::Write };
        let mut rest = from;
        for part in self.parts(fault)? {
            let (now, later) = rest.split_at_checked(part.len).ok_or(fault)?;
            part.mapped.memory.copy_in(part.offset, now).map_err(|_| fault)?;
            rest = later;
        }
        Ok(())
    }

    /// The memory behind an access, if all of it is mapped and allows it. Ranges that touch are one.
    fn parts(&self, wanted: Fault) -> Result<Vec<Part<'_>>, Fault> {
        let end = wanted.iova.checked_add(wanted.len).ok_or(wanted)?;
        let (mut at, mut parts) = (wanted.iova, Vec::new());
        while at < end {
            let (start, mapped) = self.maps.range(..=at).next_back().ok_or(wanted)?;
            let allowed = mapped.access == Access::ReadWrite || mapped.access == wanted.access;
            let offset = at - start;
            if !allowed || offset >= mapped.len {
                return Err(wanted);
            }
            let len = (mapped.len - offset).min(end - at);
            // Both are less than the length of memory that is mapped here.
            parts.push(Part { mapped, offset: offset as usize, len: len as usize });
            at += len;
        }
        Ok(parts)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> MapTable {
        let mut table = MapTable::default();
        for (iova, access) in
            [(0x1000, Access::ReadWrite), (0x2000, Access::Read), (0x8000, Access::Write)]
        {
            assert!(table.insert(iova, SharedMem::zeroed(0x1000), access));
        }
        table
    }

    #[test]
    fn accesses_stay_inside_of_what_is_mapped_for_them() {
        let table = table();
        let mut bytes = [0; 16];
        table.write(0x1ff8, &[7; 8]).unwrap();
        table.read(0x1ff8, &mut bytes).unwrap();
        assert_eq!(bytes, [7, 7, 7, 7, 7, 7, 7, 7, 0, 0, 0, 0, 0, 0, 0, 0], "across two ranges");
        for iova in [0, 0xff8, 0x2ff8, 0x3000, 0x8000, u64::MAX - 4] {
            assert_eq!(table.read(iova, &mut bytes).unwrap_err().iova, iova);
        }
        for iova in [0x2000, 0x1ff8, 0x8ff8] {
            let fault = table.write(iova, &bytes).unwrap_err();
            assert_eq!((fault.iova, fault.len, fault.access), (iova, 16, Access::Write));
        }
        table.read(0x1ff8, &mut bytes).unwrap();
        assert_eq!(bytes[..8], [7; 8], "a refused write wrote nothing");
        table.write(0x8000, &bytes).unwrap();
        table.read(u64::MAX, &mut []).unwrap();
    }

    #[test]
    fn ranges_do_not_overlap() {
        let mut table = table();
        for iova in [0x800, 0x1000, 0x1800, 0x2fff, 0x7001, u64::MAX - 0xffe] {
            assert!(!table.insert(iova, SharedMem::zeroed(0x1000), Access::Read), "{iova:#x}");
        }
        assert!(table.insert(0x3000, SharedMem::zeroed(0x5000), Access::Read));
        table.remove(0x1000);
        assert_eq!(table.len(), 3);
        assert!(table.insert(0, SharedMem::zeroed(0x2000), Access::Read));
    }
}
