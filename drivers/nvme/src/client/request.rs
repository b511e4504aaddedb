//! One request as commands: how each entry is built, and what an error says of it.

use doorbell_queues::{Lost, Rejected, Tag};

use super::Nvme;
use super::error::{Failed, NvmeError};
use super::extent::{Extent, Lba, Part};
use super::mode::Mode;
use super::namespace::Range;
use super::payload::{Payload, SlotPages};
use crate::protocol::Outcome;
use crate::prp::Prps;
use crate::spec::command::{Dsm11, Rw12};
use crate::spec::{DsmRange, IoOpcode, Sqe};

/// A checked request, before it is cut into commands.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Request {
    /// First block.
    pub(crate) lba: Lba,
    /// How many blocks; 0 for commands that name none (Flush).
    pub(crate) blocks: u64,
    /// Blocks of one command, 1 to 65,536.
    pub(crate) most_blocks: u32,
    pub(crate) nsid: u32,
    /// Bits of CDW12 besides the number of blocks.
    pub(crate) flags: Rw12,
    pub(crate) block_shift: u8,
    pub(crate) opcode: IoOpcode,
}

impl Request {
    /// The same for these blocks.
    #[inline]
    pub(crate) fn of(self, extent: Extent) -> Self {
        Self { lba: extent.lba, blocks: extent.blocks, ..self }
    }

    /// True if one command does it all.
    #[inline]
    pub(crate) fn is_single(&self) -> bool {
        self.blocks <= u64::from(self.most_blocks)
    }

    /// Its command number `index`, from 0, by ascending LBA; `None` past the last.
    #[inline]
    pub(crate) fn part(&self, index: u64) -> Option<Part> {
        let extent = Extent { lba: self.lba, blocks: self.blocks };
        extent.part(index, self.most_blocks.into())
    }

    /// The first block of command number `index`.
    pub(crate) fn lba_of(&self, index: u64) -> Lba {
        self.part(index).map_or(self.lba, |part| part.lba)
    }

    /// The whole request as one part; the caller knows that it is.
    #[inline]
    pub(crate) fn whole(&self) -> Part {
        Part { lba: self.lba, blocks: self.blocks as u32, before: 0 }
    }

    /// The entry of one part (NVM command set 1.0, 3.2; Flush: base 2.0, 7.1).
    #[inline(always)]
    fn entry(&self, part: Part, prps: Prps) -> Sqe {
        let entry = Sqe { prp1: prps.prp1, prp2: prps.prp2, ..Sqe::io(self.opcode, self.nsid) };
        if part.blocks == 0 {
            return entry;
        }
        let cdw12 = self.flags.with_nlb((part.blocks - 1) as u16).0;
        Sqe { cdw12, ..entry }.with_cdw10_11(part.lba.0)
    }

    /// Builds the entry of one part in slot `slot`; `base` is the device's address of the request's
    /// whole buffer.
    // Here and where it is used: the entry is built in registers and stored once, in the ring.
    #[inline(always)]
    fn build(&self, pages: &SlotPages, part: Part, base: Option<u64>, slot: u16) -> Sqe {
        let Some(base) = base else { return self.entry(part, Prps::default()) };
        let iova = base + (part.before << self.block_shift);
        self.entry(part, pages.prps(slot, iova, u64::from(part.blocks) << self.block_shift))
    }

    /// Submits one part; `base` is the device's address of the request's whole buffer.
    #[inline(always)]
    pub(crate) fn submit<'n, M: Mode>(
        &self,
        nvme: &'n Nvme<M>,
        part: Part,
        base: Option<u64>,
        payload: Payload,
    ) -> Result<M::InFlight<'n>, Rejected<Payload>> {
        let pages = nvme.pages();
        M::submit(nvme.queue(), payload, |slot, _| self.build(pages, part, base, slot))
    }

    /// As [`Request::submit`], for the callback of a reap.
    #[inline(always)]
    pub(crate) fn post<M: Mode>(
        &self,
        nvme: &Nvme<M>,
        part: Part,
        base: Option<u64>,
        payload: Payload,
    ) -> Result<Tag, Rejected<Payload>> {
        let pages = nvme.pages();
        M::post(nvme.queue(), payload, |slot, _| self.build(pages, part, base, slot))
    }

    /// Submits a Dataset Management command that deallocates (NVM command set 1.0, 3.2.3). The ranges
    /// are checked: 1 to 256, all inside the namespace.
    pub(crate) fn submit_ranges<'n, M: Mode>(
        &self,
        nvme: &'n Nvme<M>,
        ranges: &[Range],
    ) -> Result<M::InFlight<'n>, Rejected<Payload>> {
        let pages = nvme.pages();
        M::submit(nvme.queue(), Payload::nothing(), |slot, _| {
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

    /// What became of a command whose first block is `lba`, where that is not success.
    #[cold]
    pub(crate) fn failed<M: Mode>(
        &self,
        nvme: &Nvme<M>,
        tag: Tag,
        lba: Lba,
        done: Result<(Outcome, Payload), Lost<Payload>>,
    ) -> (NvmeError, Option<Payload>) {
        match done {
            Ok((outcome, payload)) => {
                let failed = Failed {
                    queue: M::name(nvme.queue()).clone(),
                    tag,
                    opcode: self.opcode,
                    nsid: self.nsid,
                    lba: (self.blocks > 0).then_some(lba),
                    status: outcome.status,
                };
                (NvmeError::Status(Box::new(failed)), Some(payload))
            }
            Err(Lost { error, buffer }) => (error.into(), buffer),
        }
    }
}
