use core::sync::atomic::Ordering::Relaxed;

use alloc::sync::Arc;
use core::sync::atomic::AtomicU32;
use proptest::prelude::*;

use super::*;
use crate::doorbell::{Doorbell, Kick, Wake};
use crate::mem::SharedMem;

/// The indices that a move leaves behind, one by one.
fn left(old: u32, new: u32, size: u32) -> impl Iterator<Item = u32> {
    let steps = (new + size - old) % size;
    (0..steps).map(move |step| (old + step) % size)
}

#[test]
fn a_move_passes_what_it_leaves_behind_in_rings_of_every_size() {
    for size in 2..=20 {
        for old in 0..size {
            for new in 0..size {
                for event in 0..size {
                    let counted = left(old, new, size).any(|at| at == event);
                    let say = format!("size {size}: {old} to {new}, event {event}");
                    assert_eq!(passes(event, old, new), counted, "{say}");
                }
                // No index: passed with the ring's end, or not at all.
                for event in [size, size + 7, 0xffff] {
                    assert_eq!(passes(event, old, new), new < old, "{size} {old} {new} {event}");
                }
            }
        }
    }
}

proptest! {
    #[test]
    fn as_counting_does_in_large_rings(size in 2..=65_536u32, old: u32, by: u32, event: u32) {
        let (old, event) = (old % size, event % size);
        let by = by % size;
        let new = (old + by) % size;
        let ahead = (event + size - old) % size;
        prop_assert_eq!(passes(event, old, new), ahead < by);
    }

    /// Whatever the EventIdx says, some move of a whole turn writes the register: garbage delays, it
    /// does not silence. In the upper half nothing counts.
    #[test]
    fn any_event_is_passed_once_in_a_turn(size in 2..=65_536u32, event: u32) {
        let events = [event, event ^ 0xffff_0000];
        for event in events {
            let turn = (0..size).filter(|at| passes(event, *at, (at + 1) % size)).count();
            prop_assert_eq!(turn, 1);
        }
    }

    /// A device that is awake and keeps up hears nothing; a host that gets ahead of it may write once
    /// in half a turn.
    #[test]
    fn a_device_that_is_awake_is_spared(
        size in 3..=300u32,
        moves in proptest::collection::vec((1u32..300, any::<bool>()), 1..400),
    ) {
        let (mut event, mut seen, mut old) = (0, 0, 0);
        let (mut written, mut total, mut largest) = (0u32, 0u32, 0u32);
        for (by, looks) in moves {
            // What the device has not seen and what is new fit into the ring.
            let outstanding = (old + size - seen) % size;
            let by = by.min(size - 1 - outstanding);
            let new = (old + by) % size;
            written += u32::from(passes(event, old, new));
            (old, total, largest) = (new, total + by, largest.max(by));
            if looks || outstanding + by == size - 1 {
                seen = old;
                if is_due(event, seen, size) {
                    event = behind(seen, size);
                }
            }
        }
        // The first ring passes the EventIdx of a new queue.
        prop_assert!(written <= 1 + total / (size / 2), "{written} of {total} in {size}");
    }
}

#[test]
fn right_behind_is_not_passed_within_a_turn() {
    for size in 2..=64 {
        for seen in 0..size {
            let event = behind(seen, size);
            assert!(event < size);
            for by in 1..size {
                assert!(!passes(event, seen, (seen + by) % size), "{size} {seen} {by}");
            }
            assert!(passes(event, event, seen));
            assert!(!is_due(event, seen, size) || size <= 1);
        }
    }
}

struct Counts(AtomicU32);

impl Kick for Counts {
    fn kick(&self) {
        self.0.fetch_add(1, Relaxed);
    }
}

/// Words: register, shadow, EventIdx, asleep.
fn doorbell() -> (Doorbell, [Word32; 4], Arc<Counts>) {
    let memory = SharedMem::zeroed(64);
    let words = [0, 4, 8, 12].map(|at| memory.word32(at).unwrap());
    let kicks = Arc::new(Counts(AtomicU32::new(0)));
    let wake = Wake::new(words[3].clone(), Arc::clone(&kicks) as Arc<dyn Kick>);
    let shadow = Shadow::new(words[1].clone(), words[2].clone());
    let bell = Doorbell::new(words[0].clone(), Some(wake)).with_shadow(Some(shadow));
    (bell, words, kicks)
}

#[test]
fn the_register_is_written_only_where_the_device_asks_for_it() {
    let (bell, [register, shadow, event, asleep], kicks) = doorbell();
    asleep.store(1, Relaxed);
    // A queue of 8 whose device announced 3: of one turn, only the move from 3 writes.
    event.store(3, Relaxed);
    for value in [1, 2, 3, 4, 5, 6, 7, 0] {
        register.store(99, Relaxed);
        bell.ring(value);
        assert_eq!(shadow.load(Relaxed), value);
        let written = value == 4;
        assert_eq!(register.load(Relaxed), if written { value } else { 99 });
    }
    assert_eq!(kicks.0.load(Relaxed), 1, "who does not write does not kick");
    // Awake: written, and not kicked.
    asleep.store(0, Relaxed);
    event.store(0, Relaxed);
    bell.ring(2);
    assert_eq!((register.load(Relaxed), kicks.0.load(Relaxed)), (2, 1));
    // Nothing new rings nobody.
    event.store(2, Relaxed);
    register.store(99, Relaxed);
    bell.ring(2);
    assert_eq!(register.load(Relaxed), 99);
}

#[test]
fn a_whole_turn_of_commands_writes_the_register_once() {
    let (bell, [register, shadow, event, _], _) = doorbell();
    let size = 16;
    let (mut writes, mut told) = (0, 0);
    for count in 1..=160u32 {
        register.store(u32::MAX, Relaxed);
        bell.ring(count % size);
        writes += u32::from(register.load(Relaxed) != u32::MAX);
        // The device is awake.
        let (seen, was) = (shadow.load(Relaxed), event.load(Relaxed));
        if is_due(was, seen, size) {
            told += 1;
            event.store(behind(seen, size), Relaxed);
        }
    }
    assert_eq!(writes, 1, "the first ring of a new queue");
    assert!(told <= 2 * 160 / size, "{told} EventIdx were stored");
}
