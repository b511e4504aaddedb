//! Views of memory that a device or another process can write at any time.
//!
//! Nothing here hands out a reference to such memory. Words are read and written as relaxed atomics
//! (or with the ordering that the caller names), entries word by word, and bulk data by a copy that
//! the compiler can neither see into nor split. Every view is created by a bounds check and is
//! infallible afterwards, so that the data path has no error branch and no panic.
//!
//! What it does not do: it does not say who may write when. That is the queue's protocol.

use alloc::alloc::{alloc_zeroed, dealloc, handle_alloc_error};
use alloc::sync::Arc;
use core::alloc::Layout;
use core::any::Any;
use core::fmt;
use core::marker::PhantomData;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering};

use bytemuck::Pod;

/// A range that does not lie inside the memory it was asked of, or is not aligned for its type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OutOfBounds {
    /// Offset asked for, in bytes.
    pub offset: usize,
    /// Length asked for, in bytes.
    pub len: usize,
    /// Length of the memory, in bytes.
    pub size: usize,
}

impl fmt::Display for OutOfBounds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} bytes at offset {:#x} are outside (or misaligned in) a memory of {:#x} bytes",
            self.len, self.offset, self.size
        )
    }
}

impl core::error::Error for OutOfBounds {}

/// Keeps the memory behind a [`SharedMem`] alive: a mapping, or a heap block.
pub type Owner = Arc<dyn Any + Send + Sync>;

/// A range of device-shared memory. Cloning it shares the same memory.
///
/// # Invariants
/// * `base .. base + len` is readable and writable for as long as `owner` lives.
/// * `base` is aligned to 8 bytes.
/// * No Rust reference to any byte of the range exists anywhere.
#[derive(Clone)]
pub struct SharedMem {
    base: NonNull<u8>,
    len: usize,
    owner: Owner,
}

// SAFETY:
// * the memory is only touched by atomic accesses and by copies that tolerate concurrent writers;
// * `owner` is Send + Sync and keeps the range valid from any thread.
unsafe impl Send for SharedMem {}
// SAFETY: as for `Send`; `&SharedMem` offers nothing that needs exclusion.
unsafe impl Sync for SharedMem {}

impl fmt::Debug for SharedMem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SharedMem").field("len", &self.len).finish_non_exhaustive()
    }
}

struct HeapBlock {
    base: NonNull<u8>,
    layout: Layout,
}

// SAFETY: the block is plain memory; only `Drop` uses the pointer, once.
unsafe impl Send for HeapBlock {}
// SAFETY: `&HeapBlock` offers no access to the memory.
unsafe impl Sync for HeapBlock {}

impl Drop for HeapBlock {
    fn drop(&mut self) {
        // SAFETY:
        // * `base` came from `alloc_zeroed` with this layout;
        // * the last `SharedMem` over it is gone, for it holds the `Arc` of this block.
        unsafe { dealloc(self.base.as_ptr(), self.layout) }
    }
}

impl SharedMem {
    /// Takes a range of memory that lives as long as `owner`.
    ///
    /// # Safety
    /// * `base .. base + len` must be readable and writable until `owner` is dropped;
    /// * `base` must be aligned to 8 bytes;
    /// * no Rust reference to the range may exist while any view of it does.
    pub unsafe fn new(base: NonNull<u8>, len: usize, owner: Owner) -> Self {
        Self { base, len, owner }
    }

    /// Zeroed memory of this process, page-aligned: for devices that live in the same process.
    #[must_use]
    pub fn zeroed(len: usize) -> Self {
        let size = len.max(1).next_multiple_of(4096);
        let Ok(layout) = Layout::from_size_align(size, 4096) else {
            handle_alloc_error(Layout::new::<u8>())
        };
        // SAFETY: `size` is not zero.
        let raw = unsafe { alloc_zeroed(layout) };
        let Some(base) = NonNull::new(raw) else { handle_alloc_error(layout) };
        let owner: Owner = Arc::new(HeapBlock { base, layout });
        Self { base, len, owner }
    }

