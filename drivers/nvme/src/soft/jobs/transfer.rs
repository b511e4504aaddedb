//! Reads, compares, writes and flushes of files.

use rustix::io::Errno;

use super::{Job, Kind, Step, Tools, started};
use crate::soft::command::Failure;
use crate::spec::Status;

/// Bytes that are compared at a time.
const COMPARE: usize = 4096;

/// A step of a read or a compare: a chunk from the file to the buffer, and on to the host.
pub(super) fn read(job: &mut Job, tools: &mut Tools<'_>, result: Option<i32>) -> Step {
    match moved(job, result, Status::UNRECOVERED_READ_ERROR) {
        Err(failure) => return Step::End(Err(failure)),
        Ok(false) => {}
        Ok(true) => {
            if let Err(failure) = deliver(job, tools) {
                return Step::End(Err(failure));
            }
            job.done += job.chunk;
            if job.done == job.len {
                return Step::End(Ok(()));
            }
            job.chunk = 0;
        }
    }
    let Some((ring, file, slot)) = tools.file(job.nsid) else { return started(false) };
    if job.chunk == 0 {
        (job.chunk, job.moved) = ((job.len - job.done).min(ring.chunk() as u64), 0);
    }
    let part = (job.moved as usize, (job.chunk - job.moved) as usize);
    started(ring.read(slot, &file.file, job.at + job.done + job.moved, part))
}

/// A chunk that was read: to the host, or against what the host has.
fn deliver(job: &Job, tools: &mut Tools<'_>) -> Result<(), Failure> {
    let Some(ring) = tools.ring.as_deref() else { return Ok(()) };
    let (pool, from) = (ring.pool(), ring.offset(tools.slot) as u64);
    if !matches!(job.kind, Kind::Compare) {
        job.segments.write_from(tools.cx, job.done, pool, from, job.chunk)?;
        return Ok(());
    }
    let (mut ours, mut theirs) = ([0; COMPARE], [0; COMPARE]);
    let mut at = 0;
    while at < job.chunk {
        let len = (job.chunk - at).min(COMPARE as u64) as usize;
        let (ours, theirs) = (&mut ours[..len], &mut theirs[..len]);
        job.segments.read_bytes(tools.cx, job.done + at, theirs)?;
        // In bounds: the chunk lies in the pool.
        let _ = pool.copy_out((from + at) as usize, ours);
        if ours != theirs {
            return Err(Failure::new(Status::COMPARE_FAILURE.dnr()));
        }
        at += len as u64;
    }
    Ok(())
}

/// A step of a write: a chunk from the host to the buffer, and on to the file.
pub(super) fn write(
    job: &mut Job,
    tools: &mut Tools<'_>,
    durable: bool,
    result: Option<i32>,
) -> Step {
    match moved(job, result, Status::WRITE_FAULT) {
        Err(failure) => return Step::End(Err(failure)),
        Ok(false) => {}
        Ok(true) => {
            job.done += job.chunk;
            if job.done == job.len {
                return Step::End(Ok(()));
            }
            job.chunk = 0;
        }
    }
    if job.chunk == 0
        && let Err(failure) = collect(job, tools)
    {
        return Step::End(Err(failure));
    }
    let Some((ring, file, slot)) = tools.file(job.nsid) else { return started(false) };
    let part = (job.moved as usize, (job.chunk - job.moved) as usize);
    started(ring.write(slot, &file.file, job.at + job.done + job.moved, part, durable))
}

/// The next chunk from the host. The first time, all of the transfer is checked, so that a fault
/// leaves the namespace as it was.
fn collect(job: &mut Job, tools: &mut Tools<'_>) -> Result<(), Failure> {
    let (at, len, nsid, first) = (job.at, job.len, job.nsid, job.done == 0);
    let Some((_, file, _)) = tools.file(nsid) else { return Ok(()) };
    if first && !file.reaches(at + len) {
        return Err(Failure::new(Status::WRITE_FAULT.dnr()));
    }
    let Some(ring) = tools.ring.as_deref() else { return Ok(()) };
    (job.chunk, job.moved) = ((job.len - job.done).min(ring.chunk() as u64), 0);
    let to = ring.offset(tools.slot) as u64;
    if let Err(fault) = job.segments.read_into(tools.cx, job.done, ring.pool(), to, job.chunk) {
        job.chunk = 0;
        return Err(fault.into());
    }
    Ok(())
}

/// Takes note of what the kernel moved. True if the chunk is complete.
///
/// # Errors
/// What `result` says, as a status; the end of the file is an error, for the file was longer once.
fn moved(job: &mut Job, result: Option<i32>, status: Status) -> Result<bool, Failure> {
    match result {
        // Complete, and not delivered yet: the host wanted an answer first.
        None => Ok(job.chunk > 0 && job.moved == job.chunk),
        // The file ends here: it was truncated, and will not come back by trying again.
        Some(0) => Err(Failure::new(status.dnr())),
        Some(bytes @ 1..) => {
            job.moved = (job.moved + u64::from(bytes.unsigned_abs())).min(job.chunk);
            Ok(job.moved == job.chunk)
        }
        Some(code) => Err(failure(errno_of(code), status)),
    }
}

/// A step of a flush: the namespaces from `job.at` to `last`, one after the other.
pub(super) fn flush(job: &mut Job, tools: &mut Tools<'_>, last: u32, result: Option<i32>) -> Step {
    match result {
        None => {}
        Some(0..) => job.at += 1,
        Some(code) => return Step::End(Err(failure(errno_of(code), Status::WRITE_FAULT))),
    }
    while job.at <= u64::from(last) {
        if let Some((ring, file, slot)) = tools.file(job.at as u32) {
            return started(ring.sync(slot, &file.file));
        }
        job.at += 1;
    }
    Step::End(Ok(()))
}

/// A negative result of the ring as an error number; "I/O error" if it is none.
pub(super) fn errno_of(code: i32) -> Errno {
    let number = code.saturating_neg();
    if (1..4096).contains(&number) { Errno::from_raw_os_error(number) } else { Errno::IO }
}

/// The status for an error of the file: whether trying again can help is what DNR says.
pub(super) fn failure(errno: Errno, status: Status) -> Failure {
    tracing::debug!(%errno, "a file operation failed");
    match errno {
        Errno::INTR | Errno::AGAIN => Failure::new(Status::COMMAND_INTERRUPTED),
        // Someone may make room.
        Errno::NOSPC | Errno::DQUOT => Failure::new(Status::CAPACITY_EXCEEDED),
        Errno::IO | Errno::NOMEM => Failure::new(status),
        _ => Failure::new(status.dnr()),
    }
}
