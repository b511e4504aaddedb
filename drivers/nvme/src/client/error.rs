//! What can go wrong in a client, and how the buffer comes back.

use std::fmt;
use std::sync::Arc;

use doorbell::client::ClientError;
use doorbell::dma::{DmaBox, DmaError};
use doorbell_queues::{QueueError, QueueName, Tag};
use thiserror::Error;

use super::extent::Lba;
use crate::spec::{IoOpcode, Status};

/// A request that no device could carry out. Nothing was submitted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum BadRange {
    /// No bytes, or no blocks.
    #[error("the request is for no blocks at all")]
    Empty,
    /// A length that is no whole number of blocks.
    #[error("{len} bytes are no whole number of blocks of {block_size} bytes")]
    Length {
        /// Bytes asked for.
        len: u64,
        /// Bytes of a block.
        block_size: u64,
    },
    /// A byte offset inside of a block.
    #[error("byte offset {offset} is not at the start of a block of {block_size} bytes")]
    Offset {
        /// Offset asked for, in bytes.
        offset: u64,
        /// Bytes of a block.
        block_size: u64,
    },
    /// Blocks past the end of the namespace.
    #[error("{blocks} blocks from LBA {lba} end outside of a namespace of {capacity} blocks")]
    OutOfRange {
        /// First block asked for.
        lba: u64,
        /// Blocks asked for.
        blocks: u64,
        /// Blocks of the namespace.
        capacity: u64,
    },
    /// More than one command can move, in a call that submits exactly one.
    #[error(
        "{len} bytes are more than the {most} that one command can move; use a future, which splits"
    )]
    TooLong {
        /// Bytes asked for.
        len: u64,
        /// The most for one command.
        most: u64,
    },
    /// A Dataset Management command with too many or too long ranges.
    #[error("{ranges} ranges; one command takes 1 to {most}, of at most {most_blocks} blocks each")]
    Ranges {
        /// Ranges asked for.
        ranges: usize,
        /// The most for one command.
        most: usize,
        /// The most blocks of a range.
        most_blocks: u64,
    },
}

/// The device said no.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failed {
    /// Device and queue.
    pub queue: QueueName,
    /// The command's identifier.
    pub tag: Tag,
    /// Which command.
    pub opcode: IoOpcode,
    /// The namespace it was for.
    pub nsid: u32,
    /// Its first block; `None` for commands without one.
    pub lba: Option<Lba>,
    /// What the device said.
    pub status: Status,
}

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { queue, tag, opcode, nsid, lba, status } = self;
        let name = opcode.name().unwrap_or("command").to_lowercase().replace('_', " ");
        write!(f, "{queue}: {name} {tag} of namespace {nsid}")?;
        if let Some(lba) = lba {
            write!(f, ", {lba}")?;
        }
        write!(f, ": {status}")
    }
}

/// A request that was refused, and for which namespace.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("device {device}, namespace {nsid}: {range}")]
pub struct Refused {
    /// The device.
    pub device: Arc<str>,
    /// The namespace.
    pub nsid: u32,
    /// What is wrong with the request.
    pub range: BadRange,
}

/// A namespace that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("device {device}: namespace {nsid}: {why}")]
pub struct BadNamespace {
    /// The device.
    pub device: Arc<str>,
    /// The namespace.
    pub nsid: u32,
    /// Why it cannot be used.
    pub why: String,
}

