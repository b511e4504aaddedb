//! The side of a shared queue that takes completions: one thread at a time, for all.

use core::cell::Cell;
use core::fmt;
use core::task::Waker;

use super::SharedQueue;
use super::batch::{Act, Batch};
use super::cell::{Orphan, Settled, Turn};
use super::sync::{AtomicU32, Ordering, Padded};
use crate::error::{QueueError, Violation};
use crate::fate::EndReason;
use crate::mem::Cells;
use crate::protocol::{QueueProtocol, Tag};
use crate::ring::CompletionRing;

/// What the reaper's baton guards.
///
/// # Invariants
/// * `taken` completions were taken of `ring`; no more than the device was told of commands.
/// * `rung` is what the device was told of commands, as it was when this side needed to know last: the
///   ringer's line is not taken for each completion.
/// * `head` is the submission head that the device reported last, as a position: it only grows, and
///   is at most what the device was told. `head_index` is its index.
/// * Slots from `waking` on may hold wakers that are to be called.
pub(super) struct Reaper<P: QueueProtocol> {
    ring: CompletionRing<P>,
    taken: Cell<u64>,
    rung: Cell<u64>,
    head: Cell<u64>,
    head_index: Cell<u16>,
    waking: Cell<usize>,
}

impl<P: QueueProtocol> Reaper<P> {
    pub(super) fn new(completions: Cells<P::Completion>) -> Self {
        let [taken, rung, head] = [const { Cell::new(0) }; 3];
        Self {
            ring: CompletionRing::new(completions),
            taken,
            rung,
            head,
            head_index: Cell::new(0),
            waking: Cell::new(usize::MAX),
        }
    }
}

impl<P: QueueProtocol> fmt::Debug for Reaper<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reaper").field("taken", &self.taken).finish_non_exhaustive()
    }
}

/// Where the next completion will appear, for a look without the baton. It may be old by the time it
/// is used: then the look is in vain.
pub(super) struct Peek(Padded<AtomicU32>);

impl Peek {
    pub(super) fn new() -> Self {
        Self(Padded(AtomicU32::new(1 << 16)))
    }

    /// Index and phase.
    #[inline]
    pub(super) fn get(&self) -> (u16, bool) {
        let word = self.0.load(Ordering::Relaxed);
        (word as u16, word >> 16 != 0)
    }

    #[inline]
    fn set(&self, (index, phase): (u16, bool)) {
        self.0.store(u32::from(index) | u32::from(phase) << 16, Ordering::Relaxed);
    }
}

impl fmt::Debug for Peek {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Peek").field(&self.get()).finish()
    }
}

/// What a look found.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Looked {
    /// Completions settled.
    pub(super) settled: usize,
    /// Those of them that are in line for a callback.
    pub(super) direct: usize,
}

/// What a look is to do.
#[derive(Debug, Clone, Copy)]
pub(super) struct Look {
    /// Completions at most; more if another thread asks meanwhile.
    pub(super) budget: usize,
    /// The command whose future looks: its task runs already and needs no waking.
    pub(super) own: Option<Tag>,
    /// If another thread has the baton, it looks again, after all that this one did before.
    pub(super) ask: bool,
    /// Looks one entry past the head too: for a task that is about to park.
    pub(super) order: bool,
}

impl Look {
    #[inline]
    pub(super) fn up_to(budget: usize) -> Self {
        Self { budget, own: None, ask: false, order: false }
    }
}

type OrphanOf<'q, P, B> = Orphan<'q, <P as QueueProtocol>::Outcome, B, Reaper<P>>;

/// Code of others that settling leaves to be run.
enum After<'q, P: QueueProtocol, B> {
    Wake(Waker),
    /// A task that runs already, or is gone.
    Drop(Waker),
    Orphan(&'q SharedQueue<P, B>, OrphanOf<'q, P, B>),
}

