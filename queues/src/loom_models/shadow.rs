//! No doorbell is lost between a shadow and its EventIdx, in either direction.
//!
//! Head and tail doorbells differ in what is waited for: new entries, or room for completions. The
//! protocol is the same, so the models speak of one side that rings and one that waits.

use core::sync::atomic::Ordering;

use loom::thread;

use super::{Event, LoomWord};
use crate::doorbell::shadow::{announce, passes, ring_shadow};
use crate::doorbell::{fall_asleep, publish, ring_word, wake_up};
use crate::mem::Word;

type Ring = fn(&LoomWord, &LoomWord, u32) -> bool;
type Announce = fn(&LoomWord, u32);

/// One side rings once, from `old` to `new`; the other announces what it saw and looks a last time. If
/// it saw nothing new, the register must be written.
fn once(old: u32, new: u32, ring: Ring, announce: Announce) {
    loom::model(move || {
        let (shadow, event) = (LoomWord::new(), LoomWord::new());
        shadow.store(old, Ordering::Relaxed);
        // Left behind, as by a device that was awake: no move from `old` passes it.
        event.store(old.wrapping_sub(1), Ordering::Relaxed);
        let waits = {
            let (shadow, event) = (shadow.clone(), event.clone());
            thread::spawn(move || {
                announce(&event, old);
                shadow.load(Ordering::Acquire) == old
            })
        };
        let written = ring(&shadow, &event, new);
        let waits = waits.join().unwrap();
        assert!(written || !waits, "a doorbell is lost");
    });
}

#[test]
fn a_device_that_waits_is_told_or_sees_the_new_tail() {
    // Without a wrap, and over the end of a ring of 4.
    once(1, 3, ring_shadow, announce);
    once(3, 0, ring_shadow, announce);
}

#[test]
#[should_panic(expected = "a doorbell is lost")]
fn without_the_fence_of_the_host_a_doorbell_is_lost() {
    let without = |shadow: &LoomWord, event: &LoomWord, value: u32| {
        let old = shadow.load(Ordering::Relaxed);
        publish(shadow, value);
        passes(event.load(Ordering::Relaxed), old, value)
    };
    once(1, 3, without, announce);
}

#[test]
#[should_panic(expected = "a doorbell is lost")]
fn without_the_fence_of_the_device_a_doorbell_is_lost() {
    once(1, 3, ring_shadow, |event, seen| event.store(seen, Ordering::Relaxed));
}

/// A host rings twice; a device waits for register writes in between. If one is missing, it waits
/// forever, and loom reports the deadlock.
#[test]
fn a_device_that_waits_for_the_register_again_and_again_sees_every_doorbell() {
    loom::model(|| {
        let (shadow, event, register) = (LoomWord::new(), LoomWord::new(), Event::new());
        let device = {
            let (shadow, event, register) = (shadow.clone(), event.clone(), register.clone());
            thread::spawn(move || {
                let mut seen = 0;
                while seen != 2 {
                    announce(&event, seen);
                    let mut value = shadow.load(Ordering::Acquire);
                    if value == seen {
                        register.wait();
                        value = shadow.load(Ordering::Acquire);
                    }
                    seen = value;
                }
            })
        };
        for value in [1, 2] {
            if ring_shadow(&shadow, &event, value) {
                register.signal();
            }
        }
        device.join().unwrap();
    });
}

/// The whole of it on a bus whose device sleeps: shadow, EventIdx, register, asleep word and kick. The
/// device waits for the kick only.
fn sleeps(host: fn(&[LoomWord; 4], u32) -> bool, rings: &'static [u32]) {
    loom::model(move || {
        let words = [LoomWord::new(), LoomWord::new(), LoomWord::new(), LoomWord::new()];
        let kick = Event::new();
        let device = {
            let ([shadow, event, _, asleep], kick) = (words.clone(), kick.clone());
            thread::spawn(move || {
                let mut seen = 0;
                while seen != *rings.last().unwrap() {
                    fall_asleep(&asleep);
                    announce(&event, seen);
                    let mut value = shadow.load(Ordering::Acquire);
                    if value == seen {
                        kick.wait();
                        value = shadow.load(Ordering::Acquire);
                    }
                    wake_up(&asleep);
                    seen = value;
                }
            })
        };
        for value in rings {
            if host(&words, *value) {
                kick.signal();
            }
        }
        device.join().unwrap();
    });
}

/// As [`crate::Doorbell`] rings, with a shadow and a device that sleeps.
fn whole([shadow, event, register, asleep]: &[LoomWord; 4], value: u32) -> bool {
    ring_shadow(shadow, event, value) && ring_word(register, asleep, value)
}

/// As [`sleeps`], once: who looks in vain for the last time must be kicked.
fn sleeps_once(host: fn(&[LoomWord; 4], u32) -> bool) {
    loom::model(move || {
        let words = [LoomWord::new(), LoomWord::new(), LoomWord::new(), LoomWord::new()];
        // Left behind, on a ring of 4.
        words[1].store(3, Ordering::Relaxed);
        let device = {
            let [shadow, event, _, asleep] = words.clone();
            thread::spawn(move || {
                fall_asleep(&asleep);
                announce(&event, 0);
                shadow.load(Ordering::Acquire) == 0
            })
        };
        let kicked = host(&words, 1);
        let sleeps = device.join().unwrap();
        assert!(kicked || !sleeps, "a kick is lost");
    });
}

#[test]
fn a_device_that_sleeps_behind_its_shadow_is_kicked() {
    sleeps_once(whole);
}

#[test]
fn a_device_that_sleeps_behind_its_shadow_again_and_again_is_kicked() {
    sleeps(whole, &[1, 2]);
}

/// The asleep word must be looked at after the EventIdx.
#[test]
#[should_panic(expected = "a kick is lost")]
fn an_asleep_word_that_is_looked_at_too_early_loses_the_kick() {
    sleeps_once(|[shadow, event, register, asleep], value| {
        let sleeps = asleep.load(Ordering::Relaxed) != 0;
        let passed = ring_shadow(shadow, event, value);
        if passed {
            publish(register, value);
        }
        passed && sleeps
    });
}
