//! The process that owns a device and vends grants.
//!
//! ```no_run
//! # use doorbell::{broker::Broker, driver::Registry};
//! # fn example(registry: Registry) -> Result<(), Box<dyn std::error::Error>> {
//! Broker::builder(registry)
//!     .device("soft:nvme,ram=64M".parse()?)
//!     .socket("/run/doorbell/nvme0.sock")
//!     .run()?; // until SIGTERM or SIGINT
//! # Ok(()) }
//! ```
//!
//! Two threads. The **socket loop** (`session.rs`) runs on tokio-uring: one task per client, never
//! blocked by anyone. The **worker** (`worker/`) owns the device: bus, driver, records, quotas; each
//! request is a task of its own there. Between them are channels.
//!
//! Everything that a client holds is written down by the worker when it is granted, so taking it back
//! needs nothing from the client. A client's end is noticed by its pidfd or the end of its socket,
//! whichever comes first. Then, in the order that the types of [`crate::bus::proof`] enforce: each
//! queue quiesced, its doorbell revoked, IOVA unmapped, memory released, ids reused. A device that
//! does not let go of a queue in time is reset (all other clients' queues end with `DeviceReset`);
//! one that cannot be reset is out of service, and what it may still reach is quarantined: never used
//! again.
//!
//! **Who may connect.** Without a policy file only the broker's own user may, and the socket's mode
//! is 0600. With one the mode is 0666 and the policy decides: file modes cannot say what it says.
//! Restrict the folder if that is too much.
//!
//! What it does not do: it serves one device; start one broker per device. It does not hand a device
//! over to a new broker. It trusts the driver, which is code of its own process.
#![forbid(unsafe_code)]

use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;

use crate::bus::BusError;
use crate::driver::{DriverError, Registry, RegistryError};
use crate::spec::DeviceSpec;

mod closer;
mod listen;
mod outgoing;
mod peer;
pub mod policy;
mod readable;
pub mod serve;
mod service;
mod session;
mod worker;

pub use policy::{Policy, PolicyError, Rights, Rule, Subject};

use service::{Control, Service};

/// Requests that one client may have unanswered. More end the connection.
pub const MAX_PENDING: u32 = 64;

/// Clients at once.
pub const MAX_SESSIONS: usize = 1024;

/// How long the broker waits for what.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timeouts {
    /// A client's first message.
    pub hello: Duration,
    /// A client to read what it is sent.
    pub write: Duration,
    /// The driver to bring the device up.
    pub probe: Duration,
    /// The driver to create a queue.
    pub create: Duration,
    /// The device to let go of a queue.
    pub quiesce: Duration,
    /// The driver to abort a command, or to take note of an event.
    pub abort: Duration,
    /// The driver to reset the device and bring it up again.
    pub recover: Duration,
    /// An operation of the driver (a Format may take long).
    pub admin: Duration,
    /// The driver to shut the device down.
    pub shutdown: Duration,
    /// Between two looks at the device's events (faults, removal).
    pub events: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        let seconds = Duration::from_secs;
        Self {
            hello: seconds(5),
            write: seconds(5),
            probe: seconds(120),
            create: seconds(10),
            quiesce: seconds(5),
            abort: seconds(5),
            recover: seconds(60),
            admin: seconds(600),
            shutdown: seconds(20),
            events: Duration::from_millis(100),
        }
    }
}

