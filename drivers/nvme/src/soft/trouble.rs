//! What does not go as it should: doorbells that lie, queues that are gone, failures, injected
//! faults; and the events that tell the host.

use doorbell::dma::Fault;
use doorbell::queues::SharedMem;
use doorbell::soft::SoftCx;

use super::command::{Failure, Origin, Outcome, Reply};
use super::inject::{InjectKind, damage};
use super::queues::Fetch;
use super::rings::{BadHead, Life, Lost};
use super::{SoftNvme, events};
use crate::spec::regs::offset;
use crate::spec::{Cqe, Sqe, Status, status};

/// Doorbells of one scrub.
const SCRUB: u64 = 16;

/// An address that no host maps, for the injected DMA fault.
const NOWHERE: u64 = 0xffff_ffff_ffff_f000;

impl SoftNvme {
    /// Reports one event to a request that waits.
    pub(crate) fn report_event(&mut self, cx: &mut SoftCx) -> bool {
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
    pub(crate) fn bad_doorbell(&mut self, index: u64, value: u32) {
        tracing::debug!(doorbell = index, value, "a doorbell value that cannot be");
        let failure = Failure::new(Status::INVALID_FIELD);
        self.errors.other(&failure, index << 32 | u64::from(value));
        self.events.raise(events::BAD_VALUE);
    }

    /// Why nothing was fetched, if that is an error.
    #[cold]
    pub(crate) fn not_fetched(&mut self, sqid: u16, why: &Fetch) {
        match why {
            Fetch::Full(Some(BadHead(value))) => {
                let cqid = self.queues.sq(sqid).map_or(0, |sq| sq.cqid);
                self.bad_doorbell(2 * u64::from(cqid) + 1, *value);
            }
            Fetch::Lost(fault) => {
                if let Some(sq) = self.queues.sq(sqid) {
                    sq.life = Life::Dead;
                }
                self.memory_lost(Lost { admin: sqid == 0, fault: *fault });
            }
            Fetch::Full(None) | Fetch::None | Fetch::Command(_) => {}
        }
    }

    /// A completion was posted, or not.
    #[inline]
    pub(crate) fn posted(&mut self, posted: Result<(), Lost>) {
        if let Err(lost) = posted {
            self.memory_lost(lost);
        }
    }

    /// A queue's memory cannot be reached. Without the admin queue nothing goes on (CSTS.CFS);
    /// another queue concerns its owner only.
    #[cold]
    fn memory_lost(&mut self, Lost { admin, fault }: Lost) {
        tracing::debug!(%fault, admin, "a queue's memory cannot be reached");
        self.errors.other(&Failure::from(fault), fault.iova);
        if admin {
            self.regs.set_fatal();
        } else {
            self.events.raise(events::QUEUE_LOST);
        }
    }

    /// A queue's shadow doorbell cannot be reached: the queue is dead.
    #[cold]
    pub(crate) fn doorbell_lost(&mut self, sqid: u16, fault: Fault) {
        tracing::debug!(sqid, %fault, "a shadow doorbell cannot be reached");
        self.memory_lost(Lost { admin: false, fault });
    }

    /// Looks at doorbells that nothing else looks at: of queues that do not exist, and heads of
    /// completion queues that are not full. Rare, for it touches cache lines that the host writes.
    #[cold]
    pub(crate) fn scrub(&mut self, cx: &mut SoftCx) {
        let Some(bar) = cx.doorbells(0).cloned() else { return };
        let stride = 4u64 << self.regs.cap.dstrd();
        let count = (bar.len() as u64).saturating_sub(offset::DOORBELLS) / stride;
        for _ in 0..SCRUB.min(count) {
            let index = self.scrub_at % count;
            self.scrub_at = (index + 1) % count;
            let (id, is_cq) = ((index / 2) as u16, index % 2 == 1);
            if is_cq && let Some(cq) = self.queues.cq(id) {
                if let Err(BadHead(value)) = cq.look(cx) {
                    self.bad_doorbell(index, value);
                }
            } else if is_cq || !self.queues.has_sq(id) {
                self.scrub_unused(&bar, index, stride);
            }
        }
    }

    /// The doorbell of a queue that does not exist.
    fn scrub_unused(&mut self, bar: &SharedMem, index: u64, stride: u64) {
        use std::sync::atomic::Ordering::Relaxed;
        let at = (offset::DOORBELLS + index * stride) as usize;
        let value = bar.load_u32(at, Relaxed).unwrap_or(0);
        if value != 0 {
            let _ = bar.store_u32(at, 0, Relaxed);
            self.errors
                .other(&Failure::new(Status::INVALID_QUEUE_ID), index << 32 | u64::from(value));
            self.events.raise(events::BAD_DOORBELL);
        }
    }

    /// The level of the interrupt pin (PCIe transport 3.5.1.1, base 3.1.3.3): asserted while a
    /// completion queue whose vector is not masked (INTMS) holds an entry that the host has not
    /// consumed.
    #[cold]
    pub(crate) fn asserts_pin(&mut self, cx: &mut SoftCx) -> bool {
        let (mut asserted, mut bad) = (false, Vec::new());
        let masks = self.regs.interrupt_masks();
        self.queues.each_cq(|id, cq| match cq.wants_interrupt(cx, masks) {
            Ok(wants) => asserted |= wants,
            Err(BadHead(value)) => bad.push((id, value)),
        });
        for (id, value) in bad {
            self.bad_doorbell(2 * u64::from(id) + 1, value);
        }
        asserted
    }

    /// Logs a failure; its status, with the bit that points to the log.
    #[cold]
    pub(crate) fn record(&mut self, origin: Origin, failure: &Failure) -> Status {
        let media = failure.status.sct() == status::sct::MEDIA;
        if media && !failure.status.is(Status::COMPARE_FAILURE) {
            self.stats.media_errors += 1;
        }
        let failure = Failure { status: failure.status.more(), ..*failure };
        self.errors.command(origin, &failure);
        failure.status
    }

    /// An I/O command while faults are armed.
    #[cold]
    pub(crate) fn execute_injected(
        &mut self,
        cx: &mut SoftCx,
        sqid: u16,
        sqe: &Sqe,
        again: bool,
    ) -> Reply {
        let kind = if again { None } else { self.inject.on_command() };
        match kind {
            Some(InjectKind::Timeout) => {
                self.held.push(Origin::of(sqid, sqe));
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
        self.io(cx, sqid, sqe)
    }

    /// Completes a command in the way that an injected fault wants it.
    #[cold]
    pub(crate) fn complete_damaged(
        &mut self,
        cx: &mut SoftCx,
        origin: Origin,
        status: Status,
        dword: u32,
    ) {
        let Some(kind) = self.damaged.take() else { return };
        if kind == InjectKind::Duplicate && self.take_entry(cx, origin.sqid) {
            let done = self.queues.complete(cx, (origin.sqid, origin.cid), status, dword);
            self.posted(done);
        }
        let Some(sq) = self.queues.sq(origin.sqid) else { return };
        sq.inflight -= 1;
        let (head, cqid, size) = (sq.head as u16, sq.cqid, sq.size);
        let mut cqe = Cqe::new(origin.cid, origin.sqid, head, status, false);
        cqe.dw0 = dword;
        let flip = damage(&mut cqe, kind, size);
        let done = self.queues.post(cx, cqid, cqe.words(), flip);
        self.posted(done);
    }
}
