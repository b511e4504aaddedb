//! [`WakeSet`]: what other threads tell a thread that polls, and how they wake it when it sleeps.
//!
//! The polling thread numbers everything that can be woken: its tasks, its queues. Whoever wakes one
//! sets its bit, and a bit of the word that says which words to look at. That takes no lock and no
//! memory, has a fixed number of steps whatever other threads do, and waking what is woken already
//! costs no more. The polling thread looks at one word per turn; it takes the bits when that is not
//! zero.
//!
//! **Sleep** is Dekker's protocol once more (see [`crate::doorbell`]): the waker stores its bits,
//! fences and loads `asleep`; the sleeper stores `asleep`, fences and loads the bits. Modelled in
//! loom, with the arm words of queues under the same fence.
//!
//! What it does not do: it counts nothing. Two wakes of one number before the thread looks are one.

use alloc::boxed::Box;
use core::sync::atomic::Ordering;

#[cfg(not(loom))]
use core::sync::atomic::{AtomicU32, AtomicU64, fence};
#[cfg(loom)]
use loom::sync::atomic::{AtomicU32, AtomicU64, fence};

/// The most numbers of a set.
pub const MAX_NUMBERS: usize = 64 * 64;

/// A set of numbers that were woken. See the [module](self).
#[derive(Debug)]
pub struct WakeSet {
    /// Bit `i`: look at `words[i]`. Invariant: a set bit of `words[i]` is followed by bit `i` here,
    /// which its waker sets next; only the polling thread clears either.
    summary: AtomicU64,
    /// Number `n` is bit `n % 64` of word `n / 64`.
    words: Box<[AtomicU64]>,
    /// Not zero while the polling thread sleeps, or is about to. Written by that thread, and set back
    /// by the waker that takes on to wake it.
    asleep: AtomicU32,
}

impl WakeSet {
    /// A set of the numbers `0..count`, rounded up to a multiple of 64, of at most [`MAX_NUMBERS`].
    #[must_use]
    pub fn new(count: usize) -> Self {
        let words = count.clamp(1, MAX_NUMBERS).div_ceil(64);
        Self {
            summary: AtomicU64::new(0),
            words: (0..words).map(|_| AtomicU64::new(0)).collect(),
            asleep: AtomicU32::new(0),
        }
    }

    /// Any thread: wakes a number; true if the polling thread sleeps and the caller must kick it. Of
    /// several wakers of one sleep one is told so. A number beyond the set is nobody's.
    #[inline]
    pub fn wake(&self, number: usize) -> bool {
        let Some(word) = self.words.get(number / 64) else { return false };
        // Release: who takes the bit sees what its waker did before (`take`, Acquire).
        word.fetch_or(1 << (number % 64), Ordering::Release);
        // Release: whoever sees this bit sees the one above.
        self.summary.fetch_or(1 << (number / 64), Ordering::Release);
        // SeqCst: the load below must not pass the stores above (pairs with `fall_asleep`).
        fence(Ordering::SeqCst);
        self.asleep.load(Ordering::Relaxed) != 0 && self.asleep.swap(0, Ordering::Relaxed) != 0
    }

    /// Polling thread: true if something was woken. One load of a line that nobody else writes while
    /// nothing is.
    #[inline]
    pub fn is_any(&self) -> bool {
        self.summary.load(Ordering::Relaxed) != 0
    }

    /// Polling thread: takes every number that was woken.
    pub fn take(&self, mut each: impl FnMut(usize)) {
        // Acquire: pairs with the release of the summary, so that the words' bits are seen. The
        // summary first: a bit that comes after its word was taken is seen the next time.
        let mut summary = self.summary.swap(0, Ordering::Acquire);
        while summary != 0 {
            let index = summary.trailing_zeros() as usize;
            summary &= summary - 1;
            let Some(word) = self.words.get(index) else { continue };
            // Acquire: pairs with the release in `wake`.
            let mut bits = word.swap(0, Ordering::Acquire);
            while bits != 0 {
                each(index * 64 + bits.trailing_zeros() as usize);
                bits &= bits - 1;
            }
        }
    }

    /// Polling thread: announces sleep, with a full fence. Look at [`is_any`](Self::is_any) once more
    /// after this, and at everything that was announced before it ([`announce`](crate::wait::announce)),
    /// and sleep only if there is nothing; then [`wake_up`](Self::wake_up), whether it slept or not.
    #[inline]
    pub fn fall_asleep(&self) {
        self.asleep.store(1, Ordering::Relaxed);
        // SeqCst: the loads that follow must not pass the stores (pairs with `wake`, and with
        // `must_signal` for arm words stored before).
        fence(Ordering::SeqCst);
    }

    /// What [`fall_asleep`](Self::fall_asleep) would be if its fence were forgotten.
    #[cfg(test)]
    #[cfg(loom)]
    pub(crate) fn fall_asleep_without_fence(&self) {
        self.asleep.store(1, Ordering::Relaxed);
    }

    /// Polling thread: awake again; wakers need not kick from now on.
    #[inline]
    pub fn wake_up(&self) {
        // Relaxed: a waker that still sees 1 kicks once too often, which is harmless.
        self.asleep.store(0, Ordering::Relaxed);
    }
}

#[cfg(test)]
#[cfg(not(loom))]
mod tests {
    use alloc::vec::Vec;

    use super::*;

    #[test]
    fn what_was_woken_is_taken_once_in_order() {
        let set = WakeSet::new(200);
        let taken = || {
            let mut taken = Vec::new();
            set.take(|number| taken.push(number));
            taken
        };
        assert!(!set.is_any());
        for number in [130, 5, 63, 64, 5] {
            assert!(!set.wake(number), "nobody sleeps");
        }
        assert!(set.is_any());
        assert_eq!(taken(), [5, 63, 64, 130]);
        assert!(!set.is_any());
        assert_eq!(taken(), []);
    }

    #[test]
    fn a_number_that_the_set_does_not_have_is_nobodys() {
        let set = WakeSet::new(usize::MAX);
        assert!(!set.wake(MAX_NUMBERS));
        assert!(!set.is_any());
        set.wake(MAX_NUMBERS - 1);
        assert!(set.is_any());
    }

    #[test]
    fn one_waker_of_a_sleep_is_told_to_kick() {
        let set = WakeSet::new(2);
        set.fall_asleep();
        assert!(set.wake(0));
        assert!(!set.wake(1));
        set.wake_up();
        set.fall_asleep();
        set.wake_up();
        assert!(!set.wake(0));
    }
}