    /// Length in bytes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// True for a range of no bytes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    fn check(&self, offset: usize, len: usize, align: usize) -> Result<NonNull<u8>, OutOfBounds> {
        let error = OutOfBounds { offset, len, size: self.len };
        let end = offset.checked_add(len).ok_or(error)?;
        if end > self.len || !(self.base.as_ptr() as usize + offset).is_multiple_of(align) {
            return Err(error);
        }
        // SAFETY: `offset <= len`, so the result stays inside (or one past) the range.
        Ok(unsafe { self.base.add(offset) })
    }

    /// A part of this memory; it keeps the whole alive. `offset` must be a multiple of 8.
    pub fn slice(&self, offset: usize, len: usize) -> Result<Self, OutOfBounds> {
        let base = self.check(offset, len, 8)?;
        Ok(Self { base, len, owner: self.owner.clone() })
    }

    /// The aligned 32-bit word at `offset`: a doorbell, an arm word.
    pub fn word32(&self, offset: usize) -> Result<Word32, OutOfBounds> {
        let at = self.check(offset, 4, 4)?;
        Ok(Word32 { at: at.cast(), _owner: self.owner.clone() })
    }

    /// `count` cells of type `T`, back to back from `offset`.
    pub fn cells<T: Pod>(&self, offset: usize, count: usize) -> Result<Cells<T>, OutOfBounds> {
        let error = OutOfBounds { offset, len: usize::MAX, size: self.len };
        let len = count.checked_mul(size_of::<T>()).ok_or(error)?;
        if count == 0 || size_of::<T>() == 0 || !size_of::<T>().is_multiple_of(8) {
            return Err(error);
        }
        let base = self.check(offset, len, 8)?;
        Ok(Cells { base: base.cast(), count, _owner: self.owner.clone(), _entry: PhantomData })
    }

    /// Reads a `u32` at a multiple of 4.
    pub fn load_u32(&self, offset: usize, order: Ordering) -> Result<u32, OutOfBounds> {
        let at = self.check(offset, 4, 4)?;
        // SAFETY: in bounds, aligned, and only ever accessed atomically (type invariant).
        Ok(unsafe { AtomicU32::from_ptr(at.as_ptr().cast()) }.load(order))
    }

    /// Writes a `u32` at a multiple of 4, as one store.
    pub fn store_u32(&self, offset: usize, value: u32, order: Ordering) -> Result<(), OutOfBounds> {
        let at = self.check(offset, 4, 4)?;
        // SAFETY: in bounds, aligned, and only ever accessed atomically (type invariant).
        unsafe { AtomicU32::from_ptr(at.as_ptr().cast()) }.store(value, order);
        Ok(())
    }

    /// Reads a value from any offset. The bytes may tear where the other side writes meanwhile;
    /// a caller that cares reads a word with an ordering first.
    pub fn read<T: Pod>(&self, offset: usize) -> Result<T, OutOfBounds> {
        let mut value = T::zeroed();
        self.copy_out(offset, bytemuck::bytes_of_mut(&mut value))?;
        Ok(value)
    }

    /// Writes a value at any offset; the other side may see it torn until a later ordered store.
    pub fn write<T: Pod>(&self, offset: usize, value: &T) -> Result<(), OutOfBounds> {
        self.copy_in(offset, bytemuck::bytes_of(value))
    }

    /// Copies from this memory into `to`.
    pub fn copy_out(&self, offset: usize, to: &mut [u8]) -> Result<(), OutOfBounds> {
        let from = self.check(offset, to.len(), 1)?;
        // SAFETY: `from` is in bounds for `to.len()`; `to` is exclusive memory of the caller.
        unsafe { copy_bytes(from.as_ptr(), to.as_mut_ptr(), to.len()) };
        Ok(())
    }

    /// Copies `from` into this memory.
    pub fn copy_in(&self, offset: usize, from: &[u8]) -> Result<(), OutOfBounds> {
        let to = self.check(offset, from.len(), 1)?;
        // SAFETY: `to` is in bounds for `from.len()`; `from` is memory of the caller.
        unsafe { copy_bytes(from.as_ptr(), to.as_ptr(), from.len()) };
        Ok(())
    }

    /// Copies `len` bytes from `source` into this memory, as a DMA engine does. Where the two
    /// ranges overlap the bytes that arrive are unspecified.
    pub fn copy_from(
        &self,
        offset: usize,
        source: &SharedMem,
        source_offset: usize,
        len: usize,
    ) -> Result<(), OutOfBounds> {
        let to = self.check(offset, len, 1)?;
        let from = source.check(source_offset, len, 1)?;
        // SAFETY: both ranges are in bounds for `len`, and tolerate concurrent access.
        unsafe { copy_bytes(from.as_ptr(), to.as_ptr(), len) };
        Ok(())
    }

    /// Fills a range with one byte.
    pub fn fill(&self, offset: usize, len: usize, byte: u8) -> Result<(), OutOfBounds> {
        let to = self.check(offset, len, 1)?;
        // SAFETY: in bounds, and `fill_bytes` tolerates concurrent access.
        unsafe { fill_bytes(to.as_ptr(), byte, len) };
        Ok(())
    }

    /// The first byte's address, for a system call that takes the range (io_uring file I/O) or for
    /// registering it with the kernel. Using it is `unsafe`; holding it is not.
    #[must_use]
    pub fn as_ptr(&self) -> *mut u8 {
        self.base.as_ptr()
    }
}

