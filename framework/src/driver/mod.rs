//! The trait that a device's author implements for the control plane, and the registry of drivers.
//!
//! A driver runs in the broker, on a worker thread of its device with its own runtime: `async`
//! methods run concurrently, so a long command of one client delays no other's. It is safe code.
//! The data plane, [`doorbell_queues::QueueProtocol`], is for devices with rings; a device without
//! rings leaves [`Driver::plan`] and the queue methods as they are, serves its clients by
//! [`Driver::admin`], and waits for its device by [`InterruptVector`].

use std::fmt;
use std::sync::Arc;

use serde::Serialize;
use serde::de::DeserializeOwned;
use thiserror::Error;

use crate::bus::{
    BusError, Device, DeviceEvent, Identity, QueueToken, Quiesced, Recovered, SharedPages,
};
use crate::deadline::{Deadline, TimedOut};
use crate::dma::DmaError;
use crate::tier::Tier;
use doorbell_queues::QueueError;

pub mod erased;
pub mod interrupt;
pub mod registry;
pub mod rt;

pub use crate::wire::ShadowWords;
pub use erased::DynDriver;
pub use interrupt::InterruptVector;
pub use registry::{Registry, RegistryError};

/// Matches PCI identities; `None` matches anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeviceMatch {
    /// Vendor id.
    pub vendor: Option<u16>,
    /// Device id.
    pub device: Option<u16>,
    /// Class code, 24 bits.
    pub class: Option<u32>,
}

impl DeviceMatch {
    /// True if the device is one of these.
    #[must_use]
    pub fn matches(&self, identity: &Identity) -> bool {
        self.vendor.is_none_or(|vendor| vendor == identity.vendor)
            && self.device.is_none_or(|device| device == identity.device)
            && self.class.is_none_or(|class| class == identity.class & 0xff_ffff)
    }
}

impl fmt::Display for DeviceMatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let id = |id: Option<u16>| id.map_or_else(|| "*".to_owned(), |id| format!("{id:04x}"));
        write!(f, "{}:{}", id(self.vendor), id(self.device))?;
        self.class.map_or(Ok(()), |class| write!(f, " class {class:06x}"))
    }
}

/// What queues a brought-up device can give out. The default is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Plan {
    /// I/O queues that can exist at once.
    pub queues: u16,
    /// Most entries of one ring, or portal.
    pub max_entries: u32,
    /// Entries are written by value to a portal in a BAR ([`QueueGrant::submission_doorbell`]); there is
    /// no submission ring in memory. The clients' protocol says the same
    /// ([`doorbell_queues::QueueProtocol::DOORBELL`]).
    pub portal: bool,
    /// Bytes of a submission entry.
    pub submission_entry: u32,
    /// Bytes of a completion entry.
    pub completion_entry: u32,
}

/// Where a queue's two rings lie, in the client's partition. The broker has checked that both lie
/// inside arenas of that client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QueueMemory {
    /// IOVA of submission entry 0, page-aligned. 0 if the device has portals: there is no such ring.
    pub submission: u64,
    /// IOVA of completion entry 0, page-aligned.
    pub completion: u64,
}

/// What a client asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, serde::Deserialize)]
pub struct QueueRequest {
    /// Entries of each ring.
    pub entries: u32,
    /// The least isolation that will do.
    pub at_least: Tier,
}

/// What the driver created on the device.
///
/// The client maps the whole pages that the doorbells lie in. Beside doorbells they must hold nothing
/// that a client may not touch: the broker knows the doorbells (and by them how well a page isolates),
/// not the registers.
#[derive(Debug, Clone)]
pub struct QueueGrant {
    /// BAR with the doorbells.
    pub region: u8,
    /// Offset of the submission tail doorbell in that BAR; of a portal ([`Plan::portal`]) that of its
    /// first cell, a multiple of 8. It has as many cells as the request has entries, one after the
    /// other, of [`Plan::submission_entry`] bytes each, and they are empty.
    pub submission_doorbell: u64,
    /// Offset of the completion head doorbell in that BAR.
    pub completion_doorbell: u64,
    /// Interrupt vector of the completion queue.
    pub vector: u16,
    /// Copies of the doorbells in memory, on devices that look there.
    pub shadow: Option<QueueShadow>,
}

/// Where a queue's shadow doorbells lie ([`doorbell_queues::doorbell::shadow`]).
///
/// The client maps all of the memory, so whoever has a queue of the device can write to the words of
/// every other queue of it. A queue with shadow doorbells is therefore [`Tier::Cooperative`] at best,
/// unless its client has the whole function.
#[derive(Debug, Clone)]
pub struct QueueShadow {
    /// Pages that hold words of this kind and nothing else.
    pub memory: Arc<SharedPages>,
    /// Of the submission tail doorbell.
    pub submission: ShadowWords,
    /// Of the completion head doorbell.
    pub completion: ShadowWords,
}

/// What a virtual function was given to work with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VirtualResources {
    /// I/O queues that it can have.
    pub queues: u16,
    /// Interrupt vectors that it can use, the driver's own among them.
    pub vectors: u16,
}

/// Who asks, as the kernel says (`SO_PEERCRED`), and what it holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Who {
    /// Process id.
    pub pid: i32,
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
    /// True if the policy makes this peer an operator: it may change the device for everyone.
    pub operator: bool,
    /// The queues that the asking session holds.
    pub queues: Vec<u16>,
}

/// How much of a device must be recovered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Scope {
    /// One queue does not quiesce.
    Queue(u16),
    /// The whole device.
    Device,
}

