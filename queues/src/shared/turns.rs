//! [`Turns`]: how long each thread has waited on the queue without sleeping.

use core::fmt;

use super::free::own_word;
use super::sync::{AtomicU32, Ordering, Padded};
use crate::wait::{TURN_EVERY, YIELD};

/// Counters that threads are spread over: as in `FreeSlots`, mostly one each.
const SPREAD: usize = 8;

/// What a `Single` queue counts for its thread ([`Interrupt::poll_turn`](crate::Interrupt::poll_turn)),
/// for many threads. Two that share a counter are asked a little more often, or one of them for the
/// other; a count that is lost between them is none that matters.
///
/// # Invariants
/// Each counter is at most [`TURN_EVERY`]. At 0 a turn may be due, and each wait asks.
pub(super) struct Turns([Padded<AtomicU32>; SPREAD]);

impl fmt::Debug for Turns {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Turns").finish_non_exhaustive()
    }
}

impl Turns {
    pub(super) fn new() -> Self {
        Self([(); SPREAD].map(|()| Padded(AtomicU32::new(TURN_EVERY))))
    }

    #[inline]
    fn count(&self, waits: u32) -> u32 {
        // Relaxed, and no read-modify-write: see the type.
        let own = &self.0[own_word() % SPREAD];
        let left = own.load(Ordering::Relaxed).saturating_sub(waits);
        own.store(left, Ordering::Relaxed);
        left
    }

    /// Counts a wait; true if it is time to ask for a turn.
    #[inline]
    pub(super) fn count_wait(&self) -> bool {
        self.count(1) == 0
    }

    /// Counts a poll that goes back to the executor without a result.
    #[inline]
    pub(super) fn count_yield(&self) {
        self.count(YIELD);
    }

    /// The thread has had its turn, or none is due.
    pub(super) fn taken(&self) {
        self.0[own_word() % SPREAD].store(TURN_EVERY, Ordering::Relaxed);
    }
}