/// A broker cannot start, or did not end in good order.
#[derive(Debug, thiserror::Error)]
pub enum BrokerError {
    /// No device was named.
    #[error("no device was named; use Builder::device")]
    NoDevice,
    /// The device cannot be opened or has no driver.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// The bus failed.
    #[error(transparent)]
    Bus(#[from] BusError),
    /// The driver cannot bring the device up.
    #[error("device {device}: bring-up: {source}")]
    Probe {
        /// The device.
        device: Arc<str>,
        /// The step that failed.
        source: DriverError,
    },
    /// The driver did not bring the device up in time.
    #[error("device {device}: bring-up took longer than {:.1} s", after.as_secs_f64())]
    ProbeTimedOut {
        /// The device.
        device: Arc<str>,
        /// The limit.
        after: Duration,
    },
    /// The socket cannot be made.
    #[error("socket {}: {what}: {source}", socket.display())]
    Socket {
        /// The socket.
        socket: PathBuf,
        /// What was tried.
        what: &'static str,
        /// The kernel's answer.
        source: std::io::Error,
    },
    /// Something else lies at the socket's path.
    #[error("{} is there and is no socket; choose another path or remove it", socket.display())]
    NotASocket {
        /// The path.
        socket: PathBuf,
    },
    /// A broker is serving there.
    #[error("socket {} is served by another broker; stop it, or choose another path", socket.display())]
    SocketInUse {
        /// The socket.
        socket: PathBuf,
    },
    /// A system call failed.
    #[error("{what}: {source}")]
    Os {
        /// What was tried.
        what: &'static str,
        /// The kernel's answer.
        source: std::io::Error,
    },
    /// The device was not shut down.
    #[error("device {device}: shutdown: {source}; it may still be running")]
    Shutdown {
        /// The device.
        device: Arc<str>,
        /// Why not.
        source: DriverError,
    },
    /// The device was not shut down in time.
    #[error("device {device}: shutdown took longer than {:.1} s; it may still be running", after.as_secs_f64())]
    ShutdownTimedOut {
        /// The device.
        device: Arc<str>,
        /// The limit.
        after: Duration,
    },
    /// The device went away, and its owner waited for the broker to let go of it.
    #[error(
        "device {device}: it was removed; its clients were told and the broker has ended; start it \
         again once the device is back"
    )]
    Removed {
        /// The device.
        device: Arc<str>,
    },
    /// A thread of the broker ended by a panic: a bug.
    #[error("the broker's {0} ended unexpectedly: this is a bug; see the log")]
    Thread(&'static str),
}

/// What a broker is to be.
#[derive(Debug, Clone)]
pub struct Builder {
    registry: Registry,
    spec: Option<DeviceSpec>,
    socket: Option<PathBuf>,
    policy: Policy,
    timeouts: Timeouts,
    signals: bool,
    until_idle: bool,
}

/// A broker that runs on threads of this process. Dropping it stops it.
#[derive(Debug)]
pub struct Broker {
    control: mpsc::UnboundedSender<Control>,
    thread: Option<std::thread::JoinHandle<Result<(), BrokerError>>>,
    device: String,
}

impl Broker {
    /// A broker with these drivers.
    #[must_use]
    pub fn builder(registry: Registry) -> Builder {
        Builder {
            registry,
            spec: None,
            socket: None,
            policy: Policy::owner_only(),
            timeouts: Timeouts::default(),
            signals: false,
            until_idle: false,
        }
    }

    /// The device's name.
    #[must_use]
    pub fn device(&self) -> &str {
        &self.device
    }

    /// Serves a connected `SOCK_SEQPACKET` socket as if it had been accepted. Its peer is an
    /// operator. It is closed at once if the broker has ended.
    pub fn adopt(&self, socket: OwnedFd) {
        // A broker that has ended drops the socket, which its peer notices.
        let _ = self.control.send(Control::Adopt(socket));
    }

    /// Ends the broker in good order: every grant is taken back, the device is shut down, the socket
    /// is removed.
    ///
    /// # Errors
    /// [`BrokerError::Shutdown`] if the device did not follow.
    pub fn stop(mut self) -> Result<(), BrokerError> {
        self.end()
    }

    /// Waits until the broker ends.
    ///
    /// # Errors
    /// As [`Broker::stop`].
    pub fn wait(mut self) -> Result<(), BrokerError> {
        self.join()
    }

    fn end(&mut self) -> Result<(), BrokerError> {
        // Fails if it has ended already.
        let _ = self.control.send(Control::Stop);
        self.join()
    }

