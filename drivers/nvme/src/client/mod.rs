//! What a program uses: an NVMe device through a queue pair of its own.
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use doorbell::client::{Client, QueueSpec};
//! use doorbell_nvme::{Lba, Nvme};
//!
//! let client = Client::connect("/run/doorbell/nvme0.sock").await?;
//! let nvme = Nvme::claim(&client, QueueSpec::depth(64)).await?;
//! let ns = nvme.namespace(1)?;
//! let buf = client.dma().alloc(4096)?;
//! let buf = ns.read(Lba(0), buf).await?;
//! println!("{:02x?}", &buf[..16]);
//! # Ok(()) }
//! ```
//!
//! | file | what |
//! |---|---|
//! | `extent` | which blocks a request names: every check before the device |
//! | `request` | a request as commands; how their entries are built |
//! | `payload` | what a command's slot keeps; a page per slot for PRP lists |
//! | `mode` | a queue of one thread, or of many |
//! | `io` | the futures |
//! | `window` | requests longer than one command |
//! | `namespace` | reads, writes and the rest |
//! | `error` | what can go wrong, and how the buffer comes back |
//!
//! **Rules.** A buffer belongs to the request until it is done; there is no way to look at it
//! meanwhile. Dropping a future at any point is safe: the device finishes what it has, and the
//! buffer returns to its pool then. A request that names no valid range is refused before anything
//! reaches the device. A command that outlives the queue's time limit is aborted by the broker, and
//! if that does not help its queue ends and every future gets an error.
//!
//! **Threads.** An [`Nvme`] is `Send` and not `Sync`: one thread at a time uses it, so no operation
//! locks. A [`SharedNvme`] is used by many threads at once, lock-free, with the same operations and
//! futures that are `Send`: for programs whose threads cannot each have a queue. Either allocates nothing, and enters the kernel only to sleep and to wake a software device
//! that sleeps.
//!
//! What it does not do: it does not retry, cache, or order requests; namespaces with metadata or
//! protection information are refused.
#![forbid(unsafe_code)]

use std::fmt;
use std::sync::Arc;

use doorbell::client::{Client, QueueSpec};
use doorbell::dma::{Dma, DmaBox, DmaError};
use doorbell_queues::{QueueError, Tag};

use crate::admin::{ControllerInfo, NamespaceInfo, NvmeAdmin, NvmeReply, Smart};
use crate::protocol::NvmeProtocol;
use crate::prp::PageSize;
use crate::spec::Status;

mod error;
mod extent;
mod io;
mod mode;
mod namespace;
mod payload;
mod request;
mod window;

pub use error::{BadNamespace, BadRange, Failed, IoError, NvmeError, Refused};
pub use extent::Lba;
pub use io::{Done, Io};
pub use mode::{CommandDone, Mode, Shared, Single, Tagged};
pub use namespace::{Namespace, Range};
pub use payload::Payload;

use payload::SlotPages;

/// A queue pair of this client's own on an NVMe controller, and what the client knows of it.
///
/// Dropping it gives the queue back; [`Nvme::release`] does so and waits. Memory that the device may
/// still use is kept until the broker confirms that it is done.
///
/// `M` says how threads use it: [`Single`] (one at a time) or [`Shared`] (many at once).
pub struct Nvme<M: Mode = Single> {
    queue: M::Queue,
    /// Kept as long as the queue by [`Claimed::keep`](doorbell::client::Claimed::keep).
    pages: SlotPages,
    max_transfer: u64,
    controller: ControllerInfo,
    namespaces: Vec<NamespaceInfo>,
    client: Client,
}

/// An [`Nvme`] that many threads use at once: [`Nvme::claim_shared`].
pub type SharedNvme = Nvme<Shared>;

impl<M: Mode> fmt::Debug for Nvme<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Nvme")
            .field("queue", M::name(&self.queue))
            .field("namespaces", &self.namespaces.len())
            .finish_non_exhaustive()
    }
}

/// A completion handed to the callback of [`Nvme::reap`].
#[derive(Debug)]
pub struct Completion {
    /// What `post_read` and its kin returned.
    pub tag: Tag,
    /// What the device said; [`Status::is_success`] tells.
    pub status: Status,
    /// The buffer, of commands that have one.
    pub buffer: Option<DmaBox<[u8]>>,
}

