//! [`Bells`]: who rings, and what.

use core::cell::Cell;
use core::fmt;

use super::cell::{Delegated, Turn};
use super::laps::Laps;
use super::sync::{AtomicBool, AtomicU64, Ordering, Padded};
use crate::doorbell::Doorbell;

/// Where entries come from: they are staged, and have no place in the ring before someone rings.
pub(super) trait Staged {
    /// Stores every staged entry into the ring, from position `from` on, whole and visible to the
    /// device before a doorbell that is stored after; returns the position after the last.
    fn gather(&self, from: u64) -> u64;
}

/// The two doorbells of a queue. Both carry absolute values, so stores must be in order: the holder
/// of the baton stores them. It also gives staged entries their positions: a position is a number
/// that only grows, and its remainder is the index in the submission ring.
///
/// What the ringer needs lies together with its baton, and moves to the next one's core with it.
///
/// # Invariants
/// * `rung` is the position up to which the device was told, or is being told. Only the holder of the
///   baton writes it. It is at most `taken + slots`, and `slots < entries`: a position below it is
///   of a slot that is in use until its completion was taken, and no more completions are taken than
///   `rung` (whatever the device writes). So an entry is stored only where the device has fetched
///   the one before.
/// * The baton's value is how many completions the device was told to be taken; it is at most
///   `taken`, which only grows.
/// * The device was told of fewer commands beyond that than the completion ring has entries, so the
///   ring never looks full to it. (After [`Bells::ring`] told it the head, only commands that hold
///   slots are beyond, and there are fewer slots than entries.)
#[repr(align(128))]
pub(super) struct Bells<D = Doorbell> {
    baton: Delegated<Cell<u64>>,
    rung: AtomicU64,
    submission: D,
    completion: D,
    submissions: Laps,
    completions: Laps,
    /// Someone wants the device to know of everything taken.
    acknowledge: AtomicBool,
    /// Completions taken so far; the reaper's to write.
    taken: Padded<AtomicU64>,
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
    /// Doorbells of rings of so many submissions and completions.
    pub(super) fn new(submission: D, completion: D, entries: (usize, usize)) -> Self {
        Self {
            baton: Delegated::new(Cell::new(0)),
            rung: AtomicU64::new(0),
            submission,
            completion,
            submissions: Laps::new(entries.0),
            completions: Laps::new(entries.1),
            acknowledge: AtomicBool::new(false),
            taken: Padded(AtomicU64::new(0)),
        }
    }

    /// Of the submission ring.
    #[inline]
    pub(super) fn submissions(&self) -> &Laps {
        &self.submissions
    }

    /// How many positions the device was told of, or is being told of.
    #[inline]
    pub(super) fn rung(&self) -> u64 {
        // Acquire: whoever takes completions for these positions has seen their entries gathered, so
        // that what they were staged in may be used again (pairs with `store`).
        self.rung.load(Ordering::Acquire)
    }

    /// By the reaper, before it settles the completion: how many it has taken.
    #[inline]
    pub(super) fn set_taken(&self, taken: u64) {
        // Release: the entry was read, so the device may write there again (pairs with `store`).
        self.taken.store(taken, Ordering::Release);
    }

    /// Tells the device of everything staged, or has whoever is at it do so. Never waits.
    pub(super) fn ring(&self, staged: &impl Staged, alive: impl Fn() -> bool) {
        let Some(mut turn) = self.baton.take_or_ask() else { return };
        let mut kicks = Kicks::default();
        loop {
            if alive() {
                self.store(&turn, staged, &mut kicks);
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

    fn store(&self, told: &Turn<'_, Cell<u64>>, staged: &impl Staged, kicks: &mut Kicks) {
        // Relaxed: the baton's holder writes it.
        let from = self.rung.load(Ordering::Relaxed);
        let to = staged.gather(from);
        let full = to - told.get() >= self.completions.count();
        if full | self.wants_acknowledgement() {
            // Acquire: pairs with `set_taken`. It covers every slot that was free again before it was
            // used for one of the entries gathered: so `to - taken` are commands that hold slots.
            let taken = self.taken.load(Ordering::Acquire);
            if taken != told.get() {
                told.set(taken);
                // The head first: the entries it frees are those the new commands will fill.
                kicks.head |= self.completion.store(self.completions.index(taken) as u32);
            }
        }
        if to != from {
            // Release: pairs with `rung`. Before the doorbell, so that a device that has seen the
            // doorbell never reports more than a reaper finds here.
            self.rung.store(to, Ordering::Release);
            kicks.tail |= self.submission.store(self.submissions.index(to) as u32);
        }
    }

    #[inline]
    fn wants_acknowledgement(&self) -> bool {
        // Relaxed: who wants it has taken the baton or asked for it since.
        self.acknowledge.load(Ordering::Relaxed) && self.acknowledge.swap(false, Ordering::Relaxed)
    }

    /// Tells the device of all completions taken: before a task sleeps, because a device may hold
    /// its interrupt back while entries that it posted are not acknowledged.
    pub(super) fn acknowledge(&self, staged: &impl Staged, alive: impl Fn() -> bool) {
        self.acknowledge.store(true, Ordering::Relaxed);
        self.ring(staged, alive);
    }
}
