//! [`Patience`]: what one queue has learnt about waiting.

use core::cell::Cell;

use super::{SpinBudget, TURN_EVERY};

/// The waiting side's state of one queue of one thread.
///
/// # Invariants
/// `turn` is at most [`TURN_EVERY`]. At 0 a turn may be due, and each wait asks.
#[derive(Debug)]
pub(crate) struct Patience {
    pub(crate) spin: Cell<SpinBudget>,
    turn: Cell<u32>,
}

/// What a poll that had to leave the processor costs, counted in waits that did not: such polls
/// take longer, and a thread that never does anything else must come to its turn as well.
pub(crate) const YIELD: u32 = 8;

impl Patience {
    pub(crate) fn new(spin: SpinBudget) -> Self {
        Self { spin: Cell::new(spin), turn: Cell::new(TURN_EVERY) }
    }

    /// Counts a wait; true if it is time to ask for a turn.
    #[inline]
    pub(crate) fn count_wait(&self) -> bool {
        let left = self.turn.get().saturating_sub(1);
        self.turn.set(left);
        left == 0
    }

    /// Counts a poll that goes back to the executor without a result.
    #[inline]
    pub(crate) fn count_yield(&self) {
        self.turn.set(self.turn.get().saturating_sub(YIELD));
    }

    /// The thread has had its turn, or none is due.
    pub(crate) fn turn_taken(&self) {
        self.turn.set(TURN_EVERY);
    }
}

#[cfg(test)]
#[cfg(not(loom))]
mod tests {
    use super::*;

    #[test]
    fn a_turn_is_asked_for_every_so_many_waits_and_again_until_it_was_taken() {
        let patience = Patience::new(SpinBudget::default());
        for _ in 0..3 {
            assert!((1..TURN_EVERY).all(|_| !patience.count_wait()));
            assert!((0..5).all(|_| patience.count_wait()), "until it was taken");
            patience.turn_taken();
        }
        (0..TURN_EVERY / YIELD).for_each(|_| patience.count_yield());
        assert!(patience.count_wait(), "polls that lead nowhere count for more");
    }
}
