//! Bytes and descriptors of a stream to messages, without a socket.
//!
//! A message may arrive in any number of pieces. Its descriptors arrive with one of its bytes, so a
//! reader that never reads past the end of a message knows whose they are: [`Framer::wanted`] says
//! how much to read.
//!
//! # Invariants
//! * Memory grows by what has arrived, never by what a header announces.
//! * After an error the stream cannot be read any further: every later call gives an error.

use std::os::fd::OwnedFd;

use super::header::{HEADER, Header};
use super::{Command, ProtocolError};

/// The most that is read at once, in bytes, whatever a header announces.
const PIECE: usize = 64 << 10;

/// What one message may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Bytes, the header among them.
    pub message: usize,
    /// Descriptors.
    pub fds: usize,
}

impl Limits {
    /// Room for data transfers of `data` bytes with everything that can stand before them, and for
    /// `fds` descriptors.
    #[must_use]
    pub fn new(data: usize, fds: usize) -> Self {
        Self { message: data.saturating_add(HEADER + 64), fds }
    }
}

/// A message as it came.
#[derive(Debug)]
pub struct Frame {
    /// Its header.
    pub header: Header,
    /// What follows the header; as many bytes as the header says.
    pub payload: Vec<u8>,
    /// Its descriptors, in order.
    pub fds: Vec<OwnedFd>,
}

impl Frame {
    /// The command that it is, or answers.
    ///
    /// # Errors
    /// [`ProtocolError::Command`].
    pub fn command(&self) -> Result<Command, ProtocolError> {
        self.header.command()
    }
}

/// A stream that cannot be read any further.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// The header says what cannot be.
    #[error(transparent)]
    Header(#[from] ProtocolError),
    /// The message is longer than any that the protocol needs.
    #[error("a message of {size} bytes is announced; at most {max} are possible")]
    TooLarge {
        /// Bytes announced.
        size: u32,
        /// The limit.
        max: usize,
    },
    /// More descriptors came with one message than were offered.
    #[error("{got} or more descriptors came with one message; at most {max} are possible")]
    TooManyFds {
        /// How many came.
        got: usize,
        /// The limit.
        max: usize,
    },
    /// The stream ended inside a message.
    #[error("the connection ended inside a message: {got} of its {need} bytes had come")]
    Torn {
        /// Bytes that came.
        got: usize,
        /// Bytes of the message, or of a header if that had not come yet.
        need: usize,
    },
    /// More was fed than [`Framer::wanted`] asked for: a bug of the caller.
    #[error("{got} bytes were fed to a framer that asked for {wanted}")]
    Overfed {
        /// Bytes fed.
        got: usize,
        /// Bytes asked for.
        wanted: usize,
    },
    /// An earlier error ended the stream.
    #[error("the stream has failed before")]
    Ended,
}

/// Reads messages out of a stream.
#[derive(Debug)]
pub struct Framer {
    limits: Limits,
    header: Option<Header>,
    bytes: Vec<u8>,
    fds: Vec<OwnedFd>,
    failed: bool,
}

