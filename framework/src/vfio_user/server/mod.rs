//! Serves any software device over vfio-user: the other side of bus `vfio-user`, and what virtual
//! machines drive.
//!
//! One [`Server`] serves one device on one Unix socket, to one client after the other; a second
//! client is turned away after half a second, in which the first may end. When a client has gone its
//! memory is unmapped, its eventfds are
//! closed, and the device is reset for the next.
//!
//! Who runs what:
//! * the *device's thread* ([`crate::soft::Harness`]) polls the doorbells, which the client maps, and
//!   does all I/O;
//! * the *server's thread* ([`Server::run`]) executes commands, in order, and answers them;
//! * a *reader* for each connection takes messages from the socket and hands answers to DMA_READ
//!   and DMA_WRITE straight to the device's thread, so that those never wait for a command.
//!
//! Register writes are posted: they are answered when they are queued for the device's thread, and
//! everything that comes after them is done after them.
//!
//! What it does not do: migration (refused), ioeventfds and ioregionfds (refused), eventfds that mask
//! or unmask. Regions are reached whatever memory decode in the command register says; DMA needs
//! bus mastering, as PCI says.

mod endpoint;
mod events;
mod irqs;
mod link;
mod listen;
mod maps;
mod peer;
mod reader;
mod region;
mod session;
#[cfg(test)]
mod tests;
mod twin;

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use self::endpoint::Endpoint;
use self::events::{Event, wait_any};
use self::listen::Listener;
use self::session::Session;
use crate::bus::BusError;
use crate::pci::synthetic::BadLayout;
use crate::soft::signals::{new_eventfd, signal};
use crate::soft::{HarnessOptions, SoftDevice};

/// How long a command may take until it is answered. Clients in the field wait 5 s.
const ANSWER: Duration = Duration::from_secs(4);

/// How a device is served.
#[derive(Debug, Clone)]
pub struct ServerOptions {
    /// Where clients connect; at most 107 bytes.
    pub socket: PathBuf,
    /// Mode of the socket file: who may connect.
    pub mode: u32,
    /// End after the first client has gone.
    pub once: bool,
}

impl ServerOptions {
    /// At a path, for this user only, client after client.
    #[must_use]
    pub fn at(socket: impl Into<PathBuf>) -> Self {
        Self { socket: socket.into(), mode: 0o600, once: false }
    }
}

/// A device cannot be served, or no longer.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// The socket.
    #[error("socket {socket}: {what}: {source}")]
    Socket {
        /// Its path.
        socket: PathBuf,
        /// What was tried.
        what: &'static str,
        /// The kernel's answer.
        source: std::io::Error,
    },
    /// Someone serves there already.
    #[error("socket {0}: another server listens there; stop it, or choose another --socket")]
    InUse(PathBuf),
    /// Something that is no socket lies there.
    #[error(
        "socket {0}: a file that is no socket lies there; remove it, or choose another --socket"
    )]
    NoSocket(PathBuf),
    /// The path is longer than an address can be.
    #[error(
        "socket {socket}: {len} bytes are too long for a socket's path, at most 107 are possible"
    )]
    TooLong {
        /// The path.
        socket: PathBuf,
        /// Its length in bytes.
        len: usize,
    },
    /// The device does not fit into PCI's config space.
    #[error("device {device}: {source}")]
    Layout {
        /// The device.
        device: Arc<str>,
        /// What does not fit.
        source: BadLayout,
    },
    /// The device failed.
    #[error(transparent)]
    Device(#[from] BusError),
}

/// Ends a server from another thread: [`Server::run`] returns once the client at hand is let go.
#[derive(Debug, Clone)]
pub struct Stopper {
    event: Arc<OwnedFd>,
}

impl Stopper {
    /// Asks the server to end.
    pub fn stop(&self) {
        signal(&*self.event);
    }
}

/// A device that is served. Dropping it removes the socket and stops the device.
#[derive(Debug)]
pub struct Server {
    endpoint: Endpoint,
    listener: Listener,
    stop: Arc<OwnedFd>,
    once: bool,
}

impl Server {
    /// Starts a device and listens for clients.
    ///
    /// The device's thread naps while it is idle ([`HarnessOptions::unkicked`] is set here): clients
    /// cannot wake it from a mapped doorbell.
    ///
    /// # Errors
    /// [`ServerError`].
    pub fn bind(
        device: Box<dyn SoftDevice>,
        harness: HarnessOptions,
        options: &ServerOptions,
    ) -> Result<Self, ServerError> {
        let listener = Listener::bind(&options.socket, options.mode)?;
        let harness = HarnessOptions { unkicked: true, ..harness };
        let name = Arc::clone(&harness.name);
        let endpoint = Endpoint::start(device, harness)?;
        let stop = new_eventfd().map_err(|source| BusError::Dma { device: name, source })?;
        Ok(Self { endpoint, listener, stop: Arc::new(stop), once: options.once })
    }

    /// Where clients connect.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.listener.path
    }

    /// To end [`Server::run`] from another thread.
    #[must_use]
    pub fn stopper(&self) -> Stopper {
        Stopper { event: Arc::clone(&self.stop) }
    }

    /// Serves clients until it is told to stop. What the device keeps is durable when it returns.
    ///
    /// # Errors
    /// [`ServerError`] if the socket or the device fails. A client that misbehaves is let go, and the
    /// next is served.
    pub fn run(&mut self) -> Result<(), ServerError> {
        let ended = self.serve();
        self.endpoint.flush()?;
        ended
    }

    fn serve(&mut self) -> Result<(), ServerError> {
        loop {
            if wait_any(&[&self.stop, &self.listener.fd], None)
                .map_err(|source| self.listener.error("waiting for a client", source))?
                == Some(Event(0))
            {
                return Ok(());
            }
            let Some(socket) = self.listener.accept()? else { continue };
            let device = self.endpoint.name();
            tracing::info!(%device, "a client has connected");
            let why = Session::serve(&mut self.endpoint, socket, &self.listener, &self.stop);
            self.endpoint.let_go()?;
            tracing::info!(%device, "the client is gone: {why}; the device is reset");
            if self.once {
                return Ok(());
            }
        }
    }
}
