//! [`Line`]: the tasks that wait for a free slot, and whoever wakes them.

use core::cell::RefCell;
use core::fmt;
use core::task::Waker;

use super::batch::{Act, Batch};
use super::cell::{Delegated, Turn};
use super::sync::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use crate::waiters::SlotWaiters;

/// The line. Who puts itself in line, or takes itself out, needs the baton for a moment; who finds it
/// taken does not wait for it:
/// * a task that cannot get in asks to be polled again;
/// * a task that cannot get out leaves a request to wake all of the line: those that still want a
///   slot come back to their places;
/// * who gives a slot back asks the holder to wake for it.
pub(super) struct Line {
    /// Never borrowed while code of others runs.
    baton: Delegated<RefCell<SlotWaiters>>,
    /// Tickets given out. It does not wrap: 2^64 waits take centuries.
    tickets: AtomicU64,
    /// How many are in line, for who gives a slot back.
    waiting: AtomicUsize,
    /// Wake everyone: one of them may have gone.
    everyone: AtomicBool,
}

impl fmt::Debug for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Line").field("waiting", &self.waiting).finish_non_exhaustive()
    }
}

impl Act for Waker {
    fn act(self) {
        self.wake();
    }
}

/// How many of the line may be woken now.
pub(super) trait Wanted {
    fn wanted(&self) -> usize;
}

impl<F: Fn() -> usize> Wanted for F {
    fn wanted(&self) -> usize {
        self()
    }
}

impl Line {
    pub(super) fn new() -> Self {
        Self {
            baton: Delegated::new(RefCell::default()),
            tickets: AtomicU64::new(0),
            waiting: AtomicUsize::new(0),
            everyone: AtomicBool::new(false),
        }
    }

    /// A place at the end of the line.
    pub(super) fn ticket(&self) -> u64 {
        self.tickets.fetch_add(1, Ordering::Relaxed)
    }

    /// Whether anyone is in line, for who has just given a slot back by a read-modify-write of its
    /// word: see [`FreeSlots::any_settled`](super::free::FreeSlots::any_settled).
    #[inline]
    pub(super) fn is_awaited(&self) -> bool {
        self.waiting.load(Ordering::Relaxed) > 0
    }

    /// Lets `waker` be called when it is the ticket's turn; false if the line is being changed right
    /// now. The caller then looks once more for a free slot.
    pub(super) fn register(&self, ticket: u64, waker: Waker, wanted: &impl Wanted) -> bool {
        let Some(turn) = self.baton.try_take() else { return false };
        let old = turn.borrow_mut().register(ticket, waker);
        self.let_go(turn, wanted);
        drop(old);
        true
    }

    /// Takes a ticket out of the line.
    pub(super) fn leave(&self, ticket: u64, wanted: &impl Wanted) {
        let Some(turn) = self.baton.try_take() else {
            // Relaxed: the request releases it.
            self.everyone.store(true, Ordering::Relaxed);
            self.wake(wanted);
            return;
        };
        let waker = turn.borrow_mut().remove(ticket);
        self.let_go(turn, wanted);
        drop(waker);
    }

    fn count(&self, turn: &Turn<'_, RefCell<SlotWaiters>>) {
        // Relaxed: a waiter's look for a free slot, which comes later, releases it.
        self.waiting.store(turn.borrow().len(), Ordering::Relaxed);
    }

    /// Lets the baton go after a change.
    fn let_go<'l>(&'l self, turn: Turn<'l, RefCell<SlotWaiters>>, wanted: &impl Wanted) {
        self.count(&turn);
        if let Some(turn) = turn.finish() {
            self.serve(turn, wanted);
        }
    }

    /// Wakes as many as are wanted, from the front; or has whoever is at the line do so.
    #[cold]
    pub(super) fn wake(&self, wanted: &impl Wanted) {
        if let Some(turn) = self.baton.take_or_ask() {
            self.serve(turn, wanted);
        }
    }

    fn serve<'l>(&'l self, mut turn: Turn<'l, RefCell<SlotWaiters>>, wanted: &impl Wanted) {
        // Declared first, so that it is dropped last.
        let mut owed = Owed { line: self, wanted, owes: false };
        let mut batch = Batch::new();
        loop {
            let more = self.collect(&turn, &mut batch, wanted.wanted());
            self.count(&turn);
            match turn.finish() {
                Some(again) if !more => {
                    turn = again;
                    continue;
                }
                asked => {
                    owed.owes = more;
                    drop(asked);
                }
            }
            batch.run();
            if !core::mem::take(&mut owed.owes) {
                return;
            }
            match self.baton.take_or_ask() {
                Some(again) => turn = again,
                None => return,
            }
        }
    }

    /// True if the batch became full before all were woken that should be.
    fn collect(
        &self,
        turn: &Turn<'_, RefCell<SlotWaiters>>,
        batch: &mut Batch<Waker>,
        wanted: usize,
    ) -> bool {
        let everyone = self.everyone.swap(false, Ordering::Relaxed);
        let mut left = if everyone { usize::MAX } else { wanted };
        let line = &mut *turn.borrow_mut();
        while left > 0 && !line.is_empty() {
            if !batch.has_room(1) {
                self.everyone.fetch_or(everyone, Ordering::Relaxed);
                return true;
            }
            line.pop().into_iter().for_each(|waker| batch.push(waker));
            left -= 1;
        }
        false
    }
}

/// The work must be done again after code of others has run, whether that panics or not.
struct Owed<'l, W: Wanted> {
    line: &'l Line,
    wanted: &'l W,
    owes: bool,
}

impl<W: Wanted> Drop for Owed<'_, W> {
    fn drop(&mut self) {
        if self.owes {
            self.line.wake(self.wanted);
        }
    }
}
