//! A thread that polls for many queues: no wake of a task and no completion is lost, whether it is
//! awake or about to sleep.

use core::sync::atomic::Ordering;

use loom::sync::Arc;
use loom::thread;

use super::{Event, LoomWord};
use crate::mem::Word;
use crate::wait::{announce, must_signal, withdraw};
use crate::wakes::WakeSet;

/// Two threads wake numbers of one word and of two; what they did before is seen with the number.
#[test]
fn every_number_is_taken_with_what_its_waker_did_before() {
    loom::model(|| {
        let set = Arc::new(WakeSet::new(128));
        let done = [LoomWord::new(), LoomWord::new()];
        let wakers = [(0, 1), (1, 65)].map(|(which, number)| {
            let (set, done) = (Arc::clone(&set), done[which].clone());
            thread::spawn(move || {
                done.store(1, Ordering::Relaxed);
                set.wake(number);
            })
        });
        let mut taken = [false; 2];
        let mut take = || {
            set.take(|number| {
                let which = usize::from(number == 65);
                assert_eq!(done[which].load(Ordering::Relaxed), 1, "the waker's work is not seen");
                taken[which] = true;
            });
        };
        take();
        for waker in wakers {
            waker.join().unwrap();
        }
        take();
        assert_eq!(taken, [true, true], "a wake is lost");
    });
}

/// A device completes on each of two queues and a thread wakes a task, while the polling thread
/// falls asleep. One fence of the sleeper serves all three. If any of them is neither seen by the
/// last look nor kicks, the wait never ends and loom reports the deadlock.
fn falls_asleep(fall_asleep: fn(&WakeSet)) {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(3);
    model.check(move || {
        let (set, kick) = (Arc::new(WakeSet::new(1)), Event::new());
        let rings = [LoomWord::new(), LoomWord::new()];
        let armed = [LoomWord::new(), LoomWord::new()];
        let device = {
            let (rings, armed, kick) = (rings.clone(), armed.clone(), kick.clone());
            thread::spawn(move || {
                for (ring, armed) in rings.iter().zip(&armed) {
                    ring.store(1, Ordering::Release);
                    if must_signal(armed) {
                        kick.signal();
                    }
                }
            })
        };
        let waker = {
            let (set, kick) = (Arc::clone(&set), kick.clone());
            thread::spawn(move || {
                if set.wake(0) {
                    kick.signal();
                }
            })
        };
        let mut seen = [false; 3];
        while seen != [true; 3] {
            for (armed, seen) in armed.iter().zip(&seen) {
                if !seen {
                    announce(armed);
                }
            }
            fall_asleep(&set);
            let fresh = |which: usize| rings[which].load(Ordering::Acquire) == 1;
            let news = set.is_any() || (0..2).any(|which| fresh(which) && !seen[which]);
            if !news {
                kick.wait();
            }
            set.wake_up();
            armed.iter().for_each(withdraw);
            set.take(|_| seen[2] = true);
            for which in 0..2 {
                seen[which] |= fresh(which);
            }
        }
        device.join().unwrap();
        waker.join().unwrap();
    });
}

#[test]
fn a_thread_that_sleeps_for_many_queues_and_tasks_is_woken_for_each() {
    falls_asleep(WakeSet::fall_asleep);
}

/// The arm words and the asleep word may still be in the store buffer.
#[test]
#[should_panic(expected = "deadlock")]
fn without_the_fence_of_the_sleeper_a_completion_is_lost() {
    falls_asleep(WakeSet::fall_asleep_without_fence);
}
