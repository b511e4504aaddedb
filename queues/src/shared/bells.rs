//! [`Bells`]: who rings, and what.

use core::cell::Cell;
use core::fmt;

use super::cell::{Delegated, Turn};
use super::positions::{Laps, Positions};
use super::sync::{AtomicBool, AtomicU64, Ordering, Padded};
use crate::doorbell::Doorbell;

/// The two doorbells of a queue. Both carry absolute values, so stores must be in order: the holder
/// of the baton stores them.
///
/// # Invariants
/// * The baton's value is how many completions the device was told to be taken; it is at most
///   `taken`, which only grows.
/// * The device was told of fewer commands beyond that than the completion ring has entries, so the
///   ring never looks full to it. (After [`Bells::ring`] told it the head, only commands that hold
///   slots are beyond, and there are fewer slots than entries.)
pub(super) struct Bells<D = Doorbell> {
    baton: Delegated<Cell<u64>>,
    submission: D,
    completion: D,
    /// Someone wants the device to know of everything taken.
    acknowledge: AtomicBool,
    /// Completions taken so far; the reaper's to write.
    taken: Padded<AtomicU64>,
    laps: Laps,
}

impl<D> fmt::Debug for Bells<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bells").finish_non_exhaustive()
    }
}

/// What the ringer needs of a doorbell: [`Doorbell`], or loom's in a model.
pub(super) trait Bell {
    /// Stores the value; true if the device sleeps and must be kicked.
    fn store(&self, value: u32) -> bool;
    fn kick(&self);
}

impl Bell for Doorbell {
    #[inline]
    fn store(&self, value: u32) -> bool {
        Self::store(self, value)
    }

    fn kick(&self) {
        Self::kick(self);
    }
}

/// Which doorbells' devices are asleep.
#[derive(Default)]
struct Kicks {
    head: bool,
    tail: bool,
}

impl<D: Bell> Bells<D> {
    pub(super) fn new(submission: D, completion: D, completions: usize) -> Self {
        Self {
            baton: Delegated::new(Cell::new(0)),
            submission,
            completion,
            acknowledge: AtomicBool::new(false),
            taken: Padded(AtomicU64::new(0)),
            laps: Laps::new(completions),
        }
    }

    /// By the reaper, before it settles the completion: how many it has taken.
    #[inline]
    pub(super) fn set_taken(&self, taken: u64) {
        // Release: the entry was read, so the device may write there again (pairs with `store`).
        self.taken.store(taken, Ordering::Release);
    }

    /// Tells the device of everything published in a row, or has whoever is at it do so. Never waits.
    pub(super) fn ring(&self, positions: &Positions, alive: impl Fn() -> bool) {
        let Some(mut turn) = self.baton.take_or_ask() else { return };
        let mut kicks = Kicks::default();
        loop {
            if alive() {
                self.store(&turn, positions, &mut kicks);
            }
            match turn.finish() {
                None => break,
                Some(again) => turn = again,
            }
        }
        // Last of all, and with nothing held: a kick is code of others.
        if kicks.head {
            self.completion.kick();
        }
        if kicks.tail {
            self.submission.kick();
        }
    }

    fn store(&self, told: &Turn<'_, Cell<u64>>, positions: &Positions, kicks: &mut Kicks) {
        let (from, to) = (positions.rung(), positions.scan());
        // Acquire: pairs with `set_taken`. It covers every slot that was free again before it was
        // used for one of the positions scanned: so `to - taken` are commands that hold slots.
        let taken = self.taken.load(Ordering::Acquire);
        let full = to - told.get() >= self.laps.count();
        if taken != told.get() && (full | self.wants_acknowledgement()) {
            told.set(taken);
            // The head first: the entries it frees are those the new commands will fill.
            kicks.head |= self.completion.store(self.laps.index(taken) as u32);
        }
        if to != from {
            positions.set_rung(to);
            kicks.tail |= self.submission.store(positions.laps().index(to) as u32);
        }
    }

    #[inline]
    fn wants_acknowledgement(&self) -> bool {
        // Relaxed: who wants it has taken the baton or asked for it since.
        self.acknowledge.load(Ordering::Relaxed) && self.acknowledge.swap(false, Ordering::Relaxed)
    }

    /// Tells the device of all completions taken: before a task sleeps, because a device may hold
    /// its interrupt back while entries that it posted are not acknowledged.
    pub(super) fn acknowledge(&self, positions: &Positions, alive: impl Fn() -> bool) {
        self.acknowledge.store(true, Ordering::Relaxed);
        self.ring(positions, alive);
    }
}
