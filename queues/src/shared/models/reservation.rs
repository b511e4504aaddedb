use core::cell::Cell;
use core::sync::atomic::Ordering;

use loom::cell::UnsafeCell;
use loom::sync::Arc;
use loom::thread;

use crate::shared::cell::Delegated;
use crate::shared::free::FreeSlots;
use crate::shared::lanes::{Lanes, Link};

/// A cell that loom watches.
struct Watched(UnsafeCell<u64>);

// SAFETY: loom reports two threads that are at it at once, which is what the models are for.
#[allow(unsafe_code, reason = "a cell for loom to watch")]
unsafe impl Sync for Watched {}

impl Watched {
    fn new() -> Self {
        Self(UnsafeCell::new(0))
    }

    fn write(&self, value: u64) {
        // SAFETY: loom panics before the access if it is not the only one.
        #[allow(unsafe_code, reason = "a cell for loom to watch")]
        self.0.with_mut(|at| unsafe { *at = value });
    }

    fn read(&self) -> u64 {
        // SAFETY: as above.
        #[allow(unsafe_code, reason = "a cell for loom to watch")]
        self.0.with(|at| unsafe { *at })
    }
}

/// Two threads use one slot in turn, and what belongs to it.
fn one_slot(give: fn(&FreeSlots, usize)) {
    loom::model(move || {
        let shared = Arc::new((FreeSlots::new(1), Watched::new()));
        let use_it = move |shared: &(FreeSlots, Watched)| {
            let Some(slot) = shared.0.take_from(0) else { return false };
            shared.1.write(shared.1.read() + 1);
            give(&shared.0, slot);
            true
        };
        let other = {
            let shared = shared.clone();
            thread::spawn(move || use_it(&shared))
        };
        let used = use_it(&shared);
        let other = other.join().unwrap();
        assert!(used || other, "one at least gets it");
        assert_eq!(shared.1.read(), u64::from(used) + u64::from(other));
        assert_eq!(shared.0.count(), 1);
    });
}

#[test]
fn a_slot_is_one_threads_at_a_time() {
    one_slot(FreeSlots::give);
}

#[test]
#[should_panic(expected = "Causality violation")]
fn a_slot_given_back_too_loosely_is_not() {
    one_slot(|free, slot| free.give_with(slot, Ordering::Relaxed));
}

/// Two slots, of which one is taken: whoever gives it back sees a waiter, or that sees the slot.
#[test]
fn who_waits_for_a_slot_is_seen_or_sees_it() {
    loom::model(|| {
        let shared = Arc::new((FreeSlots::new(1), loom::sync::atomic::AtomicBool::new(false)));
        let slot = shared.0.take_from(0).expect("it is free");
        let waiter = {
            let shared = shared.clone();
            thread::spawn(move || {
                shared.1.store(true, Ordering::Relaxed);
                shared.0.any_settled()
            })
        };
        shared.0.give(slot);
        let woken = shared.1.load(Ordering::Relaxed);
        assert!(waiter.join().unwrap() || woken, "a wake-up is lost");
    });
}

#[test]
#[should_panic(expected = "a wake-up is lost")]
fn a_glance_is_not_enough_for_a_waiter() {
    loom::model(|| {
        let shared = Arc::new((FreeSlots::new(1), loom::sync::atomic::AtomicBool::new(false)));
        let slot = shared.0.take_from(0).expect("it is free");
        let waiter = {
            let shared = shared.clone();
            thread::spawn(move || {
                shared.1.store(true, Ordering::Relaxed);
                shared.0.any()
            })
        };
        shared.0.give(slot);
        let woken = shared.1.load(Ordering::Relaxed);
        assert!(waiter.join().unwrap() || woken, "a wake-up is lost");
    });
}

/// A ring of three entries for two slots, and a device that fetches in order.
struct Ring {
    free: FreeSlots,
    lanes: Lanes,
    links: [Link; 2],
    staged: [Watched; 2],
    entries: [Watched; 3],
    /// What was rung. Written with the ringer's baton.
    rung: loom::sync::atomic::AtomicU64,
    ringer: Delegated<()>,
    /// How many entries the device has fetched.
    device: Delegated<Cell<u64>>,
}

type Give = fn(&FreeSlots, usize);

impl Ring {
    fn submit(&self, value: u64, give: Give) {
        let Some(slot) = self.free.take_from(0) else { return };
        self.staged[slot].write(value * 2 + slot as u64);
        self.lanes.push(0, slot as u16, &self.links[slot]);
        self.ring();
        self.complete(give);
    }

    fn ring(&self) {
        let mut turn = self.ringer.take_or_ask();
        while let Some(held) = turn {
            let mut to = self.rung.load(Ordering::Relaxed);
            for lane in self.lanes.take(|slot| &self.links[usize::from(slot)]) {
                to += lane.len() as u64;
                for (back, slot) in (1..).zip(lane) {
                    let entry = self.staged[usize::from(slot)].read();
                    self.entries[((to - back) % 3) as usize].write(entry);
                }
            }
            self.rung.store(to, Ordering::Release);
            turn = held.finish();
        }
    }

    /// The device fetches what was rung, which frees the slots: each entry names its own.
    fn complete(&self, give: Give) {
        let mut turn = self.device.take_or_ask();
        while let Some(fetched) = turn {
            for at in fetched.get()..self.rung.load(Ordering::Acquire) {
                let slot = self.entries[(at % 3) as usize].read() % 2;
                fetched.set(at + 1);
                give(&self.free, slot as usize);
            }
            turn = fetched.finish();
        }
    }
}

fn two_producers(before: u64, rounds: [u64; 2], give: Give) {
    super::bounded(2, move || {
        let ring = Arc::new(Ring {
            free: FreeSlots::new(2),
            lanes: Lanes::new(),
            links: [(); 2].map(|()| Link::new(0)),
            staged: [(); 2].map(|()| Watched::new()),
            entries: [(); 3].map(|()| Watched::new()),
            rung: loom::sync::atomic::AtomicU64::new(0),
            ringer: Delegated::new(()),
            device: Delegated::new(Cell::new(0)),
        });
        (0..before).for_each(|value| ring.submit(value, give));
        let other = {
            let ring = ring.clone();
            thread::spawn(move || (0..rounds[1]).for_each(|value| ring.submit(value, give)))
        };
        (0..rounds[0]).for_each(|value| ring.submit(value, give));
        other.join().unwrap();
        assert_eq!(ring.free.count(), 2, "every command has completed");
    });
}

#[test]
fn an_entry_is_staged_by_one_producer_and_stored_after_the_one_before_was_fetched() {
    two_producers(0, [2, 2], FreeSlots::give);
}

#[test]
fn also_where_the_ring_wraps() {
    two_producers(2, [2, 2], FreeSlots::give);
    two_producers(0, [3, 1], FreeSlots::give);
}

#[test]
#[should_panic(expected = "ausality violation")]
fn a_slot_given_back_too_loosely_is_staged_over() {
    two_producers(0, [3, 1], |free, slot| free.give_with(slot, Ordering::Relaxed));
}
