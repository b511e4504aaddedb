//! The connection to a device server: requests from any thread, answered in any order.
//!
//! A thread of its own ([`super::io`]) sends, receives and keeps the deadlines. It never blocks on
//! the server: what the server does not read waits in a bounded queue, and whoever asked has a
//! deadline.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded, unbounded};
use rustix::event::{EventfdFlags, eventfd};

use super::error::LinkError;
use super::io::Io;
use super::pending::Answer;
use super::table::MapTable;
use crate::bus::DeviceEvent;
use crate::deadline::Deadline;
use crate::dma::Fault;
use crate::vfio_user::{Command, Frame, Reply, Request};

/// Faults that are kept until somebody asks; more are only counted in the log.
const FAULTS: usize = 64;

/// How much longer than its deadline a caller waits for the connection's thread, which keeps the
/// deadlines.
const GRACE: Duration = Duration::from_secs(2);

/// What the connection's thread is asked.
pub(super) enum Job {
    /// Send this and wait for the answer.
    Call {
        /// The message; its id is filled in.
        bytes: Vec<u8>,
        fds: Vec<OwnedFd>,
        command: Command,
        deadline: (Instant, Duration),
        answer: Answer,
    },
    /// The server's commands come by this socket too.
    Twin(OwnedFd),
    /// End.
    Stop,
}

/// What the connection's thread and its users share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) name: Arc<str>,
    /// Wakes the thread.
    pub(super) bell: OwnedFd,
    /// Readable while there are events.
    events: OwnedFd,
    pub(super) maps: Mutex<MapTable>,
    failure: Mutex<Option<LinkError>>,
    queue: Mutex<Vec<DeviceEvent>>,
    /// True once the device was reported to fail without being gone.
    troubled: AtomicBool,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Adds one to an eventfd; a full counter is readable, which is all that is wanted.
pub(super) fn signal(fd: impl AsFd) {
    if let Err(error) = rustix::io::write(fd, &1u64.to_ne_bytes())
        && error != rustix::io::Errno::AGAIN
    {
        tracing::warn!(%error, "an eventfd could not be signalled");
    }
}

/// A new eventfd that neither blocks nor is inherited.
pub(super) fn new_eventfd() -> std::io::Result<OwnedFd> {
    Ok(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?)
}

impl Shared {
    fn new(name: Arc<str>) -> std::io::Result<Self> {
        Ok(Self {
            name,
            bell: new_eventfd()?,
            events: new_eventfd()?,
            maps: Mutex::default(),
            failure: Mutex::default(),
            queue: Mutex::default(),
            troubled: AtomicBool::new(false),
        })
    }

    pub(super) fn maps(&self) -> MutexGuard<'_, MapTable> {
        lock(&self.maps)
    }

    fn tell(&self, event: DeviceEvent) {
        lock(&self.queue).push(event);
        signal(&self.events);
    }

    /// An access of the server that is not mapped for it.
    pub(super) fn fault(&self, fault: Fault) {
        if lock(&self.queue).len() < FAULTS {
            self.tell(DeviceEvent::Fault(fault));
        }
    }

    /// The device does not work any more, though its server is there. Told once.
    pub(super) fn trouble(&self, how: &'static str) {
        if !self.troubled.swap(true, Ordering::AcqRel) {
            self.tell(DeviceEvent::Failed { how });
        }
    }

    /// The connection is over. The first reason counts.
    pub(super) fn fail(&self, error: &LinkError) {
        let mut failure = lock(&self.failure);
        if failure.is_none() {
            *failure = Some(error.clone());
            drop(failure);
            if !matches!(error, LinkError::Stopped) {
                tracing::error!(device = %self.name, %error, "the device is gone");
            }
            self.tell(DeviceEvent::Removed);
        }
    }

    fn failed(&self) -> Option<LinkError> {
        lock(&self.failure).clone()
    }

    /// What happened since the last call.
    pub(super) fn take_events(&self) -> Vec<DeviceEvent> {
        let mut count = [0; 8];
        // Empty or not: the queue says what there is. Taken back first, so that nothing is missed.
        let _ = rustix::io::read(&self.events, &mut count);
        std::mem::take(&mut *lock(&self.queue))
    }

    pub(super) fn event_fd(&self) -> std::io::Result<OwnedFd> {
        self.events.try_clone()
    }
}

