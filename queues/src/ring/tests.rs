//! Indices around the rings' ends, against the plainest arithmetic there is.

use super::*;
use crate::mem::{EntryStores, SharedMem};
use crate::protocol::Tag;
use crate::testing::{Completion, Entry, TestProtocol};

fn submission(count: usize) -> SubmissionRing<Entry> {
    SubmissionRing::new(SharedMem::zeroed(count * 64).cells(0, count).unwrap(), EntryStores::Plain)
}

/// A ring of `count` whose device has reported `head` and was told `tail`.
fn at(count: u16, head: u16, tail: u16) -> SubmissionRing<Entry> {
    let ring = submission(count.into());
    for target in [head, tail] {
        while ring.tail.index() != target {
            ring.push(&Entry::filled(0));
        }
        ring.take_tail();
        assert!(ring.report_head(if target == head { head } else { ring.head.get() }));
    }
    ring
}

#[test]
fn a_head_is_possible_from_the_last_one_up_to_the_tail() {
    for count in [2, 3, 5, 8] {
        for (head, tail) in (0..count).flat_map(|head| (0..count).map(move |tail| (head, tail))) {
            let steps = (tail + count - head) % count;
            let possible: Vec<u16> = (0..=steps).map(|step| (head + step) % count).collect();
            for reported in (0..2 * count).chain([u16::MAX]) {
                let ring = at(count, head, tail);
                let expected = possible.contains(&reported);
                assert_eq!(ring.report_head(reported), expected, "{count} {head} {tail}");
                let violation = Violation::ImpossibleHead { reported, last: head, tail };
                assert!(expected || ring.impossible_head(reported) == violation);
                let after = if expected { reported } else { head };
                assert_eq!(ring.head.get(), after, "only what was possible is remembered");
            }
        }
    }
}

#[test]
fn the_tail_is_told_once_per_batch() {
    let ring = submission(3);
    assert!(!ring.has_unrung());
    let mut tail = 0;
    for batch in [1, 2, 2, 1] {
        for _ in 0..batch {
            ring.push(&Entry::filled(0));
        }
        tail = (tail + batch) % 3;
        assert!(ring.has_unrung());
        assert_eq!(ring.take_tail(), tail);
        assert!(!ring.has_unrung());
    }
}

#[test]
fn completions_are_taken_once_in_each_pass() {
    for count in [2, 3, 7] {
        let cells = SharedMem::zeroed(count * 16).cells(0, count).unwrap();
        let mut posted = 0;
        let mut post = |ring: &CompletionRing<TestProtocol>| {
            let phase = u16::from((posted / count).is_multiple_of(2));
            let (result, tag) = (posted as u64, posted as u16);
            let completion = Completion { result, head: 0, queue: 0, tag, status: phase };
            ring.head.array().publish(posted % count, &completion, TestProtocol::PHASE_WORD);
            posted += 1;
        };
        let ring = CompletionRing::<TestProtocol>::new(cells);
        assert_eq!((ring.count(), ring.pop()), (count, None));
        for n in 0..5 * count as u64 {
            assert_eq!(ring.unrung(), (n as usize) % count, "none was told yet");
            post(&ring);
            assert!(ring.has_fresh());
            let taken = ring.pop().unwrap();
            assert_eq!((taken.result, TestProtocol::tag(&taken)), (n, Tag(n as u16)));
            assert_eq!((ring.has_fresh(), ring.pop()), (false, None));
        }
        assert_eq!(ring.take_head(), 0);
        post(&ring);
        ring.pop().unwrap();
        assert_eq!((ring.unrung(), ring.take_head() as usize, ring.unrung()), (1, 1 % count, 0));
    }
}

#[test]
fn a_stopped_ring_gives_nothing() {
    let ring = CompletionRing::<TestProtocol>::new(SharedMem::zeroed(32).cells(0, 2).unwrap());
    let completion = Completion { result: 0, head: 0, queue: 0, tag: 0, status: 1 };
    ring.head.array().publish(1, &completion, TestProtocol::PHASE_WORD);
    assert_eq!(ring.check_order(), Err(Violation::PhaseOutOfOrder { head: 0 }));
    ring.stop();
    ring.head.array().publish(0, &completion, TestProtocol::PHASE_WORD);
    for _ in 0..600 {
        assert_eq!((ring.pop(), ring.missed()), (None, Ok(())));
    }
}
