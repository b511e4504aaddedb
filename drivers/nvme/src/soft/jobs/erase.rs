//! Ranges to zeroes: Write Zeroes, Dataset Management, and the data of a Format NVM.

use rustix::io::Errno;

use super::transfer::{errno_of, failure};
use super::{Job, Kind, Step, Tools, started};
use crate::soft::backend::{Backend, Erase};
use crate::soft::command::Failure;
use crate::soft::namespace::Namespace;
use crate::spec::Status;

/// Bytes of memory that are zeroed in one step: some tens of microseconds.
const MEMORY_SLICE: u64 = 256 * 1024;
/// Bytes of memory that are given back in one step.
const RELEASE_SLICE: u64 = 1 << 20;
/// Bytes of a file that are given to the kernel at a time.
const FILE_SLICE: u64 = 256 << 20;

/// Whose erasure it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// Write Zeroes: the range must read as zeroes, and be durable if asked.
    Zeroes { durable: bool },
    /// Dataset Management: advice, which may be ignored.
    Deallocate,
    /// Format NVM: it must read as zeroes, and be durable.
    Format,
}

/// How a file is made to read as zeroes; each is the fallback of the one before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Zero,
    Punch,
    Write,
}

/// An erasure under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Erasure {
    purpose: Purpose,
    way: Way,
    /// The range at hand, in bytes of the namespace.
    at: u64,
    end: u64,
    /// Bytes of the operation under way.
    pending: u64,
    /// The next of the job's ranges.
    next: usize,
    /// The data is gone; the file is being made durable.
    syncing: bool,
}

impl Erasure {
    /// Of one range; with `punch` its blocks may be given back.
    pub(crate) fn of(purpose: Purpose, at: u64, len: u64, punch: bool) -> Self {
        let way = if punch { Way::Punch } else { Way::Zero };
        Self { purpose, way, at, end: at + len, pending: 0, next: 0, syncing: false }
    }

    /// Of the job's list of ranges.
    pub(crate) fn of_ranges() -> Self {
        Self::of(Purpose::Deallocate, 0, 0, true)
    }

    /// Percent that is still to do, of a whole namespace.
    pub(crate) fn left(&self, bytes: u64) -> u8 {
        let left = u128::from(self.end - self.at) * 100 / u128::from(bytes.max(1));
        left.min(100) as u8
    }
}

/// A step of a Write Zeroes or a Dataset Management.
pub(super) fn step(
    job: &mut Job,
    tools: &mut Tools<'_>,
    mut erasure: Erasure,
    result: Option<i32>,
) -> Step {
    let step = erase(job, tools, job.nsid, &mut erasure, result);
    job.kind = Kind::Erase(erasure);
    step
}

/// A step of any erasure.
pub(super) fn erase(
    job: &Job,
    tools: &mut Tools<'_>,
    nsid: u32,
    erasure: &mut Erasure,
    result: Option<i32>,
) -> Step {
    if let Some(result) = result {
        if let Err(failure) = account(erasure, result) {
            return Step::End(Err(failure));
        }
        if erasure.syncing && result >= 0 {
            return Step::End(Ok(()));
        }
    }
    while erasure.at == erasure.end && !erasure.syncing {
        let Some(range) = job.ranges.get(erasure.next) else { break };
        let shift = tools.ns.get(nsid).map_or(0, Namespace::shift);
        erasure.at = range.slba << shift;
        erasure.end = erasure.at + (u64::from(range.nlb) << shift);
        erasure.next += 1;
    }
    if erasure.at == erasure.end {
        return finish(tools, nsid, erasure);
    }
    match tools.ns.get(nsid).map(|ns| &ns.backend) {
        Some(Backend::Ram(ram)) => {
            let release = erasure.way == Way::Punch;
            let slice = if release { RELEASE_SLICE } else { MEMORY_SLICE };
            let len = (erasure.end - erasure.at).min(slice);
            ram.zero(erasure.at, len, release);
            erasure.at += len;
            Step::Again
        }
        Some(Backend::File(_)) => operate(tools, nsid, erasure),
        Some(Backend::Null) | None => {
            erasure.at = erasure.end;
            Step::Again
        }
    }
}

/// The data is zeroes: make it durable if that was asked.
fn finish(tools: &mut Tools<'_>, nsid: u32, erasure: &mut Erasure) -> Step {
    let durable = match erasure.purpose {
        Purpose::Zeroes { durable } => durable,
        Purpose::Deallocate => false,
        Purpose::Format => true,
    };
    match tools.file(nsid) {
        Some((ring, file, slot)) if durable => {
            erasure.syncing = true;
            started(ring.sync(slot, &file.file))
        }
        _ => Step::End(Ok(())),
    }
}

/// Starts the next operation on a file.
fn operate(tools: &mut Tools<'_>, nsid: u32, erasure: &mut Erasure) -> Step {
    let Some((ring, file, slot)) = tools.file(nsid) else { return started(false) };
    if !file.reaches(erasure.end) {
        return Step::End(Err(Failure::new(Status::WRITE_FAULT.dnr())));
    }
    let left = erasure.end - erasure.at;
    let how = match erasure.way {
        Way::Zero => Erase::Zero,
        Way::Punch => Erase::Punch,
        Way::Write => {
            erasure.pending = left.min(ring.chunk() as u64);
            let len = erasure.pending as usize;
            // In bounds: it is this slot's buffer.
            let _ = ring.pool().fill(ring.offset(slot), len, 0);
            return started(ring.write(slot, &file.file, erasure.at, (0, len), false));
        }
    };
    erasure.pending = left.min(FILE_SLICE);
    started(ring.erase(slot, &file.file, (erasure.at, erasure.pending), how))
}

/// Takes note of how an operation ended.
fn account(erasure: &mut Erasure, result: i32) -> Result<(), Failure> {
    if result >= 0 {
        // fallocate gives 0 for all of it, a write gives its bytes.
        let done = if erasure.way == Way::Write {
            u64::from(result.unsigned_abs())
        } else {
            erasure.pending
        };
        if !erasure.syncing {
            erasure.at = (erasure.at + done).min(erasure.end);
        }
        return Ok(());
    }
    match errno_of(result) {
        Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL if !erasure.syncing => {
            match (erasure.way, erasure.purpose) {
                // The file system cannot: the advice is not taken.
                (_, Purpose::Deallocate) => erasure.at = erasure.end,
                (Way::Zero, _) => erasure.way = Way::Punch,
                (Way::Punch, _) => erasure.way = Way::Write,
                (Way::Write, _) => return Err(failure(Errno::INVAL, Status::WRITE_FAULT)),
            }
            Ok(())
        }
        errno => Err(failure(errno, Status::WRITE_FAULT)),
    }
}