impl Nvme {
    /// Claims a queue pair for one thread at a time, and learns what the controller and its namespaces
    /// are.
    ///
    /// A page per command for its PRP list comes from [`Client::dma`], beside the rings; the client's
    /// memory grows if it has no room for them.
    ///
    /// What is known of the namespaces is of this moment. None is formatted through the broker while
    /// a queue exists; but where another host shares the subsystem it can change a namespace's
    /// block size at any time, and queues that were claimed before must not be used then.
    ///
    /// # Errors
    /// [`NvmeError::Client`]: quota, policy, tier, or the broker is gone; [`NvmeError::Dma`] if the
    /// client's arenas have no room.
    pub async fn claim(client: &Client, spec: QueueSpec) -> Result<Self, NvmeError> {
        Self::claim_in_mode(client, spec).await
    }

    /// Opens a device for this program alone, without a broker process, and claims a queue of depth
    /// 64: `soft:nvme,ram=64M`. More queues: [`Nvme::claim`] with [`Nvme::client`].
    ///
    /// # Errors
    /// [`NvmeError::Local`] if the text names no device or the device does not come up; else as
    /// [`Nvme::claim`].
    #[cfg(feature = "driver")]
    pub async fn open(spec: &str) -> Result<Self, NvmeError> {
        let client = doorbell::local::open(spec, &crate::registry()).await?;
        Self::claim(&client, QueueSpec::depth(64)).await
    }
}

impl SharedNvme {
    /// As [`Nvme::claim`], for many threads at once.
    ///
    /// # Errors
    /// As [`Nvme::claim`].
    pub async fn claim_shared(client: &Client, spec: QueueSpec) -> Result<Self, NvmeError> {
        Self::claim_in_mode(client, spec).await
    }

    /// As [`Nvme::open`], for many threads at once.
    ///
    /// # Errors
    /// As [`Nvme::open`].
    #[cfg(feature = "driver")]
    pub async fn open_shared(spec: &str) -> Result<Self, NvmeError> {
        let client = doorbell::local::open(spec, &crate::registry()).await?;
        Self::claim_shared(&client, QueueSpec::depth(64)).await
    }
}

impl<M: Mode> Nvme<M> {
    async fn claim_in_mode(client: &Client, spec: QueueSpec) -> Result<Self, NvmeError> {
        let device: Arc<str> = client.device().name.as_str().into();
        let mut claimed = client.claim::<NvmeProtocol>(spec).await?;
        // Asked after the queue exists: while one does, no namespace is formatted.
        let (controller, namespaces) = learn(client, &device).await?;
        let page = PageSize::new(controller.page_size)
            .ok_or_else(|| NvmeError::Answer(Arc::clone(&device)))?;
        let slots = claimed.depth() as usize;
        let bytes = SlotPages::bytes(page, slots);
        let memory = match client.dma().alloc_shared(bytes) {
            Err(DmaError::Exhausted { .. }) => {
                client.grow(bytes).await?;
                client.dma().alloc_shared(bytes)?
            }
            other => other?,
        };
        let pages = SlotPages::new(&memory, page, slots).map_err(|_| NvmeError::Answer(device))?;
        claimed.keep(memory.keep());
        let max_transfer = controller.max_transfer.unwrap_or(u64::MAX).min(page.most_bytes());
        let queue = M::queue(claimed)?;
        let client = client.clone();
        Ok(Self { queue, pages, max_transfer, controller, namespaces, client })
    }

