//! Physical region pages: where a command's data lies in host memory (base 4.1.1).

use doorbell::dma::{Access, Fault};
use doorbell::queues::SharedMem;
use doorbell::soft::SoftCx;

use super::command::{Failure, byte};
use crate::spec::{Prp, Sqe, Status};

/// Bytes of one PRP entry.
const ENTRY: u64 = 8;
/// Entries of a list that are read at a time.
const BATCH: usize = 512;

/// A piece of host memory without a gap in IOVA space.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Segment {
    pub(crate) iova: u64,
    pub(crate) len: u64,
}

/// Where a command's data lies, in order. Reused from command to command: it does not allocate once
/// it has grown to the longest transfer.
#[derive(Debug, Default)]
pub(crate) struct Segments {
    list: Vec<Segment>,
}

impl Segments {
    /// Room for the most segments of a transfer of `bytes`.
    pub(crate) fn for_transfers_of(bytes: u64) -> Self {
        // One page more than full pages, for a transfer that begins inside of a page.
        Self { list: Vec::with_capacity((bytes / 4096 + 1) as usize) }
    }

    /// Reads what a command's PRP entries say about `len` bytes.
    ///
    /// # Errors
    /// "PRP Offset Invalid" for an entry that breaks the rules of base 4.1.1; "Data Transfer Error"
    /// if a list is not reachable by DMA.
    #[inline]
    pub(crate) fn resolve(
        &mut self,
        cx: &mut SoftCx,
        page: u64,
        sqe: &Sqe,
        len: u64,
    ) -> Result<(), Failure> {
        self.list.clear();
        let first = Prp(sqe.prp1);
        if !first.is_dword_aligned() {
            return Err(Failure::field(Status::INVALID_PRP_OFFSET, byte::PRP1, 0));
        }
        let head = len.min(page - first.offset(page));
        self.list.push(Segment { iova: first.0, len: head });
        if head == len {
            return Ok(());
        }
        self.second(cx, page, sqe, len - head)
    }

    /// The pages after the first: PRP2 is the only one, or points to a list.
    fn second(&mut self, cx: &mut SoftCx, page: u64, sqe: &Sqe, len: u64) -> Result<(), Failure> {
        let second = Prp(sqe.prp2);
        if len > page {
            if !second.0.is_multiple_of(ENTRY) {
                return Err(Failure::field(Status::INVALID_PRP_OFFSET, byte::PRP2, 0));
            }
            return self.list_at(cx, page, second.0, len);
        }
        if second.offset(page) != 0 {
            return Err(Failure::field(Status::INVALID_PRP_OFFSET, byte::PRP2, 0));
        }
        self.push(second.0, len);
        Ok(())
    }

    /// A PRP list, page after page: where more entries are needed than a list page holds from where
    /// it begins, its last entry points to the next list page.
    fn list_at(
        &mut self,
        cx: &mut SoftCx,
        page: u64,
        mut at: u64,
        mut len: u64,
    ) -> Result<(), Failure> {
        let mut entries = [0u64; BATCH];
        while len > 0 {
            let in_page = (page - Prp(at).offset(page)) / ENTRY;
            let needed = len.div_ceil(page);
            let chained = needed > in_page;
            let data = if chained { in_page - 1 } else { needed };
            let batch = data.min(BATCH as u64);
            let entries = entries.get_mut(..batch as usize).unwrap_or_default();
            cx.read_bytes(at, bytemuck::cast_slice_mut(entries))?;
            for entry in entries {
                if Prp(*entry).offset(page) != 0 {
                    return Err(Failure::field(Status::INVALID_PRP_OFFSET, byte::PRP2, 0));
                }
                let part = len.min(page);
                self.push(*entry, part);
                len -= part;
            }
            at += batch * ENTRY;
            if chained && batch == data {
                at = cx.read::<u64>(at)?;
                if Prp(at).offset(page) != 0 {
                    return Err(Failure::field(Status::INVALID_PRP_OFFSET, byte::PRP2, 0));
                }
            }
        }
        Ok(())
    }

    /// Adds a page, or lengthens the last segment by it.
    #[inline]
    fn push(&mut self, iova: u64, len: u64) {
        match self.list.last_mut() {
            Some(last) if last.iova.checked_add(last.len) == Some(iova) => last.len += len,
            _ => self.list.push(Segment { iova, len }),
        }
    }

    /// Parts of the transfer from `skip`, `len` bytes in all.
    pub(crate) fn parts(&self, skip: u64, len: u64) -> impl Iterator<Item = Segment> + '_ {
        let (mut skip, mut left) = (skip, len);
        self.list.iter().filter_map(move |segment| {
            let skipped = skip.min(segment.len);
            skip -= skipped;
            let len = (segment.len - skipped).min(left);
            left -= len;
            // A sum that wraps cannot be mapped; the access will fault.
            let iova = segment.iova.wrapping_add(skipped);
            (len > 0).then_some(Segment { iova, len })
        })
    }

    /// Checks that all of it can be accessed, so that a transfer in several steps either moves
    /// everything or nothing.
    pub(crate) fn check(&self, cx: &mut SoftCx, access: Access) -> Result<(), Fault> {
        self.list.iter().try_for_each(|part| cx.check(part.iova, part.len as usize, access))
    }

    /// Copies from the controller's memory to the host.
    #[inline]
    pub(crate) fn write_from(
        &self,
        cx: &mut SoftCx,
        skip: u64,
        source: &SharedMem,
        offset: u64,
        len: u64,
    ) -> Result<(), Fault> {
        let mut at = offset;
        for part in self.parts(skip, len) {
            cx.write_from(part.iova, source, at as usize, part.len as usize)?;
            at += part.len;
        }
        Ok(())
    }

    /// Copies from the host to the controller's memory. All of it is checked first.
    #[inline]
    pub(crate) fn read_into(
        &self,
        cx: &mut SoftCx,
        skip: u64,
        target: &SharedMem,
        offset: u64,
        len: u64,
    ) -> Result<(), Fault> {
        if self.list.len() > 1 {
            self.check(cx, Access::Read)?;
        }
        let mut at = offset;
        for part in self.parts(skip, len) {
            cx.read_into(part.iova, target, at as usize, part.len as usize)?;
            at += part.len;
        }
        Ok(())
    }

    /// Copies bytes to the host.
    pub(crate) fn write_bytes(&self, cx: &mut SoftCx, bytes: &[u8]) -> Result<(), Fault> {
        let mut rest = bytes;
        for part in self.parts(0, bytes.len() as u64) {
            let Some((now, later)) = rest.split_at_checked(part.len as usize) else { break };
            cx.write_bytes(part.iova, now)?;
            rest = later;
        }
        Ok(())
    }

    /// Copies bytes from the host, from `skip`.
    pub(crate) fn read_bytes(
        &self,
        cx: &mut SoftCx,
        skip: u64,
        bytes: &mut [u8],
    ) -> Result<(), Fault> {
        let mut rest = bytes;
        for part in self.parts(skip, rest.len() as u64) {
            let Some((now, later)) = rest.split_at_mut_checked(part.len as usize) else { break };
            cx.read_bytes(part.iova, now)?;
            rest = later;
        }
        Ok(())
    }
}
