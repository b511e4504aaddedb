//! The side of a shared queue on which tasks wait: spinning, parking, waiting for a slot.

use core::fmt;
use core::future::Future;
use core::pin::Pin;
use core::sync::atomic::Ordering;
use core::task::{Context, Poll};

use super::SharedQueue;
use super::in_flight::CommandOf;
use super::reaper::Look;
use crate::error::QueueError;
use crate::protocol::{QueueProtocol, Tag};
use crate::queue::ROUNDS;
use crate::wait::{NextCompletion, Parked, SpinBudget};

/// Looks at the phase alone, between two at the rest.
const LOOKS_ALONE: u32 = 4_096;

/// A task's wait for a free slot: [`SharedQueue::slot_free`].
///
/// From its first poll until it is ready or dropped it holds a place in the line. Whoever leaves the
/// line while a slot is free wakes the next: so a free slot never lies idle beside a waiting task,
/// even if the one that was woken for it went away. Polled again after it was ready, it waits again,
/// at the end of the line.
#[must_use = "it waits only while it is polled"]
pub struct SharedSlotFree<'q, P: QueueProtocol, B> {
    queue: &'q SharedQueue<P, B>,
    ticket: Option<u64>,
    parked: Parked,
}

impl<P: QueueProtocol, B> SharedSlotFree<'_, P, B> {
    fn leave(&mut self) {
        let Some(ticket) = self.ticket.take() else { return };
        self.queue.line.leave(ticket, &|| self.queue.wanted());
        if self.queue.slots.free().any() {
            self.queue.slot_freed();
        }
    }
}

impl<P: QueueProtocol, B> Future for SharedSlotFree<'_, P, B> {
    type Output = Result<(), QueueError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        let queue = this.queue;
        let ticket = *this.ticket.get_or_insert_with(|| queue.line.ticket());
        let polled = queue.poll_slot_free(cx, ticket, &mut this.parked);
        if polled.is_ready() {
            this.leave();
            this.parked.since = None;
        }
        polled
    }
}

impl<P: QueueProtocol, B> Drop for SharedSlotFree<'_, P, B> {
    fn drop(&mut self) {
        self.leave();
    }
}

impl<P: QueueProtocol, B> fmt::Debug for SharedSlotFree<'_, P, B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SharedSlotFree").field("ticket", &self.ticket).finish_non_exhaustive()
    }
}

impl<P: QueueProtocol, B> SharedQueue<P, B> {
    /// Whether the next completion has appeared, as far as a look without the baton can say.
    #[inline]
    fn has_fresh(&self) -> bool {
        let (index, phase) = self.peek.get();
        let word = self.completions.load_u32(index.into(), P::PHASE_WORD, Ordering::Relaxed);
        P::phase(u32::from_le(word)) == phase
    }

    /// Looks until there were completions, for anyone, or `command` has completed, or the budget is
    /// used up; true but in the last case. The first look notices a queue that has ended; so does
    /// the one of [`park`](Self::park), which follows a spin in vain.
    #[inline]
    pub(super) fn spin(&self, command: Option<&CommandOf<'_, P, B>>) -> Result<bool, QueueError> {
        let own = command.map(CommandOf::<P, B>::tag);
        let look = || {
            let (looked, result) = self.look(Look { own, ..Look::up_to(usize::MAX) });
            result.map(|()| looked.settled > 0)
        };
        if look()? {
            return Ok(true);
        }
        let budget = self.learn(SpinBudget::begin).unwrap_or(SpinBudget::QUIET_LOOKS);
        for looks in 1..=budget {
            if looks > SpinBudget::QUIET_LOOKS {
                core::hint::spin_loop();
            }
            // Another thread may have settled it. A spin that is long by its caller's wish notices the
            // end of the queue now and then.
            let done = command.is_some_and(CommandOf::<P, B>::is_done);
            if done || (looks.is_multiple_of(LOOKS_ALONE) || self.has_fresh()) && look()? {
                self.learn(|spin| spin.hit(looks));
                return Ok(true);
            }
        }
        self.learn(SpinBudget::missed);
        Ok(false)
    }