    /// The namespace `nsid`.
    ///
    /// # Errors
    /// [`NvmeError::Namespace`] if there is none, or it has metadata or protection information.
    pub fn namespace(&self, nsid: u32) -> Result<Namespace<'_, M>, NvmeError> {
        match self.namespaces.binary_search_by_key(&nsid, |info| info.nsid) {
            Ok(at) => Namespace::new(self, &self.namespaces[at]),
            Err(_) => Err(self.no_namespace(nsid)),
        }
    }

    #[cold]
    fn no_namespace(&self, nsid: u32) -> NvmeError {
        let known: Vec<_> = self.namespaces.iter().map(|info| info.nsid.to_string()).collect();
        let why = match known.as_slice() {
            [] => "there is none: the controller has no active namespace".to_owned(),
            known => format!("there is none; there are {}", known.join(", ")),
        };
        NvmeError::Namespace(Box::new(BadNamespace {
            device: Arc::clone(self.device()),
            nsid,
            why,
        }))
    }

    /// What is known of the namespaces, by ascending identifier.
    #[must_use]
    pub fn namespaces(&self) -> &[NamespaceInfo] {
        &self.namespaces
    }

    /// The controller's identity and limits.
    #[must_use]
    pub fn controller(&self) -> &ControllerInfo {
        &self.controller
    }

    /// The connection that the queue belongs to.
    #[must_use]
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// Memory for buffers: the client's.
    #[must_use]
    pub fn dma(&self) -> &Dma {
        self.client.dma()
    }

    /// The queue itself: its name, depth, tier, how many commands are in flight.
    #[must_use]
    #[inline]
    pub fn queue(&self) -> &M::Queue {
        &self.queue
    }

    /// The SMART / Health Information log (base 2.0, 5.16.1.3).
    ///
    /// # Errors
    /// [`NvmeError::Client`] with what the driver or the device said.
    pub async fn smart(&self) -> Result<Smart, NvmeError> {
        match self.admin(&NvmeAdmin::Smart).await? {
            NvmeReply::Smart(smart) => Ok(*smart),
            _ => Err(NvmeError::Answer(Arc::clone(self.device()))),
        }
    }

    /// Asks the driver for an operation.
    ///
    /// # Errors
    /// [`NvmeError::Client`] with what the driver or the device said.
    pub async fn admin(&self, operation: &NvmeAdmin) -> Result<NvmeReply, NvmeError> {
        Ok(self.client.admin(operation).await?)
    }

    /// Tells the device of everything submitted; the first poll of a future does it too. At most one
    /// store to a doorbell.
    #[inline]
    pub fn flush(&self) {
        M::flush(&self.queue);
    }

    /// Takes up to `budget` completions: those of `post_read` and its kin go to `each`, those of
    /// futures to their tasks. Returns how many there were.
    ///
    /// When a queue is deleted (revoked, or a command timed out), commands in flight may complete with
    /// the status `ABORTED_SQ_DELETION` before the end of the queue is known: a later `reap` tells the
    /// reason. Futures wait for it themselves.
    ///
    /// # Errors
    /// [`QueueError`] if the queue has ended, or the device broke the protocol.
    #[inline]
    pub fn reap(
        &self,
        budget: usize,
        mut each: impl FnMut(Completion),
    ) -> Result<usize, QueueError> {
        M::reap(&self.queue, budget, |done| {
            each(Completion {
                tag: done.tag,
                status: done.outcome.status,
                buffer: done.buffer.into_buffer(),
            });
        })
    }

    /// Gives the queue back and waits until the device is done with it. Commands still in flight are
    /// lost; their buffers are free when this returns `Ok`.
    ///
    /// # Errors
    /// [`NvmeError::Client`] if the broker did not confirm.
    pub async fn release(self) -> Result<(), NvmeError> {
        Ok(M::release(self.queue).await?)
    }

    #[inline]
    pub(crate) fn device(&self) -> &Arc<str> {
        &M::name(&self.queue).device
    }

    #[inline]
    pub(crate) fn pages(&self) -> &SlotPages {
        &self.pages
    }

    /// Most bytes of one command: MDTS, or what a page of PRP entries reaches.
    #[inline]
    pub(crate) fn max_transfer(&self) -> u64 {
        self.max_transfer
    }
}

/// Asks for the controller and all of its namespaces.
async fn learn(
    client: &Client,
    device: &Arc<str>,
) -> Result<(ControllerInfo, Vec<NamespaceInfo>), NvmeError> {
    let answer = || NvmeError::Answer(Arc::clone(device));
    let mut all: Vec<NamespaceInfo> = Vec::new();
    loop {
        let after = all.last().map_or(0, |info| info.nsid);
        let reply = client.admin(&NvmeAdmin::Info { after }).await?;
        let NvmeReply::Info { controller, namespaces, more } = reply else {
            return Err(answer());
        };
        // Ascending, or `namespace` would not find them and this might never end.
        let ascending = namespaces.iter().map(|info| info.nsid).is_sorted_by(|a, b| a < b);
        if !ascending || namespaces.first().is_some_and(|info| info.nsid <= after) {
            return Err(answer());
        }
        let last = namespaces.is_empty() || !more;
        all.extend(namespaces);
        if last {
            return Ok((*controller, all));
        }
    }
}
