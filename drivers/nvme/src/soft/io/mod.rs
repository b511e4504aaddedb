//! I/O commands of the NVM command set (NVM 3.2; Flush: base 7.1).
//!
//! In memory they are executed at once: one copy between host and namespace. On a file they become
//! jobs. Every check comes before anything moves.

mod erase;

use doorbell::soft::SoftCx;

use super::SoftNvme;
use super::admin::check_flags;
use super::backend::Backend;
use super::command::{Failure, Origin, Outcome, Reply, byte};
use super::jobs::Kind;
use super::namespace::Blocks;
use super::prp::Segments;
use crate::spec::command::Rw12;
use crate::spec::{IoOpcode, NSID_ALL, Sqe, Status};

/// I/O commands that this controller has: for the effects log.
pub(crate) const SUPPORTED: [IoOpcode; 6] = [
    IoOpcode::FLUSH,
    IoOpcode::WRITE,
    IoOpcode::READ,
    IoOpcode::COMPARE,
    IoOpcode::WRITE_ZEROES,
    IoOpcode::DATASET_MANAGEMENT,
];

/// Bytes that are compared at a time.
const COMPARE: usize = 4096;

impl SoftNvme {
    /// Executes an I/O command.
    #[inline]
    pub(crate) fn io(&mut self, cx: &mut SoftCx, sqid: u16, sqe: &Sqe) -> Reply {
        let opcode = IoOpcode(sqe.opcode);
        if sqe.flags != 0 && SUPPORTED.contains(&opcode) {
            check_flags(sqe)?;
        }
        match opcode {
            IoOpcode::READ => self.read(cx, sqid, sqe),
            IoOpcode::WRITE => self.write(cx, sqid, sqe),
            IoOpcode::FLUSH => self.flush(sqid, sqe),
            IoOpcode::COMPARE => self.compare(cx, sqid, sqe),
            IoOpcode::WRITE_ZEROES => self.write_zeroes(sqid, sqe),
            IoOpcode::DATASET_MANAGEMENT => self.dataset_management(cx, sqid, sqe),
            _ => Err(Failure::field(Status::INVALID_OPCODE, byte::OPCODE, 0)),
        }
    }

    /// Most bytes of one transfer (MDTS).
    #[inline]
    pub(crate) fn max_transfer(&self) -> u64 {
        4096 << self.config.mdts
    }

    /// The blocks of a command that moves data.
    #[inline]
    fn transfer(&self, sqe: &Sqe) -> Result<Blocks, Failure> {
        let ns = self.namespaces.for_io(sqe.nsid)?;
        let count = u64::from(Rw12(sqe.cdw12).nlb()) + 1;
        // Longer than MDTS is "Invalid Field in Command" (base 5.17.2.1).
        if count << ns.shift() > self.max_transfer() {
            return Err(Failure::invalid(byte::CDW12, 0));
        }
        ns.range(sqe.cdw10_11(), count)
    }

    /// Where the data of a command lies in host memory.
    #[inline]
    fn resolve(&mut self, cx: &mut SoftCx, sqe: &Sqe, len: u64) -> Result<(), Failure> {
        self.segments.resolve(cx, self.regs.page_size(), sqe, len)
    }

    /// Read (NVM 3.2.4).
    #[inline]
    fn read(&mut self, cx: &mut SoftCx, sqid: u16, sqe: &Sqe) -> Reply {
        let blocks = self.transfer(sqe)?;
        let outcome = match self.namespaces.get(sqe.nsid).map(|ns| &ns.backend) {
            Some(Backend::Ram(ram)) => {
                self.segments.resolve(cx, self.regs.page_size(), sqe, blocks.len)?;
                self.segments.write_from(cx, 0, &ram.memory, blocks.at, blocks.len)?;
                Outcome::Done(0)
            }
            Some(Backend::File(_)) => self.start(cx, sqid, sqe, Kind::Read, blocks)?,
            Some(Backend::Null) | None => Outcome::Done(0),
        };
        if outcome != Outcome::Busy {
            self.stats.reads += 1;
            self.stats.bytes_read += blocks.len;
        }
        Ok(outcome)
    }

