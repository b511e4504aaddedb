//! Bytes of a message: pure functions, no socket.

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::message::{Event, Reply, Request};
use super::{MAX_MESSAGE, VERSION};

const MAGIC: [u8; 4] = *b"DRBL";
const HEADER: usize = 16;

const REQUEST: u16 = 1;
const REPLY: u16 = 2;
const EVENT: u16 = 3;
const REFUSED: u16 = 4;

/// The fixed part of a message, the same in every version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Version of the sender.
    pub version: u16,
    /// Kind of the message.
    pub kind: u16,
    /// Request id.
    pub id: u32,
    /// Length of the body in bytes.
    pub len: u32,
}

/// The versions do not fit. Four little-endian `u16`: the lowest and the highest version that the
/// sender speaks, the version that it was addressed in, and 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Refused {
    /// Lowest version of the sender.
    pub lowest: u16,
    /// Highest version of the sender.
    pub highest: u16,
    /// The version that it refuses.
    pub refused: u16,
}

/// A message, or the part of it that bytes can carry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Message {
    /// From a client.
    Request(u32, Request),
    /// From the broker.
    Reply(u32, Reply),
    /// From the broker.
    Event(Event),
    /// From a broker of another version.
    Refused(Refused),
}

/// Bytes that are no message, or a message that cannot become bytes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// Shorter than a header.
    #[error("a message of {0} bytes is shorter than its header")]
    Short(usize),
    /// The first bytes are not the protocol's.
    #[error("the message does not begin with DRBL: the peer speaks another protocol")]
    Magic,
    /// Another version of the protocol.
    #[error(
        "the peer speaks version {theirs} of the control protocol, this program {ours}; \
             use the same release of doorbell on both sides"
    )]
    Version {
        /// Of the peer.
        theirs: u16,
        /// Of this program.
        ours: u16,
    },
    /// The header's length is not the packet's.
    #[error("the header announces a body of {announced} bytes and {actual} came")]
    Length {
        /// What the header says.
        announced: usize,
        /// What came.
        actual: usize,
    },
    /// Longer than any message may be.
    #[error("a message of {0} bytes; at most {MAX_MESSAGE} are possible")]
    TooLong(usize),
    /// No such kind of message.
    #[error("no message has kind {0}")]
    Kind(u16),
    /// The body is no message.
    #[error("the body of a {kind} cannot be read: {why}")]
    Body {
        /// Kind of the message.
        kind: &'static str,
        /// What is wrong with it.
        why: String,
    },
    /// The wrong number of descriptors came with it.
    #[error("'{kind}' takes {wanted} descriptor(s) and {got} came")]
    Descriptors {
        /// Kind of the message.
        kind: &'static str,
        /// How many belong to it.
        wanted: usize,
        /// How many came.
        got: usize,
    },
    /// The kernel cut the descriptors off: more came than any message has.
    #[error("more descriptors came than any message has")]
    TooManyDescriptors,
}

impl Header {
    /// Reads the header of a packet and checks magic and length, not the version: that is for the
    /// reader to answer.
    ///
    /// # Errors
    /// [`WireError::Short`], [`WireError::Magic`], [`WireError::Length`], [`WireError::TooLong`].
    pub fn decode(packet: &[u8]) -> Result<(Self, &[u8]), WireError> {
        if packet.len() > MAX_MESSAGE {
            return Err(WireError::TooLong(packet.len()));
        }
        let Some((head, body)) = packet.split_first_chunk::<HEADER>() else {
            return Err(WireError::Short(packet.len()));
        };
        let [m0, m1, m2, m3, v0, v1, k0, k1, i0, i1, i2, i3, l0, l1, l2, l3] = *head;
        if [m0, m1, m2, m3] != MAGIC {
            return Err(WireError::Magic);
        }
        let header = Self {
            version: u16::from_le_bytes([v0, v1]),
            kind: u16::from_le_bytes([k0, k1]),
            id: u32::from_le_bytes([i0, i1, i2, i3]),
            len: u32::from_le_bytes([l0, l1, l2, l3]),
        };
        if header.len as usize != body.len() {
            return Err(WireError::Length { announced: header.len as usize, actual: body.len() });
        }
        Ok((header, body))
    }

