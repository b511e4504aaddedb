use core::sync::atomic::Ordering;

use loom::sync::Arc;
use loom::sync::atomic::AtomicU64;
use loom::thread;

use crate::loom_models::LoomWord;
use crate::mem::Word;
use crate::shared::bells::Bells;
use crate::shared::cell::Delegated;
use crate::shared::positions::Positions;

/// A ring of three entries for two slots.
struct Queue {
    positions: Positions,
    bells: Bells<LoomWord>,
    tail: LoomWord,
    /// For a planted mistake.
    plain: Delegated<()>,
    entries: [AtomicU64; 3],
}

type Publish = fn(&Positions, u64) -> bool;
type Flush = fn(&Queue);

impl Queue {
    fn new() -> Self {
        let tail = LoomWord::new();
        Self {
            positions: Positions::new(3),
            bells: Bells::new(tail.clone(), LoomWord::new(), 3),
            tail,
            plain: Delegated::new(()),
            entries: [(); 3].map(|()| AtomicU64::new(0)),
        }
    }

    fn ring(&self) {
        self.bells.ring(&self.positions, || true);
    }

    fn flush(&self) {
        if self.positions.has_unrung() {
            self.ring();
        }
    }

    fn submit(&self, publish: Publish) {
        let position = self.positions.reserve();
        self.entries[(position % 3) as usize].store(position + 1, Ordering::Relaxed);
        if publish(&self.positions, position) {
            self.ring();
        }
    }

    /// What the doorbell covers is whole. `told` is what it covered for sure.
    fn check(&self, told: u64) {
        let tail = u64::from(self.tail.load(Ordering::Acquire));
        let mut at = told;
        while at % 3 != tail {
            let entry = self.entries[(at % 3) as usize].load(Ordering::Relaxed);
            assert_eq!(entry, at + 1, "a whole entry, the new one");
            at += 1;
        }
    }
}

/// `before` commands have been; then two threads submit and flush while the device looks.
fn two_producers(before: u64, publish: Publish, flush: Flush) {
    super::bounded(3, move || {
        let queue = Arc::new(Queue::new());
        for done in 1..=before {
            queue.submit(Positions::publish);
            queue.flush();
            queue.bells.set_taken(done);
        }
        let threads = [(); 2].map(|()| {
            let queue = queue.clone();
            thread::spawn(move || {
                queue.submit(publish);
                flush(&queue);
            })
        });
        queue.check(before);
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        assert_eq!(queue.positions.rung(), before + 2, "nothing is left unrung");
        assert_eq!(u64::from(queue.tail.load(Ordering::Relaxed)), (before + 2) % 3);
        queue.check(before);
    });
}

#[test]
fn every_entry_is_rung_and_none_before_it_is_whole() {
    two_producers(0, Positions::publish, Queue::flush);
}

#[test]
fn also_where_the_ring_wraps() {
    two_producers(2, Positions::publish, Queue::flush);
    two_producers(4, Positions::publish, Queue::flush);
}

#[test]
#[should_panic(expected = "a whole entry")]
fn a_loose_publication_shows_an_old_entry() {
    two_producers(2, |positions, at| positions.publish_with(at, Ordering::Relaxed), Queue::flush);
}

/// Only one of two flushes: what it covers must be rung by then, or by the other's publication.
fn one_flushes(publish: Publish) {
    super::bounded(3, move || {
        let queue = Arc::new(Queue::new());
        let other = {
            let queue = queue.clone();
            thread::spawn(move || queue.submit(publish))
        };
        let position = queue.positions.reserve();
        queue.entries[position as usize].store(position + 1, Ordering::Relaxed);
        if queue.positions.publish(position) {
            queue.ring();
        }
        queue.flush();
        other.join().unwrap();
        assert!(queue.positions.rung() > position, "what was flushed is rung");
        queue.check(0);
    });
}

#[test]
fn a_slow_producer_rings_what_others_flushed_behind_it() {
    one_flushes(Positions::publish);
}

#[test]
#[should_panic(expected = "what was flushed is rung")]
fn without_its_duty_entries_stay_behind() {
    one_flushes(|positions, at| {
        let _ignored = positions.publish(at);
        false
    });
}

/// The holder of the baton does not look again: a flush that finds it taken is lost.
#[test]
#[should_panic(expected = "nothing is left unrung")]
fn a_ringer_that_is_not_asked_leaves_entries_behind() {
    two_producers(0, Positions::publish, |queue| {
        // As `Bells::ring`, but without asking.
        if let Some(turn) = queue.plain.try_take() {
            let to = queue.positions.scan();
            queue.positions.set_rung(to);
            Word::store(&queue.tail, (to % 3) as u32, Ordering::Release);
            drop(turn.finish());
        }
    });
}
