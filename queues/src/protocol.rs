//! What a driver's author says about a queue: [`QueueProtocol`].

use alloc::sync::Arc;
use core::fmt;

use bytemuck::Pod;

/// The identifier that travels in an entry and comes back in its completion (NVMe: CID).
/// It is a slot number plus a generation, see [`crate::slots`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Tag(pub u16);

impl fmt::Display for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#06x}", self.0)
    }
}

/// Which queue of which device: carried by every error.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct QueueName {
    /// The device, as the operator names it: `soft:nvme`, `0000:01:00.0`.
    pub device: Arc<str>,
    /// The queue's identifier on that device.
    pub queue: u16,
}

impl fmt::Display for QueueName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "device {}, queue {}", self.device, self.queue)
    }
}

/// How entries reach the device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DoorbellKind {
    /// They lie in a ring in memory, and a tail register tells how far.
    Tail,
    /// They are written by value to a portal of the device: see [`crate::portal`].
    Portal {
        /// Byte offset, in the entry, of the aligned little-endian 32-bit word by which the device sees
        /// that the entry is new. The queue fills it in and stores it last; whoever builds the entry
        /// leaves it alone.
        valid: usize,
    },
}

/// The data plane of a device with a submission ring, or a portal, and a completion ring.
///
/// Safe code without an operating system: it runs in any client process. The implementation is a
/// set of pure functions over plain-old-data, so a queue is monomorphic and fully inlined.
///
/// What it does not cover: devices without rings (they use registers through their driver's typed
/// operations).
pub trait QueueProtocol: Sized + 'static {
    /// A submission queue entry; its size is a multiple of 8 bytes.
    type Entry: Pod;
    /// A completion queue entry; its size is a multiple of 8 bytes.
    type Completion: Pod;
    /// What the caller learns of a completion.
    type Outcome: Copy + fmt::Debug + 'static;

    /// How entries reach the device.
    const DOORBELL: DoorbellKind = DoorbellKind::Tail;

    /// Byte offset, in the completion, of the aligned little-endian 32-bit word that the device
    /// writes last and that holds the phase.
    const PHASE_WORD: usize;

    /// The phase in that word.
    fn phase(word: u32) -> bool;

    /// Stamps the tag into an entry that is about to be stored.
    fn stamp(entry: &mut Self::Entry, tag: Tag);

    /// The tag that a completion names.
    fn tag(completion: &Self::Completion) -> Tag;

    /// The submission queue head that the device reports, where it reports one. It is checked:
    /// a head that was never a tail is an error value. A portal has no head: `None`.
    fn submission_head(completion: &Self::Completion) -> Option<u16>;

    /// Status and results of a completion.
    fn outcome(completion: &Self::Completion) -> Self::Outcome;
}
