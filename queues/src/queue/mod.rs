//! [`Queue`]: a submission and completion queue pair for one thread at a time.
//!
//! `Single` mode of the design, which is the only mode so far: the type is `Send` and not `Sync`,
//! so the compiler keeps it on one thread and no operation locks, allocates or enters the kernel.
//!
//! A command takes the way `reserve slot -> build entry -> store at the tail -> ring -> completion
//! -> slot free`. It is awaited as a future ([`Queue::submit`]) or handed to a callback
//! ([`Queue::post`] and [`Queue::reap`]); both may be mixed on one queue.

use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::cell::{Cell, RefCell};
use core::fmt;
use core::future::poll_fn;
use core::task::{Context, Poll, Waker};

use crate::doorbell::Doorbell;
use crate::error::{BadGeometry, QueueError, RejectReason, Rejected, Violation};
use crate::fate::{EndReason, Fate};
use crate::in_flight::InFlight;
use crate::mem::SharedMem;
use crate::protocol::{QueueName, QueueProtocol, Tag};
use crate::ring::{CompletionRing, SubmissionRing};
use crate::slots::{MAX_SLOTS, Settled, SlotTable};
use crate::wait::{Interrupt, Parked, SpinBudget};

/// What a queue is made of. A framework fills this from a grant.
pub struct QueueParts {
    /// Which queue this is, for errors.
    pub name: QueueName,
    /// Memory of the submission ring, zeroed; entry 0 at offset 0.
    pub submission: SharedMem,
    /// Entries of the submission ring, 2 to 65,536.
    pub submission_entries: u32,
    /// Memory of the completion ring, zeroed; entry 0 at offset 0.
    pub completion: SharedMem,
    /// Entries of the completion ring, 2 to 65,536.
    pub completion_entries: u32,
    /// Commands that can be in flight; fewer than the entries of either ring.
    pub slots: u16,
    /// The tail doorbell; it wakes a device that sleeps.
    pub submission_doorbell: Doorbell,
    /// The head doorbell; it brings no new work, so it need not wake the device.
    pub completion_doorbell: Doorbell,
    /// How to sleep until a completion.
    pub interrupt: Box<dyn Interrupt + Send>,
    /// Set by whoever ends the queue from outside.
    pub fate: Arc<Fate>,
    /// How long a future spins before it parks.
    pub spin: SpinBudget,
}

impl fmt::Debug for QueueParts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("QueueParts")
            .field("name", &self.name)
            .field("submission_entries", &self.submission_entries)
            .field("completion_entries", &self.completion_entries)
            .field("slots", &self.slots)
            .finish_non_exhaustive()
    }
}

/// A completion handed to the callback of [`Queue::reap`].
#[derive(Debug)]
pub struct Completed<P: QueueProtocol, B> {
    /// The command that [`Queue::post`] returned.
    pub tag: Tag,
    /// Status and results.
    pub outcome: P::Outcome,
    /// The buffer, back from the device.
    pub buffer: B,
}

struct Core<P: QueueProtocol, B> {
    completion: CompletionRing<P>,
    submission: SubmissionRing<P::Entry>,
    slots: SlotTable<P::Outcome, B>,
    slot_waiters: VecDeque<Waker>,
    violation: Option<Violation>,
}

/// A queue pair. See the module's documentation.
///
/// `B` is what a command keeps while the device works on it: its buffer. It is dropped, or given
/// back, only after the command's completion.
pub struct Queue<P: QueueProtocol, B> {
    core: RefCell<Core<P, B>>,
    spin: Cell<SpinBudget>,
    fate: Arc<Fate>,
    interrupt: Box<dyn Interrupt + Send>,
    name: QueueName,
}

impl<P: QueueProtocol, B> fmt::Debug for Queue<P, B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Queue")
            .field("name", &self.name)
            .field("in_flight", &self.in_flight())
            .finish_non_exhaustive()
    }
}

