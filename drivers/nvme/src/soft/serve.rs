//! The poll: doorbells, fetch, execute, complete.

use doorbell::dma::Fault;
use doorbell::soft::SoftCx;

use super::command::{Failure, Origin, Outcome, Reply};
use super::inject::{InjectKind, damage};
use super::queues::{BadHead, Life, Look};
use super::{BURST, SoftNvme, events};
use crate::spec::regs::offset;
use crate::spec::{Cqe, Sqe, Status, status};

/// How much a poll with and without work counts towards a scrub.
const BUSY_COUNTS: u32 = 1;
const IDLE_COUNTS: u32 = 16;
/// A scrub is due at this count: every 256 idle or 4096 busy polls.
const SCRUB_AT: u32 = 4096;
/// Doorbells of one scrub.
const SCRUB: u64 = 16;

/// An address that no host maps, for the injected DMA fault.
const NOWHERE: u64 = 0xffff_ffff_ffff_f000;

impl SoftNvme {
    /// One poll; true if something was done or is due at once.
    #[inline]
    pub(crate) fn serve(&mut self, cx: &mut SoftCx) -> bool {
        if self.regs.gone {
            return false;
        }
        let mut busy = false;
        if self.regs.runs() {
            self.queues.starved = false;
            let mut at = 0;
            while let Some(sqid) = self.queues.active.get(at).copied() {
                busy |= self.serve_queue(cx, sqid);
                at += 1;
            }
            self.unscrubbed += if busy { BUSY_COUNTS } else { IDLE_COUNTS };
            if self.unscrubbed >= SCRUB_AT {
                self.unscrubbed = 0;
                self.scrub(cx);
            }
        }
        if !self.jobs.idle() {
            busy |= self.work(cx);
        }
        if self.events.any() {
            busy |= self.report_event(cx);
        }
        if !self.deletions.is_empty() {
            self.finish_deletions(cx);
            self.queues.signal_all(cx);
        }
        busy | self.advance(cx)
    }

    /// Jobs: their steps, and the commands that they completed.
    fn work(&mut self, cx: &mut SoftCx) -> bool {
        let busy = self.jobs.poll(cx, &mut self.namespaces);
        let mut any = false;
        while let Some(done) = self.jobs.finished() {
            any = true;
            if let Some((first, last)) = done.formatted {
                self.namespaces_changed(first, last);
            }
            if let Some(origin) = done.origin {
                self.complete(cx, origin, done.result.map(|()| 0));
            }
        }
        if any {
            self.queues.signal_all(cx);
        }
        self.jobs.submit();
        busy | any
    }

    #[inline]
    fn serve_queue(&mut self, cx: &mut SoftCx, sqid: u16) -> bool {
        let Some(sq) = self.queues.sq(sqid) else { return false };
        match sq.look() {
            Look::Idle => return false,
            Look::Work => {}
            Look::Bad(value) => {
                self.bad_doorbell(2 * u64::from(sqid), value);
                return true;
            }
        }
        let cqid = sq.cqid;
        let mut fetched = 0;
        while fetched < BURST && self.step(cx, sqid, cqid) {
            fetched += 1;
        }
        if sqid == 0 {
            // An admin command may have completed commands of other queues.
            self.queues.signal_all(cx);
        } else if let Some(cq) = self.queues.cq(cqid) {
            cq.signal(cx);
        }
        fetched > 0
    }

    /// Fetches and executes one command. False if there is none, or it must wait.
    #[inline]
    fn step(&mut self, cx: &mut SoftCx, sqid: u16, cqid: u16) -> bool {
        let Some(sq) = self.queues.sq(sqid).filter(|sq| sq.has_work()) else { return false };
        let again = sq.stash.is_some();
        if !again {
            if !self.take_entry(cqid) {
                return false;
            }
            let Some(sq) = self.queues.sq(sqid) else { return false };
            sq.inflight += 1;
        }
        let sqe = match self.queues.sq(sqid).map(|sq| sq.fetch(cx)) {
            Some(Ok(sqe)) => sqe,
            Some(Err(fault)) => {
                self.queue_lost(sqid, fault);
                return false;
            }
            None => return false,
        };
        let origin = Origin { sqid, cid: sqe.cid, nsid: sqe.nsid };
        let reply = self.execute(cx, origin, &sqe, again);
        match reply {
            Ok(Outcome::Done(dword)) => self.complete(cx, origin, Ok(dword)),
            Err(failure) => self.complete(cx, origin, Err(failure)),
            Ok(Outcome::Pending) => {}
            Ok(Outcome::Parked) => self.unreserve(sqid),
            Ok(Outcome::Busy) => {
                if let Some(sq) = self.queues.sq(sqid) {
                    sq.stash = Some(sqe);
                }
                return false;
            }
        }
        self.regs.runs()
    }

