//! [`Arena`]: one sealed memfd, mapped here and for the device. [`Dma`]: a pool of page-aligned
//! buffers over one or more arenas.
//!
//! The pool's lock is taken when a buffer is allocated or freed, never on the I/O path: a buffer
//! that goes to the device and comes back only changes its type ([`super::buffer`]).

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytemuck::Pod;
use doorbell_queues::SharedMem;
use slab::Slab;

use super::buffer::{DmaBox, DmaShared, Extent};
use super::iova::FreeList;
use super::map::{PAGE, Prefault};
use super::{DmaError, Memfd};

/// A memfd that the device reaches at a fixed IOVA, mapped into this process.
#[derive(Debug)]
pub struct Arena {
    memory: SharedMem,
    iova: u64,
}

impl Arena {
    /// Maps `memfd` into this process, all pages present. `iova` is where the broker mapped it for
    /// the device.
    ///
    /// # Errors
    /// [`DmaError::BadRange`] if the IOVA range wraps or is not page-aligned; [`DmaError::Os`] from
    /// the kernel.
    pub fn new(memfd: &Memfd, iova: u64) -> Result<Self, DmaError> {
        let len = memfd.len();
        if !iova.is_multiple_of(PAGE as u64) || iova.checked_add(len).is_none() {
            return Err(DmaError::BadRange { iova, len, why: "not page-aligned, or it wraps" });
        }
        Ok(Self { memory: memfd.map(Prefault::Yes)?, iova })
    }

    /// Bytes.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "an arena is never empty")]
    pub fn len(&self) -> usize {
        self.memory.len()
    }

    /// The device's address of its first byte.
    #[must_use]
    pub fn iova(&self) -> u64 {
        self.iova
    }
}

/// Numbers of a pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct DmaStats {
    /// Arenas.
    pub arenas: usize,
    /// Their bytes.
    pub total: usize,
    /// Bytes in buffers, whole pages.
    pub in_use: usize,
    /// Buffers that exist.
    pub buffers: usize,
}

/// An arena in the pool. Free ranges are offsets in the arena.
#[derive(Debug)]
struct Pooled {
    arena: Arena,
    free: FreeList,
}

/// A buffer's place.
#[derive(Debug)]
struct Place {
    arena: usize,
    offset: u64,
    len: u64,
}

#[derive(Debug, Default)]
struct State {
    arenas: Vec<Pooled>,
    buffers: Slab<Place>,
    in_use: usize,
}

impl State {
    fn total(&self) -> usize {
        self.arenas.iter().map(|pooled| pooled.arena.len()).sum()
    }

    /// Takes `len` bytes (whole pages) from the first arena that has them.
    fn take(&mut self, len: u64) -> Option<Place> {
        self.arenas.iter_mut().enumerate().find_map(|(arena, pooled)| {
            let offset = pooled.free.take(len, PAGE as u64)?;
            Some(Place { arena, offset, len })
        })
    }
}

/// What all handles of a pool and all of its buffers share.
#[derive(Debug, Default)]
pub(super) struct Pool {
    state: Mutex<State>,
}

impl Pool {
    fn lock(&self) -> MutexGuard<'_, State> {
        // No code that holds the lock panics half-way through a change.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Frees the buffer `id`. Called once, by the last view of it.
    pub(super) fn free(&self, id: usize) {
        let state = &mut *self.lock();
        let Some(place) = state.buffers.try_remove(id) else { return };
        if let Some(pooled) = state.arenas.get_mut(place.arena) {
            pooled.free.give(place.offset, place.len);
        }
        state.in_use -= place.len as usize;
    }
}

/// A pool of DMA buffers. Cloning it gives another handle of the same pool.
///
/// A buffer keeps its pool and its arena mapped, so buffers may outlive every `Dma`.
#[derive(Debug, Clone, Default)]
pub struct Dma {
    pool: Arc<Pool>,
}

impl Dma {
    /// A pool without memory; [`Dma::add_arena`] gives it some.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds memory.
    pub fn add_arena(&self, arena: Arena) {
        let mut free = FreeList::default();
        free.give(0, arena.len() as u64);
        self.pool.lock().arenas.push(Pooled { arena, free });
    }

    /// A buffer of `len` bytes, page-aligned, contiguous for the device. Its bytes are zero or what
    /// an earlier buffer of this pool left there.
    ///
    /// # Errors
    /// [`DmaError::BadLength`] for no bytes, [`DmaError::Exhausted`] if no arena has room.
    pub fn alloc(&self, len: usize) -> Result<DmaBox<[u8]>, DmaError> {
        self.extent(len).map(DmaBox::new)
    }

    /// A buffer that holds `value`.
    ///
    /// # Errors
    /// As [`Dma::alloc`].
    pub fn alloc_value<T: Pod>(&self, value: T) -> Result<DmaBox<T>, DmaError> {
        const { assert!(align_of::<T>() <= PAGE, "buffers are aligned to pages") };
        let mut buffer = DmaBox::new(self.extent(size_of::<T>())?);
        *buffer = value;
        Ok(buffer)
    }

    /// Zeroed memory that the device and the CPU share from the beginning: rings, lists.
    ///
    /// # Errors
    /// As [`Dma::alloc`].
    pub fn alloc_shared(&self, len: usize) -> Result<DmaShared<[u8]>, DmaError> {
        let shared = DmaBox::<[u8]>::new(self.extent(len)?).into_shared();
        // The range is the whole of the buffer, so the fill cannot be out of bounds.
        let _ = shared.mem().fill(0, shared.len(), 0);
        Ok(shared)
    }

    /// Numbers, at this moment.
    #[must_use]
    pub fn stats(&self) -> DmaStats {
        let state = self.pool.lock();
        DmaStats {
            arenas: state.arenas.len(),
            total: state.total(),
            in_use: state.in_use,
            buffers: state.buffers.len(),
        }
    }

    fn extent(&self, len: usize) -> Result<Extent, DmaError> {
        let state = &mut *self.pool.lock();
        let max = state.arenas.iter().map(|pooled| pooled.arena.len()).max().unwrap_or(0);
        let exhausted =
            DmaError::Exhausted { wanted: len, arenas: state.arenas.len(), total: state.total() };
        let size = len.checked_next_multiple_of(PAGE).filter(|_| len > 0);
        let Some(size) = size else { return Err(DmaError::BadLength { len, max }) };
        let Some(place) = state.take(size as u64) else { return Err(exhausted) };
        let arena = &state.arenas[place.arena].arena;
        let iova = arena.iova + place.offset;
        let Ok(memory) = arena.memory.slice(place.offset as usize, len) else {
            // Cannot be: the free list holds offsets inside the arena only.
            return Err(exhausted);
        };
        let id = state.buffers.insert(place);
        state.in_use += size;
        Ok(Extent::new(Arc::clone(&self.pool), id, memory, iova))
    }
}
