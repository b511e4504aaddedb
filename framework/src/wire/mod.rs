//! The control protocol between client and broker.
//!
//! A Unix `SOCK_SEQPACKET` socket: one packet is one message, a fixed [`Header`] and a postcard
//! body, at most [`MAX_MESSAGE`] bytes. Descriptors travel beside a message (`SCM_RIGHTS`), exactly
//! as many as its kind says.
//!
//! | bytes | field (little endian) |
//! |---|---|
//! | 0..4 | magic, `DRBL` |
//! | 4..6 | version of the sender |
//! | 6..8 | kind: 1 request, 2 reply, 3 event, 4 version refused |
//! | 8..12 | request id; a reply repeats it; 0 in an event |
//! | 12..16 | length of the body |
//!
//! The first request is [`Request::Hello`]. The header and the body of kind 4 ([`codec::Refused`])
//! are the same in every version, so two programs of different versions can always tell each other
//! so. Nothing here believes what it reads: arbitrary bytes decode to a message or to an error.
//!
//! What it does not do: it is no data path. Entries and completions never pass a socket.
#![forbid(unsafe_code)]

pub mod codec;
pub mod message;
pub mod refusal;
pub mod socket;
pub mod status;
#[cfg(test)]
mod tests;

pub use codec::{Header, Message, WireError};
pub use message::{
    DeviceInfo, EndCause, Event, Grant, Place, PollerAbout, Reply, Request, RevokeTarget,
    ShadowLayout, ShadowWords, SignalLayout, Timeout,
};
pub use refusal::{Limit, Refusal};
pub use socket::{Packet, Received};
pub use status::{
    ArenaStatus, FunctionState, FunctionStatus, PollerStatus, QueueStatus, QuotaStatus,
    ReclaimCause, ReclaimReport, SessionStatus, StatusReport,
};

/// Version of the protocol. Any change of a message's form is a new version.
pub const VERSION: u16 = 3;

/// The most bytes of one message, header and body.
pub const MAX_MESSAGE: usize = 64 << 10;

/// The most descriptors beside one message.
pub const MAX_FDS: usize = 5;
