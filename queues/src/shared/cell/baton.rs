//! [`Delegated`]: work that one thread at a time does for all, and nobody waits for.
//!
//! A thread that needs the work done takes the baton. If another has it, it **asks** and goes: the
//! holder finds the request when it wants to let go, and does the work once more, with everything
//! that the asker did before seen. That is delegation as in flat combining (D. Hendler, I. Incze,
//! N. Shavit, M. Tzafrir, "Flat combining and the synchronization-parallelism tradeoff", SPAA 2010),
//! with work that has no arguments: the request is one bit, and many requests are one.
//!
//! The three states lie in one word that is only ever changed by read-modify-writes, so that a
//! request falls either before the holder's letting go, which then fails, or after, and then the
//! asker is the holder. No fence is needed, and no second look.
//!
//! A thread that stops while it holds the baton holds up this work for as long as it stops, and
//! nothing else: that is the price of not waiting.

use core::fmt;
use core::ops::Deref;

use super::super::sync::{AtomicU32, Ordering};
use super::Racy;

const IDLE: u32 = 0;
const HELD: u32 = 1;
/// Held, and the work must be done once more.
const ASKED: u32 = 2;

/// A value that the holder of a baton has to itself.
///
/// # Invariants
/// * A [`Turn`] exists exactly while `word` is not `IDLE`, and only one.
/// * `value` is only touched through the turn.
pub(in super::super) struct Delegated<T> {
    word: AtomicU32,
    value: Racy<T>,
}

// SAFETY:
// * one thread at a time has the value (type invariant), and taking the baton acquires what the one
//   before released;
// * the value goes from thread to thread, so it must be `Send`; it is never seen by two at once, so
//   it need not be `Sync`.
unsafe impl<T: Send> Sync for Delegated<T> {}

impl<T> fmt::Debug for Delegated<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Delegated").finish_non_exhaustive()
    }
}

/// The baton, held. Dropping it lets go without looking for requests: that is for panics only;
/// otherwise [`finish`](Self::finish) it.
///
/// It does not move to another thread: the work's state belongs to one.
pub(in super::super) struct Turn<'a, T> {
    owner: &'a Delegated<T>,
    /// Loom's watch over the access; `None` once it has ended.
    #[cfg(loom)]
    value: Option<loom::cell::MutPtr<T>>,
    _not_send: core::marker::PhantomData<*mut T>,
}

impl<T> Delegated<T> {
    pub(in super::super) fn new(value: T) -> Self {
        Self { word: AtomicU32::new(IDLE), value: Racy::new(value) }
    }

    #[inline(always)]
    fn turn(&self) -> Turn<'_, T> {
        Turn {
            owner: self,
            #[cfg(loom)]
            value: Some(self.value.get_mut()),
            _not_send: core::marker::PhantomData,
        }
    }

    /// Takes the baton if nobody has it; asks for nothing.
    #[inline]
    pub(in super::super) fn try_take(&self) -> Option<Turn<'_, T>> {
        // Relaxed: where somebody has it, the line is not taken from them for nothing.
        if self.word.load(Ordering::Relaxed) != IDLE {
            return None;
        }
        // Acquire: pairs with the release in `finish`; the value is as the last holder left it.
        let taken = self.word.compare_exchange(IDLE, HELD, Ordering::Acquire, Ordering::Relaxed);
        taken.is_ok().then(|| self.turn())
    }

    /// Takes the baton, or asks whoever has it to do the work once more.
    #[inline]
    pub(in super::super) fn take_or_ask(&self) -> Option<Turn<'_, T>> {
        let taken = self.word.compare_exchange(IDLE, HELD, Ordering::Acquire, Ordering::Relaxed);
        if taken.is_ok() {
            return Some(self.turn());
        }
        // Release: the holder sees what this thread did. A swap even if there is a request already:
        // that one shows what another thread did. Acquire: the baton may have become free.
        (self.word.swap(ASKED, Ordering::AcqRel) == IDLE).then(|| self.turn())
    }
}

impl<'a, T> Turn<'a, T> {
    /// Lets go. If someone asked meanwhile, the baton comes back, and the work must be done again.
    #[inline]
    #[must_use = "the work must be done again if the baton comes back"]
    pub(in super::super) fn finish(self) -> Option<Self> {
        let owner = self.owner;
        // Not `drop`, which would let go a second time.
        let mut turn = core::mem::ManuallyDrop::new(self);
        turn.unwatch();
        // Release: the next holder sees the value.
        let gone = owner.word.compare_exchange(HELD, IDLE, Ordering::Release, Ordering::Relaxed);
        if gone.is_ok() {
            return None;
        }
        // Acquire: what the askers did before they asked. All of them swapped, so this sees each.
        owner.word.swap(HELD, Ordering::Acquire);
        Some(owner.turn())
    }

    /// The access to the value ends, for loom.
    #[inline(always)]
    fn unwatch(&mut self) {
        #[cfg(loom)]
        drop(self.value.take());
    }

    /// Whether this is the baton of `owner`.
    #[inline(always)]
    pub(super) fn is_of(&self, owner: &Delegated<T>) -> bool {
        core::ptr::eq(self.owner, owner)
    }
}

impl<T> Deref for Turn<'_, T> {
    type Target = T;

    #[inline(always)]
    fn deref(&self) -> &T {
        #[cfg(not(loom))]
        // SAFETY:
        // * the turn is the only one, and has the value to itself (type invariant);
        // * the borrow ends before the turn does.
        return self.owner.value.with(|at| unsafe { &*at });
        #[cfg(loom)]
        // SAFETY: as above.
        return unsafe { self.value.as_ref().map(|at| &*at.deref()) }
            .expect("the turn has not ended");
    }
}

impl<T> Drop for Turn<'_, T> {
    fn drop(&mut self) {
        self.unwatch();
        // Release: as in `finish`.
        self.owner.word.store(IDLE, Ordering::Release);
    }
}
