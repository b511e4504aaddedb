//! [`SoftCx`]: what a model sees of the world: DMA through the soft IOMMU (`dma`), its doorbells, its
//! interrupts.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use doorbell_queues::SharedMem;

use super::iommu::SoftIommu;
use super::late::Late;
use super::remote::Remote;
use super::signals::{Pin, VectorSignals};
#[cfg(doc)]
use crate::dma::Fault;

mod dma;

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
    pub(crate) vectors: Vec<VectorSignals>,
    pub(crate) pin: Pin,
    pub(super) remote: Remote,
    late: Late,
    /// The model says that it failed, and nobody has taken note yet.
    pub(super) failed: Arc<AtomicBool>,
}

impl SoftCx {
    pub(super) fn new(bars: [Option<SharedMem>; 6], vectors: u16) -> Self {
        let vectors = (0..vectors).map(|_| VectorSignals::default()).collect();
        Self {
            iommu: SoftIommu::default(),
            bars,
            vectors,
            pin: Pin::default(),
            remote: Remote::default(),
            late: Late::default(),
            failed: Arc::default(),
        }
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

    /// Interrupts the host on `vector`, if it asked for it (always, for an interrupt that a peer
    /// installed without an arm word, a moment later: `soft/late.rs`). Call it once after a batch of completions was stored: it
    /// fences, so that no completion is missed. A vector that nobody uses costs a compare.
    #[inline]
    pub fn interrupt(&mut self, vector: u16) {
        if self.remote.hold(vector) {
            return;
        }
        if let Some(signals) = self.vectors.get_mut(usize::from(vector)) {
            signals.raise_if_armed();
            if signals.always.is_some() {
                self.late.add(vector);
            }
        }
    }

    /// Raises the interrupts that were put off: before the device's thread sleeps, and when their time
    /// has come.
    #[cold]
    pub(super) fn raise_late(&mut self) {
        while let Some(vector) = self.late.take() {
            if let Some(signals) = self.vectors.get_mut(usize::from(vector)) {
                signals.raise_always();
            }
        }
    }

    /// Lets go of everything that a peer has given: memory and descriptors.
    #[cfg(feature = "vfio-user")]
    pub(crate) fn release(&mut self) {
        self.iommu.clear();
        self.vectors.iter_mut().for_each(|vector| vector.always = None);
        self.pin = Pin::default();
        self.late.clear();
        let interruptible = self.remote.interruptible;
        self.remote = Remote { interruptible, ..Remote::default() };
    }

    /// Reaches memory of a peer by messages from now on.
    #[cfg(feature = "vfio-user")]
    pub(crate) fn set_peer(&mut self, peer: Arc<dyn super::remote::RemoteMemory>) {
        self.remote.peer = Some(peer);
    }

    /// Before every poll: a read that was given up may be made again, and interrupts whose writes
    /// have arrived are raised. True if there were any.
    #[inline]
    pub(super) fn begin(&mut self) -> bool {
        if self.late.is_due() {
            self.raise_late();
        }
        if self.remote.peer.is_none() {
            return false;
        }
        self.remote.interrupted = false;
        let mut any = false;
        while let Some(vector) = self.remote.released() {
            any = true;
            if let Some(signals) = self.vectors.get_mut(usize::from(vector)) {
                signals.raise();
            }
        }
        any
    }
}
