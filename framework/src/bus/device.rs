//! [`Device`]: a bus as a driver's author uses it: registers ([`Bar`]), DMA memory, the driver's own queues.

use std::collections::BTreeSet;
use std::fmt;
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, PoisonError};

use doorbell_queues::{Doorbell, Fate, Interrupt, QueueName, QueueParts, SpinBudget};

use super::bar::Bar;
use super::proof::PartitionId;
use super::signals::MappedSignals;
use super::{Bus, BusError, Identity, PeerSlice, Region, SharedPages};
use crate::deadline::Deadline;
use crate::dma::map::{HUGE_PAGE, PAGE};
use crate::dma::{
    Access, Arena, Dma, DmaBox, DmaError, DmaShared, HugePages, IovaAllocator, Memfd, Partition,
};

/// IOVA space for the driver's own memory, in bytes; memory is taken only as needed. A device that
/// reaches little memory gives its driver a quarter of it.
const DRIVER_PARTITION: u64 = 256 << 20;

struct Inner {
    bus: Arc<dyn Bus>,
    /// Interrupt vectors that may be used.
    vectors: u16,
    is_virtual: bool,
    dma: Dma,
    partition: Mutex<Partition>,
    /// Pages with doorbells of the driver's own queues: BAR and offset.
    own_pages: Mutex<BTreeSet<(u8, u64)>>,
}

/// A device in the hands of its driver. Cloning it gives another handle.
#[derive(Clone)]
pub struct Device {
    inner: Arc<Inner>,
}

impl fmt::Debug for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Device").field("identity", self.identity()).finish_non_exhaustive()
    }
}

/// The shape of a queue that the driver keeps for itself.
#[derive(Debug, Clone, Copy)]
pub struct QueueLayout {
    /// The queue's id on the device.
    pub queue: u16,
    /// Entries of the submission ring.
    pub submission_entries: u32,
    /// Bytes of a submission entry.
    pub submission_entry: usize,
    /// Entries of the completion ring.
    pub completion_entries: u32,
    /// Bytes of a completion entry.
    pub completion_entry: usize,
    /// BAR with the doorbells.
    pub region: u8,
    /// Offset of the submission tail doorbell in the BAR.
    pub submission_doorbell: u64,
    /// Offset of the completion head doorbell in the BAR.
    pub completion_doorbell: u64,
    /// Interrupt vector of the completion queue.
    pub vector: u16,
    /// Commands that can be in flight; fewer than the entries of either ring.
    pub slots: u16,
}

/// A queue of the driver's own: its memory, to tell the device of, and what
/// [`doorbell_queues::Queue::new`] takes. The rings stay allocated as long as the parts (or the
/// queue made from them) live.
#[derive(Debug)]
pub struct OwnQueue {
    /// IOVA of submission entry 0.
    pub submission_iova: u64,
    /// IOVA of completion entry 0.
    pub completion_iova: u64,
    /// For [`doorbell_queues::Queue::new`].
    pub parts: QueueParts,
}

impl Device {
    /// Takes a bus: its driver gets a partition and a pool of its own, and the rest of the address
    /// space comes back for the broker to give to clients. All of it lies below
    /// `1 << address_bits` ([`crate::driver::Driver::ADDRESS_BITS`]).
    ///
    /// # Errors
    /// [`BusError::Dma`] if the IOMMU offers no range for it.
    pub fn attach(bus: Arc<dyn Bus>, address_bits: u32) -> Result<(Self, IovaAllocator), BusError> {
        let mut iova = IovaAllocator::new(&bus.dma().ranges(), address_bits);
        let vectors = bus.vectors();
        let device = Self::take(bus, &mut iova, vectors, false)?;
        Ok((device, iova))
    }

    /// Takes the bus of a virtual function that is for one client: the client's partition is at
    /// `client`, where it was on the physical function, and the driver's anywhere else. At most
    /// `vectors` interrupt vectors are used, whatever the bus has.
    ///
    /// # Errors
    /// [`BusError::Dma`] if the address space has no such range, or none for the driver.
    pub fn attach_virtual(
        bus: Arc<dyn Bus>,
        address_bits: u32,
        vectors: u16,
        client: Range<u64>,
    ) -> Result<(Self, IovaAllocator, Partition), BusError> {
        let mut iova = IovaAllocator::new(&bus.dma().ranges(), address_bits);
        let name = Arc::clone(&bus.identity().name);
        let partition =
            iova.partition_at(client).map_err(|source| BusError::Dma { device: name, source })?;
        let vectors = vectors.min(bus.vectors());
        let device = Self::take(bus, &mut iova, vectors, true)?;
        Ok((device, iova, partition))
    }