impl<P: QueueProtocol, B> Queue<P, B> {
    /// Builds a queue over its parts.
    ///
    /// # Errors
    /// [`BadGeometry`] if the rings or slots are out of range or the memory is too small.
    pub fn new(parts: QueueParts) -> Result<Self, BadGeometry> {
        let QueueParts { name, .. } = &parts;
        for entries in [parts.submission_entries, parts.completion_entries] {
            if !(2..=65_536).contains(&entries) {
                return Err(BadGeometry::Entries { queue: name.clone(), entries });
            }
        }
        let fewest = parts.submission_entries.min(parts.completion_entries);
        if parts.slots == 0 || parts.slots > MAX_SLOTS || u32::from(parts.slots) >= fewest {
            return Err(BadGeometry::Slots { queue: name.clone(), slots: parts.slots });
        }
        let memory = |error| BadGeometry::Memory { queue: name.clone(), error };
        let submission =
            parts.submission.cells(0, parts.submission_entries as usize).map_err(memory)?;
        let completion =
            parts.completion.cells(0, parts.completion_entries as usize).map_err(memory)?;
        Ok(Self {
            core: RefCell::new(Core {
                completion: CompletionRing::new(completion, parts.completion_doorbell),
                submission: SubmissionRing::new(submission, parts.submission_doorbell),
                slots: SlotTable::new(parts.slots),
                slot_waiters: VecDeque::new(),
                violation: None,
            }),
            spin: Cell::new(parts.spin),
            fate: parts.fate,
            interrupt: parts.interrupt,
            name: parts.name,
        })
    }

    /// Which queue this is.
    pub fn name(&self) -> &QueueName {
        &self.name
    }

    /// Commands that can be in flight at once.
    pub fn capacity(&self) -> usize {
        self.core.borrow().slots.capacity()
    }

    /// Slots in use: in flight, orphaned, or completed and not yet looked at.
    pub fn in_flight(&self) -> usize {
        self.core.borrow().slots.in_use()
    }

    /// Why the queue has ended, if it has.
    pub fn ended(&self) -> Option<QueueError> {
        let reason = self.fate.ended()?;
        let queue = self.name.clone();
        Some(match (reason, self.core.borrow().violation) {
            (EndReason::Violation, Some(violation)) => QueueError::Violation { queue, violation },
            _ => QueueError::Ended { queue, reason },
        })
    }