    /// Uses the spin budget, unless another thread is at it: then what this wait could teach is lost.
    fn learn<T>(&self, change: impl FnOnce(&mut SpinBudget) -> T) -> Option<T> {
        let turn = self.spin.try_take()?;
        let mut spin = turn.get();
        let value = change(&mut spin);
        turn.set(spin);
        // Nobody asks for this one.
        drop(turn.finish());
        Some(value)
    }

    /// Before a wait: Pending if the thread owes a turn to what else it serves. The task is then
    /// woken when that is over, whatever its command does.
    #[inline]
    pub(super) fn poll_turn(&self, cx: &mut Context<'_>) -> Poll<()> {
        if self.turns.count_wait() { self.ask_for_turn(cx) } else { Poll::Ready(()) }
    }

    #[cold]
    fn ask_for_turn(&self, cx: &mut Context<'_>) -> Poll<()> {
        let polled = self.interrupt.poll_turn(cx);
        if polled.is_ready() {
            self.turns.taken();
        }
        polled
    }

    /// Completions came, but for others: lets those run. The interrupt need not be asked for while
    /// completions come, so the task goes back to the end of the executor's line.
    pub(super) fn let_others_run(&self, cx: &Context<'_>) {
        self.turns.count_yield();
        cx.waker().wake_by_ref();
    }

    /// Arms the interrupt, looks once more, and registers the task. Ready means: look again.
    pub(super) fn park(
        &self,
        cx: &mut Context<'_>,
        parked: &mut Parked,
    ) -> Poll<Result<(), QueueError>> {
        self.turns.count_yield();
        self.bells.acknowledge(self, || self.is_alive());
        self.interrupt.arm(&self.next_completion());
        // What appeared before the interrupt was armed is seen by this look; if another thread has
        // the baton, by the one that it is asked for, which then wakes this task.
        if self.look_parked(parked.tag)? > 0 {
            return Poll::Ready(Ok(()));
        }
        let tag = parked.tag;
        let wait = |error| QueueError::Wait { queue: self.name.clone(), tag, error };
        self.interrupt.poll_fired(cx, parked).map_err(wait)
    }

    /// A look around parking.
    #[cold]
    pub(super) fn look_parked(&self, own: Option<Tag>) -> Result<usize, QueueError> {
        let look = Look { budget: usize::MAX, own, ask: true, order: true };
        let (looked, result) = self.look(look);
        result.map(|()| looked.settled)
    }

    fn next_completion(&self) -> NextCompletion<'_> {
        let (head, fresh) = self.peek.get();
        let offset = usize::from(head) * size_of::<P::Completion>() + P::PHASE_WORD;
        let phase = |word| P::phase(u32::from_le(word));
        NextCompletion { ring: &self.completion_memory, offset, phase, fresh }
    }

    /// A slot became free: the longest waiter may have it.
    #[inline]
    pub(super) fn slot_freed(&self) {
        if self.line.is_awaited() {
            self.wake_line();
        }
    }

    #[cold]
    pub(super) fn wake_line(&self) {
        self.line.wake(&|| self.wanted());
    }

    /// How many of the line should be woken: as many as there are slots for, or all, once the queue
    /// has ended.
    fn wanted(&self) -> usize {
        if self.is_alive() { self.slots.free().count() } else { usize::MAX }
    }

    /// Waits until a slot is free (someone else may take it first: loop around
    /// [`submit`](Self::submit)). Waiters are served in the order in which they came. It reaps
    /// meanwhile; but a slot whose future has completed is free only after that future was polled,
    /// and one of [`post`](Self::post) after the next [`reap`](Self::reap), so do not wait here
    /// while holding all of them.
    ///
    /// # Errors
    /// [`QueueError`] if the queue has ended or the interrupt failed.
    pub fn slot_free(&self) -> SharedSlotFree<'_, P, B> {
        SharedSlotFree { queue: self, ticket: None, parked: Parked { tag: None, since: None } }
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
            if self.slots.free().any() {
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
                    if !self.line.register(ticket, waker, &|| self.wanted()) {
                        // Someone changes the line just now: to be polled again is not to wait.
                        break;
                    }
                    // A slot may have been given back, or the queue have ended, before the task was
                    // in line.
                    if !self.slots.free().any_settled() && self.is_alive() {
                        return Poll::Pending;
                    }
                }
            }
        }
        self.let_others_run(cx);
        Poll::Pending
    }
}
