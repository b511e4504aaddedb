//! One request as commands: how each entry is built, and what an error says of it.

use std::sync::Arc;

use doorbell_queues::{InFlight, Lost, Rejected, Tag};

use super::Nvme;
use super::error::{Failed, NvmeError};
use super::extent::{Extent, Lba, Part};
use super::namespace::Range;
use super::payload::{Payload, SlotPages};
use crate::protocol::{NvmeProtocol, Outcome};
use crate::prp::Prps;
use crate::spec::command::{Dsm11, Rw12};
use crate::spec::{DsmRange, IoOpcode, Sqe};

/// A checked request, before it is cut into commands.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Request {
    pub(crate) opcode: IoOpcode,
    pub(crate) nsid: u32,
    /// `None` for Flush.
    pub(crate) extent: Option<Extent>,
    pub(crate) block_shift: u32,
    /// Blocks of one command, 1 to 65,536.
    pub(crate) most_blocks: u64,
    /// Bits of CDW12 besides the number of blocks.
    pub(crate) flags: Rw12,
}

pub(crate) type Command<'n> = InFlight<'n, NvmeProtocol, Payload>;

impl Request {
    /// True if one command does it all.
    #[inline]
    pub(crate) fn is_single(&self) -> bool {
        self.extent.is_none_or(|extent| extent.blocks <= self.most_blocks)
    }

    /// Its command number `index`, from 0, by ascending LBA; `None` past the last.
    #[inline]
    pub(crate) fn part(&self, index: u64) -> Option<Part> {
        self.extent?.part(index, self.most_blocks)
    }

    /// The first block of command number `index`.
    pub(crate) fn lba_of(&self, index: u64) -> Lba {
        self.part(index).map_or(Lba(0), |part| part.lba)
    }

    /// The whole request as one part; the caller knows that it is.
    #[inline]
    pub(crate) fn whole(&self) -> Part {
        match self.extent {
            Some(extent) => Part { lba: extent.lba, blocks: extent.blocks as u32, before: 0 },
            None => Part { lba: Lba(0), blocks: 1, before: 0 },
        }
    }

    /// The entry of one part (NVM command set 1.0, 3.2; Flush: base 2.0, 7.1).
    #[inline]
    fn entry(&self, part: Part, prps: Prps) -> Sqe {
        let entry = Sqe { prp1: prps.prp1, prp2: prps.prp2, ..Sqe::io(self.opcode, self.nsid) };
        if self.extent.is_none() {
            return entry;
        }
        let cdw12 = self.flags.with_nlb((part.blocks - 1) as u16).0;
        Sqe { cdw12, ..entry }.with_cdw10_11(part.lba.0)
    }

    /// Builds the entry of one part in slot `slot`; `base` is the device's address of the request's
    /// whole buffer.
    #[inline]
    fn build(
        &self,
        pages: &Arc<SlotPages>,
        part: Part,
        base: Option<u64>,
        slot: u16,
        payload: &mut Payload,
    ) -> Sqe {
        let Some(base) = base else { return self.entry(part, Prps::default()) };
        let iova = base + (part.before << self.block_shift);
        let (prps, listed) = pages.prps(slot, iova, u64::from(part.blocks) << self.block_shift);
        if listed {
            payload.keep(pages);
        }
        self.entry(part, prps)
    }

    /// Submits one part; `base` is the device's address of the request's whole buffer.
    #[inline]
    pub(crate) fn submit<'n>(
        &self,
        nvme: &'n Nvme,
        part: Part,
        base: Option<u64>,
        payload: Payload,
    ) -> Result<Command<'n>, Rejected<Payload>> {
        let pages = nvme.pages();
        nvme.queue().submit(payload, |slot, payload| self.build(pages, part, base, slot, payload))
    }

    /// As [`Request::submit`], for the callback of a reap.
    #[inline]
    pub(crate) fn post(
        &self,
        nvme: &Nvme,
        part: Part,
        base: Option<u64>,
        payload: Payload,
    ) -> Result<Tag, Rejected<Payload>> {
        let pages = nvme.pages();
        nvme.queue().post(payload, |slot, payload| self.build(pages, part, base, slot, payload))
    }

    /// Submits a Dataset Management command that deallocates (NVM command set 1.0, 3.2.3). The ranges
    /// are checked: 1 to 256, all inside the namespace.
    pub(crate) fn submit_ranges<'n>(
        &self,
        nvme: &'n Nvme,
        ranges: &[Range],
    ) -> Result<Command<'n>, Rejected<Payload>> {
        let pages = nvme.pages();
        nvme.queue().submit(Payload::nothing(), |slot, payload| {
            payload.keep(pages);
            let ranges_of = ranges.iter().map(|range| DsmRange {
                cattr: 0,
                nlb: range.blocks,
                slba: range.lba.0,
            });
            let prps = pages.ranges(slot, ranges_of);
            Sqe {
                prp1: prps.prp1,
                prp2: prps.prp2,
                cdw10: ranges.len().saturating_sub(1) as u32,
                cdw11: Dsm11(0).with_ad(true).0,
                ..Sqe::io(self.opcode, self.nsid)
            }
        })
    }

    /// What became of the command whose first block is `lba`.
    #[inline]
    pub(crate) fn result(
        &self,
        nvme: &Nvme,
        tag: Tag,
        lba: Lba,
        done: Result<(Outcome, Payload), Lost<Payload>>,
    ) -> (Result<(), NvmeError>, Option<Payload>) {
        match done {
            Ok((outcome, payload)) if outcome.status.is_success() => (Ok(()), Some(payload)),
            Ok((outcome, payload)) => (Err(self.failed(nvme, tag, lba, outcome)), Some(payload)),
            Err(Lost { error, buffer }) => (Err(error.into()), buffer),
        }
    }

    #[cold]
    fn failed(&self, nvme: &Nvme, tag: Tag, lba: Lba, outcome: Outcome) -> NvmeError {
        NvmeError::Status(Box::new(Failed {
            queue: nvme.queue().name().clone(),
            tag,
            opcode: self.opcode,
            nsid: self.nsid,
            lba: self.extent.map(|_| lba),
            status: outcome.status,
        }))
    }
}