    #[inline]
    fn execute(&mut self, cx: &mut SoftCx, origin: Origin, sqe: &Sqe, again: bool) -> Reply {
        if origin.sqid == 0 {
            return self.admin(cx, sqe);
        }
        if self.inject.is_armed() && !again {
            return self.execute_injected(cx, origin, sqe);
        }
        self.io(cx, origin, sqe)
    }

    /// Takes a completion entry for a command to come. If there seems to be none, what the host has
    /// consumed is looked up.
    #[inline]
    fn take_entry(&mut self, cqid: u16) -> bool {
        let Some(cq) = self.queues.cq(cqid) else { return false };
        if !cq.has_room() {
            let looked = cq.look();
            if !cq.has_room() {
                self.queues.starved = true;
                if let Err(BadHead(value)) = looked {
                    self.bad_doorbell(2 * u64::from(cqid) + 1, value);
                }
                return false;
            }
        }
        cq.reserve();
        true
    }

    /// A command keeps no completion entry while it waits.
    fn unreserve(&mut self, sqid: u16) {
        let Some(sq) = self.queues.sq(sqid) else { return };
        sq.inflight -= 1;
        let cqid = sq.cqid;
        if let Some(cq) = self.queues.cq(cqid) {
            cq.release();
        }
    }

    /// Completes a command that was fetched, in the entry that was taken for it.
    #[inline]
    pub(crate) fn complete(
        &mut self,
        cx: &mut SoftCx,
        origin: Origin,
        result: Result<u32, Failure>,
    ) {
        let (status, dword) = match result {
            Ok(dword) => (Status::SUCCESS, dword),
            Err(failure) => (self.record(origin, &failure), 0),
        };
        let Some(sq) = self.queues.sq(origin.sqid) else { return };
        sq.inflight -= 1;
        let (head, cqid, size) = (sq.head as u16, sq.cqid, sq.size);
        let mut cqe = Cqe::new(origin.cid, origin.sqid, head, status, false);
        cqe.dw0 = dword;
        let mut flip = false;
        if let Some(kind) = self.damaged.take_if(|_| origin.sqid != 0) {
            flip = damage(&mut cqe, kind, size);
            if kind == InjectKind::Duplicate && self.take_entry(cqid) {
                self.post(cx, cqid, cqe, false);
            }
        }
        self.post(cx, cqid, cqe, flip);
    }

    #[inline]
    fn post(&mut self, cx: &mut SoftCx, cqid: u16, cqe: Cqe, flip: bool) {
        let Some(cq) = self.queues.cq(cqid) else { return };
        if let Err(fault) = cq.post(cx, cqe, flip) {
            cq.dead = true;
            self.memory_lost(cqid == 0, fault);
        }
    }

    /// Completes a command that holds no completion entry; there must be one.
    pub(crate) fn complete_parked(
        &mut self,
        cx: &mut SoftCx,
        origin: Origin,
        result: Result<u32, Failure>,
    ) -> bool {
        if !self.take_entry(0) {
            return false;
        }
        if let Some(sq) = self.queues.sq(0) {
            sq.inflight += 1;
        }
        self.complete(cx, origin, result);
        true
    }

    /// Logs a failure; its status, with the bit that points to the log.
    #[cold]
    fn record(&mut self, origin: Origin, failure: &Failure) -> Status {
        let media = failure.status.sct() == status::sct::MEDIA;
        if media && !failure.status.is(Status::COMPARE_FAILURE) {
            self.stats.media_errors += 1;
        }
        let failure = Failure { status: failure.status.more(), ..*failure };
        self.errors.command(origin, &failure);
        failure.status
    }

    /// Reports one event to a request that waits.
    fn report_event(&mut self, cx: &mut SoftCx) -> bool {
        let Some((origin, event)) = self.events.report() else { return false };
        if !self.complete_parked(cx, origin, Ok(event.0)) {
            self.events.put_back(origin, event);
            return false;
        }
        if let Some(cq) = self.queues.cq(0) {
            cq.signal(cx);
        }
        true
    }

