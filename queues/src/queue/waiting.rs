//! The side of a queue on which tasks wait: looking, spinning, parking, waking.

use core::fmt;
use core::future::Future;
use core::pin::Pin;
use core::task::{Context, Poll, Waker};

use super::{Completed, Queue};
use crate::error::QueueError;
use crate::fate::EndReason;
use crate::mem::Lull;
use crate::protocol::{QueueProtocol, Tag};
use crate::slots::{Settled, SettledOther, WakerWanted};
use crate::wait::{NextCompletion, Parked, SpinBudget};
use crate::waiters::SlotWaiters;

/// How often a poll may find the interrupt fired and nothing for itself before it lets other tasks
/// run: an interrupt that fires all the time must not hold a thread.
pub(crate) const ROUNDS: usize = 4;

/// A task's wait for a free slot: [`Queue::slot_free`].
///
/// From its first poll until it is ready or dropped it holds a place in the line. Whoever leaves the
/// line while a slot is free wakes the next: so a free slot never lies idle beside a waiting task,
/// even if the one that was woken for it went away. Polled again after it was ready, it waits again,
/// at the end of the line.
#[must_use = "it waits only while it is polled"]
pub struct SlotFree<'q, P: QueueProtocol, B> {
    queue: &'q Queue<P, B>,
    ticket: Option<u64>,
    parked: Parked,
}

impl<P: QueueProtocol, B> SlotFree<'_, P, B> {
    fn leave(&mut self) {
        let Some(ticket) = self.ticket.take() else { return };
        let waker = self.queue.change_waiters(|line| line.remove(ticket));
        drop(waker);
        if self.queue.has_free_slot() {
            self.queue.slot_freed();
        }
    }
}

impl<P: QueueProtocol, B> Future for SlotFree<'_, P, B> {
    type Output = Result<(), QueueError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        let queue = this.queue;
        let ticket = *this.ticket.get_or_insert_with(|| queue.change_waiters(SlotWaiters::ticket));
        let polled = queue.poll_slot_free(cx, ticket, &mut this.parked);
        if polled.is_ready() {
            this.leave();
            this.parked.since = None;
        }
        polled
    }
}

impl<P: QueueProtocol, B> Drop for SlotFree<'_, P, B> {
    fn drop(&mut self) {
        self.leave();
    }
}

impl<P: QueueProtocol, B> fmt::Debug for SlotFree<'_, P, B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SlotFree").field("ticket", &self.ticket).finish_non_exhaustive()
    }
}

impl<P: QueueProtocol, B> Queue<P, B> {
    /// Reaps up to `budget` completions for everyone. `own` is the command whose future looks: its
    /// task runs already and needs no waking. Without a callback the completions that are for one
    /// are kept.
    // Inlined where a completion is on its way: its time from the ring to the caller is what a
    // round trip adds to the device's (a tenth of it, at depth 1, for a call and its result in
    // memory).
    #[inline(always)]
    pub(crate) fn look(
        &self,
        budget: usize,
        own: Option<Tag>,
        mut direct: Option<impl FnMut(Completed<P, B>)>,
    ) -> Result<usize, QueueError> {
        let mut reaped = 0;
        while reaped < budget {
            let Some(completion) = self.completion.pop() else {
                self.completion.missed().map_err(|violation| self.violated(violation))?;
                break;
            };
            if let Some(head) = P::submission_head(&completion)
                && !self.submission.report_head(head)
            {
                return Err(self.violated(self.submission.impossible_head(head)));
            }
            let (tag, outcome) = (P::tag(&completion), P::outcome(&completion));
            reaped += 1;
            // Code of others (wakers, buffers' drop, the callback) runs after the queue's own work,
            // so that it finds the queue whole, and loses nothing if it panics.
            match self.slots.complete(tag, outcome, direct.is_none()) {
                Settled::Kept => {}
                Settled::Direct(buffer) => {
                    self.slot_freed();
                    if let Some(direct) = &mut direct {
                        direct(Completed { tag, outcome, buffer });
                    }
                }
                Settled::Other => self.complete_other(tag, outcome, own)?,
            }
        }
        if reaped == 0 && budget > 0 && !self.fate.is_alive() {
            return self.ended().map_or(Ok(0), Err);
        }
        Ok(reaped)
    }

    /// A completion whose task has parked, or that nobody waits for, or that the device should not
    /// have posted.
    #[cold]
    fn complete_other(
        &self,
        tag: Tag,
        outcome: P::Outcome,
        own: Option<Tag>,
    ) -> Result<(), QueueError> {
        match self.slots.complete_other(tag, outcome) {
            Ok(SettledOther::Kept(waker)) => {
                if let Some(waker) = waker
                    && own != Some(tag)
                {
                    waker.wake();
                }
                Ok(())
            }
            Ok(SettledOther::Orphan(buffer)) => {
                self.slot_freed();
                drop(buffer);
                Ok(())
            }
            Err(violation) => Err(self.violated(violation)),
        }
    }