impl Framer {
    /// At the beginning of a stream.
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        Self { limits, header: None, bytes: Vec::new(), fds: Vec::new(), failed: false }
    }

    /// Other limits, from the next message on. For after the version was agreed on.
    pub fn set_limits(&mut self, limits: Limits) {
        self.limits = limits;
    }

    /// The most bytes that [`Framer::feed`] takes now; never 0.
    #[must_use]
    pub fn wanted(&self) -> usize {
        self.missing().clamp(1, PIECE)
    }

    fn need(&self) -> usize {
        self.header.as_ref().map_or(HEADER, Header::payload)
    }

    fn missing(&self) -> usize {
        self.need().saturating_sub(self.bytes.len())
    }

    /// Takes what one read gave: at most [`Framer::wanted`] bytes, and the descriptors that came
    /// with them. Gives the message once it is complete.
    ///
    /// # Errors
    /// [`FrameError`]: the stream is of no further use.
    pub fn feed(
        &mut self,
        bytes: &[u8],
        fds: impl IntoIterator<Item = OwnedFd>,
    ) -> Result<Option<Frame>, FrameError> {
        if self.failed {
            return Err(FrameError::Ended);
        }
        let fed = self.take(bytes, fds);
        self.failed = fed.is_err();
        fed
    }

    fn take(
        &mut self,
        bytes: &[u8],
        fds: impl IntoIterator<Item = OwnedFd>,
    ) -> Result<Option<Frame>, FrameError> {
        self.fds.extend(fds);
        if self.fds.len() > self.limits.fds {
            let got = self.fds.len();
            return Err(FrameError::TooManyFds { got, max: self.limits.fds });
        }
        let wanted = self.wanted();
        if bytes.len() > wanted {
            return Err(FrameError::Overfed { got: bytes.len(), wanted });
        }
        self.bytes.extend_from_slice(bytes);
        if self.header.is_none() {
            let Some(bytes) = self.bytes.first_chunk::<HEADER>() else { return Ok(None) };
            let header = Header::decode(bytes)?;
            if header.size as usize > self.limits.message {
                return Err(FrameError::TooLarge { size: header.size, max: self.limits.message });
            }
            self.header = Some(header);
            self.bytes.clear();
        }
        match self.header {
            Some(header) if self.bytes.len() >= header.payload() => {
                self.header = None;
                let payload = std::mem::take(&mut self.bytes);
                Ok(Some(Frame { header, payload, fds: std::mem::take(&mut self.fds) }))
            }
            _ => Ok(None),
        }
    }

    /// The stream has ended.
    ///
    /// # Errors
    /// [`FrameError::Torn`] if it ended inside a message.
    pub fn end(&self) -> Result<(), FrameError> {
        if self.header.is_none() && self.bytes.is_empty() {
            return Ok(());
        }
        let before = self.header.map_or(0, |_| HEADER);
        Err(FrameError::Torn { got: before + self.bytes.len(), need: before + self.need() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vfio_user::Request;
    use crate::vfio_user::message::RegionData;
    use proptest::prelude::*;

    const LIMITS: Limits = Limits { message: 4096, fds: 2 };

    fn write(id: u16, data: &[u8]) -> Vec<u8> {
        Request::RegionWrite(RegionData { offset: 8, region: 0, data }).message(id, false)
    }

    fn fd() -> OwnedFd {
        rustix::event::eventfd(0, rustix::event::EventfdFlags::CLOEXEC).unwrap()
    }

    proptest! {
        #[test]
        fn messages_come_out_whole_however_they_arrive(
            lens in prop::collection::vec(0usize..300, 1..8),
            pieces in prop::collection::vec(1usize..40, 1..20),
        ) {
            let sent: Vec<Vec<u8>> =
                lens.iter().zip(0..).map(|(len, id)| write(id, &vec![id as u8; *len])).collect();
            let stream: Vec<u8> = sent.concat();
            let (mut framer, mut rest, mut got) = (Framer::new(LIMITS), &stream[..], Vec::new());
            for piece in pieces.iter().cycle() {
                let len = (*piece).min(framer.wanted()).min(rest.len());
                let (now, later) = rest.split_at(len);
                rest = later;
                if let Some(frame) = framer.feed(now, []).unwrap() {
                    got.push(frame);
                }
                if rest.is_empty() {
                    break;
                }
            }
            prop_assert_eq!(got.len(), sent.len());
            for (frame, bytes) in got.iter().zip(&sent) {
                prop_assert_eq!(&frame.payload[..], &bytes[HEADER..]);
            }
            prop_assert!(framer.end().is_ok());
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
            let (mut framer, mut rest) = (Framer::new(LIMITS), &bytes[..]);
            while !rest.is_empty() {
                let (now, later) = rest.split_at(framer.wanted().min(rest.len()));
                rest = later;
                if framer.feed(now, []).is_err() {
                    prop_assert_eq!(framer.feed(&[], []).unwrap_err(), FrameError::Ended);
                    break;
                }
            }
        }
    }

    #[test]
    fn descriptors_belong_to_the_message_whose_bytes_they_came_with() {
        let (first, second) = (write(1, b"a"), write(2, b"bc"));
        let mut framer = Framer::new(LIMITS);
        assert!(framer.feed(&first[..1], [fd()]).unwrap().is_none());
        assert!(framer.feed(&first[1..16], []).unwrap().is_none());
        let frame = framer.feed(&first[16..], [fd()]).unwrap().unwrap();
        assert_eq!((frame.header.id, frame.fds.len()), (1, 2));
        assert!(framer.feed(&second[..16], []).unwrap().is_none());
        assert_eq!(framer.feed(&second[16..], []).unwrap().unwrap().fds.len(), 0);
    }

    #[test]
    fn a_size_near_4_gib_takes_no_memory() {
        let mut header = write(1, b"");
        header[4..8].copy_from_slice(&u32::MAX.to_ne_bytes());
        let mut framer = Framer::new(LIMITS);
        let error = framer.feed(&header[..16], []).unwrap_err();
        assert_eq!(error, FrameError::TooLarge { size: u32::MAX, max: 4096 });
        let mut framer = Framer::new(Limits { message: usize::MAX, fds: 0 });
        assert!(framer.feed(&header[..16], []).unwrap().is_none());
        assert_eq!(framer.wanted(), PIECE);
        assert!(framer.bytes.capacity() <= 64);
    }

    #[test]
    fn what_cannot_be_is_an_error() {
        let bytes = write(1, b"abc");
        let mut framer = Framer::new(LIMITS);
        let error = framer.feed(&bytes[..16], [fd(), fd(), fd()]).unwrap_err();
        assert_eq!(error, FrameError::TooManyFds { got: 3, max: 2 });
        let mut small = bytes[..16].to_vec();
        small[4..8].copy_from_slice(&15u32.to_ne_bytes());
        let error = Framer::new(LIMITS).feed(&small, []).unwrap_err();
        assert!(matches!(error, FrameError::Header(ProtocolError::Field { .. })), "{error}");
        let error = Framer::new(LIMITS).feed(&bytes, []).unwrap_err();
        assert!(matches!(error, FrameError::Overfed { wanted: 16, .. }), "{error}");
        let mut framer = Framer::new(LIMITS);
        framer.feed(&bytes[..16], []).unwrap();
        framer.feed(&bytes[16..20], []).unwrap();
        assert_eq!(framer.end().unwrap_err(), FrameError::Torn { got: 20, need: 35 });
    }
}
