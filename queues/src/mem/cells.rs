//! Arrays of fixed-size cells: the entries of a ring.

use core::fmt;
use core::marker::PhantomData;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicU64, Ordering};

use bytemuck::Pod;

use super::Owner;

/// An array of fixed-size cells in device-shared memory, as
/// [`SharedMem::cells`](super::SharedMem::cells) gives it.
///
/// A cell is never lent out: [`write`](Self::write) and [`publish`](Self::publish) copy a value in,
/// [`read`](Self::read) copies it out, each word as one atomic access. An index outside of the array
/// is a defect of the caller and panics: both sides keep their indices below [`count`](Self::count)
/// and never take one from the other side unchecked.
///
/// # Invariants
/// * `base` is 8-byte aligned and valid for `count * size_of::<T>()` bytes while `_owner` lives, and
///   the range is only accessed atomically;
/// * `size_of::<T>()` is a multiple of 8 and not 0.
pub struct Cells<T> {
    base: NonNull<u64>,
    count: usize,
    _owner: Owner,
    _entry: PhantomData<fn(T) -> T>,
}

// SAFETY: only atomic accesses; the owner is Send + Sync.
unsafe impl<T> Send for Cells<T> {}
// SAFETY: as above.
unsafe impl<T> Sync for Cells<T> {}

impl<T> fmt::Debug for Cells<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cells").field("count", &self.count).finish_non_exhaustive()
    }
}

impl<T: Pod> Cells<T> {
    const WORDS: usize = size_of::<T>() / 8;

    /// # Safety
    /// The type's invariants.
    pub(super) unsafe fn new(base: NonNull<u64>, count: usize, owner: Owner) -> Self {
        Self { base, count, _owner: owner, _entry: PhantomData }
    }

    /// How many cells there are.
    #[must_use]
    #[inline]
    pub fn count(&self) -> usize {
        self.count
    }

    #[inline]
    fn cell(&self, index: usize) -> *mut u64 {
        assert!(index < self.count, "a cell's index is inside the ring");
        // SAFETY: `index < count`, so the cell lies inside the range.
        unsafe { self.base.as_ptr().add(index * Self::WORDS) }
    }

    /// Writes a cell, word by word in ascending order, each word as one relaxed store. The other
    /// side may look at it only after a later store with `Release`: a doorbell.
    #[inline]
    pub fn write(&self, index: usize, value: &T) {
        let cell = self.cell(index);
        for (i, word) in bytemuck::bytes_of(value).as_chunks::<8>().0.iter().enumerate() {
            // SAFETY: `i < WORDS`; aligned (type invariant); only accessed atomically.
            let at = unsafe { AtomicU64::from_ptr(cell.add(i)) };
            at.store(u64::from_ne_bytes(*word), Ordering::Relaxed);
        }
    }

    /// Writes a cell for a reader that has no doorbell but waits for the word at byte `last` to
    /// change (a completion's phase): the eight bytes that hold that word are stored after all the
    /// others, with `Release`. It is the device's half of [`load_u32`](Self::load_u32) and
    /// [`read`](Self::read).
    #[inline]
    pub fn publish(&self, index: usize, value: &T, last: usize) {
        assert!(last < size_of::<T>(), "the last word lies in the cell");
        let cell = self.cell(index);
        let words = bytemuck::bytes_of(value).as_chunks::<8>().0;
        for (i, word) in words.iter().enumerate().filter(|(i, _)| *i != last / 8) {
            // SAFETY: `i < WORDS`; aligned (type invariant); only accessed atomically.
            let at = unsafe { AtomicU64::from_ptr(cell.add(i)) };
            at.store(u64::from_ne_bytes(*word), Ordering::Relaxed);
        }
        // SAFETY: `last / 8 < WORDS` (checked above); aligned; only accessed atomically.
        let at = unsafe { AtomicU64::from_ptr(cell.add(last / 8)) };
        // Release: whoever sees this word with Acquire sees the words stored above.
        at.store(u64::from_ne_bytes(words[last / 8]), Ordering::Release);
    }

    /// Reads a cell, word by word. Read the word that the other side writes last with
    /// [`load_u32`](Self::load_u32) and `Acquire` first; then the rest is as it was before that
    /// store. The value is a copy: what is checked on it stays true whatever the other side does.
    #[inline]
    #[must_use]
    pub fn read(&self, index: usize) -> T {
        let cell = self.cell(index);
        let mut value = T::zeroed();
        let words = bytemuck::bytes_of_mut(&mut value).as_chunks_mut::<8>().0;
        for (i, word) in words.iter_mut().enumerate() {
            // SAFETY: `i < WORDS`; aligned (type invariant); only accessed atomically.
            let at = unsafe { AtomicU64::from_ptr(cell.add(i)) };
            *word = at.load(Ordering::Relaxed).to_ne_bytes();
        }
        value
    }

    /// Reads the aligned 32-bit word at byte `offset` of a cell.
    #[inline]
    #[must_use]
    pub fn load_u32(&self, index: usize, offset: usize, order: Ordering) -> u32 {
        assert!(offset.is_multiple_of(4) && offset < size_of::<T>(), "the word lies in the cell");
        // The eight bytes around the word, because that is how `publish` stores it: atomics of two
        // sizes must not race.
        // SAFETY: `offset / 8 < WORDS`; aligned (type invariant); only accessed atomically.
        let at = unsafe { AtomicU64::from_ptr(self.cell(index).add(offset / 8)) };
        let halves = at.load(order).to_ne_bytes();
        let [a, b] = halves.as_chunks::<4>().0 else { return 0 };
        u32::from_ne_bytes(if offset.is_multiple_of(8) { *a } else { *b })
    }
}

/// What the rings need of an array of cells: [`Cells`], or loom's in a model.
pub(crate) trait CellArray<T> {
    fn count(&self) -> usize;
    fn write(&self, index: usize, value: &T);
    fn read(&self, index: usize) -> T;
    fn load_u32(&self, index: usize, offset: usize, order: Ordering) -> u32;
}

impl<T: Pod> CellArray<T> for Cells<T> {
    #[inline]
    fn count(&self) -> usize {
        Self::count(self)
    }
    #[inline]
    fn write(&self, index: usize, value: &T) {
        Self::write(self, index, value);
    }
    #[inline]
    fn read(&self, index: usize) -> T {
        Self::read(self, index)
    }
    #[inline]
    fn load_u32(&self, index: usize, offset: usize, order: Ordering) -> u32 {
        Self::load_u32(self, index, offset, order)
    }
}