    /// A doorbell holds what it cannot; `index` counts doorbells from the first.
    #[cold]
    fn bad_doorbell(&mut self, index: u64, value: u32) {
        tracing::debug!(doorbell = index, value, "a doorbell value that cannot be");
        let failure = Failure::new(Status::INVALID_FIELD);
        self.errors.other(&failure, index << 32 | u64::from(value));
        self.events.raise(events::BAD_VALUE);
    }

    /// A submission queue's memory cannot be read.
    #[cold]
    fn queue_lost(&mut self, sqid: u16, fault: Fault) {
        if let Some(sq) = self.queues.sq(sqid) {
            sq.life = Life::Dead;
        }
        self.unreserve(sqid);
        self.memory_lost(sqid == 0, fault);
    }

    /// A queue's memory cannot be reached. Without the admin queue nothing goes on (CSTS.CFS);
    /// another queue concerns its owner only.
    fn memory_lost(&mut self, admin: bool, fault: Fault) {
        tracing::debug!(%fault, admin, "a queue's memory cannot be reached");
        self.errors.other(&Failure::from(fault), fault.iova);
        if admin {
            self.regs.set_fatal();
        } else {
            self.events.raise(events::QUEUE_LOST);
        }
    }

    /// Looks at doorbells that nothing else looks at: of queues that do not exist, and heads of
    /// completion queues that are not full. Rare, for it touches cache lines that the host writes.
    #[cold]
    fn scrub(&mut self, cx: &mut SoftCx) {
        let Some(bar) = cx.doorbells(0).cloned() else { return };
        let stride = 4u64 << self.regs.cap.dstrd();
        let count = (bar.len() as u64).saturating_sub(offset::DOORBELLS) / stride;
        for _ in 0..SCRUB.min(count) {
            let index = self.scrub_at % count;
            self.scrub_at = (index + 1) % count;
            let (id, is_cq) = ((index / 2) as u16, index % 2 == 1);
            if is_cq && let Some(cq) = self.queues.cq(id) {
                if let Err(BadHead(value)) = cq.look() {
                    self.bad_doorbell(index, value);
                }
            } else if is_cq || !self.queues.has_sq(id) {
                self.scrub_unused(&bar, index, stride);
            }
        }
    }

    /// The doorbell of a queue that does not exist.
    fn scrub_unused(&mut self, bar: &doorbell::queues::SharedMem, index: u64, stride: u64) {
        use std::sync::atomic::Ordering::Relaxed;
        let at = (offset::DOORBELLS + index * stride) as usize;
        let value = bar.load_u32(at, Relaxed).unwrap_or(0);
        if value != 0 {
            let _ = bar.store_u32(at, 0, Relaxed);
            self.errors.other(&Failure::new(Status::INVALID_QUEUE_ID), index << 32 | u64::from(value));
            self.events.raise(events::BAD_DOORBELL);
        }
    }

    /// An I/O command while faults are armed.
    #[cold]
    fn execute_injected(&mut self, cx: &mut SoftCx, origin: Origin, sqe: &Sqe) -> Reply {
        let kind = self.inject.on_command();
        match kind {
            Some(InjectKind::Timeout) => {
                self.held.push(origin);
                return Ok(Outcome::Pending);
            }
            Some(InjectKind::Fatal) => {
                self.regs.set_fatal();
                return Ok(Outcome::Pending);
            }
            Some(InjectKind::AllOnes) => {
                self.regs.gone = true;
                self.regs.set_fatal();
                return Ok(Outcome::Pending);
            }
            Some(InjectKind::Dma) => {
                cx.read::<u64>(NOWHERE)?;
            }
            Some(InjectKind::Media) => return Err(Failure::new(Status::UNRECOVERED_READ_ERROR)),
            Some(InjectKind::NeverReady) | None => {}
            Some(kind) => self.damaged = Some(kind),
        }
        self.io(cx, origin, sqe)
    }

    /// Namespaces were formatted: note it, and tell the host if it wants to know.
    fn namespaces_changed(&mut self, first: u32, last: u32) {
        self.changed.extend(first..=last);
        self.changed.sort_unstable();
        self.changed.dedup();
        if self.features.events.namespace() {
            self.events.raise(events::NAMESPACE_CHANGED);
        }
    }
}
