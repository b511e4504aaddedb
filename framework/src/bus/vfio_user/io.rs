//! The connection's thread.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Instant;

use crossbeam_channel::Receiver as Jobs;
use rustix::event::PollFlags;
use rustix::net::{Shutdown, shutdown};

use super::error::LinkError;
use super::link::{Job, Shared};
use super::pending::Pending;
use super::ring::Ring;
use super::served;
use crate::vfio_user::socket::Received;
use crate::vfio_user::{Frame, Kind, Limits, Outgoing, Receiver};

/// Bytes of one data transfer that we take, either way: what VERSION tells the server.
pub(super) const MAX_DATA: usize = 1 << 20;
/// Descriptors that we take in one message.
pub(super) const MAX_FDS: usize = 16;
/// Bytes that may wait for a server that does not read.
const MAX_QUEUED: usize = 16 << 20;
/// While more than this waits for the server, nothing is read from it: its own requests are what the
/// waiting bytes answer.
const STOP_READING: usize = 4 << 20;
/// Messages of one socket in one turn.
const TURN: usize = 64;

const BELL: usize = 0;
/// Tokens of the sockets: readable, writable.
const TOKENS: [(usize, usize); 2] = [(1, 2), (3, 4)];

const IN: u32 = PollFlags::IN.bits() as u32;
const OUT: u32 = PollFlags::OUT.bits() as u32;

#[derive(Debug)]
struct Channel {
    socket: OwnedFd,
    receiver: Receiver,
    outgoing: Outgoing,
}

impl Channel {
    fn new(socket: OwnedFd) -> Self {
        let receiver = Receiver::new(Limits::new(MAX_DATA, MAX_FDS));
        Self { socket, receiver, outgoing: Outgoing::new(MAX_QUEUED) }
    }
}

impl Drop for Channel {
    /// The kernel closes the socket only when it has given up the ring's watches of it, some time after
    /// the ring itself was closed, or the process has ended. The server must know at once.
    fn drop(&mut self) {
        // The server may have closed it.
        let _ = shutdown(&self.socket, Shutdown::Both);
    }
}

/// The thread's state.
#[derive(Debug)]
pub(super) struct Io {
    ring: Ring,
    jobs: Jobs<Job>,
    shared: Arc<Shared>,
    pending: Pending,
    main: Channel,
    twin: Option<Channel>,
}

impl Io {
    pub(super) fn new(
        socket: OwnedFd,
        jobs: Jobs<Job>,
        shared: Arc<Shared>,
    ) -> std::io::Result<Self> {
        let (ring, main) = (Ring::new()?, Channel::new(socket));
        Ok(Self { ring, jobs, shared, pending: Pending::default(), main, twin: None })
    }

    /// Runs until the connection is over.
    pub(super) fn run(mut self) {
        let error = match self.work() {
            Ok(()) => LinkError::Stopped,
            Err(error) => error,
        };
        self.shared.fail(&error);
        self.pending.fail(&error);
        // What was asked meanwhile. What is asked later fails, for nobody receives it.
        while let Ok(job) = self.jobs.try_recv() {
            if let Job::Call { answer, .. } = job {
                let _ = answer.send(Err(error.clone()));
            }
        }
    }

    fn work(&mut self) -> Result<(), LinkError> {
        loop {
            if !self.take_jobs()? {
                return Ok(());
            }
            self.pending.expire(Instant::now());
            self.exchange()?;
            self.wait().map_err(|error| LinkError::Socket(Arc::new(error.into())))?;
        }
    }

