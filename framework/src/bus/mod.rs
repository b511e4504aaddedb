//! How a device is reached: the [`Bus`] trait.
//!
//! A bus gives the broker everything that VFIO gives: regions, config space, interrupts, reset, and
//! an address space for DMA. It also says what of this can be handed to a client, and how well that
//! isolates ([`Bus::export`]). Buses: [`soft`] (feature `soft`), the kernel's VFIO, as `container` and
//! as `cdev` ([`vfio`], feature `vfio`), and [`vfio_user`] (feature `vfio-user`).

use std::os::fd::OwnedFd;
use std::sync::Arc;

use doorbell_queues::{EntryStores, SharedMem};
use serde::{Deserialize, Serialize};

use crate::deadline::Deadline;
use crate::dma::Fault;
use crate::dma::space::DmaSpace;
use crate::tier::Tier;

pub mod bar;
pub mod device;
mod error;
mod pages;
pub mod proof;
pub mod registers;
pub mod signals;
#[cfg(feature = "soft")]
pub mod soft;
#[cfg(all(test, feature = "soft"))]
mod tests;
#[cfg(feature = "vfio")]
pub mod vfio;
#[cfg(feature = "vfio-user")]
pub mod vfio_user;

#[cfg(feature = "soft")]
pub use self::soft::SoftBus;
#[cfg(feature = "vfio-user")]
pub use self::vfio_user::VfioUserBus;
pub use bar::Bar;
pub use device::{Device, OwnQueue, QueueLayout};
pub use error::BusError;
pub use pages::SharedPages;
pub use proof::{PartitionQuiesced, QueueToken, Quiesced, Recovered, Revoked, Unmapped};
pub use signals::{EventKick, MappedSignals};
#[cfg(feature = "vfio")]
pub use vfio::VfioBus;

/// What a device says it is (PCI local bus 3.0, 6.2.1) and where it sits.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// As the operator names it: `soft:nvme`, `0000:01:00.0`. It stands in every error.
    pub name: Arc<str>,
    /// PCI vendor id.
    pub vendor: u16,
    /// PCI device id.
    pub device: u16,
    /// PCI class code: base class, sub-class and programming interface in the low 24 bits.
    pub class: u32,
    /// NUMA node; `None` where it is unknown (sysfs says -1, or the device is software).
    pub numa_node: Option<u32>,
}

/// One region of a device (VFIO: region; PCI: BAR `index`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Region {
    /// BAR number, 0 to 5.
    pub index: u8,
    /// Size in bytes.
    pub size: u64,
    /// The parts that can be mapped, as byte ranges; the rest is reached by [`Bus::read`] and
    /// [`Bus::write`].
    pub mappable: Vec<std::ops::Range<u64>>,
}

/// Width of one register access.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Width {
    /// 8 bits.
    B1,
    /// 16 bits.
    B2,
    /// 32 bits.
    B4,
    /// 64 bits.
    B8,
}

impl Width {
    /// Width in bytes.
    #[must_use]
    pub fn bytes(self) -> u64 {
        match self {
            Self::B1 => 1,
            Self::B2 => 2,
            Self::B4 => 4,
            Self::B8 => 8,
        }
    }
}

/// A part of a region that can be handed to a client as a file descriptor.
#[derive(Debug)]
pub struct Slice {
    /// What the client maps.
    pub fd: OwnedFd,
    /// Offset of the slice in `fd`, page-aligned.
    pub offset: u64,
    /// Length in bytes, whole pages.
    pub len: u64,
    /// The isolation that this really gives.
    pub tier: Tier,
    /// The BAR it is part of.
    pub region: u8,
    /// Offset of the slice in the region.
    pub region_offset: u64,
}

/// A part of a device's region that another device's DMA can be let reach: a dma-buf of one range.
///
/// It is good until the device that it is of is reset or closed, or until it is revoked; where it was
/// mapped, DMA to it faults from then on, and it must be exported and mapped anew.
#[derive(Debug)]
pub struct PeerSlice {
    /// The dma-buf.
    pub fd: OwnedFd,
    /// Length in bytes, whole pages.
    pub len: u64,
    /// The device that it is of, for errors.
    pub device: Arc<str>,
}

/// How a queue's interrupt reaches a process, and on buses whose devices can sleep, how the process
/// wakes the device.
#[derive(Debug)]
pub struct Signals {
    /// An eventfd that counts interrupts of the vector.
    pub interrupt: OwnedFd,
    /// Present on software devices only: see [`SignalWords`].
    pub words: Option<SignalWords>,
}

