//! How a client connects: [`ClientBuilder`].

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

use super::link::Link;
use super::{Client, ClientError, Inner, reactor};
use crate::dma::{Dma, HugePages};
use crate::wait::hub::Hub;
use crate::wire::{Reply, Request};

/// Options of a connection.
#[derive(Debug, Clone)]
pub struct ClientBuilder {
    arena_bytes: usize,
    huge: HugePages,
    deadline: Duration,
}

impl Default for ClientBuilder {
    /// An arena of 8 MiB in base pages; 30 seconds per request.
    fn default() -> Self {
        Self { arena_bytes: 8 << 20, huge: HugePages::No, deadline: Duration::from_secs(30) }
    }
}

impl ClientBuilder {
    /// Bytes of the arena that is donated at once; 0 for none.
    #[must_use]
    pub fn arena_bytes(mut self, bytes: usize) -> Self {
        self.arena_bytes = bytes;
        self
    }

    /// Whether arenas lie in huge pages.
    #[must_use]
    pub fn huge_pages(mut self, pages: HugePages) -> Self {
        self.huge = pages;
        self
    }

    /// How long the broker may take to answer a request.
    #[must_use]
    pub fn deadline(mut self, limit: Duration) -> Self {
        self.deadline = limit;
        self
    }

    /// Connects to the broker at `socket`.
    ///
    /// # Errors
    /// As [`Client::connect`].
    pub async fn connect(self, socket: impl AsRef<Path>) -> Result<Client, ClientError> {
        let path = socket.as_ref();
        let name: Arc<str> = path.to_string_lossy().into();
        let connect = || -> std::io::Result<OwnedFd> {
            let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
            let kind = SocketType::SEQPACKET;
            let fd = rustix::net::socket_with(AddressFamily::UNIX, kind, flags, None)?;
            rustix::net::connect(&fd, &SocketAddrUnix::new(path)?)?;
            Ok(fd)
        };
        let fd = connect()
            .map_err(|source| ClientError::Connect { socket: Arc::clone(&name), source })?;
        self.start(fd, name).await
    }

    /// Takes a connected `SOCK_SEQPACKET` socket. `name` stands for it in errors.
    ///
    /// # Errors
    /// As [`Client::connect`].
    pub async fn from_fd(self, socket: OwnedFd, name: &str) -> Result<Client, ClientError> {
        rustix::io::ioctl_fionbio(socket.as_fd(), true).map_err(|errno| ClientError::Os {
            what: "making an inherited socket non-blocking",
            source: errno.into(),
        })?;
        self.start(socket, name.into()).await
    }

    async fn start(self, socket: OwnedFd, name: Arc<str>) -> Result<Client, ClientError> {
        let what = "creating an eventfd";
        let hub = Hub::new().map_err(|source| ClientError::Os { what, source })?;
        let link = Arc::new(Link::new(socket, Arc::clone(&name), Arc::new(hub), self.deadline));
        reactor::start(Arc::clone(&link))?;
        let guard = CloseOnDrop { link: &link, armed: true };
        let request = Request::Hello { program: program() };
        let (reply, ..) = link.call(&request, Vec::new(), None, self.deadline).await?;
        let (session, device) = match reply {
            Reply::Welcome { session, device, .. } => (session, device),
            Reply::Refused(refusal) => {
                return Err(ClientError::Refused { socket: name, what: "connect", refusal });
            }
            other => {
                let why = format!("'{}'", other.name());
                return Err(ClientError::Answer { socket: name, what: "connect", why });
            }
        };
        guard.disarm();
        let inner = Inner {
            link,
            dma: Dma::new(),
            device,
            session,
            huge: self.huge,
            arenas: Mutex::new(Vec::new()),
        };
        let client = Client { inner: Arc::new(inner) };
        if self.arena_bytes > 0 {
            client.grow(self.arena_bytes).await?;
        }
        Ok(client)
    }
}

/// Ends the thread of a connection that did not come about.
struct CloseOnDrop<'a> {
    link: &'a Link,
    armed: bool,
}

impl CloseOnDrop<'_> {
    fn disarm(mut self) {
        self.armed = false;
    }
}

impl Drop for CloseOnDrop<'_> {
    fn drop(&mut self) {
        if self.armed {
            self.link.state().closing = true;
            self.link.hub.nudge();
        }
    }
}

/// The program's name, for the broker's `status`.
fn program() -> String {
    let path = std::env::args_os().next().unwrap_or_default();
    let name = Path::new(&path).file_name().unwrap_or_default();
    name.to_string_lossy().chars().take(64).collect()
}
