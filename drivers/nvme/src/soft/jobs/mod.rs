//! Commands that take longer than one poll: everything on files, and large erasures in memory.
//!
//! A job has a slot from a fixed pool (and with it a buffer in the ring), does one step at a time,
//! and either waits for an operation of the ring or is run again slice by slice. So any number of
//! them proceed at once and out of order, and none holds up the device's thread.
//!
//! A job that has lost its origin is an *orphan* (its command was aborted, or the controller reset):
//! what it has under way in the kernel ends, but it touches no host memory and completes nothing.

mod erase;
mod format;
mod transfer;

use std::collections::VecDeque;

use doorbell::soft::SoftCx;

use super::backend::{Backend, Ring};
use super::command::{Failure, Origin};
use super::namespace::{Namespace, Namespaces};
use super::prp::Segments;
use crate::spec::{DsmRange, Status};

pub(crate) use erase::{Erasure, Purpose};
pub(crate) use format::Formatting;

/// Jobs at once.
pub(crate) const SLOTS: u16 = 128;
/// Bytes of a job's buffer: longer transfers go chunk by chunk.
pub(crate) const CHUNK: usize = 64 * 1024;

/// What a job does.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Kind {
    /// File to host.
    Read,
    /// File against host.
    Compare,
    /// Host to file; durable when complete.
    Write { durable: bool },
    /// Namespaces up to this one on the medium.
    Flush { last: u32 },
    /// Ranges to zeroes.
    Erase(Erasure),
    /// Whole namespaces to zeroes and to another block size.
    Format(Formatting),
}

/// What a step of a job came to.
#[derive(Debug)]
pub(crate) enum Step {
    /// An operation of the ring is under way.
    Wait,
    /// There is more to do: run it again.
    Again,
    /// It is over.
    End(Result<(), Failure>),
}

/// What a job is about.
#[derive(Debug)]
pub(crate) struct Job {
    /// The command that it completes; `None` for an orphan.
    pub(crate) origin: Option<Origin>,
    pub(crate) kind: Kind,
    pub(crate) nsid: u32,
    /// Where the data lies in host memory.
    pub(crate) segments: Segments,
    /// Ranges to deallocate.
    pub(crate) ranges: Vec<DsmRange>,
    /// Byte offset in the namespace, and bytes in all.
    pub(crate) at: u64,
    pub(crate) len: u64,
    /// Bytes done in whole chunks; bytes of this chunk; bytes of it that the kernel has moved.
    done: u64,
    chunk: u64,
    moved: u64,
    live: bool,
}

/// A job that is over.
#[derive(Debug)]
pub(crate) struct Finished {
    pub(crate) origin: Option<Origin>,
    pub(crate) result: Result<(), Failure>,
    /// First and last namespace that it formatted.
    pub(crate) formatted: Option<(u32, u32)>,
}

/// What every step may use.
struct Tools<'a> {
    cx: &'a mut SoftCx,
    ns: &'a mut Namespaces,
    ring: Option<&'a mut Ring>,
    slot: u16,
}

/// All jobs of the controller.
#[derive(Debug)]
pub(crate) struct Jobs {
    slots: Vec<Job>,
    free: Vec<u16>,
    /// Jobs to run again.
    runnable: VecDeque<u16>,
    ring: Option<Ring>,
    reaped: Vec<(u16, i32)>,
    finished: Vec<Finished>,
}

impl Jobs {
    /// No jobs; file operations need a ring.
    ///
    /// `transfer` is the longest transfer in bytes: room for its segments is taken here, so that no
    /// command allocates.
    pub(crate) fn new(ring: Option<Ring>, transfer: u64) -> Self {
        let idle = || Job {
            origin: None,
            kind: Kind::Read,
            nsid: 0,
            segments: Segments::for_transfers_of(transfer),
            ranges: Vec::new(),
            at: 0,
            len: 0,
            done: 0,
            chunk: 0,
            moved: 0,
            live: false,
        };
        let count = usize::from(SLOTS);
        Self {
            slots: (0..count).map(|_| idle()).collect(),
            free: (0..SLOTS).rev().collect(),
            runnable: VecDeque::with_capacity(count),
            ring,
            reaped: Vec::with_capacity(count),
            finished: Vec::with_capacity(count),
        }
    }

    /// True if nothing is under way, not even an orphan.
    #[inline]
    pub(crate) fn idle(&self) -> bool {
        self.free.len() == self.slots.len()
    }

    /// True if there is no slot for another job.
    pub(crate) fn full(&self) -> bool {
        self.free.is_empty()
    }

    pub(crate) fn ring(&self) -> Option<&Ring> {
        self.ring.as_ref()
    }

    /// Starts a job that was prepared by `fill` in its slot; false if no slot is free. It takes its
    /// first step in the next [`Jobs::poll`].
    pub(crate) fn start(
        &mut self,
        ns: &mut Namespaces,
        origin: Option<Origin>,
        nsid: u32,
        kind: Kind,
        fill: impl FnOnce(&mut Job),
    ) -> bool {
        let Some(slot) = self.free.pop() else { return false };
        let Some(job) = self.slots.get_mut(usize::from(slot)) else { return false };
        (job.origin, job.kind, job.nsid, job.live) = (origin, kind, nsid, true);
        (job.at, job.len, job.done, job.chunk, job.moved) = (0, 0, 0, 0, 0);
        job.ranges.clear();
        fill(job);
        if !matches!(kind, Kind::Format(_))
            && let Some(ns) = ns.get_mut(nsid)
        {
            ns.jobs += 1;
        }
        self.runnable.push_back(slot);
        true
    }