/// The words of [`doorbell_queues::doorbell`] and [`doorbell_queues::wait`] for one vector, in a
/// page of their own.
#[derive(Debug)]
pub struct SignalWords {
    /// A memfd with the words.
    pub memory: OwnedFd,
    /// Length of the memory to map, in bytes.
    pub len: u64,
    /// Byte offset of the asleep word: not zero while the device sleeps.
    pub asleep: u64,
    /// Byte offset of the arm word: the device interrupts only while it is not zero.
    pub armed: u64,
    /// An eventfd that wakes the device.
    pub kick: OwnedFd,
}

/// Something happened to a device that nobody asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DeviceEvent {
    /// The device touched memory that is not mapped for it; the access did not happen.
    Fault(Fault),
    /// The device is gone, or about to go.
    Removed,
    /// The device or the fabric reported an error that only a reset mends (PCIe: uncorrectable).
    Failed {
        /// How that was noticed.
        how: &'static str,
    },
}

/// A device, as the broker holds it. Only the broker's process ever has one.
///
/// Register accesses are single accesses of their width. None of this is for the data path: queues
/// use mapped doorbells.
pub trait Bus: Send + Sync {
    /// What it is and where.
    fn identity(&self) -> &Identity;

    /// Its regions.
    fn regions(&self) -> &[Region];

    /// One register read.
    ///
    /// # Errors
    /// [`BusError::OutOfRegion`], [`BusError::Gone`], [`BusError::TimedOut`].
    fn read(&self, region: u8, offset: u64, width: Width) -> Result<u64, BusError>;

    /// One register write.
    ///
    /// # Errors
    /// As [`Bus::read`].
    fn write(&self, region: u8, offset: u64, width: Width, value: u64) -> Result<(), BusError>;

    /// One read of config space, 1, 2 or 4 bytes wide and aligned. The bus itself sees to the command
    /// register, to MSI-X and to power management; a driver reads what its device puts beside them.
    ///
    /// # Errors
    /// [`BusError::Config`] if there is no such register, [`BusError::Gone`], [`BusError::TimedOut`].
    fn config_read(&self, offset: u16, width: Width) -> Result<u32, BusError> {
        let _ = width;
        Err(no_config(self.identity(), offset))
    }

    /// One write to config space.
    ///
    /// # Errors
    /// As [`Bus::config_read`].
    fn config_write(&self, offset: u16, width: Width, value: u32) -> Result<(), BusError> {
        let _ = (width, value);
        Err(no_config(self.identity(), offset))
    }

    /// Maps a mappable part of a region into this process. `offset` is a multiple of 8.
    ///
    /// # Errors
    /// [`BusError::OutOfRegion`] if it is not mappable; [`BusError::Bounds`] if it is misaligned.
    fn map(&self, region: u8, offset: u64, len: u64) -> Result<SharedMem, BusError>;

    /// A slice of a region for a client, of whole pages around `offset .. offset + len`.
    ///
    /// # Errors
    /// [`BusError::Tier`] if the bus cannot isolate it as well as `at_least`.
    fn export(&self, region: u8, offset: u64, len: u64, at_least: Tier) -> Result<Slice, BusError>;

    /// Takes a slice back. On buses that cannot revoke a mapping this is a promise of the queue's
    /// quiescence only: the client may still store to the page, and the device ignores it.
    ///
    /// # Errors
    /// [`BusError::Os`] if the kernel refuses.
    fn revoke(&self, slice: Slice, proof: Quiesced) -> Result<Revoked, BusError>;

    /// Whether slices of this tier can be had of the device at all, whatever part of it.
    ///
    /// # Errors
    /// [`BusError::NoSlice`] says why not.
    fn offers(&self, at_least: Tier) -> Result<(), BusError> {
        let _ = at_least;
        Ok(())
    }

    /// True if the descriptor of a slice is the device's own, so that its holder can do with the
    /// device whatever the kernel lets a descriptor do: the policy must allow that.
    fn exports_device_fd(&self) -> bool {
        false
    }

    /// A part of a region as memory for another device's DMA: see [`DmaSpace::map_peer`]. Whole pages.
    ///
    /// # Errors
    /// [`BusError::Peer`] if this bus or kernel cannot do that, and which can.
    fn export_peer(&self, region: u8, offset: u64, len: u64) -> Result<PeerSlice, BusError> {
        let _ = (region, offset, len);
        let why = format!(
            "not on bus {}; use a PCI device under cdev, on Linux 6.19 or newer",
            self.kind()
        );
        Err(BusError::Peer { device: Arc::clone(&self.identity().name), why })
    }

