use core::sync::atomic::Ordering;

use loom::sync::Arc;
use loom::sync::atomic::AtomicU64;
use loom::thread;

use crate::loom_models::LoomWord;
use crate::mem::Word;
use crate::shared::bells::{Bells, Staged};
use crate::shared::cell::Delegated;
use crate::shared::lanes::{Lanes, Link};

/// A ring of three entries for two slots. Command `n` is of slot `n % 2`, and its entry is `n + 1`.
struct Queue {
    lanes: Lanes,
    links: [Link; 2],
    staged: [AtomicU64; 2],
    bells: Bells<LoomWord>,
    tail: LoomWord,
    /// For a planted mistake.
    plain: Delegated<()>,
    entries: [AtomicU64; 3],
}

type Push = fn(&Lanes, usize, u16, &Link);
type Flush = fn(&Queue);

impl Staged for Queue {
    fn gather(&self, from: u64) -> u64 {
        let mut to = from;
        for lane in self.lanes.take(|slot| &self.links[usize::from(slot)]) {
            to += lane.len() as u64;
            for (back, slot) in (1..).zip(lane) {
                let entry = self.staged[usize::from(slot)].load(Ordering::Relaxed);
                self.entries[((to - back) % 3) as usize].store(entry, Ordering::Relaxed);
            }
        }
        to
    }
}

impl Queue {
    fn new() -> Self {
        let tail = LoomWord::new();
        Self {
            lanes: Lanes::new(),
            links: [(); 2].map(|()| Link::new(0)),
            staged: [(); 2].map(|()| AtomicU64::new(0)),
            bells: Bells::new(tail.clone(), LoomWord::new(), (3, 3)),
            tail,
            plain: Delegated::new(()),
            entries: [(); 3].map(|()| AtomicU64::new(0)),
        }
    }

    fn flush(&self) {
        if self.lanes.any() {
            self.bells.ring(self, || true);
        }
    }

    fn submit(&self, command: u64, lane: usize, push: Push) {
        let slot = (command % 2) as u16;
        self.staged[usize::from(slot)].store(command + 1, Ordering::Relaxed);
        push(&self.lanes, lane, slot, &self.links[usize::from(slot)]);
    }

    /// What the doorbell covers is whole: `first` and the command after it, each once, in any order.
    fn check(&self, first: u64) {
        let tail = u64::from(self.tail.load(Ordering::Acquire));
        let (mut at, mut seen) = (first, 0);
        while at % 3 != tail {
            let entry = self.entries[(at % 3) as usize].load(Ordering::Relaxed);
            let new = entry == first + 1 || entry == first + 2;
            assert!(new && entry != seen, "a whole entry, a new one");
            (at, seen) = (at + 1, entry);
        }
    }
}

/// `before` commands have been; then two threads submit and flush while the device looks.
fn two_producers(before: u64, lanes: [usize; 2], push: Push, flush: Flush) {
    super::bounded(3, move || {
        let queue = Arc::new(Queue::new());
        for done in 0..before {
            queue.submit(done, 0, Lanes::push);
            queue.flush();
            queue.bells.set_taken(done + 1);
        }
        let threads = [0, 1].map(|who| {
            let queue = queue.clone();
            thread::spawn(move || {
                queue.submit(before + who as u64, lanes[who], push);
                flush(&queue);
            })
        });
        queue.check(before);
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        assert_eq!(queue.bells.rung(), before + 2, "nothing is left unrung");
        assert_eq!(u64::from(queue.tail.load(Ordering::Relaxed)), (before + 2) % 3);
        queue.check(before);
    });
}

#[test]
fn every_entry_is_rung_and_none_before_it_is_whole() {
    two_producers(0, [0, 1], Lanes::push, Queue::flush);
}

#[test]
fn also_of_threads_that_share_a_lane() {
    two_producers(0, [0, 0], Lanes::push, Queue::flush);
}

#[test]
fn also_where_the_ring_wraps() {
    two_producers(2, [0, 1], Lanes::push, Queue::flush);
    two_producers(4, [0, 0], Lanes::push, Queue::flush);
}

#[test]
#[should_panic(expected = "a whole entry")]
fn a_loose_push_shows_an_old_entry() {
    let loose: Push = |lanes, at, slot, link| lanes.push_with(at, slot, link, Ordering::Relaxed);
    two_producers(2, [0, 1], loose, Queue::flush);
}

/// One thread's commands keep their order, whoever rings them.
#[test]
fn a_lane_keeps_its_order() {
    super::bounded(3, || {
        let queue = Arc::new(Queue::new());
        let other = {
            let queue = queue.clone();
            thread::spawn(move || queue.flush())
        };
        queue.submit(0, 0, Lanes::push);
        queue.submit(1, 0, Lanes::push);
        queue.flush();
        other.join().unwrap();
        let entries = [0, 1].map(|at: usize| queue.entries[at].load(Ordering::Relaxed));
        assert_eq!((queue.bells.rung(), entries), (2, [1, 2]));
    });
}

/// Only one of two flushes: what it covers must be rung, whatever the other one is at.
#[test]
fn a_slow_producer_holds_up_nobody_who_flushes() {
    super::bounded(3, || {
        let queue = Arc::new(Queue::new());
        let other = {
            let queue = queue.clone();
            thread::spawn(move || queue.submit(1, 0, Lanes::push))
        };
        queue.submit(0, 0, Lanes::push);
        queue.flush();
        let entries = [0, 1].map(|at: usize| queue.entries[at].load(Ordering::Relaxed));
        assert!(entries.contains(&1), "what was flushed is rung");
        other.join().unwrap();
        queue.check(0);
    });
}

/// The holder of the baton does not look again: a flush that finds it taken is lost.
#[test]
#[should_panic(expected = "nothing is left unrung")]
fn a_ringer_that_is_not_asked_leaves_entries_behind() {
    two_producers(0, [0, 1], Lanes::push, |queue| {
        // As `Bells::ring`, but without asking.
        if let Some(turn) = queue.plain.try_take() {
            queue.bells.ring(queue, || true);
            drop(turn.finish());
        }
    });
}