    fn encode(self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(256);
        bytes.extend_from_slice(&MAGIC);
        bytes.extend_from_slice(&self.version.to_le_bytes());
        bytes.extend_from_slice(&self.kind.to_le_bytes());
        bytes.extend_from_slice(&self.id.to_le_bytes());
        bytes.extend_from_slice(&self.len.to_le_bytes());
        bytes
    }
}

/// Bytes of a request.
///
/// # Errors
/// [`WireError::TooLong`].
pub fn encode_request(id: u32, request: &Request) -> Result<Vec<u8>, WireError> {
    encode(REQUEST, id, request)
}

/// Bytes of a reply.
///
/// # Errors
/// [`WireError::TooLong`].
pub fn encode_reply(id: u32, reply: &Reply) -> Result<Vec<u8>, WireError> {
    encode(REPLY, id, reply)
}

/// Bytes of an event.
///
/// # Errors
/// [`WireError::TooLong`].
pub fn encode_event(event: &Event) -> Result<Vec<u8>, WireError> {
    encode(EVENT, 0, event)
}

/// Bytes of the answer to a message of another version.
#[must_use]
pub fn encode_refused(id: u32, refused: u16) -> Vec<u8> {
    let mut bytes = Header { version: VERSION, kind: REFUSED, id, len: 8 }.encode();
    for word in [VERSION, VERSION, refused, 0] {
        bytes.extend_from_slice(&word.to_le_bytes());
    }
    bytes
}

fn encode<T: Serialize>(kind: u16, id: u32, body: &T) -> Result<Vec<u8>, WireError> {
    let header = Header { version: VERSION, kind, id, len: 0 }.encode();
    let mut bytes = postcard::to_extend(body, header)
        .map_err(|error| WireError::Body { kind: kind_name(kind), why: error.to_string() })?;
    if bytes.len() > MAX_MESSAGE {
        return Err(WireError::TooLong(bytes.len()));
    }
    let len = (bytes.len() - HEADER) as u32;
    if let Some(field) = bytes.get_mut(12..HEADER) {
        field.copy_from_slice(&len.to_le_bytes());
    }
    Ok(bytes)
}

/// Reads a packet.
///
/// # Errors
/// [`WireError`]: arbitrary bytes give one, never a panic. A message of another version is
/// [`WireError::Version`], except the refusal of a version, which all versions understand.
pub fn decode(packet: &[u8]) -> Result<Message, WireError> {
    let (header, body) = Header::decode(packet)?;
    if header.kind == REFUSED {
        return decode_refused(body);
    }
    if header.version != VERSION {
        return Err(WireError::Version { theirs: header.version, ours: VERSION });
    }
    match header.kind {
        REQUEST => Ok(Message::Request(header.id, decode_body(REQUEST, body)?)),
        REPLY => Ok(Message::Reply(header.id, decode_body(REPLY, body)?)),
        EVENT => Ok(Message::Event(decode_body(EVENT, body)?)),
        other => Err(WireError::Kind(other)),
    }
}

fn decode_refused(body: &[u8]) -> Result<Message, WireError> {
    let [l0, l1, h0, h1, r0, r1, ..] = *body else {
        return Err(WireError::Body {
            kind: kind_name(REFUSED),
            why: "it is too short".to_owned(),
        });
    };
    Ok(Message::Refused(Refused {
        lowest: u16::from_le_bytes([l0, l1]),
        highest: u16::from_le_bytes([h0, h1]),
        refused: u16::from_le_bytes([r0, r1]),
    }))
}

fn decode_body<T: DeserializeOwned>(kind: u16, body: &[u8]) -> Result<T, WireError> {
    let error = |why: String| WireError::Body { kind: kind_name(kind), why };
    match postcard::take_from_bytes(body) {
        Ok((value, [])) => Ok(value),
        Ok((_, rest)) => Err(error(format!("{} bytes too many", rest.len()))),
        Err(why) => Err(error(why.to_string())),
    }
}

fn kind_name(kind: u16) -> &'static str {
    match kind {
        REQUEST => "request",
        REPLY => "reply",
        EVENT => "event",
        _ => "version refusal",
    }
}