    /// How many interrupt vectors there are.
    fn vectors(&self) -> u16;

    /// The signals of one vector. The descriptors are duplicates: the bus keeps its own.
    ///
    /// # Errors
    /// [`BusError::Vector`].
    fn signals(&self, vector: u16) -> Result<Signals, BusError>;

    /// Called when the last grant with the vector's signals was revoked: the next
    /// [`Bus::signals`] hands out new ones, so that what a former holder kept reaches nobody. A bus
    /// that cannot do so does nothing.
    fn retire_signals(&self, vector: u16) {
        let _ = vector;
    }

    /// Resets the device's function. All queues are gone afterwards.
    ///
    /// # Errors
    /// [`BusError::TimedOut`].
    fn reset(&self, deadline: Deadline) -> Result<(), BusError>;

    /// Makes sure that the device reaches no memory from here on: for a device that is about to go,
    /// which may not be resettable any more. It is not used again but to be given back.
    ///
    /// # Errors
    /// [`BusError::Gone`] if it is gone already, which is as good; else as [`Bus::reset`].
    fn silence(&self, deadline: Deadline) -> Result<(), BusError> {
        self.reset(deadline)
    }

    /// The device's address space.
    fn dma(&self) -> Arc<dyn DmaSpace>;

    /// Events since the last call. Cheap when there are none.
    fn events(&self) -> Vec<DeviceEvent>;

    /// A descriptor that is readable while [`Bus::events`] has something, or `None` if events can
    /// only be had by asking. It is a duplicate.
    ///
    /// # Errors
    /// [`BusError::Os`] if it cannot be duplicated.
    fn event_fd(&self) -> Result<Option<OwnedFd>, BusError> {
        Ok(None)
    }

    /// Virtual functions that are enabled and can be opened (PCIe 6.0, 9.2): indices `0 ..` this. It
    /// may change when an operator enables or disables them.
    fn virtual_functions(&self) -> u16 {
        0
    }

    /// Whether a virtual function is for this process to use: asked before anything is done to it.
    ///
    /// # Errors
    /// [`BusError::Open`] if it belongs to somebody else (a kernel driver).
    fn check_virtual_function(&self, index: u16) -> Result<(), BusError> {
        let _ = index;
        Ok(())
    }

    /// Opens a virtual function, which has its interrupts by then: a device of its own, with its own address space. It is closed when
    /// the last handle is dropped, and can be opened again then. One that is open, here or anywhere
    /// else, cannot be opened.
    ///
    /// # Errors
    /// [`BusError::Open`] says what is wrong and what to do.
    fn open_virtual_function(&self, index: u16) -> Result<Arc<dyn Bus>, BusError> {
        Err(no_virtual_function(self.identity(), index, self.virtual_functions()))
    }

    /// True if somebody waits for this process to close the device once it was removed
    /// ([`DeviceEvent::Removed`]). The broker then takes everything back and ends.
    fn wanted_back(&self) -> bool {
        false
    }

    /// How entries of submission rings are best stored for a device on this bus. Plain, unless the
    /// operator says otherwise of a PCI device (`stores=non-temporal`).
    ///
    /// Non-temporal stores help hardware that fetches entries across PCIe and snoops them out of a
    /// core's cache late; where the device is a thread of another core (every software device, every
    /// vfio-user server, every device of a virtual machine) the entry then comes from memory instead of
    /// from a cache, which costs more than half of a round trip. A bus cannot tell these apart (a
    /// virtual machine's device looks like any other to VFIO), the loss is larger than the gain, and a
    /// host whose hardware gains can be measured: so plain is what is assumed.
    fn entry_stores(&self) -> EntryStores {
        EntryStores::Plain
    }

    /// Which bus this is: `soft`, `container`, `cdev`, `vfio-user`.
    fn kind(&self) -> &'static str;

    /// For an operator, one line: why this bus, and what it found (features, fall-backs). Empty if
    /// there is nothing to say.
    fn about(&self) -> String {
        String::new()
    }
}

fn no_config(identity: &Identity, offset: u16) -> BusError {
    let device = Arc::clone(&identity.name);
    BusError::Config { device, offset, problem: "this bus has no config space".to_owned() }
}

/// There is no virtual function of this index.
fn no_virtual_function(identity: &Identity, index: u16, count: u16) -> BusError {
    BusError::Open {
        device: Arc::clone(&identity.name),
        step: "opening a virtual function",
        problem: format!("there is no function {index}: {count} are enabled and can be opened"),
    }
}
