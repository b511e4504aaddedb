//! A protocol of the shape of NVMe's: entries of 64 bytes, completions of 16.

use bytemuck::{Pod, Zeroable};

use crate::protocol::{QueueProtocol, Tag};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub(crate) struct Entry {
    pub(crate) opcode: u16,
    pub(crate) tag: u16,
    pub(crate) nsid: u32,
    pub(crate) words: [u64; 7],
}

impl Entry {
    /// An entry with one value in all of its words, so that a torn one is recognised.
    pub(crate) fn filled(value: u64) -> Self {
        Self { opcode: 1, tag: 0, nsid: 0, words: [value; 7] }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub(crate) struct Completion {
    pub(crate) result: u64,
    pub(crate) head: u16,
    pub(crate) queue: u16,
    pub(crate) tag: u16,
    /// Bit 0 is the phase.
    pub(crate) status: u16,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Outcome {
    pub(crate) result: u64,
    pub(crate) status: u16,
}

#[derive(Debug)]
pub(crate) enum TestProtocol {}

impl QueueProtocol for TestProtocol {
    type Entry = Entry;
    type Completion = Completion;
    type Outcome = Outcome;

    const PHASE_WORD: usize = 12;

    fn phase(word: u32) -> bool {
        word & 1 << 16 != 0
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
        Outcome { result: completion.result, status: completion.status >> 1 }
    }
}
