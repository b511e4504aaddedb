//! What can go wrong on a queue. Every error names the device and the queue.

use core::fmt;

use crate::fate::EndReason;
use crate::mem::OutOfBounds;
use crate::protocol::{QueueName, Tag};
use crate::wait::WaitError;

/// How a device broke the queue's protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Violation {
    /// A completion with a tag whose slot does not exist or is not in flight.
    UnknownTag(Tag),
    /// A completion with a tag of another generation of its slot: of a command that had completed
    /// already, or that never was.
    StaleTag(Tag),
    /// A completion that reports a submission queue head outside of what was submitted.
    ImpossibleHead {
        /// The head that was reported, an index into the submission ring.
        reported: u16,
        /// The head reported before it.
        last: u16,
        /// The tail that the device was given.
        tail: u16,
    },
    /// The entry after the head has the new phase and the entry at the head has not: completions
    /// were written out of order, or with the wrong phase. Found when a future parks and now and
    /// then by [`reap`](crate::Queue::reap) on an empty ring. (A device that gets the phase of its
    /// newest completion wrong and writes none after it looks like one that has not completed it:
    /// that is for the command's time limit.)
    PhaseOutOfOrder {
        /// Index of the entry at the head.
        head: u16,
    },
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnknownTag(tag) => write!(f, "completed command {tag}, which is not in flight"),
            Self::StaleTag(tag) => {
                write!(f, "completed command {tag}, which had completed before or never was")
            }
            Self::ImpossibleHead { reported, last, tail } => {
                write!(f, "reported submission queue head {reported}, outside of {last}..={tail}")
            }
            Self::PhaseOutOfOrder { head } => {
                write!(f, "wrote a completion after entry {head} but not at it (wrong phase)")
            }
        }
    }
}

/// An operation on a queue failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum QueueError {
    /// The queue has ended; nothing more can be submitted.
    Ended {
        /// Which queue.
        queue: QueueName,
        /// Why.
        reason: EndReason,
    },
    /// The device broke the protocol; the queue has ended with [`EndReason::Violation`].
    Violation {
        /// Which queue.
        queue: QueueName,
        /// What it did.
        violation: Violation,
    },
    /// The interrupt can no longer come.
    Wait {
        /// Which queue.
        queue: QueueName,
        /// The command that waited.
        tag: Option<Tag>,
        /// What failed.
        error: WaitError,
    },
}

impl fmt::Display for QueueError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ended { queue, reason } => write!(f, "{queue}: has ended: {reason}"),
            Self::Violation { queue, violation } => write!(f, "{queue}: the device {violation}"),
            Self::Wait { queue, tag: Some(tag), error } => {
                write!(f, "{queue}, command {tag}: waiting for its completion: {error}")
            }
            Self::Wait { queue, tag: None, error } => {
                write!(f, "{queue}: waiting for a free slot: {error}")
            }
        }
    }
}

impl core::error::Error for QueueError {}

/// Why an entry was not submitted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RejectReason {
    /// Every slot is in flight; reap, or wait for [`crate::Queue::slot_free`].
    Full(QueueName),
    /// The queue has ended.
    Ended(QueueError),
}

impl core::error::Error for RejectReason {}

impl fmt::Display for RejectReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Full(queue) => write!(f, "{queue}: every slot is in flight"),
            Self::Ended(error) => error.fmt(f),
        }
    }
}

/// An entry was not submitted; the buffer comes back. (It is no [`Error`](core::error::Error),
/// because that a buffer is not dropped unseen is the point of it; its `reason` is one.)
pub struct Rejected<B> {
    /// Why.
    pub reason: RejectReason,
    /// The buffer that would have been in flight.
    pub buffer: B,
}

impl<B> fmt::Debug for Rejected<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rejected").field("reason", &self.reason).finish_non_exhaustive()
    }
}

/// A command's outcome will never be known: it may have been executed or not.
pub struct Lost<B> {
    /// Why.
    pub error: QueueError,
    /// The buffer, if the device is known to be done with it. Otherwise the queue keeps it until
    /// the queue itself is given up.
    pub buffer: Option<B>,
}

impl<B> fmt::Debug for Lost<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lost")
            .field("error", &self.error)
            .field("buffer", &self.buffer.is_some())
            .finish()
    }
}

/// The parts handed to [`crate::Queue::new`] do not make a queue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BadGeometry {
    /// Rings hold 2 to 65,536 entries.
    Entries {
        /// Which queue.
        queue: QueueName,
        /// How many entries were asked for.
        entries: u32,
    },
    /// Slots number 1 to 4,096, fewer than the entries of either ring (so that neither can
    /// overflow).
    Slots {
        /// Which queue.
        queue: QueueName,
        /// How many slots were asked for.
        slots: u16,
    },
    /// The ring's memory is too small or misaligned.
    Memory {
        /// Which queue.
        queue: QueueName,
        /// What was asked of which memory.
        error: OutOfBounds,
    },
}

impl fmt::Display for BadGeometry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Entries { queue, entries } => {
                write!(f, "{queue}: a ring of {entries} entries; 2 to 65536 are possible")
            }
            Self::Slots { queue, slots } => write!(
                f,
                "{queue}: {slots} slots; 1 to 4096 are possible, fewer than either ring has entries"
            ),
            Self::Memory { queue, error } => write!(f, "{queue}: ring memory: {error}"),
        }
    }
}

impl core::error::Error for BadGeometry {}
