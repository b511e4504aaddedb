//! [`SettledLine`]: the completions that wait for a callback.

use alloc::boxed::Box;

use super::super::sync::{AtomicU16, AtomicU64, Ordering, Padded};

/// Completions for callbacks, in the order in which they came: a ring with one producer at a time (the
/// reaper) and many consumers.
///
/// # Invariants
/// * `taken <= put <= taken + slots`: a slot is in the line at most once, and is used again only
///   after it was taken off. So a cell is not written while its number may be taken.
/// * Who moves `taken` past a number has that slot.
pub(super) struct SettledLine {
    numbers: Box<[AtomicU16]>,
    put: Padded<AtomicU64>,
    taken: Padded<AtomicU64>,
}

impl SettledLine {
    pub(super) fn new(slots: u16) -> Self {
        let count = usize::from(slots).next_power_of_two();
        let numbers = (0..count).map(|_| AtomicU16::new(0)).collect();
        let [put, taken] = [(); 2].map(|()| Padded(AtomicU64::new(0)));
        Self { numbers, put, taken }
    }

    #[inline]
    pub(super) fn number(&self, at: u64) -> &AtomicU16 {
        &self.numbers[at as usize & (self.numbers.len() - 1)]
    }

    /// By the reaper.
    #[inline]
    pub(super) fn put(&self, slot: u16) {
        let put = self.put.load(Ordering::Relaxed);
        self.number(put).store(slot, Ordering::Relaxed);
        // Release: the number, and the slot's outcome (pairs with the acquire in `take`).
        self.put.store(put + 1, Ordering::Release);
    }

    #[inline]
    pub(super) fn is_empty(&self) -> bool {
        self.put.load(Ordering::Relaxed) == self.taken.load(Ordering::Relaxed)
    }

    #[inline]
    pub(super) fn take(&self) -> Option<u16> {
        let mut taken = self.taken.load(Ordering::Relaxed);
        loop {
            // Acquire: pairs with `put`. Not less than `taken`: each taker saw it there.
            if self.put.load(Ordering::Acquire) <= taken {
                return None;
            }
            let number = self.number(taken).load(Ordering::Relaxed);
            // Acquire on failure: what others took was put there. Failing is another's progress.
            let moved = self.taken.compare_exchange_weak(
                taken,
                taken + 1,
                Ordering::AcqRel,
                Ordering::Acquire,
            );
            match moved {
                Ok(_) => return Some(number),
                Err(now) => taken = now,
            }
        }
    }
}