    /// Write (NVM 3.2.6).
    #[inline]
    fn write(&mut self, cx: &mut SoftCx, sqid: u16, sqe: &Sqe) -> Reply {
        let blocks = self.transfer(sqe)?;
        let durable = self.is_durable(sqe);
        let Some(ns) = self.namespaces.get(sqe.nsid) else { return Ok(Outcome::Done(0)) };
        ns.writable()?;
        let outcome = match &ns.backend {
            Backend::Ram(ram) => {
                self.segments.resolve(cx, self.regs.page_size(), sqe, blocks.len)?;
                self.segments.read_into(cx, 0, &ram.memory, blocks.at, blocks.len)?;
                Outcome::Done(0)
            }
            Backend::File(_) => self.start(cx, sqid, sqe, Kind::Write { durable }, blocks)?,
            Backend::Null => Outcome::Done(0),
        };
        if outcome != Outcome::Busy {
            self.stats.writes += 1;
            self.stats.bytes_written += blocks.len;
        }
        Ok(outcome)
    }

    /// Compare (NVM 3.2.1). A null namespace has no data to compare: it is equal to anything.
    ///
    /// Out of line, for its buffers would make every command's stack frame large.
    #[inline(never)]
    fn compare(&mut self, cx: &mut SoftCx, sqid: u16, sqe: &Sqe) -> Reply {
        let blocks = self.transfer(sqe)?;
        match self.namespaces.get(sqe.nsid).map(|ns| &ns.backend) {
            Some(Backend::Ram(ram)) => {
                self.segments.resolve(cx, self.regs.page_size(), sqe, blocks.len)?;
                equal(&self.segments, cx, &ram.memory, blocks)?;
            }
            Some(Backend::File(_)) => return self.start(cx, sqid, sqe, Kind::Compare, blocks),
            Some(Backend::Null) | None => {}
        }
        self.stats.reads += 1;
        self.stats.bytes_read += blocks.len;
        Ok(Outcome::Done(0))
    }

    /// Flush (base 7.1). Data in memory is where it will ever be.
    #[inline]
    fn flush(&mut self, sqid: u16, sqe: &Sqe) -> Reply {
        let (first, last) = if sqe.nsid == NSID_ALL {
            (1, self.namespaces.count())
        } else {
            let ns = self.namespaces.for_io(sqe.nsid)?;
            if !matches!(ns.backend, Backend::File(_)) {
                return Ok(Outcome::Done(0));
            }
            (sqe.nsid, sqe.nsid)
        };
        if first != last && !self.namespaces.any_cache() {
            return Ok(Outcome::Done(0));
        }
        let nsid = if first == last { first } else { 0 };
        let kind = Kind::Flush { last };
        let fill = |job: &mut super::jobs::Job| job.at = first.into();
        let started =
            self.jobs.start(&mut self.namespaces, Some(Origin::of(sqid, sqe)), nsid, kind, fill);
        Ok(if started { Outcome::Pending } else { Outcome::Busy })
    }

    /// True if a write must be on the medium before it completes: FUA, or no write cache.
    #[inline]
    fn is_durable(&self, sqe: &Sqe) -> bool {
        Rw12(sqe.cdw12).fua() || !self.features.cache.wce()
    }

    /// Starts a transfer from or to a file.
    #[inline(never)]
    fn start(
        &mut self,
        cx: &mut SoftCx,
        sqid: u16,
        sqe: &Sqe,
        kind: Kind,
        blocks: Blocks,
    ) -> Reply {
        if self.jobs.full() {
            return Ok(Outcome::Busy);
        }
        self.resolve(cx, sqe, blocks.len)?;
        let segments = &mut self.segments;
        self.jobs.start(&mut self.namespaces, Some(Origin::of(sqid, sqe)), sqe.nsid, kind, |job| {
            std::mem::swap(&mut job.segments, segments);
            (job.at, job.len) = (blocks.at, blocks.len);
        });
        Ok(Outcome::Pending)
    }
}

/// Compares host memory with a namespace in memory.
fn equal(
    segments: &Segments,
    cx: &mut SoftCx,
    memory: &doorbell::queues::SharedMem,
    blocks: Blocks,
) -> Result<(), Failure> {
    let (mut ours, mut theirs) = ([0; COMPARE], [0; COMPARE]);
    let mut at = 0;
    while at < blocks.len {
        let len = (blocks.len - at).min(COMPARE as u64) as usize;
        let (ours, theirs) = (&mut ours[..len], &mut theirs[..len]);
        segments.read_bytes(cx, at, theirs)?;
        // In bounds: the blocks were checked against the namespace.
        let _ = memory.copy_out((blocks.at + at) as usize, ours);
        if ours != theirs {
            return Err(Failure::new(Status::COMPARE_FAILURE.dnr()));
        }
        at += len as u64;
    }
    Ok(())
}