    /// Takes steps: of every job whose operation completed, and of a bounded number of runnable ones.
    /// True if there is more to do at once.
    #[inline]
    pub(crate) fn poll(&mut self, cx: &mut SoftCx, ns: &mut Namespaces) -> bool {
        if self.idle() {
            return false;
        }
        let mut reaped = std::mem::take(&mut self.reaped);
        if let Some(ring) = &mut self.ring {
            ring.reap(&mut reaped);
        }
        let busy = !reaped.is_empty() || !self.runnable.is_empty();
        for (slot, result) in reaped.drain(..) {
            self.step(cx, ns, slot, Some(result));
        }
        self.reaped = reaped;
        self.slice(cx, ns);
        busy
    }

    /// First steps of new jobs, and one slice of a job in memory.
    fn slice(&mut self, cx: &mut SoftCx, ns: &mut Namespaces) {
        for _ in 0..self.runnable.len() {
            let Some(slot) = self.runnable.pop_front() else { return };
            let heavy = self
                .slots
                .get(usize::from(slot))
                .is_some_and(|job| matches!(job.kind, Kind::Erase(_) | Kind::Format(_)));
            self.step(cx, ns, slot, None);
            if heavy {
                break;
            }
        }
    }

    /// Hands new operations to the kernel.
    #[inline]
    pub(crate) fn submit(&mut self) {
        if let Some(ring) = &mut self.ring {
            ring.submit();
        }
    }

    /// What has ended since the last call.
    #[inline]
    pub(crate) fn finished(&mut self) -> Option<Finished> {
        self.finished.pop()
    }

    fn step(&mut self, cx: &mut SoftCx, ns: &mut Namespaces, slot: u16, result: Option<i32>) {
        let Some(job) = self.slots.get_mut(usize::from(slot)).filter(|job| job.live) else {
            return;
        };
        let mut tools = Tools { cx, ns, ring: self.ring.as_mut(), slot };
        let step = match job.kind {
            Kind::Format(format) => format::step(job, &mut tools, format, result),
            _ if job.origin.is_none() && !matches!(job.kind, Kind::Flush { .. }) => {
                Step::End(Err(Failure::new(Status::ABORT_REQUESTED)))
            }
            Kind::Read | Kind::Compare => transfer::read(job, &mut tools, result),
            Kind::Write { durable } => transfer::write(job, &mut tools, durable, result),
            Kind::Flush { last } => transfer::flush(job, &mut tools, last, result),
            Kind::Erase(erasure) => erase::step(job, &mut tools, erasure, result),
        };
        let interrupted = matches!(step, Step::End(Err(_))) && tools.cx.interrupted();
        match step {
            Step::Wait => {}
            // The host wants an answer first: the same step again in a later poll.
            _ if interrupted && job.origin.is_some() => self.runnable.push_back(slot),
            Step::Again => self.runnable.push_back(slot),
            Step::End(result) => self.end(ns, slot, result),
        }
    }

    fn end(&mut self, ns: &mut Namespaces, slot: u16, result: Result<(), Failure>) {
        let Some(job) = self.slots.get_mut(usize::from(slot)) else { return };
        job.live = false;
        let shift = ns.get(job.nsid).map_or(0, Namespace::shift);
        let result = result.map_err(|failure| failure.at_lba((job.at + job.done) >> shift));
        let mut formatted = None;
        if let Kind::Format(format) = job.kind {
            formatted = Some((format.first, format.last)).filter(|_| result.is_ok());
            format.end(ns);
        } else if let Some(ns) = ns.get_mut(job.nsid) {
            ns.jobs -= 1;
        }
        self.finished.push(Finished { origin: job.origin.take(), result, formatted });
        self.free.push(slot);
    }

    /// Stops one command that `matches`, if it can be stopped: then its job is an orphan, and the
    /// caller completes the command.
    ///
    /// A write or an erasure that the kernel has under way cannot: it could land after a later write
    /// to the same blocks.
    pub(crate) fn abort(&mut self, matches: impl Fn(&Origin) -> bool) -> Option<Origin> {
        let stoppable = |job: &&mut Job| {
            let kind = !matches!(job.kind, Kind::Write { .. } | Kind::Erase(_));
            job.live && kind && job.origin.as_ref().is_some_and(&matches)
        };
        self.slots.iter_mut().find(stoppable)?.origin.take()
    }

    /// A controller reset: every job is an orphan from here on.
    pub(crate) fn orphan_all(&mut self) {
        self.slots.iter_mut().for_each(|job| job.origin = None);
        // A flush that nobody waits for need not go on to the next namespace.
        for job in &mut self.slots {
            if let Kind::Flush { last } = &mut job.kind {
                *last = 0;
            }
        }
        self.finished.clear();
    }

    /// Starts a flush of all namespaces that no command waits for; false if no slot is free. Its end
    /// is [`Jobs::idle`].
    pub(crate) fn flush_all(&mut self, ns: &mut Namespaces) -> bool {
        let last = ns.count();
        self.start(ns, None, 0, Kind::Flush { last }, |job| job.at = 1)
    }
}

impl Tools<'_> {
    /// The ring, and the file behind a namespace.
    fn file(&mut self, nsid: u32) -> Option<(&mut Ring, &super::backend::FileBackend, u16)> {
        let ring = self.ring.as_deref_mut()?;
        match &self.ns.get(nsid)?.backend {
            Backend::File(file) => Some((ring, file, self.slot)),
            Backend::Null | Backend::Ram(_) => None,
        }
    }
}

/// An operation that could not even be started: never seen, and an error all the same.
fn started(ok: bool) -> Step {
    if ok { Step::Wait } else { Step::End(Err(Failure::new(Status::INTERNAL_ERROR))) }
}
