//! One packet with its descriptors over a `SOCK_SEQPACKET` socket, never blocking.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags,
    SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags, SocketType,
};

use super::codec::{Message, WireError, decode};
use super::{MAX_FDS, MAX_MESSAGE};

/// Room for one descriptor more than any message has, so that too many are noticed and closed.
const ROOM: usize = MAX_FDS + 1;

/// A packet to be sent. Its descriptors are closed here once it is gone.
#[derive(Debug)]
pub struct Packet {
    /// The message, encoded.
    pub bytes: Vec<u8>,
    /// Descriptors that travel with it.
    pub fds: Vec<OwnedFd>,
}

impl From<Vec<u8>> for Packet {
    fn from(bytes: Vec<u8>) -> Self {
        Self { bytes, fds: Vec::new() }
    }
}

/// What a receive gave.
#[derive(Debug)]
pub enum Received {
    /// A packet: what it says (or why it cannot be read) and its header's request id, if it has one.
    Packet {
        /// The message.
        message: Result<Message, WireError>,
        /// Request id of the header; 0 if there is no header.
        id: u32,
        /// Its descriptors: as many as the message's kind has, or whatever came with a message that
        /// cannot be read. (They are not closed here: closing a descriptor of unknown kind can
        /// block.)
        fds: Vec<OwnedFd>,
    },
    /// Nothing now.
    Empty,
    /// The peer has closed.
    Closed,
}

/// A connected pair, for a broker and a client in one process.
///
/// # Errors
/// The kernel's.
pub fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    Ok(rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?)
}

/// Sends a packet; false if the socket's buffer is full. It never blocks and raises no SIGPIPE.
///
/// # Errors
/// The kernel's: `EPIPE` or `ECONNRESET` if the peer is gone.
pub fn send(socket: BorrowedFd<'_>, packet: &Packet) -> io::Result<bool> {
    let fds: Vec<BorrowedFd<'_>> = packet.fds.iter().map(AsFd::as_fd).collect();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(&fds)) {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "too many descriptors"));
    }
    let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
    loop {
        match rustix::net::sendmsg(socket, &[IoSlice::new(&packet.bytes)], &mut control, flags) {
            Ok(_) => return Ok(true),
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => return Ok(false),
            Err(errno) => return Err(errno.into()),
        }
    }
}

/// Receives one packet. What a peer has sent before it went comes before [`Received::Closed`].
///
/// # Errors
/// The kernel's; a peer that is gone is [`Received::Closed`].
pub fn receive(socket: BorrowedFd<'_>, buffer: &mut Vec<u8>) -> io::Result<Received> {
    // One byte more than a message may have: a longer packet is recognised, not cut.
    buffer.resize(MAX_MESSAGE + 1, 0);
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(ROOM))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
    let mut reset = false;
    let got = loop {
        let mut io = [IoSliceMut::new(buffer)];
        match rustix::net::recvmsg(socket, &mut io, &mut control, flags) {
            Ok(got) => break got,
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => return Ok(Received::Empty),
            // A peer that leaves something of ours unread when it goes. The kernel tells of that once, and
            // before what the peer has sent itself (net/core/datagram.c); that is still there.
            Err(Errno::CONNRESET) if !reset => reset = true,
            Err(Errno::CONNRESET) => return Ok(Received::Closed),
            Err(errno) => return Err(errno.into()),
        }
    };
    let mut fds = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(received) = message {
            fds.extend(received);
        }
    }
    let packet = buffer.get(..got.bytes).unwrap_or_default();
    if packet.is_empty() {
        // A seqpacket socket reads an empty packet and an end of file alike.
        return Ok(Received::Closed);
    }
    let id = packet.get(8..12).and_then(|id| id.try_into().ok()).map_or(0, u32::from_le_bytes);
    let message = if got.flags.contains(ReturnFlags::TRUNC) {
        Err(WireError::TooLong(packet.len()))
    } else if got.flags.contains(ReturnFlags::CTRUNC) {
        Err(WireError::TooManyDescriptors)
    } else {
        decode(packet).and_then(|message| check_fds(message, fds.len()))
    };
    Ok(Received::Packet { message, id, fds })
}

fn check_fds(message: Message, got: usize) -> Result<Message, WireError> {
    let (wanted, kind) = match &message {
        Message::Request(_, request) => (request.fds(), request.name()),
        Message::Reply(_, reply) => (reply.fds(), reply.name()),
        Message::Event(_) => (0, "event"),
        Message::Refused(_) => (0, "version refusal"),
    };
    if wanted == got { Ok(message) } else { Err(WireError::Descriptors { kind, wanted, got }) }
}

#[cfg(test)]
mod tests {
    use super::super::codec::{encode_event, encode_request};
    use super::super::{Event, Request};
    use super::*;

    #[test]
    fn the_last_word_of_a_peer_that_reads_nothing_is_received() {
        let (ours, theirs) = pair().unwrap();
        let unread = encode_request(1, &Request::Status).unwrap();
        assert!(send(ours.as_fd(), &unread.into()).unwrap());
        let word = encode_event(&Event::DeviceGone).unwrap();
        assert!(send(theirs.as_fd(), &word.into()).unwrap());
        drop(theirs);
        let buffer = &mut Vec::new();
        let received = receive(ours.as_fd(), buffer).unwrap();
        let told = matches!(
            received,
            Received::Packet { message: Ok(Message::Event(Event::DeviceGone)), .. }
        );
        assert!(told, "{received:?}");
        for _ in 0..2 {
            assert!(matches!(receive(ours.as_fd(), buffer).unwrap(), Received::Closed));
        }
    }
}
