//! What one side publishes the other sees whole, on rings that have wrapped.

use core::cell::Cell;
use core::marker::PhantomData;
use core::sync::atomic::Ordering;

use bytemuck::{Pod, Zeroable};
use loom::sync::Arc;
use loom::sync::atomic::AtomicU64;
use loom::thread;

use super::LoomWord;
use crate::doorbell::publish;
use crate::mem::{CellArray, CellWords, EntryStores, IndexCursor, Word};
use crate::protocol::{QueueProtocol, Tag};
use crate::ring::{CompletionRing, SubmissionRing};

/// Cells of loom's words, two words each.
struct LoomCells<T>(Arc<Vec<[AtomicU64; 2]>>, PhantomData<T>);

impl<T> Clone for LoomCells<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone(), PhantomData)
    }
}

impl<T> LoomCells<T> {
    fn new(count: usize) -> Self {
        let cell = |_| [AtomicU64::new(0), AtomicU64::new(0)];
        Self(Arc::new((0..count).map(cell).collect()), PhantomData)
    }
}

impl CellWords for &[AtomicU64; 2] {
    fn load(self, word: usize, order: Ordering) -> u64 {
        self[word].load(order)
    }
    fn store(self, word: usize, value: u64, order: Ordering) {
        self[word].store(value, order);
    }
}

impl<T> CellArray for LoomCells<T> {
    type Words<'a>
        = &'a [AtomicU64; 2]
    where
        T: 'a;
    type Cursor = IndexCursor<Self>;

    fn count(&self) -> usize {
        self.0.len()
    }
    fn words(&self, index: usize) -> &[AtomicU64; 2] {
        &self.0[index]
    }
    fn into_cursor(self) -> IndexCursor<Self> {
        IndexCursor::new(self)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
struct Pair {
    value: u64,
    tag: u32,
    /// In a completion, bit 0 is the phase.
    word: u32,
}

enum Pairs {}

impl QueueProtocol for Pairs {
    type Entry = Pair;
    type Completion = Pair;
    type Outcome = u64;

    const PHASE_WORD: usize = 12;

    fn phase(word: u32) -> bool {
        word & 1 != 0
    }
    fn stamp(entry: &mut Pair, tag: Tag) {
        entry.tag = tag.0.into();
    }
    fn tag(completion: &Pair) -> Tag {
        Tag(completion.tag as u16)
    }
    fn submission_head(_: &Pair) -> Option<u16> {
        None
    }
    fn outcome(completion: &Pair) -> u64 {
        completion.value
    }
}

fn entry(value: u64) -> Pair {
    Pair { value, tag: value as u32, word: value as u32 }
}

/// The completion number `n`, from 0, of a device with a ring of `count` entries.
fn completion(n: u64, count: u64) -> Pair {
    let phase = u32::from((n / count).is_multiple_of(2));
    Pair { value: n + 100, tag: n as u32, word: phase }
}

/// The host pushes entries `0..pushes` to a ring of three, rings after each; the device has fetched
/// all but the last `racing` when the race starts.
fn entries(pushes: u64, racing: u64, ring: fn(&LoomWord, u32)) {
    loom::model(move || {
        let (cells, register) = (LoomCells::<Pair>::new(3), LoomWord::new());
        let host = SubmissionRing::<Pair, _>::new(cells.clone(), EntryStores::Plain);
        let push = move |host: &SubmissionRing<Pair, _>, register: &LoomWord, n| {
            host.push(&entry(n));
            ring(register, host.take_tail());
        };
        for n in 0..pushes - racing {
            push(&host, &register, n);
        }
        let device = {
            let (cells, register) = (cells.clone(), register.clone());
            thread::spawn(move || {
                let tail = u64::from(register.load(Ordering::Acquire));
                let mut n = pushes - racing;
                while n % 3 != tail {
                    assert_eq!(
                        cells.words((n % 3) as usize).read::<Pair>(),
                        entry(n),
                        "a whole entry, the new one"
                    );
                    n += 1;
                }
            })
        };
        for n in pushes - racing..pushes {
            push(&host, &register, n);
        }
        device.join().unwrap();
    });
}

#[test]
fn an_entry_is_whole_when_its_doorbell_is_seen() {
    entries(1, 1, publish);
    entries(2, 2, publish);
}

#[test]
fn also_on_a_ring_that_has_wrapped() {
    entries(5, 2, publish);
}

#[test]
#[should_panic(expected = "a whole entry")]
fn a_relaxed_doorbell_shows_an_old_entry() {
    entries(5, 2, |register, value| register.store(value, Ordering::Relaxed));
}

/// The device posts completions `0..posts` to a ring of two, by `post`; the host has taken all but
/// the last when the race starts, and looks twice.
fn completions(posts: u64, post: fn(&LoomCells<Pair>, usize, &Pair)) {
    loom::model(move || {
        let cells = LoomCells::<Pair>::new(2);
        let host = CompletionRing::<Pairs, _>::new(cells.clone());
        let last = posts - 1;
        for n in 0..last {
            publish_cell(&cells, (n % 2) as usize, &completion(n, 2));
            assert_eq!(host.pop(), Some(completion(n, 2)));
        }
        let device = thread::spawn(move || {
            post(&cells, (last % 2) as usize, &completion(last, 2));
        });
        let taken = Cell::new(false);
        let look = || {
            assert_eq!(host.check_order(), Ok(()), "a device in order is never taken for another");
            if let Some(seen) = host.pop() {
                assert!(!taken.replace(true), "taken once");
                assert_eq!(seen, completion(last, 2), "a whole completion, the new one");
            }
        };
        look();
        look();
        device.join().unwrap();
        look();
        assert!(taken.get());
    });
}

fn publish_cell(cells: &LoomCells<Pair>, index: usize, value: &Pair) {
    cells.words(index).publish(value, Pairs::PHASE_WORD);
}

#[test]
fn a_completion_is_whole_when_its_phase_is_seen() {
    completions(1, publish_cell);
}

#[test]
fn also_in_later_passes_over_the_ring() {
    completions(3, publish_cell);
    completions(4, publish_cell);
    completions(5, publish_cell);
}

#[test]
#[should_panic(expected = "a whole completion")]
fn a_relaxed_phase_shows_an_old_completion() {
    completions(3, |cells, index, value| cells.words(index).write(value));
}

/// Two completions in a row: the look past the head must not see the second before the first.
#[test]
fn two_completions_in_order_are_not_out_of_order() {
    loom::model(|| {
        let cells = LoomCells::<Pair>::new(3);
        let host = CompletionRing::<Pairs, _>::new(cells.clone());
        let device = thread::spawn(move || {
            publish_cell(&cells, 0, &completion(0, 3));
            publish_cell(&cells, 1, &completion(1, 3));
        });
        assert_eq!(host.check_order(), Ok(()));
        let first = host.pop();
        assert_eq!(host.check_order(), Ok(()));
        if first.is_some() {
            assert_eq!(first, Some(completion(0, 3)));
        }
        device.join().unwrap();
    });
}