impl<P: QueueProtocol, B> Act for After<'_, P, B> {
    fn act(self) {
        match self {
            Self::Wake(waker) => waker.wake(),
            Self::Drop(waker) => drop(waker),
            Self::Orphan(queue, orphan) => {
                let buffer = orphan.take();
                queue.slot_freed();
                drop(buffer);
            }
        }
    }
}

/// Someone relies on the holder, who let go to run code of others: the work is done again, whether
/// that panics or not.
struct Owed<'q, P: QueueProtocol, B> {
    queue: &'q SharedQueue<P, B>,
    owes: bool,
}

impl<P: QueueProtocol, B> Drop for Owed<'_, P, B> {
    fn drop(&mut self) {
        if self.owes {
            let _ = self.queue.look(Look { ask: true, ..Look::up_to(self.queue.capacity()) });
        }
    }
}

/// How a pass over the completion ring ended.
enum Pass {
    /// Nothing more, or the budget is used up.
    Done,
    /// There is code of others to be run first.
    Full,
}

impl<P: QueueProtocol, B> SharedQueue<P, B> {
    /// Reaps for everyone, if no other thread is at it.
    #[inline]
    pub(super) fn look(&self, what: Look) -> (Looked, Result<(), QueueError>) {
        let mut looked = Looked::default();
        let reaper = self.slots.reaper();
        let turn = if what.ask { reaper.take_or_ask() } else { reaper.try_take() };
        let Some(turn) = turn else { return (looked, Ok(())) };
        let result = self.hold(turn, what, &mut looked);
        if result.is_ok() && looked.settled == 0 && what.budget > 0 && !self.is_alive() {
            return (looked, self.ended().map_or(Ok(()), Err));
        }
        (looked, result)
    }