    /// As [`look`](Self::look), around parking.
    #[cold]
    pub(crate) fn look_parked(&self, own: Option<Tag>) -> Result<usize, QueueError> {
        self.look(usize::MAX, own, None::<fn(_)>)
    }

    /// Looks until there were completions, for anyone, or the budget is used up; true if there
    /// were. The first look notices a queue that has ended; so does the one of
    /// [`park`](Self::park), which follows a spin in vain.
    #[inline]
    pub(crate) fn spin(&self, own: Option<Tag>) -> Result<bool, QueueError> {
        let mut spin = self.patience.spin.get();
        let budget = spin.begin();
        let mut looks = 0;
        let found = loop {
            // Between the first look and a completion nothing but its phase is looked at: the
            // shorter the loop, the sooner a completion is seen. A spin that is long by its
            // caller's wish notices the end of the queue now and then.
            if (looks % Self::LOOKS_ALONE == 0 || self.completion.has_fresh())
                && self.look(usize::MAX, own, None::<fn(_)>)? > 0
            {
                spin.hit(looks);
                break true;
            }
            if looks >= budget {
                spin.missed();
                break false;
            }
            let more = if looks < SpinBudget::QUIET_LOOKS { 1 } else { self.pause() };
            looks = looks.saturating_add(more);
        };
        self.patience.spin.set(spin);
        Ok(found)
    }

    /// Looks at the phase alone, between two at the rest.
    const LOOKS_ALONE: u32 = 4_096;

    /// Waits a moment between two looks; returns for how many that counts.
    #[inline]
    fn pause(&self) -> u32 {
        let lull = self.patience.lull;
        if lull == Lull::Pause {
            core::hint::spin_loop();
        } else {
            let next = self.next_completion();
            // Where the completion will be lies in the ring.
            let _ = next.ring.lull(next.offset, || !self.completion.has_fresh());
        }
        lull.looks()
    }

    /// Before a wait: Pending if the thread owes a turn to what else it serves. The task is then
    /// woken when that is over, whatever its command does.
    #[inline]
    pub(crate) fn poll_turn(&self, cx: &mut Context<'_>) -> Poll<()> {
        if self.patience.count_wait() { self.ask_for_turn(cx) } else { Poll::Ready(()) }
    }

    #[cold]
    fn ask_for_turn(&self, cx: &mut Context<'_>) -> Poll<()> {
        let polled = self.interrupt.poll_turn(cx);
        if polled.is_ready() {
            self.patience.turn_taken();
        }
        polled
    }

    /// Completions came, but for others: lets those run. The interrupt need not be asked for while
    /// completions come, so the task goes back to the end of the executor's line.
    pub(crate) fn let_others_run(&self, cx: &Context<'_>) {
        self.patience.count_yield();
        cx.waker().wake_by_ref();
    }

    /// Arms the interrupt, looks once more, and registers the task. Ready means: look again.
    pub(crate) fn park(
        &self,
        cx: &mut Context<'_>,
        parked: &mut Parked,
    ) -> Poll<Result<(), QueueError>> {
        self.patience.count_yield();
        self.acknowledge();
        self.interrupt.arm(&self.next_completion());
        if self.look_parked(parked.tag)? > 0 {
            return Poll::Ready(Ok(()));
        }
        if let Err(violation) = self.completion.check_order() {
            return Poll::Ready(Err(self.violated(violation)));
        }
        let tag = parked.tag;
        let wait = |error| QueueError::Wait { queue: self.name.clone(), tag, error };
        self.interrupt.poll_fired(cx, parked).map_err(wait)
    }

