//! The poll: doorbells, fetch, execute, complete.

use doorbell::soft::SoftCx;

use super::command::{Failure, Origin, Outcome};
use super::lifecycle::Phase;
use super::queues::Fetch;
use super::rings::Look;
use super::{BURST_BYTES, SoftNvme, events};
use crate::spec::{Sqe, Status};

/// How much a poll with and without work counts towards a scrub.
const BUSY_COUNTS: u32 = 1;
const IDLE_COUNTS: u32 = 16;
/// A scrub is due at this count: every 256 idle or 4096 busy polls.
const SCRUB_AT: u32 = 4096;
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
        let quiet = self.jobs.idle() && self.deletions.is_empty() && !self.events.any();
        if quiet && matches!(self.phase, Phase::On | Phase::Off) {
            return busy;
        }
        busy | self.aside(cx)
    }

    /// What is under way besides the queues.
    #[inline(never)]
    fn aside(&mut self, cx: &mut SoftCx) -> bool {
        let mut busy = false;
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
        match sq.look(cx) {
            Look::Idle => false,
            Look::Work => self.burst(cx, sqid),
            Look::Bad(value) => {
                self.bad_doorbell(2 * u64::from(sqid), value);
                true
            }
            Look::Lost(fault) => {
                self.doorbell_lost(sqid, fault);
                true
            }
        }
    }

    /// Fetches and executes commands of one queue, at most an arbitration burst, and
    /// not many more than [`BURST_BYTES`]. True if there were any.
    fn burst(&mut self, cx: &mut SoftCx, sqid: u16) -> bool {
        let mut sqe = Sqe::default();
        let (mut fetched, burst) = (0, self.features.burst());
        let before = self.stats.moved();
        while fetched < burst {
            let again = match self.queues.fetch(cx, sqid, &mut sqe) {
                Fetch::Command(again) => again,
                // The host wants an answer first: it is fetched in a later poll.
                _ if cx.interrupted() => break,
                other => {
                    self.not_fetched(sqid, &other);
                    break;
                }
            };
            let reply = if sqid == 0 {
                self.admin(cx, &sqe)
            } else if self.inject.is_armed() {
                self.execute_injected(cx, sqid, &sqe, again)
            } else {
                self.io(cx, sqid, &sqe)
            };
            match reply {
                Ok(Outcome::Done(dword)) if self.damaged.is_none() => {
                    let done = self.queues.complete(cx, (sqid, sqe.cid), Status::SUCCESS, dword);
                    self.posted(done);
                }
                Ok(Outcome::Pending) => {}
                Ok(Outcome::Parked) => self.unreserve(sqid),
                Ok(Outcome::Busy) => {
                    self.queues.stall(sqid, &sqe);
                    break;
                }
                Ok(Outcome::Done(dword)) => self.complete(cx, Origin::of(sqid, &sqe), Ok(dword)),
                Err(_) if cx.interrupted() => {
                    self.queues.stall(sqid, &sqe);
                    break;
                }
                Err(failure) => self.complete(cx, Origin::of(sqid, &sqe), Err(failure)),
            }
            fetched += 1;
            let moved = self.stats.moved().wrapping_sub(before);
            if moved >= BURST_BYTES || !self.regs.runs() {
                break;
            }
        }
        self.signal(cx, sqid);
        fetched > 0
    }

    /// Interrupts for what a burst of commands completed.
    #[inline]
    fn signal(&mut self, cx: &mut SoftCx, sqid: u16) {
        if sqid == 0 {
            // An admin command may have completed commands of other queues, or deleted its own.
            self.queues.signal_all(cx);
            return;
        }
        let cqid = self.queues.sq(sqid).map_or(0, |sq| sq.cqid);
        if let Some(cq) = self.queues.cq(cqid) {
            cq.signal(cx);
        }
    }

    /// A command keeps no completion entry while it waits.
    #[cold]
    fn unreserve(&mut self, sqid: u16) {
        let Some(sq) = self.queues.sq(sqid) else { return };
        sq.inflight -= 1;
        let cqid = sq.cqid;
        if let Some(cq) = self.queues.cq(cqid) {
            cq.release();
        }
    }

    /// Completes a command that was fetched, in the entry that was taken for it.
    #[cold]
    #[inline(never)]
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
        if origin.sqid != 0 && self.damaged.is_some() {
            self.complete_damaged(cx, origin, status, dword);
            return;
        }
        let done = self.queues.complete(cx, (origin.sqid, origin.cid), status, dword);
        self.posted(done);
    }

    /// Completes a command that holds no completion entry; false if there is none.
    pub(crate) fn complete_parked(
        &mut self,
        cx: &mut SoftCx,
        origin: Origin,
        result: Result<u32, Failure>,
    ) -> bool {
        if !self.take_entry(cx, origin.sqid) {
            return false;
        }
        self.complete(cx, origin, result);
        true
    }

    /// Takes a completion entry outside of a fetch.
    pub(crate) fn take_entry(&mut self, cx: &mut SoftCx, sqid: u16) -> bool {
        let Some(cqid) = self.queues.sq(sqid).map(|sq| sq.cqid) else { return false };
        let Some(cq) = self.queues.cq(cqid) else { return false };
        let looked = if cq.has_room() { Ok(()) } else { cq.look(cx) };
        if !cq.has_room() {
            self.queues.starved = true;
            self.not_fetched(sqid, &Fetch::Full(looked.err()));
            return false;
        }
        cq.reserve();
        if let Some(sq) = self.queues.sq(sqid) {
            sq.inflight += 1;
        }
        true
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
