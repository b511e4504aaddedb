//! Arrays of fixed-size cells: the entries of a ring.

use core::cell::Cell;
use core::fmt;
use core::marker::PhantomData;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicU64, Ordering};

use bytemuck::Pod;

use super::Owner;
use super::stores::stream;

/// An array of fixed-size cells in device-shared memory, as
/// [`SharedMem::cells`](super::SharedMem::cells) gives it.
///
/// A cell is never lent out: [`write`](Self::write) and [`publish`](Self::publish) copy a value in,
/// [`read`](Self::read) copies it out, each eight bytes as one atomic access. An index outside of
/// the array is a defect of the caller and panics: both sides keep their indices below
/// [`count`](Self::count) and never take one from the other side unchecked.
///
/// # Invariants
/// * `base` is 8-byte aligned and valid for `count * size_of::<T>()` bytes while `_owner` lives,
///   and the range is only accessed atomically;
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

    /// Writes a cell, word by word in ascending order, each word as one relaxed store. The other
    /// side may look at it only after a later store with `Release`: a doorbell.
    #[inline]
    pub fn write(&self, index: usize, value: &T) {
        self.words(index).write(value);
    }

    /// Writes a cell for a reader that has no doorbell but waits for the word at byte `last` to
    /// change (a completion's phase): the eight bytes that hold that word are stored after all the
    /// others, with `Release`. It is the device's half of [`load_u32`](Self::load_u32) and
    /// [`read`](Self::read).
    #[inline]
    pub fn publish(&self, index: usize, value: &T, last: usize) {
        self.words(index).publish(value, last);
    }

    /// Reads a cell, word by word. Read the word that the other side writes last with
    /// [`load_u32`](Self::load_u32) and `Acquire` first; then the rest is as it was before that
    /// store. The value is a copy: what is checked on it stays true whatever the other side does.
    #[inline]
    #[must_use]
    pub fn read(&self, index: usize) -> T {
        self.words(index).read()
    }

    /// Reads the aligned 64-bit word at byte `offset` of a cell: for a reader that needs only some.
    #[inline]
    #[must_use]
    pub fn load_u64(&self, index: usize, offset: usize, order: Ordering) -> u64 {
        assert!(offset.is_multiple_of(8), "the word is aligned");
        self.words(index).load(offset / 8, order)
    }

    /// Reads the aligned 32-bit word at byte `offset` of a cell.
    #[inline]
    #[must_use]
    pub fn load_u32(&self, index: usize, offset: usize, order: Ordering) -> u32 {
        self.words(index).load_u32(offset, order)
    }
}

/// The words of one cell.
///
/// # Invariants
/// `base` is aligned and valid for `size_of::<T>()` bytes for `'a`, which are only accessed
/// atomically.
pub(crate) struct Words<'a, T> {
    base: NonNull<u64>,
    _cells: PhantomData<&'a Cells<T>>,
}

impl<T> Clone for Words<'_, T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Words<'_, T> {}

impl<T: Pod> Words<'_, T> {
    #[inline]
    fn atomic(&self, word: usize) -> &AtomicU64 {
        assert!(word < size_of::<T>() / 8, "the word lies in the cell");
        // SAFETY: inside the cell (just checked), aligned and only accessed atomically (type
        // invariant).
        unsafe { AtomicU64::from_ptr(self.base.as_ptr().add(word)) }
    }
}

/// The words of one cell, of shared memory or loom's in a model, and how a value is written and
/// read through them.
pub(crate) trait CellWords: Copy {
    fn load(self, word: usize, order: Ordering) -> u64;
    fn store(self, word: usize, value: u64, order: Ordering);

    /// See [`Cells::write`].
    #[inline]
    fn write<T: Pod>(self, value: &T) {
        for (i, word) in bytemuck::bytes_of(value).as_chunks::<8>().0.iter().enumerate() {
            self.store(i, u64::from_ne_bytes(*word), Ordering::Relaxed);
        }
    }

    /// As [`write`](Self::write), past the caches: [`store_fence`](super::store_fence) must follow before
    /// the other side may look.
    #[inline]
    fn stream<T: Pod>(self, value: &T) {
        self.write(value);
    }