/// Copies bytes between ranges that others may write meanwhile.
///
/// Assembly, because a data race on plain loads and stores is undefined behaviour in Rust while a
/// torn copy in assembly is merely a torn copy.
///
/// # Safety
/// `from` must be readable and `to` writable for `len` bytes.
#[cfg(all(target_arch = "x86_64", not(miri)))]
#[inline]
unsafe fn copy_bytes(from: *const u8, to: *mut u8, len: usize) {
    // SAFETY:
    // * the ranges are valid for `len` bytes (caller);
    // * the direction flag is clear by the ABI; only rcx, rsi, rdi and memory are touched.
    unsafe {
        core::arch::asm!(
            "rep movsb",
            inout("rcx") len => _, inout("rsi") from => _, inout("rdi") to => _,
            options(nostack, preserves_flags)
        );
    }
}

/// Portable form of the above: bytes as relaxed atomics.
///
/// # Safety
/// `from` must be readable and `to` writable for `len` bytes.
#[cfg(not(all(target_arch = "x86_64", not(miri))))]
#[inline]
unsafe fn copy_bytes(from: *const u8, to: *mut u8, len: usize) {
    for i in 0..len {
        // SAFETY: `i < len`; the byte is only accessed atomically or is the caller's own.
        let byte = unsafe { AtomicU8::from_ptr(from.add(i).cast_mut()) }.load(Ordering::Relaxed);
        // SAFETY: as above.
        unsafe { AtomicU8::from_ptr(to.add(i)) }.store(byte, Ordering::Relaxed);
    }
}

/// Fills bytes of a range that others may access meanwhile.
///
/// # Safety
/// `to` must be writable for `len` bytes.
unsafe fn fill_bytes(to: *mut u8, byte: u8, len: usize) {
    let wide = u64::from_ne_bytes([byte; 8]);
    let mut i = 0;
    while i < len {
        // SAFETY: `i < len`.
        let at = unsafe { to.add(i) };
        if (at as usize).is_multiple_of(8) && len - i >= 8 {
            // SAFETY: aligned, and 8 bytes are left.
            unsafe { AtomicU64::from_ptr(at.cast()) }.store(wide, Ordering::Relaxed);
            i += 8;
        } else {
            // SAFETY: one byte is left.
            unsafe { AtomicU8::from_ptr(at) }.store(byte, Ordering::Relaxed);
            i += 1;
        }
    }
}

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

/// An aligned 32-bit word in device-shared memory.
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

/// An array of fixed-size cells in device-shared memory: the entries of a ring.
///
/// # Invariants
/// `base` is 8-byte aligned and valid for `count * size_of::<T>()` bytes while `_owner` lives;
/// `size_of::<T>()` is a multiple of 8.
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

    /// How many cells there are.
    #[must_use]
    #[inline]
    pub fn count(&self) -> usize {
        self.count
    }

    #[inline]
    fn cell(&self, index: usize) -> *mut u64 {
        assert!(index < self.count, "cell index is inside the ring (an invariant of the ring)");
        // SAFETY: `index < count`, so the cell lies inside the range.
        unsafe { self.base.as_ptr().add(index * Self::WORDS) }
    }

    /// Writes a cell, word by word in ascending order, each word as one relaxed store.
    #[inline]
    pub fn write(&self, index: usize, value: &T) {
        let cell = self.cell(index);
        let bytes = bytemuck::bytes_of(value);
        for (i, chunk) in bytes.as_chunks::<8>().0.iter().enumerate() {
            // SAFETY: `i < WORDS`; aligned (type invariant); only accessed atomically.
            let word = unsafe { AtomicU64::from_ptr(cell.add(i)) };
            word.store(u64::from_ne_bytes(*chunk), Ordering::Relaxed);
        }
    }

    /// Reads a cell, word by word. Read the word that the other side writes last with
    /// [`Cells::load_u32`] and `Acquire` first; then the rest is as it was before that store.
    #[inline]
    #[must_use]
    pub fn read(&self, index: usize) -> T {
        let cell = self.cell(index);
        let mut value = T::zeroed();
        for (i, chunk) in
            bytemuck::bytes_of_mut(&mut value).as_chunks_mut::<8>().0.iter_mut().enumerate()
        {
            // SAFETY: `i < WORDS`; aligned (type invariant); only accessed atomically.
            let word = unsafe { AtomicU64::from_ptr(cell.add(i)) };
            *chunk = word.load(Ordering::Relaxed).to_ne_bytes();
        }
        value
    }

    /// Reads the aligned 32-bit word at byte `offset` of a cell.
    #[inline]
    #[must_use]
    pub fn load_u32(&self, index: usize, offset: usize, order: Ordering) -> u32 {
        assert!(offset.is_multiple_of(4) && offset + 4 <= size_of::<T>(), "word lies in the cell");
        let cell = self.cell(index).cast::<u32>();
        // SAFETY: the word lies inside the cell (just checked) and is aligned.
        let word = unsafe { AtomicU32::from_ptr(cell.add(offset / 4)) };
        word.load(order)
    }
}
