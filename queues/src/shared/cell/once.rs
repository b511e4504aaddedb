//! [`WriteOnce`]: one value that is set once.

use core::fmt;

use super::super::sync::{AtomicU32, Ordering};
use super::Racy;

const EMPTY: u32 = 0;
const WRITING: u32 = 1;
const SET: u32 = 2;

/// A value that the first writer sets, without waiting and without a lock.
///
/// # Invariants
/// `value` is written only by who brought `state` from `EMPTY` to `WRITING`, and read only once it is
/// `SET`, which it stays.
pub(in super::super) struct WriteOnce<T> {
    state: AtomicU32,
    value: Racy<Option<T>>,
}

// SAFETY:
// * one thread writes the value, before `SET` (type invariant);
// * every thread copies it after that, which is sending it.
unsafe impl<T: Send> Sync for WriteOnce<T> {}

impl<T: Copy> WriteOnce<T> {
    pub(in super::super) fn new() -> Self {
        Self { state: AtomicU32::new(EMPTY), value: Racy::new(None) }
    }

    /// Sets the value, unless there is one.
    pub(in super::super) fn set(&self, value: T) {
        let first =
            self.state.compare_exchange(EMPTY, WRITING, Ordering::Relaxed, Ordering::Relaxed);
        if first.is_err() {
            return;
        }
        // SAFETY:
        // * this thread made it `WRITING`, which happens once;
        // * nobody reads before `SET`.
        self.value.with_mut(|at| unsafe { *at = Some(value) });
        // Release: pairs with the acquire in `get`.
        self.state.store(SET, Ordering::Release);
    }

    /// The value, once it is there.
    pub(in super::super) fn get(&self) -> Option<T> {
        if self.state.load(Ordering::Acquire) != SET {
            return None;
        }
        // SAFETY: it is `SET`, so nobody writes any more, and the write came before.
        self.value.with(|at| unsafe { *at })
    }
}

impl<T> fmt::Debug for WriteOnce<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WriteOnce").finish_non_exhaustive()
    }
}