/// The connection.
pub(super) struct Link {
    jobs: Sender<Job>,
    pub(super) shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
    /// How long a request may take.
    pub(super) timeout: Duration,
}

impl std::fmt::Debug for Link {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Link").field("name", &self.shared.name).finish_non_exhaustive()
    }
}

/// A request that was sent.
#[derive(Debug)]
pub(super) struct Sent {
    command: Command,
    deadline: Deadline,
    answer: Receiver<Result<Frame, LinkError>>,
}

impl Sent {
    /// Waits for the answer, which is no error reply.
    pub(super) fn wait(self) -> Result<Frame, LinkError> {
        let (command, after) = (self.command, self.deadline.limit());
        match self.answer.recv_timeout(self.deadline.remaining() + GRACE) {
            Ok(result) => result,
            Err(RecvTimeoutError::Disconnected) => Err(LinkError::Closed),
            // The thread is stuck closing a descriptor of the server's.
            Err(RecvTimeoutError::Timeout) => Err(LinkError::TimedOut { command, after }),
        }
    }
}

impl Link {
    /// Takes a connected socket, and starts its thread.
    pub(super) fn start(
        name: Arc<str>,
        socket: OwnedFd,
        timeout: Duration,
    ) -> std::io::Result<Self> {
        let shared = Arc::new(Shared::new(name)?);
        let (jobs, received) = unbounded();
        let io = Io::new(socket, received, Arc::clone(&shared))?;
        let thread = std::thread::Builder::new()
            .name("doorbell-vfio-user".to_owned())
            .spawn(move || io.run())?;
        Ok(Self { jobs, shared, thread: Mutex::new(Some(thread)), timeout })
    }

    fn ask(&self, job: Job) -> Result<(), LinkError> {
        self.jobs.send(job).map_err(|_| self.shared.failed().unwrap_or(LinkError::Stopped))?;
        signal(&self.shared.bell);
        Ok(())
    }

    /// Sends a request.
    pub(super) fn send(
        &self,
        request: &Request<'_>,
        fds: Vec<OwnedFd>,
        deadline: Deadline,
    ) -> Result<Sent, LinkError> {
        if let Some(error) = self.shared.failed() {
            return Err(error);
        }
        let command = request.command();
        let (answer, answered) = bounded(1);
        let bytes = request.message(0, false);
        let until = Instant::now() + deadline.remaining();
        let deadline_of_call = (until, deadline.limit());
        self.ask(Job::Call { bytes, fds, command, deadline: deadline_of_call, answer })?;
        Ok(Sent { command, deadline, answer: answered })
    }

    /// Sends a request and waits for its answer.
    pub(super) fn call(
        &self,
        request: &Request<'_>,
        fds: Vec<OwnedFd>,
    ) -> Result<Frame, LinkError> {
        self.send(request, fds, Deadline::after(self.timeout))?.wait()
    }

    /// As [`Link::call`], for requests whose answer carries no descriptors and is read by `read`.
    pub(super) fn ask_for<T>(
        &self,
        request: &Request<'_>,
        read: impl FnOnce(Reply<'_>) -> Option<T>,
    ) -> Result<T, LinkError> {
        let command = request.command();
        let frame = self.call(request, Vec::new())?;
        if !frame.fds.is_empty() {
            let problem =
                format!("{} descriptor(s) came with it, none belongs to it", frame.fds.len());
            return Err(LinkError::answer(command, problem));
        }
        let reply = Reply::decode(command, &frame.payload)
            .map_err(|error| LinkError::protocol(command, &error))?;
        read(reply).ok_or_else(|| LinkError::answer(command, "it answers something else"))
    }

    /// As [`Link::call`], for requests whose answer says nothing but that it was done.
    pub(super) fn done(&self, request: &Request<'_>, fds: Vec<OwnedFd>) -> Result<(), LinkError> {
        self.call(request, fds).map(drop)
    }

    /// The server's commands come by this socket from now on.
    pub(super) fn twin(&self, socket: OwnedFd) -> Result<(), LinkError> {
        self.ask(Job::Twin(socket))
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        let _ = self.ask(Job::Stop);
        if let Some(thread) = lock(&self.thread).take() {
            // Its loop never blocks; a panic of it has been reported.
            let _ = thread.join();
        }
    }
}
