//! One connection's writing side, used by several threads.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{Shutdown, shutdown};

use crate::deadline::Deadline;
use crate::vfio_user::{Outgoing, SocketError};

/// How long a peer may take to read what was sent before it is let go.
const READS: Duration = Duration::from_secs(if cfg!(test) { 1 } else { 5 });
/// Bytes that may wait for the peer.
const QUEUE: usize = 8 << 20;

/// A connection. Once a peer has not read for too long, or is gone, nothing more is sent.
#[derive(Debug)]
pub(super) struct Link {
    socket: OwnedFd,
    outgoing: Mutex<Outgoing>,
    dead: AtomicBool,
}

impl Link {
    pub(super) fn new(socket: OwnedFd) -> Self {
        let outgoing = Mutex::new(Outgoing::new(QUEUE));
        Self { socket, outgoing, dead: AtomicBool::new(false) }
    }

    pub(super) fn socket(&self) -> &OwnedFd {
        &self.socket
    }

    /// Sends a message; waits, with a deadline, while the peer's buffer is full. False if the
    /// connection is of no further use: it is shut down then, so that its reader ends.
    pub(super) fn send(&self, bytes: Vec<u8>, fds: Vec<OwnedFd>) -> bool {
        if self.dead.load(Ordering::Relaxed) {
            return false;
        }
        let sent = self.try_send(bytes, fds);
        if let Err(error) = &sent {
            tracing::warn!(%error, "nothing more can be sent to the client");
            self.close();
        }
        sent.is_ok()
    }

    fn try_send(&self, bytes: Vec<u8>, fds: Vec<OwnedFd>) -> Result<(), SocketError> {
        let mut outgoing = self.outgoing.lock().unwrap_or_else(PoisonError::into_inner);
        outgoing.push(bytes, fds)?;
        let deadline = Deadline::after(READS);
        while !outgoing.flush(self.socket.as_fd())? {
            let left = deadline.remaining();
            if left.is_zero() {
                return Err(SocketError::Full { queued: outgoing.queued(), max: 0 });
            }
            let limit = Timespec {
                tv_sec: left.as_secs().try_into().unwrap_or(i64::MAX),
                tv_nsec: left.subsec_nanos().into(),
            };
            match poll(&mut [PollFd::new(&self.socket, PollFlags::OUT)], Some(&limit)) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(errno) => return Err(SocketError::Os(errno.into())),
            }
        }
        Ok(())
    }

    /// Ends the connection, whoever waits for it.
    pub(super) fn close(&self) {
        self.dead.store(true, Ordering::Relaxed);
        // It may be closed already.
        let _ = shutdown(&self.socket, Shutdown::Both);
    }
}
