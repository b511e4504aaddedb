//! Write Zeroes and Dataset Management (NVM 3.2.8 and 3.2.3).

use doorbell::soft::SoftCx;

use crate::soft::SoftNvme;
use crate::soft::backend::Backend;
use crate::soft::command::{Origin, Outcome, Reply};
use crate::soft::jobs::{Erasure, Kind, Purpose};
use crate::spec::command::{DSM_RANGES_MAX, Dsm11, Rw12};
use crate::spec::{DsmRange, Sqe};

/// Bytes of memory that are zeroed at once; more is a job.
const AT_ONCE: u64 = 64 * 1024;

impl SoftNvme {
    /// Write Zeroes. It moves no data, so MDTS does not limit it.
    #[inline(never)]
    pub(super) fn write_zeroes(&mut self, sqid: u16, sqe: &Sqe) -> Reply {
        let ns = self.namespaces.for_io(sqe.nsid)?;
        let cdw12 = Rw12(sqe.cdw12);
        let blocks = ns.range(sqe.cdw10_11(), u64::from(cdw12.nlb()) + 1)?;
        ns.writable()?;
        match &ns.backend {
            Backend::Null => return Ok(Outcome::Done(0)),
            Backend::Ram(ram) if blocks.len <= AT_ONCE => {
                ram.zero(blocks.at, blocks.len, cdw12.deac());
                return Ok(Outcome::Done(0));
            }
            Backend::Ram(_) | Backend::File(_) => {}
        }
        let durable = cdw12.fua() || !self.features.cache.wce();
        let purpose = Purpose::Zeroes { durable };
        let kind = Kind::Erase(Erasure::of(purpose, blocks.at, blocks.len, cdw12.deac()));
        let started = self.jobs.start(
            &mut self.namespaces,
            Some(Origin::of(sqid, sqe)),
            sqe.nsid,
            kind,
            |job| {
                (job.at, job.len) = (blocks.at, blocks.len);
            },
        );
        Ok(if started { Outcome::Pending } else { Outcome::Busy })
    }

    /// Dataset Management. Of its attributes only Deallocate does anything; the rest is advice about
    /// access patterns.
    ///
    /// Out of line, for its list would make every command's stack frame large.
    #[inline(never)]
    pub(super) fn dataset_management(&mut self, cx: &mut SoftCx, sqid: u16, sqe: &Sqe) -> Reply {
        self.namespaces.for_io(sqe.nsid)?;
        if self.jobs.full() {
            return Ok(Outcome::Busy);
        }
        let count = (sqe.cdw10 & 0xff) as usize + 1;
        let mut ranges = [DsmRange::default(); DSM_RANGES_MAX];
        let ranges = ranges.get_mut(..count).unwrap_or_default();
        let bytes: &mut [u8] = bytemuck::cast_slice_mut(ranges);
        self.segments.resolve(cx, self.regs.page_size(), sqe, bytes.len() as u64)?;
        self.segments.read_bytes(cx, 0, bytes)?;
        let ns = self.namespaces.for_io(sqe.nsid)?;
        for range in ranges.iter().filter(|range| range.nlb > 0) {
            ns.range(range.slba, range.nlb.into())?;
        }
        if !Dsm11(sqe.cdw11).ad() {
            return Ok(Outcome::Done(0));
        }
        ns.writable()?;
        if matches!(ns.backend, Backend::Null) {
            return Ok(Outcome::Done(0));
        }
        let kind = Kind::Erase(Erasure::of_ranges());
        let fill = |job: &mut crate::soft::jobs::Job| {
            job.ranges.extend(ranges.iter().filter(|range| range.nlb > 0));
        };
        self.jobs.start(&mut self.namespaces, Some(Origin::of(sqid, sqe)), sqe.nsid, kind, fill);
        Ok(Outcome::Pending)
    }
}