/// A driver's operation failed.
#[derive(Debug, Error)]
pub enum DriverError {
    /// The bus.
    #[error(transparent)]
    Bus(#[from] BusError),
    /// A queue of the driver's own.
    #[error(transparent)]
    Queue(#[from] QueueError),
    /// DMA memory of the driver's own.
    #[error(transparent)]
    Dma(#[from] DmaError),
    /// A wait gave up.
    #[error(transparent)]
    TimedOut(#[from] TimedOut),
    /// The device reported something that cannot be, or that this driver does not support.
    #[error("device {device}: {step}: {problem}")]
    Device {
        /// The device.
        device: String,
        /// What was being done.
        step: &'static str,
        /// What was wrong.
        problem: String,
    },
    /// The client may not do this.
    #[error("refused: {0}")]
    Refused(String),
    /// This driver has no such thing.
    #[error("the driver {driver} has no {what}")]
    Unsupported {
        /// The driver's name.
        driver: &'static str,
        /// What was asked of it.
        what: &'static str,
    },
}

/// The control plane of a device. Implemented by the device's author; runs in the broker.
///
/// Methods take `&self` and run concurrently on one thread: keep state in `Cell` and `RefCell`, and
/// hold no borrow across an `await`. A future that overruns its deadline (or, for `create_queue` and
/// `admin`, the broker's limit) is dropped at its `await`.
#[allow(async_fn_in_trait, reason = "drivers run on their device's worker thread and need no Send")]
pub trait Driver: Sized + 'static {
    /// The driver's name, as `status` shows it: `nvme`.
    const NAME: &'static str;
    /// The devices it drives.
    const IDS: &'static [DeviceMatch];
    /// How many bits of an address the device can send: all its memory lies below `1 << bits`.
    const ADDRESS_BITS: u32 = 64;
    /// Operations that clients may ask for; serde types, checked by [`Driver::admin`].
    type Admin: Serialize + DeserializeOwned + 'static;
    /// Their answers.
    type Reply: Serialize + DeserializeOwned + 'static;

    /// Resets the device and brings it up.
    ///
    /// # Errors
    /// [`DriverError`] with the step that failed. The device is left reset.
    async fn probe(device: Device) -> Result<Self, DriverError>;

    /// What queues the device can give out, now that it is up. A device without rings gives none.
    fn plan(&self) -> Plan {
        Plan::default()
    }

    /// Creates queue `id` (1 to `plan().queues`) with `request.entries` entries per ring.
    ///
    /// # Errors
    /// [`DriverError`]; nothing of the queue exists then.
    async fn create_queue(
        &self,
        id: u16,
        request: &QueueRequest,
        memory: QueueMemory,
    ) -> Result<QueueGrant, DriverError> {
        let _ = (id, request, memory);
        Err(DriverError::Unsupported { driver: Self::NAME, what: "queues" })
    }

    /// Ends a queue: when this returns `Ok`, the device uses neither its rings nor any memory that
    /// its commands named.
    ///
    /// # Errors
    /// The token comes back if the device does not confirm in time; the broker then recovers.
    async fn quiesce_queue(
        &self,
        queue: QueueToken,
        deadline: Deadline,
    ) -> Result<Quiesced, (QueueToken, DriverError)> {
        let _ = deadline;
        Err((queue, DriverError::Unsupported { driver: Self::NAME, what: "queues" }))
    }

    /// A command on a client's queue has outlived its time limit: try to abort it. The command
    /// completes through its queue if that works.
    ///
    /// # Errors
    /// [`DriverError`] if the device refuses; the broker then ends the queue.
    async fn abort(&self, queue: u16, tag: u16, deadline: Deadline) -> Result<(), DriverError> {
        let _ = (queue, tag, deadline);
        Err(DriverError::Unsupported { driver: Self::NAME, what: "abort" })
    }

    /// A typed operation of a client. The policy of what `who` may do is the driver's to check. Data
    /// goes through the driver's own memory: a client's memory may be unmapped at any time.
    ///
    /// # Errors
    /// [`DriverError::Refused`] if `who` may not, or what the device said.
    async fn admin(&self, who: &Who, operation: Self::Admin) -> Result<Self::Reply, DriverError>;

    /// Something happened that nobody asked for.
    async fn event(&self, event: DeviceEvent) {
        let _ = event;
    }

    /// Resets the device and brings it up again without its clients' queues: each of them ends with
    /// `DeviceReset`. When this returns `Ok`, the device does nothing that anyone asked of it before.
    ///
    /// # Errors
    /// [`DriverError`] if the device does not come back; it is then given up.
    async fn recover(&self, scope: Scope, deadline: Deadline) -> Result<Recovered, DriverError>;

    /// Makes virtual function `index` of `of` (counted from 0) ready to be probed as a device of its
    /// own: its share of the device's queues and interrupts, then on. It may be in any state before.
    /// Called on the physical function's driver.
    ///
    /// # Errors
    /// [`DriverError`] if the device has not that much left, or refuses; the function is off then.
    async fn prepare_virtual_function(
        &self,
        index: u16,
        of: u16,
    ) -> Result<VirtualResources, DriverError> {
        let _ = (index, of);
        Err(DriverError::Unsupported { driver: Self::NAME, what: "virtual functions" })
    }

    /// Turns a virtual function off and takes its resources back. When this returns `Ok` it does no
    /// DMA.
    ///
    /// # Errors
    /// [`DriverError`] if the device refuses; the function is not used again then.
    async fn release_virtual_function(&self, index: u16) -> Result<(), DriverError> {
        let _ = index;
        Err(DriverError::Unsupported { driver: Self::NAME, what: "virtual functions" })
    }

    /// Leaves the device disabled, with no DMA under way. Called once, at the end.
    ///
    /// # Errors
    /// [`DriverError`] if it did not confirm in time.
    async fn shutdown(&self, deadline: Deadline) -> Result<(), DriverError>;
}
