//! Messages over a Unix stream socket that never blocks.

use std::collections::VecDeque;
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags,
};

use super::frame::{Frame, FrameError, Framer, Limits};

/// The most descriptors that one message can have here, in either direction, whatever is negotiated.
/// (The kernel's own limit is 253.)
pub const MAX_FDS: usize = 64;

/// A connection that is of no further use.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// What came is no message.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// The kernel's answer.
    #[error("the socket: {0}")]
    Os(#[from] io::Error),
    /// The peer does not read, and more would have to be kept for it than is sensible.
    #[error("the peer does not read: {queued} bytes wait for it, at most {max} may")]
    Full {
        /// Bytes that wait.
        queued: usize,
        /// The limit.
        max: usize,
    },
    /// A message with more descriptors than can be sent.
    #[error("a message with {got} descriptors; at most {MAX_FDS} can be sent")]
    Fds {
        /// How many it has.
        got: usize,
    },
}

/// What a read gave.
#[derive(Debug)]
pub enum Received {
    /// A message.
    Frame(Frame),
    /// Nothing more now.
    Empty,
    /// The peer has closed, between two messages.
    Closed,
}

/// The reading side of a connection.
#[derive(Debug)]
pub struct Receiver {
    framer: Framer,
    buffer: Vec<u8>,
}

impl Receiver {
    /// At the beginning of a stream.
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        Self { framer: Framer::new(clamp(limits)), buffer: Vec::new() }
    }

    /// As [`Framer::set_limits`].
    pub fn set_limits(&mut self, limits: Limits) {
        self.framer.set_limits(clamp(limits));
    }

    /// True if no message has begun to arrive.
    #[must_use]
    pub fn is_between(&self) -> bool {
        self.framer.end().is_ok()
    }

    /// Reads until a message is complete or nothing more is there. It never blocks.
    ///
    /// # Errors
    /// [`SocketError`]: the connection is of no further use.
    pub fn receive(&mut self, socket: BorrowedFd<'_>) -> Result<Received, SocketError> {
        loop {
            self.buffer.resize(self.framer.wanted(), 0);
            // Room for one more than is allowed, so that too many are seen and closed.
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS + 1))];
            let mut control = RecvAncillaryBuffer::new(&mut space);
            let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
            let got = match rustix::net::recvmsg(
                socket,
                &mut [IoSliceMut::new(&mut self.buffer)],
                &mut control,
                flags,
            ) {
                Ok(got) => got,
                Err(Errno::INTR) => continue,
                Err(Errno::AGAIN) => return Ok(Received::Empty),
                Err(errno) => return Err(SocketError::Os(errno.into())),
            };
            let mut fds: Vec<OwnedFd> = Vec::new();
            for message in control.drain() {
                if let RecvAncillaryMessage::ScmRights(received) = message {
                    fds.extend(received);
                }
            }
            if got.flags.contains(ReturnFlags::CTRUNC) {
                let (got, max) = (fds.len(), MAX_FDS);
                return Err(FrameError::TooManyFds { got, max }.into());
            }
            if got.bytes == 0 {
                self.framer.end()?;
                return Ok(Received::Closed);
            }
            let bytes = self.buffer.get(..got.bytes).unwrap_or_default();
            if let Some(frame) = self.framer.feed(bytes, fds)? {
                return Ok(Received::Frame(frame));
            }
        }
    }
}

fn clamp(limits: Limits) -> Limits {
    Limits { fds: limits.fds.min(MAX_FDS), ..limits }
}

#[derive(Debug)]
struct Waiting {
    bytes: Vec<u8>,
    sent: usize,
    fds: Vec<OwnedFd>,
}

/// The writing side of a connection: messages wait here until the peer reads.
#[derive(Debug)]
pub struct Outgoing {
    queue: VecDeque<Waiting>,
    queued: usize,
    max: usize,
}

impl Outgoing {
    /// A queue of at most `max` bytes (of one message, if that is longer).
    #[must_use]
    pub fn new(max: usize) -> Self {
        Self { queue: VecDeque::new(), queued: 0, max }
    }

    /// Puts a message behind the others. The descriptors are closed here once they are sent.
    ///
    /// # Errors
    /// [`SocketError::Full`] if too much waits already; [`SocketError::Fds`].
    pub fn push(&mut self, bytes: Vec<u8>, fds: Vec<OwnedFd>) -> Result<(), SocketError> {
        if fds.len() > MAX_FDS {
            return Err(SocketError::Fds { got: fds.len() });
        }
        let queued = self.queued.saturating_add(bytes.len());
        if queued > self.max && !self.queue.is_empty() {
            return Err(SocketError::Full { queued, max: self.max });
        }
        self.queued = queued;
        self.queue.push_back(Waiting { bytes, sent: 0, fds });
        Ok(())
    }

    /// True if nothing waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// Bytes that wait.
    #[must_use]
    pub fn queued(&self) -> usize {
        self.queued
    }

