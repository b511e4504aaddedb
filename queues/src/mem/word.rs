//! Words that two sides share.

use core::fmt;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicU32, Ordering};

use super::Owner;

/// A 32-bit word that two sides share. Abstract, so that the wake-up protocols in
/// [`crate::doorbell`] and [`crate::wait`] run under loom on the same code.
pub trait Word {
    /// Reads the word.
    fn load(&self, order: Ordering) -> u32;
    /// Writes the word.
    fn store(&self, value: u32, order: Ordering);
    /// Writes the word and returns what it held.
    fn swap(&self, value: u32, order: Ordering) -> u32;
}

/// An aligned 32-bit word in device-shared memory, as
/// [`SharedMem::word32`](super::SharedMem::word32) gives it. Cloning it shares the same word.
///
/// # Invariants
/// `at` is valid and 4-byte aligned while `_owner` lives, and only accessed atomically.
#[derive(Clone)]
pub struct Word32 {
    at: NonNull<u32>,
    _owner: Owner,
}

// SAFETY: only atomic accesses; the owner is Send + Sync.
unsafe impl Send for Word32 {}
// SAFETY: as above.
unsafe impl Sync for Word32 {}

impl fmt::Debug for Word32 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Word32").field(&Word::load(self, Ordering::Relaxed)).finish()
    }
}

impl Word32 {
    /// # Safety
    /// The type's invariant: `at` is valid and aligned while `owner` lives, and only accessed
    /// atomically.
    pub(super) unsafe fn new(at: NonNull<u32>, owner: Owner) -> Self {
        Self { at, _owner: owner }
    }

    #[inline]
    fn atomic(&self) -> &AtomicU32 {
        // SAFETY: valid, aligned and only accessed atomically (type invariant).
        unsafe { AtomicU32::from_ptr(self.at.as_ptr()) }
    }
}

impl Word for Word32 {
    #[inline]
    fn load(&self, order: Ordering) -> u32 {
        self.atomic().load(order)
    }
    #[inline]
    fn store(&self, value: u32, order: Ordering) {
        self.atomic().store(value, order);
    }
    #[inline]
    fn swap(&self, value: u32, order: Ordering) -> u32 {
        self.atomic().swap(value, order)
    }
}
