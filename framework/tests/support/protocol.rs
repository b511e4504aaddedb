//! Entries and completions of the test device.

use bytemuck::{Pod, Zeroable};
use doorbell::queues::{QueueProtocol, Tag};

/// Status of a command that was done.
pub const OK: u32 = 0;
/// Status of a command whose memory is not mapped.
pub const FAULTED: u32 = 1;
/// Status of a command that was aborted.
pub const ABORTED: u32 = 2;
/// Status of an unknown command.
pub const UNKNOWN: u32 = 3;

/// What the test device can be asked to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Command {
    /// Completes at once.
    Nop,
    /// Fills memory with a byte.
    Fill { iova: u64, len: u32, byte: u8 },
    /// Completes when an abort asks for it.
    Hang,
    /// Never completes, and cannot be aborted.
    Stone,
    /// Completes when the driver's operation `Release` asks for it.
    Hold,
    /// Completes at once; from then on the queue cannot be deleted, only reset away.
    Stubborn,
}

#[derive(Debug, Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub struct Entry {
    pub tag: u16,
    pub op: u16,
    pub len: u32,
    pub iova: u64,
    pub byte: u64,
    pub reserved: u64,
}

#[derive(Debug, Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub struct Completion {
    pub reserved: u64,
    pub head: u16,
    pub tag: u16,
    /// Bit 0 is the phase, the rest the status.
    pub status: u32,
}

impl Command {
    pub fn entry(self) -> Entry {
        let (op, iova, len, byte) = match self {
            Self::Nop => (0, 0, 0, 0),
            Self::Fill { iova, len, byte } => (1, iova, len, byte),
            Self::Hang => (2, 0, 0, 0),
            Self::Stone => (3, 0, 0, 0),
            Self::Hold => (4, 0, 0, 0),
            Self::Stubborn => (5, 0, 0, 0),
        };
        Entry { tag: 0, op, len, iova, byte: byte.into(), reserved: 0 }
    }
}

/// What a command came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Outcome {
    pub status: u32,
}

/// The queue protocol.
#[derive(Debug, Clone, Copy)]
pub struct Loop;

impl QueueProtocol for Loop {
    type Entry = Entry;
    type Completion = Completion;
    type Outcome = Outcome;
    const PHASE_WORD: usize = 12;

    fn phase(word: u32) -> bool {
        word & 1 == 1
    }
    fn stamp(entry: &mut Entry, tag: Tag) {
        entry.tag = tag.0;
    }
    fn tag(completion: &Completion) -> Tag {
        Tag(completion.tag)
    }
    fn submission_head(completion: &Completion) -> Option<u16> {
        Some(completion.head)
    }
    fn outcome(completion: &Completion) -> Outcome {
        Outcome { status: completion.status >> 1 }
    }
}