    /// Waits for whatever can happen next.
    fn wait(&mut self) -> std::io::Result<()> {
        let bell = self.shared.bell.as_fd();
        self.ring.watch(BELL, bell, IN)?;
        for (channel, (readable, writable)) in
            [Some(&self.main), self.twin.as_ref()].into_iter().zip(TOKENS)
        {
            let Some(channel) = channel else { continue };
            if channel.outgoing.queued() <= STOP_READING {
                self.ring.watch(readable, channel.socket.as_fd(), IN)?;
            }
            if !channel.outgoing.is_empty() {
                self.ring.watch(writable, channel.socket.as_fd(), OUT)?;
            }
        }
        let until = self.pending.until();
        let limit = until.map(|until| until.saturating_duration_since(Instant::now()));
        let mut rung = false;
        self.ring.wait(limit, |token| rung |= token == BELL)?;
        if rung {
            // Empty if two watches saw one ring.
            let _ = rustix::io::read(&self.shared.bell, &mut [0; 8]);
        }
        Ok(())
    }

    /// Takes what was asked; false if the thread is to end.
    fn take_jobs(&mut self) -> Result<bool, LinkError> {
        while let Ok(job) = self.jobs.try_recv() {
            match job {
                Job::Stop => return Ok(false),
                Job::Twin(socket) => {
                    // A socket that blocks would not matter: every call here says not to.
                    self.twin = Some(Channel::new(socket));
                }
                Job::Call { mut bytes, fds, command, deadline, answer } => {
                    let id = match self.pending.add(command, deadline, answer) {
                        Ok(id) => id,
                        Err((answer, error)) => {
                            let _ = answer.send(Err(error));
                            continue;
                        }
                    };
                    if let Some(field) = bytes.get_mut(..2) {
                        field.copy_from_slice(&id.to_ne_bytes());
                    }
                    let pushed = self.main.outgoing.push(bytes, fds);
                    pushed.map_err(|error| LinkError::Socket(Arc::new(error)))?;
                }
            }
        }
        Ok(true)
    }

    /// Sends and receives what the sockets allow.
    fn exchange(&mut self) -> Result<(), LinkError> {
        let Self { main, twin, pending, shared, .. } = self;
        flush(main)?;
        receive(main, |frame, outgoing| match frame.header.kind {
            Kind::Command { .. } => answer(shared, &frame, outgoing),
            Kind::Reply | Kind::Error { .. } => pending.answer(frame),
        })?;
        flush(main)?;
        if let Some(twin) = twin {
            flush(twin)?;
            receive(twin, |frame, outgoing| match frame.header.kind {
                Kind::Command { .. } => answer(shared, &frame, outgoing),
                // We ask nothing there.
                Kind::Reply | Kind::Error { .. } => {
                    let (id, number) = (frame.header.id, frame.header.number);
                    Err(LinkError::Unasked { id, number })
                }
            })?;
            flush(twin)?;
        }
        Ok(())
    }
}

fn flush(channel: &mut Channel) -> Result<(), LinkError> {
    let flushed = channel.outgoing.flush(channel.socket.as_fd());
    flushed.map(drop).map_err(|error| LinkError::Socket(Arc::new(error)))
}

fn receive(
    channel: &mut Channel,
    mut take: impl FnMut(Frame, &mut Outgoing) -> Result<(), LinkError>,
) -> Result<(), LinkError> {
    for _ in 0..TURN {
        if channel.outgoing.queued() > STOP_READING {
            break;
        }
        let received = channel.receiver.receive(channel.socket.as_fd());
        match received.map_err(|error| LinkError::Socket(Arc::new(error)))? {
            Received::Frame(frame) => take(frame, &mut channel.outgoing)?,
            Received::Empty => break,
            Received::Closed => return Err(LinkError::Closed),
        }
    }
    Ok(())
}

/// Answers a command of the server's.
fn answer(shared: &Shared, frame: &Frame, outgoing: &mut Outgoing) -> Result<(), LinkError> {
    let reply = served::serve(shared, frame);
    if frame.header.kind == (Kind::Command { no_reply: true }) {
        return Ok(());
    }
    outgoing.push(reply, Vec::new()).map_err(|error| LinkError::Socket(Arc::new(error)))
}
