//! One connection, on the socket loop: it reads requests, hands them to the device's worker, writes
//! what comes back, and notices the end.
//!
//! It never waits for anything but its own client: a client that does not read, or sends more
//! requests than it may, is cut off; one that says nothing is, too.

use std::cell::RefCell;
use std::fmt;
use std::future::pending;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until, timeout};

use super::closer::Closer;
use super::outgoing::{Closing, Out, Outgoing};
use super::peer::Peer;
use super::policy::Policy;
use super::readable::Readiness;
use super::worker::{Attach, ToWorker};
use super::{MAX_PENDING, Timeouts};
use crate::wire::codec::{encode_refused, encode_reply};
use crate::wire::{self};
use crate::wire::{Message, Received, ReclaimCause, Refusal, Reply, Request, WireError};

/// Requests that are read at once before other sessions get their turn.
const BURST: usize = 16;

/// What all sessions of a broker share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) worker: mpsc::UnboundedSender<ToWorker>,
    pub(super) closer: Closer,
    pub(super) policy: Policy,
    pub(super) device: String,
    pub(super) timeouts: Timeouts,
    /// A receive buffer for all: sessions take turns on one thread.
    pub(super) buffer: RefCell<Vec<u8>>,
}

/// One connection.
pub(super) struct Session {
    number: u64,
    socket: Rc<OwnedFd>,
    shared: Rc<Shared>,
    readable: Readiness,
    writable: Readiness,
    outgoing: mpsc::Receiver<Out>,
    worker_end: Outgoing,
    closing: Arc<Closing>,
    /// The packet that did not fit into the socket's buffer, and when it must have.
    blocked: Option<(Out, Instant)>,
    /// Requests that are not answered.
    unanswered: u32,
}

/// Why a session is over.
#[derive(Debug)]
enum End {
    Died,
    Asked,
    Protocol(&'static str),
    Os(io::Error),
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Died => f.write_str("the client is gone"),
            Self::Asked => f.write_str("its grants were taken back"),
            Self::Protocol(why) => f.write_str(why),
            Self::Os(error) => write!(f, "{error}"),
        }
    }
}

impl From<io::Error> for End {
    fn from(error: io::Error) -> Self {
        Self::Os(error)
    }
}

impl Session {
    pub(super) fn new(number: u64, socket: OwnedFd, shared: Rc<Shared>) -> Self {
        let socket = Rc::new(socket);
        let (worker_end, outgoing, closing) = Outgoing::new();
        Self {
            number,
            readable: Readiness::readable(&socket),
            writable: Readiness::writable(&socket),
            socket,
            shared,
            outgoing,
            worker_end,
            closing,
            blocked: None,
            unanswered: 0,
        }
    }

    /// Serves the connection to its end. `operator` is for a client of this very process.
    pub(super) async fn run(mut self, operator: bool) {
        let hello = self.shared.timeouts.hello;
        let peer = match timeout(hello, self.hello(operator)).await {
            Ok(Ok(peer)) => peer,
            Ok(Err(end)) => return self.hang_up(&end),
            Err(_) => return self.hang_up(&End::Protocol("it said nothing in time")),
        };
        tracing::info!(session = self.number, pid = peer.pid, uid = peer.uid, program = %peer.program, "client");
        let end = match self.serve(&peer).await {
            Ok(end) | Err(end) => end,
        };
        if matches!(end, End::Asked) {
            self.flush().await;
        }
        self.hang_up(&end);
        let cause = match end {
            End::Died | End::Os(_) => ReclaimCause::Died,
            End::Asked | End::Protocol(_) => ReclaimCause::Protocol,
        };
        // The worker is gone only when the broker ends, and has taken everything back then.
        let _ = self.shared.worker.send(ToWorker::Detach { session: self.number, cause });
    }

    /// The peer must see the end now, whoever else still holds the socket.
    fn hang_up(&self, end: &End) {
        match end {
            End::Died | End::Asked => tracing::debug!(session = self.number, %end, "session over"),
            _ => tracing::warn!(session = self.number, why = %end, "closing a connection"),
        }
        // Fails if the peer is gone already.
        let _ = rustix::net::shutdown(&*self.socket, rustix::net::Shutdown::Both);
    }

    /// Waits for the first message, and for the worker to know the client.
    async fn hello(&mut self, operator: bool) -> Result<Peer, End> {
        let mut peer = Peer::of(&self.socket)?;
        let (id, request, fds) = loop {
            match self.receive()? {
                Some(received) => break received,
                None => self.readable.ready().await?,
            }
        };
        self.shared.closer.close(fds);
        let Request::Hello { program } = request else {
            self.refuse(id, Refusal::Protocol("the first message must be 'hello'".to_owned()));
            return Err(End::Protocol("no hello"));
        };
        if peer.program.is_empty() {
            peer.program = program.chars().filter(|c| !c.is_control()).take(64).collect();
        }
        let device = &self.shared.device;
        let Some(mut rights) = self.shared.policy.rights(peer.uid, peer.gid, device) else {
            self.refuse(id, Refusal::Policy { uid: peer.uid, device: device.clone() });
            return Err(End::Protocol("refused by the policy"));
        };
        rights.operator |= operator;
        self.unanswered += 1;
        let attach = Attach {
            session: self.number,
            id,
            peer: peer.clone(),
            rights,
            out: self.worker_end.clone(),
        };
        // The worker is gone only when the broker ends.
        let _ = self.shared.worker.send(ToWorker::Attach(Box::new(attach)));
        Ok(peer)
    }