/// An operation on an NVMe device failed.
///
/// It is kept small, because results travel with every command: what is large and rare is boxed.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum NvmeError {
    /// The device completed the command with an error status.
    #[error("{0}")]
    Status(Box<Failed>),
    /// The request was refused before anything reached the device.
    #[error(transparent)]
    BadRange(Box<Refused>),
    /// The queue has ended, the device broke the protocol, or the interrupt failed.
    #[error(transparent)]
    Queue(Box<QueueError>),
    /// A call that does not wait found every slot in flight.
    #[error("{0}: every slot is in flight; reap, or wait for a free slot")]
    Full(QueueName),
    /// The namespace does not exist, or is of a kind that this client does not support.
    #[error(transparent)]
    Namespace(Box<BadNamespace>),
    /// An optional command that this controller does not have.
    #[error("device {device}: the controller has no {} command", command.name().unwrap_or("such"))]
    NotSupported {
        /// The device.
        device: Arc<str>,
        /// The command.
        command: IoOpcode,
    },
    /// The broker, or the connection to it.
    #[error(transparent)]
    Client(Box<ClientError>),
    /// The device cannot be opened in this process.
    #[cfg(feature = "driver")]
    #[error(transparent)]
    Local(Box<doorbell::local::LocalError>),
    /// DMA memory.
    #[error(transparent)]
    Dma(Box<DmaError>),
    /// The broker or its driver answered something that does not fit the question.
    #[error(
        "device {0}: the driver's answer does not fit; do client and broker have the same version?"
    )]
    Answer(Arc<str>),
    /// A future was polled after it was ready: a defect of this program.
    #[error("a future was polled after it was ready")]
    PolledAgain,
    /// Something else holds the buffer's memory, though its commands are done: a defect.
    #[error("the buffer's memory is still shared after its commands were done")]
    StillShared,
}

impl NvmeError {
    /// The status of the command, if the device completed it.
    #[must_use]
    pub fn status(&self) -> Option<Status> {
        match self {
            Self::Status(failed) => Some(failed.status),
            _ => None,
        }
    }

    /// The command that failed, if the device completed it.
    #[must_use]
    pub fn failed(&self) -> Option<&Failed> {
        match self {
            Self::Status(failed) => Some(failed),
            _ => None,
        }
    }

    /// True if a Compare found a difference.
    #[must_use]
    pub fn is_mismatch(&self) -> bool {
        self.status().is_some_and(|status| status.is(Status::COMPARE_FAILURE))
    }

    /// True if the device has aborted the command because its queue was deleted.
    pub(super) fn is_deletion(&self) -> bool {
        self.status().is_some_and(|status| status.is(Status::ABORTED_SQ_DELETION))
    }

    /// Why the queue is of no use, if that is so.
    #[must_use]
    pub fn queue(&self) -> Option<&QueueError> {
        match self {
            Self::Queue(error) => Some(error),
            _ => None,
        }
    }

    /// What is wrong with the request, if it never reached the device.
    #[must_use]
    pub fn bad_range(&self) -> Option<BadRange> {
        match self {
            Self::BadRange(refused) => Some(refused.range),
            _ => None,
        }
    }
}

impl From<QueueError> for NvmeError {
    fn from(error: QueueError) -> Self {
        Self::Queue(Box::new(error))
    }
}

impl From<ClientError> for NvmeError {
    fn from(error: ClientError) -> Self {
        Self::Client(Box::new(error))
    }
}

#[cfg(feature = "driver")]
impl From<doorbell::local::LocalError> for NvmeError {
    fn from(error: doorbell::local::LocalError) -> Self {
        Self::Local(Box::new(error))
    }
}

impl From<DmaError> for NvmeError {
    fn from(error: DmaError) -> Self {
        Self::Dma(Box::new(error))
    }
}

/// A read, write or compare failed; the buffer comes back where the device is done with it.
///
/// It is an error like any other: `?` turns it into an [`NvmeError`] or an `anyhow::Error`, and the
/// buffer returns to its pool.
pub struct IoError {
    /// Why.
    pub error: NvmeError,
    /// The buffer. `None` if the device may still be using it: the queue then keeps it until the
    /// device is known to be done.
    pub buffer: Option<DmaBox<[u8]>>,
}

impl fmt::Debug for IoError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IoError")
            .field("error", &self.error)
            .field("buffer", &self.buffer.is_some())
            .finish()
    }
}

impl fmt::Display for IoError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.error.fmt(f)
    }
}

impl std::error::Error for IoError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.error.source()
    }
}

impl From<IoError> for NvmeError {
    fn from(failed: IoError) -> Self {
        failed.error
    }
}