    /// See [`Cells::publish`].
    #[inline]
    fn publish<T: Pod>(self, value: &T, last: usize) {
        let words = bytemuck::bytes_of(value).as_chunks::<8>().0;
        for (i, word) in words.iter().enumerate().filter(|(i, _)| *i != last / 8) {
            self.store(i, u64::from_ne_bytes(*word), Ordering::Relaxed);
        }
        // Release: whoever sees this word with Acquire sees the words stored above.
        self.store(last / 8, u64::from_ne_bytes(words[last / 8]), Ordering::Release);
    }

    /// See [`Cells::read`].
    #[inline]
    fn read<T: Pod>(self) -> T {
        let mut value = T::zeroed();
        let words = bytemuck::bytes_of_mut(&mut value).as_chunks_mut::<8>().0;
        for (i, word) in words.iter_mut().enumerate() {
            *word = self.load(i, Ordering::Relaxed).to_ne_bytes();
        }
        value
    }

    /// See [`Cells::load_u32`].
    #[inline]
    fn load_u32(self, offset: usize, order: Ordering) -> u32 {
        assert!(offset.is_multiple_of(4), "the word is aligned");
        // The eight bytes around the word, because that is how `publish` stores it: atomics of two
        // sizes must not race.
        let halves = self.load(offset / 8, order).to_ne_bytes();
        let [a, b] = halves.as_chunks::<4>().0 else { return 0 };
        u32::from_ne_bytes(if offset.is_multiple_of(8) { *a } else { *b })
    }
}

impl<T: Pod> CellWords for Words<'_, T> {
    #[inline]
    fn load(self, word: usize, order: Ordering) -> u64 {
        self.atomic(word).load(order)
    }
    #[inline]
    fn store(self, word: usize, value: u64, order: Ordering) {
        self.atomic(word).store(value, order);
    }
    #[inline]
    fn stream<V: Pod>(self, value: &V) {
        for (i, word) in bytemuck::bytes_of(value).as_chunks::<8>().0.iter().enumerate() {
            assert!(i < size_of::<T>() / 8, "the word lies in the cell");
            // SAFETY: inside the cell (just checked), aligned, and only accessed by means that tolerate
            // races (type invariant).
            unsafe { stream(self.base.add(i), u64::from_ne_bytes(*word)) };
        }
    }
}

/// What the rings need of an array of cells: [`Cells`], or loom's in a model.
pub(crate) trait CellArray {
    type Words<'a>: CellWords
    where
        Self: 'a;
    /// See [`CellCursor`]. [`IndexCursor`] is one for any array.
    type Cursor: CellCursor<Array = Self>;

    fn count(&self) -> usize;

    /// The words of the cell number `index`, which is below `count`.
    fn words(&self, index: usize) -> Self::Words<'_>;

    /// A cursor over the whole array, at cell 0.
    fn into_cursor(self) -> Self::Cursor;
}

/// A place in an array of cells that goes round: a ring's tail or head, with the array.
pub(crate) trait CellCursor {
    type Array: CellArray;
    type Here<'a>: CellHere
    where
        Self: 'a;

    fn array(&self) -> &Self::Array;

    /// The cell that it is at.
    fn here(&self) -> Self::Here<'_>;

    /// The number of the cell that it is at.
    fn index(&self) -> u16;

    /// Some number that is the same for the same cell, and for no other: cheaper than
    /// [`index`](Self::index).
    fn place(&self) -> usize;
}

/// The cell that a cursor is at.
pub(crate) trait CellHere: CellWords {
    /// Lets the cursor go to the next cell, or from the last one to the first; true if it did that.
    fn advance(self) -> bool;
}

impl<T: Pod> CellArray for Cells<T> {
    type Words<'a> = Words<'a, T>;
    type Cursor = Cursor<T>;

    #[inline]
    fn count(&self) -> usize {
        self.count
    }

    #[inline]
    fn words(&self, index: usize) -> Words<'_, T> {
        assert!(index < self.count, "a cell's index is inside the ring");
        // SAFETY: `index < count`, so the cell lies inside the range.
        let base = unsafe { self.base.add(index * (size_of::<T>() / 8)) };
        Words { base, _cells: PhantomData }
    }

    fn into_cursor(self) -> Cursor<T> {
        assert!(self.count > 0, "a cursor is at a cell");
        let at = Cell::new(self.base);
        // SAFETY: the last of at least one cell lies inside the range.
        let last = unsafe { self.base.add((self.count - 1) * (size_of::<T>() / 8)) };
        Cursor { at, last, cells: self }
    }
}