    /// Sends what the socket takes now; true if nothing waits any more. It never blocks and raises
    /// no SIGPIPE.
    ///
    /// # Errors
    /// [`SocketError::Os`]: the peer is gone.
    pub fn flush(&mut self, socket: BorrowedFd<'_>) -> Result<bool, SocketError> {
        while let Some(first) = self.queue.front_mut() {
            let rest = first.bytes.get(first.sent..).unwrap_or_default();
            match send(socket, rest, &first.fds) {
                Ok(sent) => {
                    // They went with the first byte.
                    first.fds.clear();
                    first.sent += sent;
                    self.queued = self.queued.saturating_sub(sent);
                    if first.sent >= first.bytes.len() {
                        self.queue.pop_front();
                    }
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return Ok(false),
                Err(errno) => return Err(SocketError::Os(errno.into())),
            }
        }
        Ok(true)
    }
}

fn send(socket: BorrowedFd<'_>, bytes: &[u8], fds: &[OwnedFd]) -> Result<usize, Errno> {
    let fds: Vec<BorrowedFd<'_>> = fds.iter().map(AsFd::as_fd).collect();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    // It fits: `Outgoing::push` counted.
    if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(&fds)) {
        return Err(Errno::INVAL);
    }
    let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
    rustix::net::sendmsg(socket, &[IoSlice::new(bytes)], &mut control, flags)
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use super::*;
    use crate::vfio_user::Request;
    use crate::vfio_user::message::RegionData;

    fn message(id: u16, len: usize) -> Vec<u8> {
        let data = vec![id as u8; len];
        Request::RegionWrite(RegionData { offset: 0, region: 0, data: &data }).message(id, false)
    }

    fn fd() -> OwnedFd {
        rustix::event::eventfd(0, rustix::event::EventfdFlags::CLOEXEC).unwrap()
    }

    #[test]
    fn messages_and_descriptors_pass_through_a_socket_that_fills_up() {
        let (here, there) = UnixStream::pair().unwrap();
        let mut outgoing = Outgoing::new(64 << 20);
        let lens = [0, 1, 3 << 20, 0, 700_000, 17];
        for (len, id) in lens.iter().zip(0u16..) {
            let fds = (0..id % 3).map(|_| fd()).collect();
            outgoing.push(message(id, *len), fds).unwrap();
        }
        let mut receiver = Receiver::new(Limits::new(4 << 20, 8));
        let mut got = Vec::new();
        while got.len() < lens.len() {
            outgoing.flush(here.as_fd()).unwrap();
            if let Received::Frame(frame) = receiver.receive(there.as_fd()).unwrap() {
                got.push(frame);
            }
        }
        for ((frame, len), id) in got.iter().zip(&lens).zip(0u16..) {
            assert_eq!((frame.header.id, frame.payload.len()), (id, 16 + len));
            assert_eq!(frame.fds.len(), usize::from(id % 3), "message {id}");
        }
        assert!(outgoing.is_empty() && outgoing.queued() == 0);
    }

    #[test]
    fn a_peer_that_does_not_read_is_noticed() {
        let (here, _there) = UnixStream::pair().unwrap();
        let mut outgoing = Outgoing::new(1 << 20);
        let error = loop {
            if let Err(error) = outgoing.push(message(1, 100_000), Vec::new()) {
                break error;
            }
            outgoing.flush(here.as_fd()).unwrap();
        };
        assert!(matches!(error, SocketError::Full { .. }), "{error}");
    }

    #[test]
    fn the_end_of_a_stream_is_told_from_a_torn_message() {
        use std::io::Write;
        let (mut here, there) = UnixStream::pair().unwrap();
        let mut receiver = Receiver::new(Limits::new(4096, 1));
        assert!(matches!(receiver.receive(there.as_fd()).unwrap(), Received::Empty));
        here.write_all(&message(1, 3)).unwrap();
        assert!(matches!(receiver.receive(there.as_fd()).unwrap(), Received::Frame(_)));
        here.write_all(&message(1, 3)[..30]).unwrap();
        drop(here);
        let error = receiver.receive(there.as_fd()).unwrap_err();
        assert!(matches!(error, SocketError::Frame(FrameError::Torn { got: 30, need: 35 })));
        let (here, there) = UnixStream::pair().unwrap();
        drop(here);
        let mut receiver = Receiver::new(Limits::new(4096, 1));
        assert!(matches!(receiver.receive(there.as_fd()).unwrap(), Received::Closed));
    }

    #[test]
    fn too_many_descriptors_end_the_stream() {
        let (here, there) = UnixStream::pair().unwrap();
        let mut outgoing = Outgoing::new(1 << 20);
        outgoing.push(message(1, 3), (0..3).map(|_| fd()).collect()).unwrap();
        outgoing.flush(here.as_fd()).unwrap();
        let error = Receiver::new(Limits::new(4096, 2)).receive(there.as_fd()).unwrap_err();
        assert!(matches!(error, SocketError::Frame(FrameError::TooManyFds { .. })), "{error}");
        let many = (0..=MAX_FDS).map(|_| fd()).collect();
        let error = outgoing.push(message(1, 3), many).unwrap_err();
        assert!(matches!(error, SocketError::Fds { got: 65 }), "{error}");
    }
}
