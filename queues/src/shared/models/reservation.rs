use core::cell::Cell;
use core::sync::atomic::Ordering;

use loom::cell::UnsafeCell;
use loom::sync::Arc;
use loom::thread;

use crate::shared::cell::Delegated;
use crate::shared::free::FreeSlots;
use crate::shared::positions::Positions;

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

/// A ring of three entries for two slots, its positions, and a device that fetches in order.
struct Ring {
    free: FreeSlots,
    positions: Positions,
    entries: [Watched; 3],
    ringer: Delegated<()>,
    /// How many entries the device has fetched.
    device: Delegated<Cell<u64>>,
}

impl Ring {
    fn submit(&self, reserve: Reserve) {
        let Some(slot) = self.free.take_from(0) else { return };
        let position = reserve(&self.positions);
        self.entries[(position % 3) as usize].write(position);
        let _ring_anyway = self.positions.publish(position);
        self.ring();
        // The command completes if the device has fetched its entry.
        let Some(mut fetched) = self.device.take_or_ask() else { return };
        loop {
            for at in fetched.get()..self.positions.rung() {
                let seen = self.entries[(at % 3) as usize].read();
                assert_eq!(seen, at, "the entry of this pass");
                fetched.set(at + 1);
            }
            let done = fetched.get() > position;
            match fetched.finish() {
                Some(again) => fetched = again,
                None if done => return self.free.give(slot),
                None => return,
            }
        }
    }

    fn ring(&self) {
        let mut turn = self.ringer.take_or_ask();
        while let Some(held) = turn {
            self.positions.set_rung(self.positions.scan());
            turn = held.finish();
        }
    }
}

type Reserve = fn(&Positions) -> u64;

fn two_producers(before: usize, rounds: [usize; 2], reserve: Reserve) {
    super::bounded(2, move || {
        let ring = Arc::new(Ring {
            free: FreeSlots::new(2),
            positions: Positions::new(3),
            entries: [(); 3].map(|()| Watched::new()),
            ringer: Delegated::new(()),
            device: Delegated::new(Cell::new(0)),
        });
        (0..before).for_each(|_| ring.submit(reserve));
        let other = {
            let ring = ring.clone();
            thread::spawn(move || (0..rounds[1]).for_each(|_| ring.submit(reserve)))
        };
        (0..rounds[0]).for_each(|_| ring.submit(reserve));
        other.join().unwrap();
    });
}

#[test]
fn an_entry_is_written_by_one_producer_and_after_it_was_fetched() {
    two_producers(0, [2, 2], Positions::reserve);
}

#[test]
fn also_where_the_ring_wraps() {
    two_producers(2, [2, 2], Positions::reserve);
    two_producers(0, [3, 1], Positions::reserve);
}

#[test]
#[should_panic(expected = "ausality violation")]
fn a_loose_reservation_overwrites_an_entry_that_another_saw_fetched() {
    two_producers(0, [3, 1], |positions| positions.reserve_with(Ordering::Relaxed));
}