    /// The holder's work, until nobody asks for more.
    #[inline]
    fn hold<'q>(
        &'q self,
        mut turn: Turn<'q, Reaper<P>>,
        mut what: Look,
        looked: &mut Looked,
    ) -> Result<(), QueueError> {
        // Declared first, so that it is dropped last.
        let mut owed = Owed { queue: self, owes: false };
        let mut batch = Batch::new();
        let mut result = Ok(());
        loop {
            let pass = match self.pass(&turn, what, &mut batch, looked) {
                Ok(pass) => pass,
                Err(violation) => {
                    result = Err(self.violated(&turn, violation));
                    // Nothing is taken any more; the wakers are.
                    Pass::Full
                }
            };
            self.peek.set(turn.ring.next());
            let asked = turn.finish();
            if asked.is_some() {
                // What the asker waits for lies in the ring already: at most as many as there are
                // slots.
                let all = looked.settled.saturating_add(self.capacity());
                what.budget = what.budget.max(all);
            }
            match (pass, asked) {
                (Pass::Done, Some(again)) => {
                    turn = again;
                    continue;
                }
                (Pass::Done, None) => {}
                // With the request, if there was one: this thread comes back.
                (Pass::Full, _asked) => owed.owes = true,
            }
            if result.is_err() {
                self.wake_line();
            }
            batch.run();
            if !core::mem::take(&mut owed.owes) {
                return result;
            }
            match self.slots.reaper().take_or_ask() {
                Some(again) => turn = again,
                None => return result,
            }
        }
    }

    #[inline]
    fn pass<'q>(
        &'q self,
        turn: &Turn<'_, Reaper<P>>,
        what: Look,
        batch: &mut Batch<After<'q, P, B>>,
        looked: &mut Looked,
    ) -> Result<Pass, Violation> {
        if (self.wake_all.load(Ordering::Relaxed) || turn.waking.get() < self.capacity())
            && let Pass::Full = self.take_wakers(turn, batch)
        {
            return Ok(Pass::Full);
        }
        while looked.settled < what.budget {
            // One completion may leave an orphan and a waker.
            if !batch.has_room(2) {
                return Ok(Pass::Full);
            }
            let Some(completion) = turn.ring.pop() else {
                turn.ring.missed()?;
                break;
            };
            let tag = P::tag(&completion);
            self.check(turn, tag, P::submission_head(&completion))?;
            looked.settled += 1;
            match self.slots.complete(turn, tag, P::outcome(&completion))? {
                Settled::Kept => {}
                Settled::Direct => looked.direct += 1,
                Settled::Wake(waker) if what.own == Some(tag) => batch.push(After::Drop(waker)),
                Settled::Wake(waker) => batch.push(After::Wake(waker)),
                Settled::Orphan(orphan, waker) => {
                    batch.push(After::Orphan(self, orphan));
                    waker.into_iter().for_each(|waker| batch.push(After::Drop(waker)));
                }
            }
        }
        if what.order {
            turn.ring.check_order()?;
        }
        Ok(Pass::Done)
    }

    /// Checks a completion against what the device was told, and counts it.
    #[inline]
    fn check(
        &self,
        turn: &Turn<'_, Reaper<P>>,
        tag: Tag,
        reported: Option<u16>,
    ) -> Result<(), Violation> {
        let taken = turn.taken.get();
        // More completions than commands. The ring's invariants rest on it that these are never taken.
        if taken >= turn.rung.get() && taken >= self.renew_rung(turn) {
            return Err(Violation::UnknownTag(tag));
        }
        turn.taken.set(taken + 1);
        self.bells.set_taken(taken + 1);
        let Some(reported) = reported else { return Ok(()) };
        let (laps, last) = (self.bells.submissions(), turn.head.get());
        let (from, to) = (u64::from(turn.head_index.get()), u64::from(reported));
        let steps = if to >= from { to - from } else { to + laps.count() - from };
        let beyond = |rung| last + steps > rung;
        if to >= laps.count() || beyond(turn.rung.get()) && beyond(self.renew_rung(turn)) {
            let rung = self.renew_rung(turn);
            let (last, tail) = (turn.head_index.get(), laps.index(rung) as u16);
            return Err(Violation::ImpossibleHead { reported, last, tail });
        }
        turn.head.set(last + steps);
        turn.head_index.set(reported);
        Ok(())
    }

    /// What the device was told before it wrote what was just read is seen: it was stored before the
    /// doorbell.
    fn renew_rung(&self, turn: &Turn<'_, Reaper<P>>) -> u64 {
        let rung = self.bells.rung();
        turn.rung.set(rung);
        rung
    }

    #[cold]
    fn violated(&self, turn: &Turn<'_, Reaper<P>>, violation: Violation) -> QueueError {
        turn.ring.stop();
        self.violation.set(violation);
        // Not quiesced: a device that breaks the protocol may still write to the buffers.
        self.fate.end(EndReason::Violation, false);
        self.wake_all.store(true, Ordering::Relaxed);
        QueueError::Violation { queue: self.name.clone(), violation }
    }

    /// Collects the wakers of every parked task. A task that parks later sees that the queue has
    /// ended.
    #[cold]
    fn take_wakers<'q>(
        &'q self,
        turn: &Turn<'_, Reaper<P>>,
        batch: &mut Batch<After<'q, P, B>>,
    ) -> Pass {
        if self.wake_all.swap(false, Ordering::Acquire) {
            turn.waking.set(0);
        }
        while turn.waking.get() < self.capacity() {
            if !batch.has_room(1) {
                return Pass::Full;
            }
            let waker = self.slots.take_waker(turn, turn.waking.get());
            turn.waking.set(turn.waking.get() + 1);
            waker.into_iter().for_each(|waker| batch.push(After::Wake(waker)));
        }
        Pass::Done
    }

    /// The queue has ended: wakes the tasks that are parked on it.
    #[cold]
    pub(super) fn wake_everyone(&self) {
        self.wake_all.store(true, Ordering::Release);
        let _ = self.look(Look { ask: true, ..Look::up_to(0) });
        self.wake_line();
    }
}
