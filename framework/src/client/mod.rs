//! What a program uses to get at a device: [`Client`].
//!
//! ```no_run
//! # use doorbell::{client::{Client, ClientError, QueueSpec}, queues::QueueProtocol};
//! # async fn example<P: QueueProtocol>() -> Result<(), Box<dyn std::error::Error>> {
//! let client = Client::connect("/run/doorbell/nvme0.sock").await?;
//! let queue = client.claim::<P>(QueueSpec::depth(64)).await?.into_queue::<()>()?;
//! // submit on `queue`; the broker is not involved any more
//! queue.release().await?;
//! # Ok(()) }
//! ```
//!
//! A client donates memory (an arena) to the broker, which maps it for the device; it claims queues,
//! whose rings lie in that memory; and it maps the queues' doorbells. From then on the socket is
//! silent. One thread per client, `doorbell-client`, looks after the socket, deadlines, and the
//! interrupts of queues that are used outside of a runtime; it sleeps while nothing happens.
//!
//! All futures here work on any executor, and dropping one at any point is safe: what its answer
//! would have granted goes back to the broker.
//!
//! What it does not do: it does not reconnect. Once the broker is gone every queue has ended with
//! `BrokerGone` and the client is good for nothing.
#![forbid(unsafe_code)]

use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use doorbell_queues::QueueProtocol;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::dma::{Arena, Dma, HugePages, Memfd};
use crate::wire::{DeviceInfo, Reply, Request, RevokeTarget, StatusReport};

mod builder;
mod claim;
mod error;
mod granted;
mod handle;
mod link;
mod polled;
mod reactor;
mod spec;

pub use builder::ClientBuilder;
pub use claim::Claimed;
pub use error::ClientError;
pub use handle::{Ending, Handle, OwnQueue, QueueHandle, SharedQueueHandle};
pub use spec::QueueSpec;

use link::{Answer, Link};

/// How long a reset may take at least: a broker gives its driver a minute for it.
const RESET: Duration = Duration::from_secs(90);

/// A connection to a broker, and through it to one device. Cheap to clone; the connection ends when
/// the last clone and the last queue are dropped.
#[derive(Debug, Clone)]
pub struct Client {
    inner: Arc<Inner>,
}

#[derive(Debug)]
pub(crate) struct Inner {
    link: Arc<Link>,
    dma: Dma,
    device: DeviceInfo,
    session: u64,
    huge: HugePages,
    arenas: Mutex<Vec<Donated>>,
}

/// An arena, as the broker knows it.
#[derive(Debug, Clone, Copy)]
struct Donated {
    id: u32,
    iova: u64,
    len: u64,
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.link.state().closing = true;
        self.link.hub.nudge();
    }
}

impl Client {
    /// Connects to the broker at `socket` and donates an arena of 8 MiB. See [`Client::builder`] for
    /// more choice.
    ///
    /// # Errors
    /// [`ClientError`]: nobody is there, versions differ, the policy refuses, memory is short.
    pub async fn connect(socket: impl AsRef<Path>) -> Result<Self, ClientError> {
        Self::builder().connect(socket).await
    }

    /// Takes a connected `SOCK_SEQPACKET` socket instead of a path.
    ///
    /// # Errors
    /// As [`Client::connect`].
    pub async fn from_fd(socket: OwnedFd) -> Result<Self, ClientError> {
        Self::builder().from_fd(socket, "inherited").await
    }

    /// A connection with options.
    #[must_use]
    pub fn builder() -> ClientBuilder {
        ClientBuilder::default()
    }

    /// The device.
    #[must_use]
    pub fn device(&self) -> &DeviceInfo {
        &self.inner.device
    }

    /// The number of this connection, as `status` shows it.
    #[must_use]
    pub fn session(&self) -> u64 {
        self.inner.session
    }

    /// Memory that the device can reach.
    #[must_use]
    pub fn dma(&self) -> &Dma {
        &self.inner.dma
    }

    /// Donates another arena of `bytes`, rounded up to whole pages, to [`Client::dma`].
    ///
    /// # Errors
    /// [`ClientError::Refused`] if the quota of bytes or mappings does not allow it.
    pub async fn grow(&self, bytes: usize) -> Result<(), ClientError> {
        let memfd = Memfd::create("doorbell-arena", bytes, self.inner.huge)?;
        let len = memfd.len();
        let sent = memfd.try_clone()?.into_fd();
        let request = Request::DonateArena { len };
        let (arena, iova) = match self.call(&request, vec![sent]).await? {
            (Reply::ArenaMapped { arena, iova }, ..) => (arena, iova),
            (other, ..) => return Err(self.inner.unexpected(&request, &other)),
        };
        let mapped = Arena::new(&memfd, iova);
        if mapped.is_err() {
            self.inner.link.post(&Request::ReleaseArena { arena }, None);
        }
        self.inner.dma.add_arena(mapped?);
        self.inner.arenas().push(Donated { id: arena, iova, len });
        Ok(())
    }