    fn next_completion(&self) -> NextCompletion<'_> {
        let (head, fresh) = self.completion.next();
        let offset = usize::from(head) * size_of::<P::Completion>() + P::PHASE_WORD;
        let phase = |word| P::phase(u32::from_le(word));
        NextCompletion { ring: &self.completion_memory, offset, phase, fresh }
    }

    /// Tells the device of all completions taken: before a task sleeps, because a device may hold
    /// its interrupt back while entries that it posted are not acknowledged.
    fn acknowledge(&self) {
        if self.completion.unrung() > 0 && self.fate.is_alive() {
            self.completion_doorbell.ring(self.completion.take_head());
        }
    }

    /// Wakes the device. Last of all: a kick is code of others.
    #[cold]
    pub(super) fn kick(&self, head: bool, tail: bool) {
        if head {
            self.completion_doorbell.kick();
        }
        if tail {
            self.submission_doorbell.kick();
        }
    }

    pub(crate) fn has_free_slot(&self) -> bool {
        self.slots.has_free()
    }

    /// A slot became free: the longest waiter may have it.
    #[inline]
    pub(crate) fn slot_freed(&self) {
        if self.slots.awaited.get() {
            self.wake_waiter();
        }
    }

    /// Changes the line, and keeps the flag beside the slots true to it.
    fn change_waiters<T>(&self, change: impl FnOnce(&mut SlotWaiters) -> T) -> T {
        let waiters = &mut *self.waiters.borrow_mut();
        let changed = change(waiters);
        self.slots.awaited.set(!waiters.is_empty());
        changed
    }

    #[cold]
    fn wake_waiter(&self) {
        let waiter = self.change_waiters(SlotWaiters::pop);
        if let Some(waker) = waiter {
            waker.wake();
        }
    }

    /// The queue has ended on its own thread: nobody else wakes the tasks that are parked.
    #[cold]
    pub(super) fn wake_everyone(&self) {
        for index in 0..self.capacity() {
            let waker = self.slots.take_waker(index);
            if let Some(waker) = waker {
                waker.wake();
            }
        }
        // Counted first: a waker that runs its task at once might put it in line again.
        let waiting = self.waiters.borrow().len();
        for _ in 0..waiting {
            self.wake_waiter();
        }
    }

    /// Waits until a slot is free (someone else may take it first: loop around
    /// [`submit`](Self::submit)). Waiters are served in the order in which they came. It reaps
    /// meanwhile; but a slot whose future has completed is free only after that future was polled,
    /// and one of [`post`](Self::post) after the next [`reap`](Self::reap), so do not wait here
    /// while holding all of them.
    ///
    /// # Errors
    /// [`QueueError`] if the queue has ended or the interrupt failed.
    pub fn slot_free(&self) -> SlotFree<'_, P, B> {
        SlotFree { queue: self, ticket: None, parked: Parked { tag: None, since: None } }
    }

    /// Ends the queue from its own thread: every task that waits on it is woken and gets
    /// [`QueueError::Ended`]. `quiesced` as in [`Fate::end`](crate::Fate::end).
    pub fn end(&self, reason: EndReason, quiesced: bool) {
        self.fate.end(reason, quiesced);
        self.wake_everyone();
    }

    fn poll_slot_free(
        &self,
        cx: &mut Context<'_>,
        ticket: u64,
        parked: &mut Parked,
    ) -> Poll<Result<(), QueueError>> {
        self.flush();
        let mut spun = false;
        for _ in 0..ROUNDS {
            if let Some(error) = self.ended() {
                return Poll::Ready(Err(error));
            }
            if self.has_free_slot() {
                return Poll::Ready(Ok(()));
            }
            if !spun {
                spun = true;
                if self.poll_turn(cx).is_pending() {
                    return Poll::Pending;
                }
                if self.spin(None)? {
                    continue;
                }
            }
            match self.park(cx, parked) {
                Poll::Ready(result) => result?,
                Poll::Pending => {
                    let waker = cx.waker().clone();
                    let old = self.change_waiters(|line| line.register(ticket, waker));
                    drop(old);
                    // The interrupt's or the waker's code may have freed a slot before the task
                    // was in line.
                    if !self.has_free_slot() {
                        return Poll::Pending;
                    }
                }
            }
        }
        self.let_others_run(cx);
        Poll::Pending
    }

    // Inlined into the poll of a future: what it returns would go through memory.
    #[inline(always)]
    pub(crate) fn take_done(&self, tag: Tag) -> Option<(P::Outcome, B)> {
        let taken = self.slots.take_done(tag);
        if taken.is_some() {
            self.slot_freed();
        }
        taken
    }

    /// When the task that awaits a command first parked.
    pub(crate) fn parked_since(&self, tag: Tag) -> Option<u64> {
        self.slots.since(tag)
    }

    /// Leaves a waker at a command's slot, and when its task first parked; false if the command has
    /// completed and nobody would call it.
    pub(crate) fn set_waker(&self, tag: Tag, waker: &Waker, since: Option<u64>) -> bool {
        let awaited = match self.slots.waker_wanted(tag, waker) {
            WakerWanted::Done => false,
            WakerWanted::Kept => true,
            WakerWanted::New => {
                // Cloning runs code of others: the command may have completed when it is done.
                let waker = waker.clone();
                self.slots.put_waker(tag, waker).is_ok()
            }
        };
        if awaited {
            self.slots.set_since(tag, since);
        }
        awaited
    }

    /// The future of a command is gone. Its buffer, if the device is done with it; otherwise the
    /// queue keeps it until the completion.
    pub(crate) fn abandon(&self, tag: Tag) -> Option<B> {
        let quiesced = self.fate.quiesced();
        let (buffer, waker) = self.slots.abandon(tag, quiesced);
        drop(waker);
        if buffer.is_some() {
            self.slot_freed();
        }
        buffer
    }
}
