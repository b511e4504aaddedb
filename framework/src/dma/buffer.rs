//! [`DmaBox`]: memory that the CPU owns. [`DmaShared`]: memory that a device may touch.
//!
//! The same bytes are of one type or of the other. `DmaBox` derefs to ordinary Rust data and has no
//! address that could be given to a device; `DmaShared` has an IOVA and only atomic or copying
//! access. Changing sides is a move: no allocation, no lock, no copy.
//!
//! ```text
//!   Dma::alloc -> DmaBox --into_shared--> DmaShared -> (a command names its IOVA)
//!                   ^                        |
//!                   +------- into_box -------+  after that command's completion
//! ```
//!
//! # What is checked and what is not
//! * Checked: while a `DmaBox` exists, no `SharedMem`, `Word32` or `Cells` over its bytes does
//!   (each holds a count that [`DmaShared::into_box`] looks at), and the memory goes back to the pool
//!   only when the last view is gone.
//! * Not checkable: that the *device* is done. A queue gives a buffer back only after the
//!   completion of its command. A device that writes to memory after it completed the command, or
//!   another process that has the same memfd mapped, changes bytes under a `DmaBox`; so does a
//!   second mapping that this process makes of the same memfd. Such a writer is confined to what is
//!   mapped for it (its client's own partition), and what the CPU reads then is that client's own
//!   loss: code must not rely on bytes of a `DmaBox` staying the same against a hostile device.
//!   Strictly that is a data race; a device or client that is not trusted to that degree belongs in
//!   a higher [`crate::Tier`], and its data should be read through [`DmaShared::mem`].
//!
//! This is one of the few places of this crate with `unsafe` code.

use std::fmt;
use std::marker::PhantomData;
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};

use bytemuck::Pod;
use doorbell_queues::{OutOfBounds, SharedMem};

use super::arena::Pool;

/// A buffer's place in its pool and in the world. It is the owner of every view of the buffer, so the
/// buffer is freed when the last view is dropped.
///
/// # Invariants
/// `memory` covers bytes that no other buffer has. It is never handed out: views come from
/// [`Extent::view`], and count.
struct Lease {
    memory: SharedMem,
    iova: u64,
    pool: Arc<Pool>,
    id: usize,
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.pool.free(self.id);
    }
}

/// A piece of an arena: one pointer, so that a buffer on its way through a queue moves in a register.
#[derive(Clone)]
pub(super) struct Extent {
    lease: Arc<Lease>,
}

impl Extent {
    /// For the pool only: `memory` is the buffer `id`'s, page-aligned, and nobody else's until
    /// [`Pool::free`].
    pub(super) fn new(pool: Arc<Pool>, id: usize, memory: SharedMem, iova: u64) -> Self {
        Self { lease: Arc::new(Lease { memory, iova, pool, id }) }
    }

    /// A view that keeps the buffer allocated, and out of CPU hands.
    fn view(&self) -> SharedMem {
        let memory = &self.lease.memory;
        // SAFETY: a `SharedMem` is never at address 0 (its base is `NonNull`).
        let base = unsafe { NonNull::new_unchecked(memory.as_ptr()) };
        // SAFETY:
        // * the lease keeps the mapping alive, so the range is readable and writable;
        // * pages are aligned to more than 8 bytes;
        // * a Rust reference is made in `Deref` of `DmaBox` only, and no view exists then.
        unsafe { SharedMem::new(base, memory.len(), Arc::clone(&self.lease) as _) }
    }

    /// True if nobody else has a view of the memory, or a way to one.
    #[inline]
    fn exclusive(&self) -> bool {
        // No `Weak` exists, and only what holds a count can make more, so a count of one stays one.
        let exclusive = Arc::strong_count(&self.lease) == 1;
        // Acquire pairs with the Release of the last other view's drop: its accesses are over.
        fence(Ordering::Acquire);
        exclusive
    }
}

impl fmt::Debug for Extent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Lease { id, memory, .. } = &*self.lease;
        f.debug_struct("Extent").field("id", id).field("len", &memory.len()).finish()
    }
}

/// DMA memory that the CPU owns: a `Box` in an arena. `T` is `[u8]` or plain old data.
///
/// # Invariants
/// * the extent is exclusive: no view of its bytes exists in this process;
/// * it holds at least a `T`, aligned for it.
pub struct DmaBox<T: ?Sized> {
    extent: Extent,
    _value: PhantomData<Box<T>>,
}

