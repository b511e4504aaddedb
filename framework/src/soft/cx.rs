//! [`SoftCx`]: what a model sees of the world: DMA through the soft IOMMU, its doorbells, its
//! interrupts.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytemuck::Pod;
use doorbell_queues::SharedMem;

use super::iommu::{Piece, SoftIommu};
use super::signals::VectorSignals;
use crate::dma::{Access, Fault};

/// A model's context, owned by the device's thread. Nothing here allocates, locks or counts
/// references, except [`SoftCx::interrupt`], which makes one system call when the host asked for a
/// signal.
///
/// Every DMA access returns a [`Fault`] if it names memory that is not mapped for it; then nothing
/// of it happened, and it was counted.
#[derive(Debug)]
pub struct SoftCx {
    pub(super) iommu: SoftIommu,
    /// BAR number to its memory.
    pub(super) bars: [Option<SharedMem>; 6],
    pub(super) vectors: Vec<VectorSignals>,
    /// The model says that it failed, and nobody has taken note yet.
    pub(super) failed: Arc<AtomicBool>,
}

impl SoftCx {
    pub(super) fn new(bars: [Option<SharedMem>; 6], vectors: u16) -> Self {
        let vectors = (0..vectors).map(|_| VectorSignals::default()).collect();
        Self { iommu: SoftIommu::default(), bars, vectors, failed: Arc::default() }
    }

    /// A context without a thread: DMA works over what is mapped by [`SoftCx::iommu_mut`], BARs are
    /// plain memory, interrupts go nowhere. For tests of a model, and for benchmarks that run a
    /// device in the thread of its host.
    #[must_use]
    pub fn detached(bars: [Option<SharedMem>; 6], vectors: u16) -> Self {
        Self::new(bars, vectors)
    }

    /// The mappings.
    #[must_use]
    pub fn iommu(&self) -> &SoftIommu {
        &self.iommu
    }

    /// The mappings, to change them: for [`SoftCx::detached`].
    pub fn iommu_mut(&mut self) -> &mut SoftIommu {
        &mut self.iommu
    }

    /// Reports an error that only a reset mends, as the PCIe fabric does for hardware
    /// ([`crate::bus::DeviceEvent::Failed`]).
    pub fn fail(&mut self) {
        self.failed.store(true, Ordering::Release);
    }

    /// The shared memory of a BAR that has a mappable part; offset 0 is the BAR's offset 0. Doorbell
    /// registers are read from it with `load_u32(offset, Acquire)`, or through a `word32` that the
    /// model keeps. Bytes outside of the mappable ranges mean nothing.
    #[must_use]
    #[inline]
    pub fn doorbells(&self, region: u8) -> Option<&SharedMem> {
        self.bars.get(usize::from(region))?.as_ref()
    }

    /// Reads a value: a command, a descriptor. Word by word if `T` is up to 128 bytes, a multiple
    /// of 8, and aligned to 8.
    ///
    /// # Errors
    /// [`Fault`].
    #[inline]
    pub fn read<T: Pod>(&mut self, iova: u64) -> Result<T, Fault> {
        let len = size_of::<T>() as u64;
        if let Some(piece) = self.iommu.whole(iova, len.max(1), Access::Read)
            && let Ok(value) = piece.memory.read(piece.offset)
        {
            return Ok(value);
        }
        let mut value = T::zeroed();
        self.read_bytes(iova, bytemuck::bytes_of_mut(&mut value))?;
        Ok(value)
    }

    /// Writes a value. The host may see it torn: see [`SoftCx::store_entry`].
    ///
    /// # Errors
    /// [`Fault`].
    #[inline]
    pub fn write<T: Pod>(&mut self, iova: u64, value: &T) -> Result<(), Fault> {
        self.write_bytes(iova, bytemuck::bytes_of(value))
    }

    /// Copies host memory to `to`.
    ///
    /// # Errors
    /// [`Fault`]; `to` is unchanged then.
    pub fn read_bytes(&mut self, iova: u64, to: &mut [u8]) -> Result<(), Fault> {
        let mut done = 0;
        self.iommu.pieces(iova, to.len() as u64, Access::Read, |piece| {
            let next = done + piece.len;
            if let Some(part) = to.get_mut(done..next) {
                let _ = piece.memory.copy_out(piece.offset, part);
            }
            done = next;
        })
    }