    fn take(
        bus: Arc<dyn Bus>,
        iova: &mut IovaAllocator,
        vectors: u16,
        is_virtual: bool,
    ) -> Result<Self, BusError> {
        let device = Arc::clone(&bus.identity().name);
        let partition = iova
            .partition(DRIVER_PARTITION.min(iova.available() / 4))
            .map_err(|source| BusError::Dma { device, source })?;
        let (partition, own_pages) = (Mutex::new(partition), Mutex::default());
        let inner = Inner { bus, vectors, is_virtual, dma: Dma::new(), partition, own_pages };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// What it is and where.
    #[must_use]
    pub fn identity(&self) -> &Identity {
        self.inner.bus.identity()
    }

    /// The device's name, as it stands in every error.
    #[must_use]
    pub fn name(&self) -> Arc<str> {
        Arc::clone(&self.identity().name)
    }

    /// The bus, for the broker's needs: slices, signals, events.
    #[must_use]
    pub fn bus(&self) -> &Arc<dyn Bus> {
        &self.inner.bus
    }

    /// Its regions.
    #[must_use]
    pub fn regions(&self) -> &[Region] {
        self.inner.bus.regions()
    }

    /// How many interrupt vectors may be used.
    #[must_use]
    pub fn vectors(&self) -> u16 {
        self.inner.vectors
    }

    /// True if this is a virtual function that one client has to itself: what concerns the whole
    /// device is done through the physical function.
    #[must_use]
    pub fn is_virtual(&self) -> bool {
        self.inner.is_virtual
    }

    /// The registers of BAR `index`.
    ///
    /// # Errors
    /// [`BusError::Open`] if the device has no such BAR.
    pub fn bar(&self, index: u8) -> Result<Bar, BusError> {
        let region = self.regions().iter().find(|region| region.index == index);
        let Some(size) = region.map(|region| region.size) else {
            let bars: Vec<_> = self.regions().iter().map(|r| format!("BAR{}", r.index)).collect();
            let has = if bars.is_empty() { "none".to_owned() } else { bars.join(", ") };
            return Err(BusError::Open {
                device: self.name(),
                step: "looking for its registers",
                problem: format!("there is no BAR{index}; it has {has}"),
            });
        };
        Ok(Bar::new(Arc::clone(&self.inner.bus), index, size))
    }

    /// The driver's own DMA memory as a pool. It grows by [`Device::alloc`] and
    /// [`Device::alloc_shared`].
    #[must_use]
    pub fn dma(&self) -> &Dma {
        &self.inner.dma
    }

    /// The partition that the driver's own memory lies in.
    #[must_use]
    pub fn partition(&self) -> PartitionId {
        self.inner.partition.lock().unwrap_or_else(PoisonError::into_inner).id()
    }

    /// A buffer of the driver's own: for the data of its admin commands.
    ///
    /// # Errors
    /// [`DmaError`] if memory or IOVA space could not be had.
    pub fn alloc(&self, len: usize) -> Result<DmaBox<[u8]>, DmaError> {
        self.growing(len, |dma| dma.alloc(len))
    }

    /// Zeroed memory of the driver's own that the device shares: rings, lists, tables.
    ///
    /// # Errors
    /// [`DmaError`] if memory or IOVA space could not be had.
    pub fn alloc_shared(&self, len: usize) -> Result<DmaShared, DmaError> {
        self.growing(len, |dma| dma.alloc_shared(len))
    }

    /// Zeroed whole pages of the driver's own that its clients may map too: what a device shares with
    /// all of them, such as shadow doorbells. Nothing else lies in them. They stay mapped for the device
    /// until it is closed.
    ///
    /// # Errors
    /// [`DmaError`] if memory or IOVA space could not be had.
    pub fn alloc_pages(&self, len: usize) -> Result<SharedPages, DmaError> {
        let mut partition = self.inner.partition.lock().unwrap_or_else(PoisonError::into_inner);
        SharedPages::new(len, &mut partition, &*self.inner.bus.dma())
    }

    fn growing<T>(
        &self,
        len: usize,
        alloc: impl Fn(&Dma) -> Result<T, DmaError>,
    ) -> Result<T, DmaError> {
        match alloc(&self.inner.dma) {
            Err(DmaError::Exhausted { .. }) => {
                self.grow(len)?;
                alloc(&self.inner.dma)
            }
            other => other,
        }
    }

    /// Adds an arena of at least `len` bytes to the driver's pool. It stays until the device is
    /// closed.
    fn grow(&self, len: usize) -> Result<(), DmaError> {
        let size = len.checked_next_multiple_of(HUGE_PAGE);
        let size = size.ok_or(DmaError::BadLength { len, max: DRIVER_PARTITION as usize })?;
        let memfd = Memfd::create("doorbell-driver", size, HugePages::No)?;
        let mut partition = self.inner.partition.lock().unwrap_or_else(PoisonError::into_inner);
        let iova = partition.alloc(memfd.len())?;
        let space = self.inner.bus.dma();
        let arena = Arena::new(&memfd, iova).and_then(|arena| {
            space.map(partition.id(), iova, &memfd, 0, memfd.len(), Access::ReadWrite)?;
            Ok(arena)
        });
        match arena {
            Ok(arena) => {
                self.inner.dma.add_arena(arena);
                Ok(())
            }
            Err(error) => {
                partition.release_unused(iova, memfd.len())?;
                Err(error)
            }
        }
    }

    /// Memory, doorbells and interrupt of a queue that the driver keeps for itself, such as an
    /// admin queue. `interrupt` makes the queue's [`Interrupt`] from the vector's signals (see
    /// `crate::wait`). The device is not told anything: that is the driver's part.
    ///
    /// The parts hold a new [`Fate`]. A driver that ends its queue from another thread puts a fate
    /// of its own into the parts and into the interrupt.
    ///
    /// # Errors
    /// [`BusError`] if the doorbells are not mappable, the vector does not exist, or memory or
    /// descriptors could not be had.
    pub fn own_queue(
        &self,
        layout: &QueueLayout,
        interrupt: impl FnOnce(
            OwnedFd,
            Option<doorbell_queues::Word32>,
        ) -> std::io::Result<Box<dyn Interrupt>>,
    ) -> Result<OwnQueue, BusError> {
        let device = self.name();
        let dma = |source| BusError::Dma { device: self.name(), source };
        let bounds = |source| BusError::Bounds { device: self.name(), source };
        let bytes = |entries: u32, entry: usize| (entries as usize).saturating_mul(entry);
        let submission = bytes(layout.submission_entries, layout.submission_entry);
        let completion = bytes(layout.completion_entries, layout.completion_entry);
        let submission = self.alloc_shared(submission).map_err(dma)?;
        let completion = self.alloc_shared(completion).map_err(dma)?;
        let register = |offset: u64| {
            // Shared memory is aligned to 8 bytes, a doorbell to 4.
            let memory = self.inner.bus.map(layout.region, offset - offset % 8, 8)?;
            self.own_pages_mut().insert((layout.region, offset - offset % PAGE as u64));
            memory.word32((offset % 8) as usize).map_err(bounds)
        };
        let tail = register(layout.submission_doorbell)?;
        let head = register(layout.completion_doorbell)?;
        let signals = MappedSignals::map(self.inner.bus.signals(layout.vector)?).map_err(dma)?;
        let interrupt = interrupt(signals.interrupt, signals.armed).map_err(|source| {
            BusError::Os { device: self.name(), what: "preparing an interrupt", source }
        })?;
        Ok(OwnQueue {
            submission_iova: submission.iova(),
            completion_iova: completion.iova(),
            parts: QueueParts {
                name: QueueName { device, queue: layout.queue },
                submission: submission.mem(),
                submission_entries: layout.submission_entries,
                entry_stores: self.inner.bus.entry_stores(),
                completion: completion.mem(),
                completion_entries: layout.completion_entries,
                slots: layout.slots,
                submission_doorbell: Doorbell::new(tail, signals.wake),
                completion_doorbell: Doorbell::new(head, None),
                interrupt,
                fate: Arc::new(Fate::default()),
                spin: SpinBudget::default(),
            },
        })
    }

    fn own_pages_mut(&self) -> std::sync::MutexGuard<'_, BTreeSet<(u8, u64)>> {
        self.inner.own_pages.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The pages in which [`Device::own_queue`] ever had a doorbell, as BAR and offset: no client has
    /// such a page alone.
    #[must_use]
    pub fn own_pages(&self) -> Vec<(u8, u64)> {
        self.own_pages_mut().iter().copied().collect()
    }

    /// A part of one of this device's regions, for another device's [`Device::map_peer`]. Whole pages.
    ///
    /// # Errors
    /// [`BusError::Peer`] if the bus or the kernel cannot do that, and which can.
    pub fn export_peer(&self, region: u8, offset: u64, len: u64) -> Result<PeerSlice, BusError> {
        self.inner.bus.export_peer(region, offset, len)
    }

    /// Lets this device reach another device's memory directly (peer to peer): a controller's memory
    /// buffer, an accelerator's. Returns the address to put into this device's commands.
    ///
    /// The mapping lies in the driver's own partition and stays until this device is closed. It is of
    /// one range, and dies with the slice: when the *other* device is reset or closed, accesses to the
    /// address fault, and a new slice must be exported and mapped.
    ///
    /// # Errors
    /// [`BusError::Dma`]: the address space cannot do that ([`DmaError::Peer`] says which can), or has
    /// no room.
    pub fn map_peer(&self, peer: &PeerSlice, access: Access) -> Result<u64, BusError> {
        let dma = |source| BusError::Dma { device: self.name(), source };
        let mut partition = self.inner.partition.lock().unwrap_or_else(PoisonError::into_inner);
        let iova = partition.alloc(peer.len).map_err(dma)?;
        match self.inner.bus.dma().map_peer(partition.id(), iova, peer, access) {
            Ok(mapping) => Ok(mapping.iova),
            Err(error) => {
                partition.release_unused(iova, peer.len).map_err(dma)?;
                Err(dma(error))
            }
        }
    }

    /// Resets the device's function. All queues are gone afterwards.
    ///
    /// # Errors
    /// [`BusError::TimedOut`], [`BusError::Gone`].
    pub fn reset(&self, deadline: Deadline) -> Result<(), BusError> {
        self.inner.bus.reset(deadline)
    }
}
