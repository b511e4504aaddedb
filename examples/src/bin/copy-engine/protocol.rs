//! What client and device say to each other on a queue: one descriptor, one completion.

use bytemuck::{Pod, Zeroable};
use doorbell::queues::{QueueProtocol, Tag};

/// A copy to do. 32 bytes; addresses are IOVAs in the client's partition.
#[derive(Debug, Clone, Copy, Default, Pod, Zeroable)]
#[repr(C)]
pub struct Descriptor {
    pub source: u64,
    pub target: u64,
    /// Bytes, at most [`MAX_COPY`].
    pub len: u32,
    pub tag: u16,
    pub reserved: u16,
    pub reserved2: u64,
}

/// A copy that was done, or not. 8 bytes; the word with the phase is written last.
#[derive(Debug, Clone, Copy, Default, Pod, Zeroable)]
#[repr(C)]
pub struct Completion {
    pub tag: u16,
    pub head: u16,
    /// Bit 0: phase. Bits 15:1: 0 done, 1 bad length, 2 DMA fault.
    pub status_and_phase: u32,
}

/// Most bytes of one copy.
pub const MAX_COPY: u32 = 1 << 20;

/// The queue protocol: pure functions, so that a queue is monomorphic and inlined.
#[derive(Debug)]
pub struct CopyProtocol;

// ANCHOR: protocol
impl QueueProtocol for CopyProtocol {
    type Entry = Descriptor;
    type Completion = Completion;
    type Outcome = u32;
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
    fn submission_head(completion: &Completion) -> Option<u16> {
        Some(completion.head)
    }
    fn outcome(completion: &Completion) -> u32 {
        completion.status_and_phase >> 1
    }
}
// ANCHOR_END: protocol