    /// Copies `from` to host memory.
    ///
    /// # Errors
    /// [`Fault`].
    pub fn write_bytes(&mut self, iova: u64, from: &[u8]) -> Result<(), Fault> {
        let mut done = 0;
        self.iommu.pieces(iova, from.len() as u64, Access::Write, |piece| {
            let next = done + piece.len;
            if let Some(part) = from.get(done..next) {
                let _ = piece.memory.copy_in(piece.offset, part);
            }
            done = next;
        })
    }

    /// Copies `len` bytes of the model's own memory (`source` from `offset`) to host memory: the
    /// data of a read command. One copy, no buffer between.
    ///
    /// # Errors
    /// [`Fault`]. A range outside of `source` is the model's bug: it is cut off, and logged.
    pub fn write_from(
        &mut self,
        iova: u64,
        source: &SharedMem,
        offset: usize,
        len: usize,
    ) -> Result<(), Fault> {
        let mut at = offset;
        self.iommu.pieces(iova, len as u64, Access::Write, |piece| {
            let copied = piece.memory.copy_from(piece.offset, source, at, piece.len);
            own_range(copied);
            at += piece.len;
        })
    }

    /// Copies `len` bytes of host memory to the model's own memory (`target` from `offset`): the
    /// data of a write command.
    ///
    /// # Errors
    /// [`Fault`]. A range outside of `target` is the model's bug: it is cut off, and logged.
    pub fn read_into(
        &mut self,
        iova: u64,
        target: &SharedMem,
        offset: usize,
        len: usize,
    ) -> Result<(), Fault> {
        let mut at = offset;
        self.iommu.pieces(iova, len as u64, Access::Read, |piece| {
            let copied = target.copy_from(at, piece.memory, piece.offset, piece.len);
            own_range(copied);
            at += piece.len;
        })
    }

    /// Fills host memory with one byte.
    ///
    /// # Errors
    /// [`Fault`].
    pub fn fill(&mut self, iova: u64, len: usize, byte: u8) -> Result<(), Fault> {
        self.iommu.pieces(iova, len as u64, Access::Write, |piece| {
            let _ = piece.memory.fill(piece.offset, piece.len, byte);
        })
    }

    /// Calls `each` with every mapped piece of a range, in order: for I/O that goes straight between
    /// host memory and a file. A model that keeps a clone of a piece's memory keeps it *mapped in
    /// this process* but not in the IOMMU: it must finish such I/O before it completes the command,
    /// deletes the command's queue, or answers a reset.
    ///
    /// # Errors
    /// [`Fault`]; `each` was not called then.
    pub fn pieces(
        &mut self,
        iova: u64,
        len: usize,
        access: Access,
        each: impl FnMut(Piece<'_>),
    ) -> Result<(), Fault> {
        self.iommu.pieces(iova, len as u64, access, each)
    }

    /// Stores a completion entry so that its word at byte `last_word` (it holds the phase) becomes
    /// visible last, in one aligned 8-byte store with `Release`, as the host's ring reads it.
    ///
    /// # Errors
    /// [`Fault`] if the entry is not mapped for writing, crosses mappings, or is not aligned to 8, or
    /// if `last_word` is not inside `T`, or `T` is not whole 8-byte words: then nothing is stored.
    #[inline]
    pub fn store_entry<T: Pod>(
        &mut self,
        iova: u64,
        entry: &T,
        last_word: usize,
    ) -> Result<(), Fault> {
        let len = size_of::<T>() as u64;
        let piece = self.iommu.translate(iova, len, Access::Write)?;
        if piece.memory.publish(piece.offset, entry, last_word).is_ok() {
            return Ok(());
        }
        Err(self.iommu.fault(iova, len, Access::Write))
    }

    /// Interrupts the host on `vector`, if it asked for it (always, for an interrupt that a peer
    /// installed without an arm word). Call it once after a batch of completions was stored: it
    /// fences, so that no completion is missed. A vector that nobody uses costs a compare.
    #[inline]
    pub fn interrupt(&mut self, vector: u16) {
        if let Some(signals) = self.vectors.get_mut(usize::from(vector)) {
            signals.raise();
        }
    }
}

/// A model asked for bytes outside of its own memory.
#[inline]
fn own_range(copied: Result<(), doorbell_queues::OutOfBounds>) {
    if let Err(error) = copied {
        tracing::error!(%error, "a software model copied outside of its own memory");
    }
}