/// A cursor that is an address: no index to check and to multiply for each entry.
///
/// # Invariants
/// * `at` is the address of one of the cells of `cells`, `last` that of the last one.
#[derive(Debug)]
pub(crate) struct Cursor<T> {
    at: Cell<NonNull<u64>>,
    last: NonNull<u64>,
    cells: Cells<T>,
}

// SAFETY: the addresses are those of `cells`, which is Send.
unsafe impl<T> Send for Cursor<T> {}

impl<T: Pod> Cursor<T> {
    // Once in a lap: out of the way of all the other entries.
    #[cold]
    #[inline(never)]
    fn wrap(&self) {
        self.at.set(self.cells.base);
    }
}

impl<T: Pod> CellCursor for Cursor<T> {
    type Array = Cells<T>;
    type Here<'a>
        = Here<'a, T>
    where
        Self: 'a;

    #[inline]
    fn array(&self) -> &Cells<T> {
        &self.cells
    }

    #[inline]
    fn here(&self) -> Here<'_, T> {
        // `at` is a cell of `cells` (type invariant), which lives as long as the borrow.
        Here { words: Words { base: self.at.get(), _cells: PhantomData }, cursor: self }
    }

    #[inline]
    fn index(&self) -> u16 {
        ((self.place() - self.cells.base.as_ptr() as usize) / size_of::<T>()) as u16
    }

    #[inline]
    fn place(&self) -> usize {
        self.at.get().as_ptr() as usize
    }
}

/// The cell that a cursor is, or was, at.
///
/// # Invariants
/// `words` are those of a cell of `cursor`'s array.
pub(crate) struct Here<'a, T> {
    words: Words<'a, T>,
    cursor: &'a Cursor<T>,
}

impl<T> Clone for Here<'_, T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Here<'_, T> {}

impl<T: Pod> CellWords for Here<'_, T> {
    #[inline]
    fn load(self, word: usize, order: Ordering) -> u64 {
        self.words.load(word, order)
    }
    #[inline]
    fn store(self, word: usize, value: u64, order: Ordering) {
        self.words.store(word, value, order);
    }
    #[inline]
    fn stream<V: Pod>(self, value: &V) {
        self.words.stream(value);
    }
}

impl<T: Pod> CellHere for Here<'_, T> {
    #[inline]
    fn advance(self) -> bool {
        let at = self.words.base;
        if at == self.cursor.last {
            self.cursor.wrap();
            return true;
        }
        // SAFETY: `at` is a cell (type invariant), and not the last one: there is one after it.
        self.cursor.at.set(unsafe { at.add(size_of::<T>() / 8) });
        false
    }
}

/// A cursor that is an index, for arrays that have no addresses.
#[cfg(loom)]
#[derive(Debug)]
pub(crate) struct IndexCursor<C> {
    at: Cell<u16>,
    cells: C,
}

#[cfg(loom)]
impl<C> IndexCursor<C> {
    pub(crate) fn new(cells: C) -> Self {
        Self { at: Cell::new(0), cells }
    }
}

#[cfg(loom)]
impl<C: CellArray<Cursor = Self>> CellCursor for IndexCursor<C> {
    type Array = C;
    type Here<'a>
        = IndexHere<'a, C>
    where
        Self: 'a;

    fn array(&self) -> &C {
        &self.cells
    }
    fn here(&self) -> IndexHere<'_, C> {
        IndexHere(self)
    }
    fn index(&self) -> u16 {
        self.at.get()
    }
    fn place(&self) -> usize {
        self.at.get().into()
    }
}

#[cfg(loom)]
pub(crate) struct IndexHere<'a, C>(&'a IndexCursor<C>);

#[cfg(loom)]
impl<C> Clone for IndexHere<'_, C> {
    fn clone(&self) -> Self {
        *self
    }
}

#[cfg(loom)]
impl<C> Copy for IndexHere<'_, C> {}

#[cfg(loom)]
impl<C: CellArray> CellWords for IndexHere<'_, C> {
    fn load(self, word: usize, order: Ordering) -> u64 {
        self.0.cells.words(self.0.at.get().into()).load(word, order)
    }
    fn store(self, word: usize, value: u64, order: Ordering) {
        self.0.cells.words(self.0.at.get().into()).store(word, value, order);
    }
}

#[cfg(loom)]
impl<C: CellArray> CellHere for IndexHere<'_, C> {
    fn advance(self) -> bool {
        let next = usize::from(self.0.at.get()) + 1;
        let wraps = next == self.0.cells.count();
        self.0.at.set(if wraps { 0 } else { next as u16 });
        wraps
    }
}
