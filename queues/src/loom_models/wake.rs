//! No wake-up is lost, in either direction.

use core::sync::atomic::Ordering;

use loom::thread;

use super::{Event, LoomWord};
use crate::doorbell::{fall_asleep, publish, ring_word, wake_up};
use crate::mem::Word;
use crate::wait::{arm_word, must_signal};

/// What each side of a wake-up does: says what it did, then whether the other must act.
type Tell = fn(&LoomWord, &LoomWord) -> bool;
/// What the other side does before its last look.
type Announce = fn(&LoomWord);

/// One side tells, once; the other announces that it will sleep and looks a last time. If it saw
/// nothing, it must be woken.
fn once(tell: Tell, announce: Announce) {
    loom::model(move || {
        let (told, asleep) = (LoomWord::new(), LoomWord::new());
        let sleeper = {
            let (told, asleep) = (told.clone(), asleep.clone());
            thread::spawn(move || {
                announce(&asleep);
                told.load(Ordering::Acquire) == 0
            })
        };
        let woken = tell(&told, &asleep);
        let sleeps = sleeper.join().unwrap();
        assert!(woken || !sleeps, "a wake-up is lost");
    });
}

fn ring_one(register: &LoomWord, asleep: &LoomWord) -> bool {
    ring_word(register, asleep, 1)
}

fn complete_one(ring: &LoomWord, armed: &LoomWord) -> bool {
    ring.store(1, Ordering::Release);
    must_signal(armed)
}

#[test]
fn a_device_that_falls_asleep_is_kicked_or_sees_the_doorbell() {
    once(ring_one, fall_asleep);
}

#[test]
#[should_panic(expected = "a wake-up is lost")]
fn without_the_fence_of_the_host_a_kick_is_lost() {
    let without = |register: &LoomWord, asleep: &LoomWord| {
        publish(register, 1);
        asleep.load(Ordering::Relaxed) != 0
    };
    once(without, fall_asleep);
}

#[test]
#[should_panic(expected = "a wake-up is lost")]
fn without_the_fence_of_the_device_a_kick_is_lost() {
    once(ring_one, |asleep| asleep.store(1, Ordering::Relaxed));
}

#[test]
fn a_host_that_parks_is_signalled_or_sees_the_completion() {
    once(complete_one, arm_word);
}

#[test]
#[should_panic(expected = "a wake-up is lost")]
fn without_the_fence_of_the_device_a_signal_is_lost() {
    let without = |ring: &LoomWord, armed: &LoomWord| {
        ring.store(1, Ordering::Release);
        armed.load(Ordering::Relaxed) != 0 && armed.swap(0, Ordering::Relaxed) != 0
    };
    once(without, arm_word);
}

#[test]
#[should_panic(expected = "a wake-up is lost")]
fn without_the_fence_of_the_host_a_signal_is_lost() {
    once(complete_one, |armed| armed.store(1, Ordering::Relaxed));
}

/// A host rings `1..=2`; a device works until it has seen the last value and sleeps in between. If
/// a kick is lost, it sleeps forever, and loom reports the deadlock.
#[test]
fn a_device_that_sleeps_again_and_again_sees_every_doorbell() {
    loom::model(|| {
        let (register, asleep, kick) = (LoomWord::new(), LoomWord::new(), Event::new());
        let device = {
            let (register, asleep, kick) = (register.clone(), asleep.clone(), kick.clone());
            thread::spawn(move || {
                let mut seen = 0;
                while seen != 2 {
                    fall_asleep(&asleep);
                    let value = register.load(Ordering::Acquire);
                    if value == seen {
                        kick.wait();
                    }
                    wake_up(&asleep);
                    assert!(value >= seen, "a doorbell does not go back");
                    seen = value;
                }
            })
        };
        for value in 1..=2 {
            if ring_word(&register, &asleep, value) {
                kick.signal();
            }
        }
        device.join().unwrap();
    });
}

/// A device posts completions `1..=2` and signals if asked; a host works until it has seen the last
/// and parks in between. The word stands for the completion ring: what is stored last and looked at
/// first.
#[test]
fn a_host_that_parks_again_and_again_sees_every_completion() {
    loom::model(|| {
        let (ring, armed, interrupt) = (LoomWord::new(), LoomWord::new(), Event::new());
        let device = {
            let (ring, armed, interrupt) = (ring.clone(), armed.clone(), interrupt.clone());
            thread::spawn(move || {
                for value in 1..=2 {
                    ring.store(value, Ordering::Release);
                    if must_signal(&armed) {
                        interrupt.signal();
                    }
                }
            })
        };
        let mut seen = 0;
        while seen != 2 {
            arm_word(&armed);
            let value = ring.load(Ordering::Acquire);
            if value == seen {
                interrupt.wait();
            }
            seen = value;
        }
        device.join().unwrap();
    });
}