impl<T: ?Sized> DmaBox<T> {
    /// For the pool only: the extent is fresh, and holds a `T`.
    #[inline]
    pub(super) fn new(extent: Extent) -> Self {
        Self { extent, _value: PhantomData }
    }

    /// Hands the memory to the other side: from here on it has an address and no references.
    #[must_use]
    #[inline]
    pub fn into_shared(self) -> DmaShared<T> {
        DmaShared { extent: self.extent, _value: PhantomData }
    }
}

impl Deref for DmaBox<[u8]> {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        let view = &self.extent.lease.memory;
        // SAFETY:
        // * `view` is mapped, and stays so while `self` lives;
        // * the bytes are initialised: the kernel zeroes them;
        // * the box is exclusive (type invariant): nobody in this process has another view;
        // * the device and other processes do not write it, by the queue's protocol. Where they
        //   break it, see the module's documentation.
        unsafe { std::slice::from_raw_parts(view.as_ptr(), view.len()) }
    }
}

impl DerefMut for DmaBox<[u8]> {
    #[inline]
    fn deref_mut(&mut self) -> &mut [u8] {
        let view = &self.extent.lease.memory;
        // SAFETY: as for `deref`; `&mut self` excludes other references.
        unsafe { std::slice::from_raw_parts_mut(view.as_ptr(), view.len()) }
    }
}

impl<T: Pod> Deref for DmaBox<T> {
    type Target = T;

    fn deref(&self) -> &T {
        // SAFETY: as for `[u8]`; further, any bytes are a valid `T` (Pod), and the extent holds at
        // least one, aligned (type invariant).
        unsafe { &*self.extent.lease.memory.as_ptr().cast::<T>() }
    }
}

impl<T: Pod> DerefMut for DmaBox<T> {
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: as for `deref`; `&mut self` excludes other references.
        unsafe { &mut *self.extent.lease.memory.as_ptr().cast::<T>() }
    }
}

impl<T: ?Sized> fmt::Debug for DmaBox<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("DmaBox").field(&self.extent).finish()
    }
}

/// DMA memory that a device (or another process) may read and write at any time: an IOVA, and no
/// reference to its bytes.
pub struct DmaShared<T: ?Sized = [u8]> {
    extent: Extent,
    _value: PhantomData<fn(&T)>,
}

impl<T: ?Sized> DmaShared<T> {
    /// The device's address of the first byte, page-aligned.
    #[must_use]
    #[inline]
    pub fn iova(&self) -> u64 {
        self.extent.lease.iova
    }

    /// Length in bytes.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "a buffer is never empty")]
    pub fn len(&self) -> usize {
        self.extent.lease.memory.len()
    }

    /// The memory, for atomic and copying access. It keeps the buffer allocated.
    #[must_use]
    pub fn mem(&self) -> SharedMem {
        self.extent.view()
    }

    /// Keeps the buffer allocated without access to it: for whoever must outlast a device that uses
    /// it. No allocation.
    #[must_use]
    #[inline]
    pub fn keep(&self) -> DmaKeep {
        DmaKeep { _extent: self.extent.clone() }
    }

    /// Another handle of the same memory, for one of several commands that work on parts of it. While
    /// both exist [`DmaShared::into_box`] gives either back unchanged. No allocation.
    #[must_use]
    #[inline]
    pub fn share(&self) -> Self {
        Self { extent: self.extent.clone(), _value: PhantomData }
    }

    /// Takes the memory back into CPU hands. Only for code that knows that the device is done with
    /// it: after the completion of every command that named it.
    ///
    /// # Errors
    /// The buffer comes back unchanged while a [`DmaShared::mem`] of it, or a word or cells made from
    /// that, another handle ([`DmaShared::share`]) or a [`DmaKeep`] still exists.
    #[inline]
    pub fn into_box(self) -> Result<DmaBox<T>, Self> {
        if self.extent.exclusive() { Ok(DmaBox::new(self.extent)) } else { Err(self) }
    }
}

/// Keeps a buffer allocated: [`DmaShared::keep`].
#[derive(Debug, Clone)]
pub struct DmaKeep {
    _extent: Extent,
}

impl<T: Pod> DmaShared<T> {
    /// Copies the value out; it may be torn if the other side writes meanwhile.
    ///
    /// # Errors
    /// None in practice: the buffer holds a `T`.
    pub fn read(&self) -> Result<T, OutOfBounds> {
        self.mem().read(0)
    }
}

impl<T: ?Sized> fmt::Debug for DmaShared<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DmaShared")
            .field("iova", &format_args!("{:#x}", self.iova()))
            .field("extent", &self.extent)
            .finish()
    }
}
