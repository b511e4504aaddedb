//! The data plane of NVM Express: how an entry is stamped and a completion read (base 2.0, 3.3.3).
//!
//! Pure functions over plain-old-data, so that a queue of this protocol is monomorphic and inlined.
#![forbid(unsafe_code)]

use doorbell_queues::{QueueProtocol, Tag};

use crate::spec::{Cqe, Sqe, Status};

/// Submission and completion queues of NVM Express: I/O queues and the admin queue alike.
#[derive(Debug, Clone, Copy)]
pub struct NvmeProtocol;

/// What a completion says of its command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Outcome {
    /// The status field (base 2.0, 3.3.3.2.1); zero is success.
    pub status: Status,
    /// Dword 0: command specific.
    pub dw0: u32,
}

impl QueueProtocol for NvmeProtocol {
    type Entry = Sqe;
    type Completion = Cqe;
    type Outcome = Outcome;

    const PHASE_WORD: usize = Cqe::PHASE_WORD;

    #[inline]
    fn phase(word: u32) -> bool {
        Cqe::word_phase(word)
    }

    #[inline]
    fn stamp(entry: &mut Sqe, tag: Tag) {
        entry.cid = tag.0;
    }

    #[inline]
    fn tag(completion: &Cqe) -> Tag {
        Tag(completion.cid)
    }

    #[inline]
    fn submission_head(completion: &Cqe) -> Option<u16> {
        Some(completion.sqhd)
    }

    #[inline]
    fn outcome(completion: &Cqe) -> Outcome {
        Outcome { status: completion.status(), dw0: completion.dw0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_completion_is_read_field_by_field() {
        let mut cqe = Cqe::new(0x1234, 3, 17, Status::SUCCESS, true);
        cqe.dw0 = 99;
        assert_eq!(NvmeProtocol::tag(&cqe), Tag(0x1234));
        assert_eq!(NvmeProtocol::submission_head(&cqe), Some(17));
        assert_eq!(NvmeProtocol::outcome(&cqe), Outcome { status: Status::SUCCESS, dw0: 99 });
        let word = bytemuck::pod_read_unaligned::<u32>(&bytemuck::bytes_of(&cqe)[12..]);
        assert!(NvmeProtocol::phase(word));
    }

    #[test]
    fn the_tag_becomes_the_command_identifier() {
        let mut sqe = Sqe::default();
        NvmeProtocol::stamp(&mut sqe, Tag(0xabcd));
        assert_eq!(sqe.cid, 0xabcd);
        assert_eq!(bytemuck::bytes_of(&sqe)[2..4], [0xcd, 0xab]);
    }
}