    fn join(&mut self) -> Result<(), BrokerError> {
        match self.thread.take().map(std::thread::JoinHandle::join) {
            None => Ok(()),
            Some(Ok(result)) => result,
            Some(Err(_)) => Err(BrokerError::Thread("socket loop")),
        }
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        if self.thread.is_some()
            && let Err(error) = self.end()
        {
            tracing::error!(%error, "stopping the broker");
        }
    }
}

impl Builder {
    /// The device to serve.
    #[must_use]
    pub fn device(mut self, spec: DeviceSpec) -> Self {
        self.spec = Some(spec);
        self
    }

    /// Where clients connect. Without it only [`Broker::adopt`] lets clients in.
    #[must_use]
    pub fn socket(mut self, path: impl Into<PathBuf>) -> Self {
        self.socket = Some(path.into());
        self
    }

    /// Who may have what; [`Policy::owner_only`] if this is not called.
    #[must_use]
    pub fn policy(mut self, policy: Policy) -> Self {
        self.policy = policy;
        self
    }

    /// How long to wait for what.
    #[must_use]
    pub fn timeouts(mut self, timeouts: Timeouts) -> Self {
        self.timeouts = timeouts;
        self
    }

    /// Ends the broker once its last client is gone (and there was one).
    #[must_use]
    pub fn until_idle(mut self) -> Self {
        self.until_idle = true;
        self
    }

    /// Ends the broker at SIGTERM or SIGINT. For programs that have something to say between
    /// [`Builder::start`] and [`Broker::wait`]; [`Builder::run`] does it too.
    #[must_use]
    pub fn until_signal(mut self) -> Self {
        self.signals = true;
        self
    }

    /// Brings the device up and starts serving. Blocks until the device is up.
    ///
    /// # Errors
    /// [`BrokerError`]: socket, bus, driver, device.
    pub fn start(self) -> Result<Broker, BrokerError> {
        let spec = self.spec.ok_or(BrokerError::NoDevice)?;
        let mode = if self.policy.is_shared() { 0o666 } else { 0o600 };
        let listener = self.socket.map(|path| listen::Listener::bind(&path, mode)).transpose()?;
        let closer = closer::Closer::start()
            .map_err(|source| BrokerError::Os { what: "starting a thread", source })?;
        let (to_worker, requests) = mpsc::unbounded_channel();
        let (ready, is_ready) = std::sync::mpsc::sync_channel(1);
        let (registry, timeouts, theirs) = (self.registry, self.timeouts, closer.clone());
        let worker = std::thread::Builder::new()
            .name("doorbell-device".to_owned())
            .spawn(move || worker::run(&registry, spec, timeouts, theirs, requests, &ready))
            .map_err(|source| BrokerError::Os { what: "starting the worker", source })?;
        let device = is_ready.recv().map_err(|_| BrokerError::Thread("worker"))??;
        let (control, commands) = mpsc::unbounded_channel();
        let (up, is_up) = std::sync::mpsc::sync_channel(1);
        let service = Service {
            up,
            listener,
            commands,
            worker: to_worker,
            closer,
            policy: self.policy,
            device: device.clone(),
            timeouts,
            signals: self.signals,
            until_idle: self.until_idle,
        };
        let thread = std::thread::Builder::new()
            .name("doorbell-broker".to_owned())
            .spawn(move || service.run(worker))
            .map_err(|source| BrokerError::Os { what: "starting the socket loop", source })?;
        let mut broker = Broker { control, thread: Some(thread), device };
        // Whoever hears that the broker serves may send it a signal at once. The loop says nothing
        // only if it could not start, and then its result says why.
        if is_up.recv().is_err() {
            broker.join()?;
        }
        Ok(broker)
    }

    /// As [`Builder::start`], then serves until SIGTERM, SIGINT or the last client's end (where
    /// [`Builder::until_idle`] says so), and ends in good order.
    ///
    /// # Errors
    /// As [`Builder::start`] and [`Broker::stop`].
    pub fn run(self) -> Result<(), BrokerError> {
        self.until_signal().start()?.wait()
    }
}
