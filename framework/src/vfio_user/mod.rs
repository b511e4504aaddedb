//! The vfio-user protocol: its messages, as types and as bytes, and their framing on a socket.
//!
//! Source: "vfio-user Protocol Specification" (QEMU's documentation, `docs/interop/vfio-user.rst`).
//! Section names in this module are those of that text.
//!
//! * [`header`]: the 16 bytes before every message.
//! * [`message`]: [`Request`] and [`Reply`], one variant for each command.
//! * [`capabilities`]: the JSON of VERSION.
//! * [`frame`]: bytes and descriptors to messages, without a socket ([`Framer`]).
//! * [`socket`]: [`Framer`] and a bounded queue of outgoing messages, on a non-blocking socket.
//!
//! Both sides use the same functions. A peer is not trusted: every length and count is checked
//! against the bytes that are there, nothing is allocated for bytes that were only announced, and
//! what does not fit is a [`ProtocolError`] or a [`FrameError`], never a panic.
//!
//! What it does not do: it keeps no connection. It knows no order of messages, no ids under way, no
//! device. All integers are in the byte order of the host, as the specification says.
#![forbid(unsafe_code)]

pub mod capabilities;
mod fields;
pub mod frame;
pub mod header;
pub mod message;
#[cfg(feature = "soft")]
pub mod server;
pub mod socket;
#[cfg(test)]
mod transcripts;

pub use capabilities::{Capabilities, TwinSocket};
pub use frame::{Frame, FrameError, Framer, Limits};
pub use header::{Command, HEADER, Header, Kind};
pub use message::{Reply, Request};
pub use socket::{Outgoing, Receiver, SocketError};

/// The version of the protocol that is spoken here: major.
pub const MAJOR: u16 = 0;
/// The highest minor version that is spoken here. A peer that proposes less gets what it proposes.
pub const MINOR: u16 = 1;

/// Regions and interrupt indexes of a PCI device (`<linux/vfio.h>`, `VFIO_PCI_*_INDEX`).
pub mod pci {
    /// BAR 0; BAR n is `BAR0 + n`.
    pub const BAR0: u32 = 0;
    /// BAR 5.
    pub const BAR5: u32 = 5;
    /// The expansion ROM.
    pub const ROM: u32 = 6;
    /// Config space.
    pub const CONFIG: u32 = 7;
    /// VGA ranges.
    pub const VGA: u32 = 8;
    /// How many regions every PCI device reports.
    pub const REGIONS: u32 = 9;

    /// INTx.
    pub const INTX_IRQ: u32 = 0;
    /// MSI.
    pub const MSI_IRQ: u32 = 1;
    /// MSI-X.
    pub const MSIX_IRQ: u32 = 2;
    /// Errors (AER).
    pub const ERR_IRQ: u32 = 3;
    /// A request to let go of the device.
    pub const REQ_IRQ: u32 = 4;
    /// How many interrupt indexes every PCI device reports.
    pub const IRQS: u32 = 5;
}

/// Bytes that are no message of the protocol, or say what cannot be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProtocolError {
    /// Fewer bytes than the fixed part of the message.
    #[error("{message}: {got} bytes came, at least {need} belong to it")]
    Short {
        /// The message.
        message: &'static str,
        /// Bytes of its fixed part, or of what its fields announce.
        need: usize,
        /// Bytes that came.
        got: usize,
    },
    /// A count in the message is not that of the bytes behind it.
    #[error("{message}: it announces {announced} bytes of data and {got} came")]
    Count {
        /// The message.
        message: &'static str,
        /// What the field says.
        announced: u64,
        /// What came.
        got: usize,
    },
    /// A field has a value that it cannot have.
    #[error("{message}: {field} is {value:#x}: {problem}")]
    Field {
        /// The message.
        message: &'static str,
        /// The field, as the specification names it.
        field: &'static str,
        /// Its value.
        value: u64,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// A command that the specification does not have.
    #[error("command {0} is none of the protocol")]
    Command(u16),
    /// The version data is not the JSON that it should be.
    #[error("VERSION: the version data: {0}")]
    Json(String),
}