    /// Claims a queue for the protocol `P`. Its rings come from [`Client::dma`]: each of at least
    /// one entry more than the depth, in whole pages.
    ///
    /// # Errors
    /// [`ClientError`]: the depth is not possible, the tier cannot be had, quota, policy, memory.
    pub async fn claim<P: QueueProtocol>(
        &self,
        spec: QueueSpec,
    ) -> Result<Claimed<P>, ClientError> {
        claim::claim::<P>(&self.inner, spec).await
    }

    /// An operation of the device's driver (`Driver::Admin` and `Driver::Reply` of it).
    ///
    /// # Errors
    /// [`ClientError::Refused`] with what the driver or the device said, [`ClientError::Codec`].
    pub async fn admin<Op, Answer>(&self, operation: &Op) -> Result<Answer, ClientError>
    where
        Op: Serialize,
        Answer: DeserializeOwned,
    {
        self.admin_within(operation, self.inner.link.limit).await
    }

    /// As [`Client::admin`], for operations that take long: `limit` instead of the client's own.
    ///
    /// # Errors
    /// As [`Client::admin`].
    pub async fn admin_within<Op, Answer>(
        &self,
        operation: &Op,
        limit: Duration,
    ) -> Result<Answer, ClientError>
    where
        Op: Serialize,
        Answer: DeserializeOwned,
    {
        let inner = &self.inner;
        let codec = |error: postcard::Error| inner.codec(&error.to_string());
        let request = Request::Admin { operation: postcard::to_stdvec(operation).map_err(codec)? };
        let reply = match inner.call(&request, Vec::new(), None, limit).await? {
            (Reply::Admin { reply }, ..) => reply,
            (other, ..) => return Err(inner.unexpected(&request, &other)),
        };
        match postcard::take_from_bytes(&reply) {
            Ok((answer, [])) => Ok(answer),
            Ok((_, rest)) => Err(inner.codec(&format!("{} bytes too many", rest.len()))),
            Err(error) => Err(codec(error)),
        }
    }

    /// What the broker holds, for all clients.
    ///
    /// # Errors
    /// [`ClientError`] of the connection.
    pub async fn status(&self) -> Result<StatusReport, ClientError> {
        match self.call(&Request::Status, Vec::new()).await? {
            (Reply::Status(report), ..) => Ok(*report),
            (other, ..) => Err(self.inner.unexpected(&Request::Status, &other)),
        }
    }

    /// Takes grants back from whoever `target` names; operators only. Returns how many queues ended,
    /// in how many sessions. It returns once the device is done with them.
    ///
    /// # Errors
    /// [`ClientError::Refused`] if this user is no operator or there is no such target.
    pub async fn revoke(&self, target: RevokeTarget) -> Result<(u32, u32), ClientError> {
        let request = Request::Revoke { target };
        match self.call(&request, Vec::new()).await? {
            (Reply::Revoked { queues, sessions }, ..) => Ok((queues, sessions)),
            (other, ..) => Err(self.inner.unexpected(&request, &other)),
        }
    }

    /// Resets the device; operators only. Every client's queue ends with `DeviceReset`, this one's as
    /// well. It returns once the device is up again.
    ///
    /// # Errors
    /// [`ClientError::Refused`] if this user is no operator, or the device does not come back: it is
    /// then out of service.
    pub async fn reset(&self) -> Result<(), ClientError> {
        let limit = self.inner.link.limit.max(RESET);
        match self.inner.call(&Request::Reset, Vec::new(), None, limit).await? {
            (Reply::Done, ..) => Ok(()),
            (other, ..) => Err(self.inner.unexpected(&Request::Reset, &other)),
        }
    }

    async fn call(&self, request: &Request, fds: Vec<OwnedFd>) -> Result<Answer, ClientError> {
        self.inner.call(request, fds, None, self.inner.link.limit).await
    }
}

impl Inner {
    /// [`Link::call`], with a refusal as an error.
    async fn call(
        &self,
        request: &Request,
        fds: Vec<OwnedFd>,
        keep: Option<link::Keep>,
        limit: Duration,
    ) -> Result<Answer, ClientError> {
        match self.link.call(request, fds, keep, limit).await? {
            (Reply::Refused(refusal), ..) => Err(ClientError::Refused {
                socket: Arc::clone(&self.link.name),
                what: request.name(),
                refusal,
            }),
            answer => Ok(answer),
        }
    }

    fn arenas(&self) -> std::sync::MutexGuard<'_, Vec<Donated>> {
        self.arenas.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn unexpected(&self, request: &Request, reply: &Reply) -> ClientError {
        ClientError::Answer {
            socket: Arc::clone(&self.link.name),
            what: request.name(),
            why: format!("'{}'", reply.name()),
        }
    }

    fn codec(&self, why: &str) -> ClientError {
        ClientError::Codec {
            socket: Arc::clone(&self.link.name),
            driver: self.device.driver.clone(),
            why: why.to_owned(),
        }
    }
}