    /// Submits an entry and returns the future of its completion. `build` gets the slot's number
    /// (`0..capacity`, its own until completion: an index into per-command memory such as PRP
    /// lists) and the buffer, and returns the entry, which is stored word by word straight into the
    /// ring. The device is not told before [`flush`](Self::flush) or the future's first poll.
    ///
    /// # Errors
    /// [`Rejected`] with the buffer if every slot is in flight or the queue has ended.
    #[inline]
    pub fn submit(
        &self,
        buffer: B,
        build: impl FnOnce(u16, &mut B) -> P::Entry,
    ) -> Result<InFlight<'_, P, B>, Rejected<B>> {
        self.place(buffer, build, false).map(|tag| InFlight::new(self, tag))
    }

    /// Submits an entry whose completion goes to the callback of [`reap`](Self::reap). Otherwise
    /// as [`submit`](Self::submit).
    ///
    /// # Errors
    /// [`Rejected`] with the buffer if every slot is in flight or the queue has ended.
    #[inline]
    pub fn post(
        &self,
        buffer: B,
        build: impl FnOnce(u16, &mut B) -> P::Entry,
    ) -> Result<Tag, Rejected<B>> {
        self.place(buffer, build, true)
    }

    #[inline]
    fn place(
        &self,
        mut buffer: B,
        build: impl FnOnce(u16, &mut B) -> P::Entry,
        direct: bool,
    ) -> Result<Tag, Rejected<B>> {
        if self.fate.ended().is_some() {
            return Err(self.rejected(buffer));
        }
        let Some((slot, tag)) = self.core.borrow_mut().slots.reserve() else {
            return Err(self.rejected(buffer));
        };
        // The caller's code runs outside of the borrow, so it may use this queue.
        let mut entry = build(slot, &mut buffer);
        P::stamp(&mut entry, tag);
        let core = &mut *self.core.borrow_mut();
        core.submission.push(&entry);
        core.slots.commit(slot, buffer, direct);
        Ok(tag)
    }

    #[cold]
    fn rejected(&self, buffer: B) -> Rejected<B> {
        let reason = match self.ended() {
            Some(error) => RejectReason::Ended(error),
            None => RejectReason::Full(self.name.clone()),
        };
        Rejected { reason, buffer }
    }

    /// Tells the device of everything submitted since the last flush: at most one store to each
    /// doorbell. Does nothing if there is nothing new.
    #[inline]
    pub fn flush(&self) {
        let core = &mut *self.core.borrow_mut();
        if core.submission.has_unrung() && self.fate.ended().is_none() {
            // The head first: the completion entries it frees are those the new commands will fill.
            if core.completion.unrung() > 0 {
                core.completion.ring();
            }
            core.submission.ring();
        }
    }

    /// Reaps up to `budget` completions for everyone: wakes parked futures, frees orphans, and
    /// hands completions of [`post`](Self::post) to `direct`. Returns how many there were.
    ///
    /// # Errors
    /// [`QueueError::Violation`] if the device broke the protocol; the queue has then ended.
    #[inline]
    pub fn reap(
        &self,
        budget: usize,
        mut direct: impl FnMut(Completed<P, B>),
    ) -> Result<usize, QueueError> {
        let mut reaped = 0;
        while reaped < budget {
            let Some((tag, outcome, settled)) = self.reap_one()? else { break };
            reaped += 1;
            // User code (wakers, buffers' drop, the callback) runs outside of the borrow.
            match settled {
                Settled::Kept(None) => {}
                Settled::Kept(Some(waker)) => waker.wake(),
                Settled::Direct(buffer) => {
                    direct(Completed { tag, outcome, buffer });
                    self.slot_freed();
                }
                Settled::Orphan(buffer) => {
                    drop(buffer);
                    self.slot_freed();
                }
            }
        }
        if reaped > 0 {
            let core = &mut *self.core.borrow_mut();
            if core.completion.unrung() * 2 > core.completion.count() {
                core.completion.ring();
            }
        }
        Ok(reaped)
    }

    /// Reaps up to `budget` completions of futures; completions of [`post`](Self::post) are dropped
    /// with their buffers. For loops that drive futures only.
    ///
    /// # Errors
    /// As [`reap`](Self::reap).
    #[inline]
    pub fn poll(&self, budget: usize) -> Result<usize, QueueError> {
        self.reap(budget, |completed| drop(completed.buffer))
    }

    #[inline]
    fn reap_one(&self) -> Result<Option<(Tag, P::Outcome, Settled<B>)>, QueueError> {
        let core = &mut *self.core.borrow_mut();
        let Some(completion) = core.completion.pop() else { return Ok(None) };
        let head = P::submission_head(&completion);
        let checked = head.map_or(Ok(()), |head| core.submission.report_head(head));
        let (tag, outcome) = (P::tag(&completion), P::outcome(&completion));
        match checked.and_then(|()| core.slots.complete(tag, outcome)) {
            Ok(settled) => Ok(Some((tag, outcome, settled))),
            Err(violation) => Err(self.violated(core, violation)),
        }
    }

    #[cold]
    fn violated(&self, core: &mut Core<P, B>, violation: Violation) -> QueueError {
        core.violation.get_or_insert(violation);
        // Not quiesced: a device that breaks the protocol may still write to the buffers.
        self.fate.end(EndReason::Violation, false);
        QueueError::Violation { queue: self.name.clone(), violation }
    }

    /// A slot became free: the longest waiter may have it.
    #[inline]
    pub(crate) fn slot_freed(&self) {
        let waiter = self.core.borrow_mut().slot_waiters.pop_front();
        if let Some(waker) = waiter {
            waker.wake();
        }
    }

    /// Waits until a slot is free (someone else may take it first: loop around
    /// [`submit`](Self::submit)). It reaps meanwhile; but a slot whose future has completed is free
    /// only after that future was polled, so do not wait here while holding all of them unpolled.
    ///
    /// # Errors
    /// [`QueueError`] if the queue has ended or the interrupt failed.
    pub async fn slot_free(&self) -> Result<(), QueueError> {
        let mut parked = Parked { tag: None, since: None };
        poll_fn(|cx| self.poll_slot_free(cx, &mut parked)).await
    }

    fn poll_slot_free(
        &self,
        cx: &mut Context<'_>,
        parked: &mut Parked,
    ) -> Poll<Result<(), QueueError>> {
        loop {
            self.flush();
            self.poll(usize::MAX)?;
            if let Some(error) = self.ended() {
                return Poll::Ready(Err(error));
            }
            if self.core.borrow().slots.in_use() < self.capacity() {
                return Poll::Ready(Ok(()));
            }
            self.core.borrow_mut().slot_waiters.push_back(cx.waker().clone());
            match self.park(cx, parked) {
                Poll::Ready(result) => result?,
                Poll::Pending => return Poll::Pending,
            }
        }
    }

    /// Arms the interrupt, looks once more, and registers the task. Ready means: look again.
    pub(crate) fn park(
        &self,
        cx: &mut Context<'_>,
        parked: &mut Parked,
    ) -> Poll<Result<(), QueueError>> {
        {
            let core = &mut *self.core.borrow_mut();
            if core.completion.unrung() > 0 && self.fate.ended().is_none() {
                core.completion.ring();
            }
        }
        self.interrupt.arm();
        if self.poll(usize::MAX)? > 0 {
            return Poll::Ready(Ok(()));
        }
        let order = self.core.borrow().completion.check_order();
        if let Err(violation) = order {
            return Poll::Ready(Err(self.violated(&mut self.core.borrow_mut(), violation)));
        }
        let tag = parked.tag;
        let wait = |error| QueueError::Wait { queue: self.name.clone(), tag, error };
        match self.interrupt.poll_fired(cx, parked) {
            Poll::Ready(result) => Poll::Ready(result.map_err(wait)),
            Poll::Pending => Poll::Pending,
        }
    }

    pub(crate) fn spin_begin(&self) -> u32 {
        let mut spin = self.spin.get();
        let looks = spin.begin();
        self.spin.set(spin);
        looks
    }

    pub(crate) fn spin_ended(&self, hit: Option<u32>) {
        let mut spin = self.spin.get();
        match hit {
            Some(looks) => spin.hit(looks),
            None => spin.missed(),
        }
        self.spin.set(spin);
    }

    #[inline]
    pub(crate) fn take_done(&self, tag: Tag) -> Option<(P::Outcome, B)> {
        self.core.borrow_mut().slots.take_done(tag)
    }

    pub(crate) fn set_waker(&self, tag: Tag, waker: &Waker) {
        self.core.borrow_mut().slots.set_waker(tag, waker);
    }

    pub(crate) fn orphan(&self, tag: Tag) -> Option<(P::Outcome, B)> {
        self.core.borrow_mut().slots.orphan(tag)
    }

    /// The buffer of a command that will never complete, if the device is done with it.
    pub(crate) fn take_lost(&self, tag: Tag) -> Option<B> {
        if self.fate.quiesced() { self.core.borrow_mut().slots.take_buffer(tag) } else { None }
    }

    /// Gives the queue up and returns the buffers that the device may still be writing to. Whoever
    /// takes them keeps them until the device is known to be done (the queue deleted or the device
    /// reset).
    #[must_use]
    pub fn give_up(self) -> Vec<B> {
        self.fate.end(EndReason::Released, false);
        self.core.borrow_mut().slots.take_all_buffers()
    }
}

impl<P: QueueProtocol, B> Drop for Queue<P, B> {
    /// Buffers still with the device are leaked, not freed: freeing memory that a device may write
    /// is worse than losing it. [`Queue::give_up`] hands them to someone who can wait.
    fn drop(&mut self) {
        if !self.fate.quiesced() {
            for buffer in self.core.get_mut().slots.take_all_buffers() {
                core::mem::forget(buffer);
            }
        }
    }
}
