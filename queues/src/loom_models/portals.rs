//! An entry given to a portal is taken whole, and a device that sleeps beside one is woken.

use core::sync::atomic::Ordering;

use loom::thread;

use super::LoomWord;
use super::rings::{LoomCells, Pair, Pairs};
use crate::doorbell::{fall_asleep, must_kick};
use crate::mem::{CellArray, CellWords, EntryStores, Word};
use crate::portal::Intake;
use crate::protocol::{DoorbellKind, QueueProtocol, Tag};
use crate::ring::SubmissionRing;

const VALID: usize = 12;

/// [`Pairs`] over a portal.
enum Portal {}

impl QueueProtocol for Portal {
    type Entry = Pair;
    type Completion = Pair;
    type Outcome = u64;

    const DOORBELL: DoorbellKind = DoorbellKind::Portal { valid: VALID };
    const PHASE_WORD: usize = Pairs::PHASE_WORD;

    fn phase(word: u32) -> bool {
        Pairs::phase(word)
    }
    fn stamp(entry: &mut Pair, tag: Tag) {
        Pairs::stamp(entry, tag);
    }
    fn tag(completion: &Pair) -> Tag {
        Pairs::tag(completion)
    }
    fn submission_head(_: &Pair) -> Option<u16> {
        None
    }
    fn outcome(completion: &Pair) -> u64 {
        Pairs::outcome(completion)
    }
}

type Ring = SubmissionRing<Pair, LoomCells<Pair>>;
type Give = fn(&Ring, &LoomCells<Pair>, u64);

fn entry(n: u64) -> Pair {
    Pair { value: n + 100, tag: n as u32, word: 0 }
}

fn give(ring: &Ring, _: &LoomCells<Pair>, n: u64) {
    ring.give(&mut entry(n), VALID);
}

/// The host gives entries `0..gives` to a portal of two cells; the device has taken all but the last
/// `racing`, which never are more than the cells, when the race starts, and looks once for each.
fn gives(gives: u64, racing: u64, by: Give) {
    loom::model(move || {
        let cells = LoomCells::<Pair>::new(2);
        let host = Ring::new(cells.clone(), EntryStores::Plain);
        let device = Intake::<Portal, _>::new(cells.clone());
        for n in 0..gives - racing {
            give(&host, &cells, n);
            assert_eq!(device.take().map(|pair| pair.value), Some(n + 100));
        }
        let device = thread::spawn(move || {
            let mut n = gives - racing;
            for _ in 0..racing {
                if let Some(taken) = device.take() {
                    assert_eq!((taken.value, taken.tag), (n + 100, n as u32), "a whole entry");
                    n += 1;
                }
            }
            (device, n)
        });
        for n in gives - racing..gives {
            by(&host, &cells, n);
        }
        let (device, taken) = device.join().unwrap();
        for n in taken..gives {
            assert_eq!(device.take().map(|pair| pair.value), Some(n + 100), "each is taken once");
        }
        assert!(device.take().is_none());
    });
}

#[test]
fn an_entry_is_taken_whole_and_once() {
    gives(1, 1, give);
    gives(2, 2, give);
}

#[test]
fn also_in_later_laps() {
    gives(3, 2, give);
    gives(5, 2, give);
}

#[test]
#[should_panic(expected = "a whole entry")]
fn a_relaxed_valid_word_shows_an_old_entry() {
    gives(3, 1, |_, cells, n| {
        let lap = (n / 2 + 1) as u32;
        cells.words((n % 2) as usize).write(&Pair { word: lap, ..entry(n) });
    });
}

/// The device announces that it will sleep and looks a last time. If it saw nothing, it must be woken.
fn sleeps(kick: fn(&LoomWord) -> bool) {
    loom::model(move || {
        let (cells, asleep) = (LoomCells::<Pair>::new(2), LoomWord::new());
        let host = Ring::new(cells.clone(), EntryStores::Plain);
        let device = Intake::<Portal, _>::new(cells.clone());
        let sleeper = {
            let asleep = asleep.clone();
            thread::spawn(move || {
                fall_asleep(&asleep);
                device.take().is_none()
            })
        };
        give(&host, &cells, 0);
        let woken = kick(&asleep);
        let sleeps = sleeper.join().unwrap();
        assert!(woken || !sleeps, "a wake-up is lost");
    });
}

#[test]
fn a_device_that_falls_asleep_is_kicked_or_sees_the_entry() {
    sleeps(must_kick);
}

#[test]
#[should_panic(expected = "a wake-up is lost")]
fn without_the_fence_of_the_host_a_kick_is_lost() {
    sleeps(|asleep| asleep.load(Ordering::Relaxed) != 0);
}
