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
use core::ptr::NonNull;
use core::sync::atomic::{AtomicU8, AtomicU16, AtomicU32, AtomicU64, Ordering};

use bytemuck::Pod;

mod cells;
mod copy;
mod stores;
#[cfg(test)]
#[cfg(not(loom))]
mod tests;
mod word;

pub use cells::Cells;
#[cfg(loom)]
#[cfg(test)]
pub(crate) use cells::IndexCursor;
pub(crate) use cells::{CellArray, CellCursor, CellHere, CellWords};
pub use stores::EntryStores;
pub(crate) use stores::store_fence;
pub use word::{Word, Word32};

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
/// Every access names an offset in bytes and fails with [`OutOfBounds`], having touched nothing, if
/// it does not lie inside the range or is not aligned as the method says. Nothing here orders
/// accesses to different words: publish data by a later `Release` store of a word, and read it
/// after an `Acquire` load of that word. Two sides that race on a word must access it with one
/// size.
///
/// ```
/// use core::sync::atomic::Ordering;
/// use doorbell_queues::SharedMem;
///
/// let memory = SharedMem::zeroed(4096);
/// memory.write(0, &[7_u64, 8])?;                   // data, in any pieces
/// memory.store_u32(64, 1, Ordering::Release)?;     // the word that publishes it
/// let other_side = memory.clone();
/// assert_eq!(other_side.load_u32(64, Ordering::Acquire)?, 1);
/// assert_eq!(other_side.read::<[u64; 2]>(0)?, [7, 8]);
/// assert!(memory.read::<u64>(4090).is_err());
/// # Ok::<(), doorbell_queues::OutOfBounds>(())
/// ```
///
/// # Invariants
/// * `base .. base + len` is readable and writable for as long as `owner` lives.
/// * `base` is aligned to 8 bytes.
/// * No Rust reference to any byte of the range exists anywhere, but for the atomics that live as
///   long as one access here.
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
    /// Like any allocation of the heap it aborts the program when there is no memory.
    #[must_use]
    pub fn zeroed(len: usize) -> Self {
        // A length that no layout can have is as much out of memory as one that the heap refuses.
        let size = len.max(1).checked_next_multiple_of(4096);
        let Some(layout) = size.and_then(|size| Layout::from_size_align(size, 4096).ok()) else {
            handle_alloc_error(Layout::new::<u8>())
        };
        // SAFETY: the layout's size is not zero.
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
        // SAFETY: in bounds and aligned; the owner keeps it valid (type invariant).
        Ok(unsafe { Word32::new(at.cast(), self.owner.clone()) })
    }

    /// `count` cells of type `T`, back to back from `offset`, a multiple of 8. `T` must be whole
    /// eights of bytes and not empty, or the program does not compile.
    pub fn cells<T: Pod>(&self, offset: usize, count: usize) -> Result<Cells<T>, OutOfBounds> {
        const { assert!(size_of::<T>() > 0 && size_of::<T>().is_multiple_of(8), "whole eights") }
        let len = count.saturating_mul(size_of::<T>());
        let base = self.check(offset, len, 8)?;
        // SAFETY: `len` bytes are in bounds and aligned; the owner keeps them valid (type
        // invariant); the size of `T` was checked above.
        Ok(unsafe { Cells::new(base.cast(), count, self.owner.clone()) })
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

    /// Reads `width` bytes (1, 2, 4 or 8) at a multiple of `width`, as one load of that size: what a
    /// device register wants.
    pub fn load_register(&self, offset: usize, width: usize) -> Result<u64, OutOfBounds> {
        let at = self.register(offset, width)?.as_ptr();
        // SAFETY: in bounds, aligned, and only ever accessed by means that tolerate races (type
        // invariant).
        Ok(unsafe {
            match width {
                1 => AtomicU8::from_ptr(at).load(Ordering::Acquire).into(),
                2 => AtomicU16::from_ptr(at.cast()).load(Ordering::Acquire).into(),
                4 => AtomicU32::from_ptr(at.cast()).load(Ordering::Acquire).into(),
                _ => AtomicU64::from_ptr(at.cast()).load(Ordering::Acquire),
            }
        })
    }

    /// Writes the low `width` bytes (1, 2, 4 or 8) of `value` at a multiple of `width`, as one store
    /// of that size.
    pub fn store_register(
        &self,
        offset: usize,
        width: usize,
        value: u64,
    ) -> Result<(), OutOfBounds> {
        let at = self.register(offset, width)?.as_ptr();
        // SAFETY: as for `load_register`.
        unsafe {
            match width {
                1 => AtomicU8::from_ptr(at).store(value as u8, Ordering::Release),
                2 => AtomicU16::from_ptr(at.cast()).store(value as u16, Ordering::Release),
                4 => AtomicU32::from_ptr(at.cast()).store(value as u32, Ordering::Release),
                _ => AtomicU64::from_ptr(at.cast()).store(value, Ordering::Release),
            }
        }
        Ok(())
    }

    fn register(&self, offset: usize, width: usize) -> Result<NonNull<u8>, OutOfBounds> {
        if !matches!(width, 1 | 2 | 4 | 8) {
            return Err(OutOfBounds { offset, len: width, size: self.len });
        }
        self.check(offset, width, width)
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

    /// Writes a value at a multiple of 8 for a reader that waits for the word at byte `last` to
    /// change: as [`Cells::publish`], without cells. The size of `T` is a multiple of 8.
    #[inline]
    pub fn publish<T: Pod>(
        &self,
        offset: usize,
        value: &T,
        last: usize,
    ) -> Result<(), OutOfBounds> {
        let error = OutOfBounds { offset, len: size_of::<T>(), size: self.len };
        let at = self.check(offset, size_of::<T>(), 8)?.cast::<u64>();
        let words = bytemuck::bytes_of(value).as_chunks::<8>().0;
        if words.len() * 8 != size_of::<T>() || last >= size_of::<T>() {
            return Err(error);
        }
        let store = |i: usize, order| {
            // SAFETY: word `i` of `T` is in bounds and aligned (just checked), and only ever accessed
            // by means that tolerate races (type invariant).
            let word = unsafe { AtomicU64::from_ptr(at.add(i).as_ptr()) };
            word.store(u64::from_ne_bytes(words[i]), order);
        };
        (0..words.len()).filter(|i| *i != last / 8).for_each(|i| store(i, Ordering::Relaxed));
        // Release: whoever sees this word with Acquire sees the words stored above.
        store(last / 8, Ordering::Release);
        Ok(())
    }

    /// Copies from this memory into `to`.
    pub fn copy_out(&self, offset: usize, to: &mut [u8]) -> Result<(), OutOfBounds> {
        let from = self.check(offset, to.len(), 1)?;
        // SAFETY: `from` is in bounds for `to.len()`; `to` is exclusive memory of the caller.
        unsafe { copy::copy_out(from, to) };
        Ok(())
    }

    /// Copies `from` into this memory.
    pub fn copy_in(&self, offset: usize, from: &[u8]) -> Result<(), OutOfBounds> {
        let to = self.check(offset, from.len(), 1)?;
        // SAFETY: `to` is in bounds for `from.len()`; `from` is memory of the caller.
        unsafe { copy::copy_in(from, to) };
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
        unsafe { copy::copy_bytes(from.as_ptr(), to.as_ptr(), len) };
        Ok(())
    }

    /// Fills a range with one byte.
    pub fn fill(&self, offset: usize, len: usize, byte: u8) -> Result<(), OutOfBounds> {
        let to = self.check(offset, len, 1)?;
        // SAFETY: in bounds, and `fill_bytes` tolerates concurrent access.
        unsafe { copy::fill_bytes(to.as_ptr(), byte, len) };
        Ok(())
    }

    /// The first byte's address, for a system call that takes the range (io_uring file I/O) or for
    /// registering it with the kernel. Using it is `unsafe`; holding it is not.
    #[must_use]
    pub fn as_ptr(&self) -> *mut u8 {
        self.base.as_ptr()
    }
}