    async fn serve(&mut self, peer: &Peer) -> Result<End, End> {
        let mut pidfd = peer.pidfd().map(|fd| Readiness::readable(&Rc::new(fd)));
        let closing = Arc::clone(&self.closing);
        loop {
            let died = async {
                match &mut pidfd {
                    Some(pidfd) => pidfd.ready().await,
                    None => pending().await,
                }
            };
            let blocked_until = self.blocked.as_ref().map(|(_, until)| *until);
            tokio::select! {
                biased;
                () = closing.asked() => return Ok(End::Asked),
                result = died => return result.map(|()| End::Died).map_err(End::Os),
                result = self.writable.ready(), if blocked_until.is_some() => {
                    result?;
                    self.unblock()?;
                }
                () = sleep_until(blocked_until.unwrap_or_else(far)), if blocked_until.is_some() => {
                    return Err(End::Protocol("it does not read what it is sent"));
                }
                Some(out) = self.outgoing.recv(), if blocked_until.is_none() => self.send(out)?,
                result = self.readable.ready() => {
                    result?;
                    self.receive_some()?;
                }
            }
        }
    }

    fn receive_some(&mut self) -> Result<(), End> {
        for _ in 0..BURST {
            let Some((id, request, fds)) = self.receive()? else { return Ok(()) };
            if matches!(request, Request::Hello { .. }) {
                self.refuse(id, Refusal::Protocol("'hello' comes once".to_owned()));
                return Err(End::Protocol("a second hello"));
            }
            self.unanswered += 1;
            if self.unanswered > MAX_PENDING {
                return Err(End::Protocol("too many requests without reading the answers"));
            }
            let message = ToWorker::Request { session: self.number, id, request, fds };
            // The worker is gone only when the broker ends.
            let _ = self.shared.worker.send(message);
        }
        Ok(())
    }

    /// One request; `None` if there is none now.
    fn receive(&self) -> Result<Option<(u32, Request, Vec<OwnedFd>)>, End> {
        let received = {
            let buffer = &mut *self.shared.buffer.borrow_mut();
            wire::socket::receive(self.socket.as_fd(), buffer)?
        };
        match received {
            Received::Empty => Ok(None),
            Received::Closed => Err(End::Died),
            Received::Packet { message: Ok(Message::Request(id, request)), fds, .. } => {
                Ok(Some((id, request, fds)))
            }
            Received::Packet { message: Err(WireError::Version { theirs, .. }), id, fds } => {
                self.shared.closer.close(fds);
                self.last_word(encode_refused(id, theirs));
                Err(End::Protocol("another version of the protocol"))
            }
            Received::Packet { message: Err(error), id, fds } => {
                self.shared.closer.close(fds);
                self.refuse(id, Refusal::Protocol(error.to_string()));
                Err(End::Protocol("a message that cannot be read"))
            }
            Received::Packet { id, fds, .. } => {
                self.shared.closer.close(fds);
                self.refuse(id, Refusal::Protocol("clients send requests only".to_owned()));
                Err(End::Protocol("a message that is no request"))
            }
        }
    }

    fn refuse(&self, id: u32, refusal: Refusal) {
        tracing::warn!(session = self.number, %refusal, "refused");
        if let Ok(bytes) = encode_reply(id, &Reply::Refused(refusal)) {
            self.last_word(bytes);
        }
    }

    /// Sends if there is room: the connection is closed after this, whether or not it arrives.
    fn last_word(&self, bytes: Vec<u8>) {
        let _ = wire::socket::send(self.socket.as_fd(), &bytes.into());
    }

    fn send(&mut self, out: Out) -> Result<(), End> {
        match wire::socket::send(self.socket.as_fd(), &out.packet) {
            Ok(true) => {
                self.unanswered -= u32::from(out.answers).min(self.unanswered);
                Ok(())
            }
            Ok(false) => {
                let until = Instant::now() + self.shared.timeouts.write;
                self.blocked = Some((out, until));
                Ok(())
            }
            // The reading side finds out why.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    fn unblock(&mut self) -> Result<(), End> {
        match self.blocked.take() {
            Some((out, until)) => {
                self.send(out)?;
                if let Some((_, again)) = &mut self.blocked {
                    *again = until;
                }
                Ok(())
            }
            None => Ok(()),
        }
    }

    /// Writes what the worker had sent before it asked for the end.
    async fn flush(&mut self) {
        let all = async {
            loop {
                if self.blocked.is_some() {
                    if self.writable.ready().await.is_err() || self.unblock().is_err() {
                        return;
                    }
                } else {
                    let Ok(out) = self.outgoing.try_recv() else { return };
                    if self.send(out).is_err() {
                        return;
                    }
                }
            }
        };
        // What a client does not read in this time is lost with its connection.
        let _ = timeout(Duration::from_secs(1), all).await;
    }
}

/// A time that no session sees.
fn far() -> Instant {
    Instant::now() + Duration::from_secs(86_400)
}
