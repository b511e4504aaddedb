//! What client and device say to each other: a descriptor that is written to a portal, a completion.

use bytemuck::{Pod, Zeroable};
use doorbell::queues::{DoorbellKind, QueueProtocol, Tag};

/// Something to do. 64 bytes; addresses are IOVAs in the client's partition.
#[derive(Debug, Clone, Copy, Default, Pod, Zeroable)]
#[repr(C)]
pub struct Descriptor {
    /// [`COPY`] or [`FILL`].
    pub operation: u16,
    pub tag: u16,
    /// Bytes, at most [`MAX_LEN`].
    pub len: u32,
    /// Of a copy: where from.
    pub source: u64,
    pub target: u64,
    /// Of a fill: the byte, in the low 8 bits.
    pub pattern: u64,
    pub reserved: [u64; 3],
    pub reserved2: u32,
    /// The portal's valid word: the queue writes it.
    pub valid: u32,
}

/// Copies `len` bytes from `source` to `target`.
pub const COPY: u16 = 1;
/// Fills `len` bytes at `target`.
pub const FILL: u16 = 2;

/// Most bytes of one descriptor.
pub const MAX_LEN: u32 = 1 << 20;

/// What was done, or not. 8 bytes; the word with the phase is written last.
#[derive(Debug, Clone, Copy, Default, Pod, Zeroable)]
#[repr(C)]
pub struct Completion {
    pub tag: u16,
    pub reserved: u16,
    /// Bit 0: phase. The rest: a status.
    pub status_and_phase: u32,
}

/// Statuses of a completion.
pub const DONE: u32 = 0;
pub const BAD_LENGTH: u32 = 1;
pub const DMA_FAULT: u32 = 2;
pub const BAD_OPERATION: u32 = 3;

#[derive(Debug)]
pub struct PortalProtocol;

// ANCHOR: protocol
impl QueueProtocol for PortalProtocol {
    type Entry = Descriptor;
    type Completion = Completion;
    type Outcome = u32;
    const DOORBELL: DoorbellKind = DoorbellKind::Portal { valid: 60 };
    const PHASE_WORD: usize = 4;

    fn phase(word: u32) -> bool {
        word & 1 != 0
    }
    fn stamp(entry: &mut Descriptor, tag: Tag) {
        entry.tag = tag.0;
    }
    fn tag(completion: &Completion) -> Tag {
        Tag(completion.tag)
    }
    fn submission_head(_: &Completion) -> Option<u16> {
        None // nothing is fetched, so there is no head
    }
    fn outcome(completion: &Completion) -> u32 {
        completion.status_and_phase >> 1
    }
}
// ANCHOR_END: protocol
