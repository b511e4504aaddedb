//! Many threads on one shared queue, and a device thread that completes out of order: every outcome
//! meets its own buffer, every buffer comes back exactly once, nothing is left behind.
//!
//! Repeatable as far as threads are: the seed is printed, and `DOORBELL_SEED` sets it.

#![cfg(not(loom))]
#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "a test")]

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::Thread;
use std::time::{Duration, Instant};

use doorbell_queues::{EndReason, Rejected, SharedInFlight};

mod rig;

use rig::{Buffer, Entry, Random, Rig, Values, rig, seed};

/// Nothing here takes a tenth of it, on a busy machine.
const DEADLINE: Duration = Duration::from_secs(120);

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

fn waker() -> Waker {
    Waker::from(Arc::new(Unpark(std::thread::current())))
}

/// Waits for a future, parked; fails past the deadline.
fn wait<F: Future + Unpin>(mut future: F, until: Instant, what: &str) -> F::Output {
    let waker = waker();
    loop {
        match Pin::new(&mut future).poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(output) => return output,
            Poll::Pending => {
                let left = until.saturating_duration_since(Instant::now());
                assert!(!left.is_zero(), "still waiting for {what}");
                std::thread::park_timeout(left);
            }
        }
    }
}

type Pending<'q> = VecDeque<(u64, SharedInFlight<'q, Values, Buffer>)>;

/// One producer: submits, awaits in any order, drops some, waits for slots when there are none.
fn produce(rig: &Rig, id: u64, rounds: u64, depth: usize, mut random: Random, until: Instant) {
    let mut pending = Pending::new();
    for n in 0..rounds {
        let value = id << 32 | n;
        let mut buffer = Buffer { ledger: rig.ledger.clone(), value };
        let future = loop {
            let build = |_: u16, buffer: &mut Buffer| Entry {
                value: buffer.value,
                check: !buffer.value,
                tag: 0,
            };
            match rig.queue.submit(buffer, build) {
                Ok(future) => break future,
                Err(Rejected { buffer: back, .. }) => {
                    buffer = back;
                    // Not while holding slots of our own.
                    match pending.pop_front() {
                        Some((value, future)) => finish(value, future, until),
                        None => wait(rig.queue.slot_free(), until, "a slot").unwrap(),
                    }
                }
            }
        };
        pending.push_back((value, future));
        match random.below(16) {
            0 => drop(pending.remove(random.below(pending.len()))),
            1..4 => rig.queue.flush(),
            4 => {
                let at = random.below(pending.len());
                let (_, future) = &mut pending[at];
                // Parked perhaps, and then dropped or moved to another waker.
                if Pin::new(future).poll(&mut Context::from_waker(&waker())).is_ready() {
                    drop(pending.remove(at));
                }
            }
            _ => {}
        }
        while pending.len() > depth {
            let at = random.below(pending.len());
            let (value, future) = pending.remove(at).unwrap();
            finish(value, future, until);
        }
    }
    pending.into_iter().for_each(|(value, future)| finish(value, future, until));
}

fn finish(value: u64, future: SharedInFlight<'_, Values, Buffer>, until: Instant) {
    let (outcome, buffer) = wait(future, until, "a completion").map_err(|lost| lost.error).unwrap();
    assert_eq!((outcome, buffer.value), (value, value), "the outcome of its own command");
}

fn stress(producers: u64, rounds: u64, depth: usize, slots: u16, spin: u32) {
    let seed = seed();
    let (rig, device) = rig(u32::from(slots) + 1, slots, spin, seed);
    let (stop, until) = (AtomicBool::new(false), Instant::now() + DEADLINE);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            // A producer that fails must not leave the device running.
            struct Stop<'a>(&'a AtomicBool);
            impl Drop for Stop<'_> {
                fn drop(&mut self) {
                    self.0.store(true, Ordering::Relaxed);
                }
            }
            let _stop = Stop(&stop);
            std::thread::scope(|producers_of| {
                for id in 0..producers {
                    let (rig, random) = (&rig, Random(seed.wrapping_add(id * 2 + 2) | 1));
                    producers_of.spawn(move || produce(rig, id, rounds, depth, random, until));
                }
            });
            // Orphans are still on their way.
            while rig.queue.in_flight() > 0 {
                rig.queue.flush();
                rig.queue.poll(usize::MAX).unwrap();
                assert!(Instant::now() < until, "{} never completed", rig.queue.in_flight());
            }
        });
        scope.spawn(|| device.run(&stop));
    });
    let made = (producers * rounds) as usize;
    assert_eq!(rig.ledger.back.load(Ordering::Relaxed), made, "each buffer comes back once");
    assert!(rig.queue.ended().is_none());
}

#[test]
fn many_producers_park_and_none_is_forgotten() {
    stress(6, 20_000, 5, 24, 0);
}

#[test]
fn many_producers_spin() {
    stress(3, 20_000, 12, 64, 500);
}

#[test]
fn producers_fight_for_few_slots() {
    stress(6, 5_000, 3, 2, 50);
}

/// Threads that post, one that reaps them, and tasks beside it.
#[test]
fn callbacks_and_futures_share_a_queue() {
    let seed = seed();
    let (rig, device) = rig(64, 32, 100, seed);
    let (stop, until) = (AtomicBool::new(false), Instant::now() + DEADLINE);
    let (called, sum) = (AtomicU64::new(0), AtomicU64::new(0));
    const POSTS: u64 = 20_000;
    std::thread::scope(|scope| {
        scope.spawn(|| device.run(&stop));
        let workers: Vec<_> = (0..2_u64)
            .map(|id| {
                let (rig, called, sum) = (&rig, &called, &sum);
                scope.spawn(move || {
                    let mut posted = 0;
                    while posted < POSTS || called.load(Ordering::Relaxed) < 2 * POSTS {
                        let value = id << 32 | posted;
                        let buffer = Buffer { ledger: rig.ledger.clone(), value };
                        let build = |_: u16, _: &mut Buffer| Entry { value, check: !value, tag: 0 };
                        if posted < POSTS && rig.queue.post(buffer, build).is_ok() {
                            posted += 1;
                        }
                        rig.queue.flush();
                        let each = |done: doorbell_queues::Completed<Values, Buffer>| {
                            assert_eq!(done.outcome, done.buffer.value);
                            sum.fetch_add(done.outcome & 0xffff_ffff, Ordering::Relaxed);
                            called.fetch_add(1, Ordering::Relaxed);
                        };
                        rig.queue.reap(4, each).unwrap();
                        assert!(Instant::now() < until, "{called:?} of {}", 2 * POSTS);
                    }
                })
            })
            .collect();
        produce(&rig, 7, 5_000, 4, Random(seed | 1), until);
        workers.into_iter().for_each(|worker| worker.join().unwrap());
        stop.store(true, Ordering::Relaxed);
    });
    assert_eq!(sum.load(Ordering::Relaxed), POSTS * (POSTS - 1), "each once");
}

/// The queue ends, from another thread, while producers are at it: nobody hangs, no buffer comes back
/// that the device may still have, and all do once the device is known to be done.
#[test]
fn a_queue_may_end_under_its_producers() {
    let seed = seed();
    for round in 0..20 {
        let (rig, device) = rig(17, 16, 20, seed.wrapping_add(round));
        let (stop, until) = (AtomicBool::new(false), Instant::now() + DEADLINE);
        let made = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            scope.spawn(|| device.run(&stop));
            let workers: Vec<_> = (0..4_u64)
                .map(|id| {
                    let (rig, made) = (&rig, &made);
                    scope.spawn(move || {
                        for n in 0.. {
                            let value = id << 32 | n;
                            let buffer = Buffer { ledger: rig.ledger.clone(), value };
                            made.fetch_add(1, Ordering::Relaxed);
                            let build =
                                |_: u16, _: &mut Buffer| Entry { value, check: !value, tag: 0 };
                            let ended = match rig.queue.submit(buffer, build) {
                                Ok(future) => wait(future, until, "an outcome").is_err(),
                                Err(_) => wait(rig.queue.slot_free(), until, "a slot").is_err(),
                            };
                            if ended {
                                return;
                            }
                        }
                    })
                })
                .collect();
            while made.load(Ordering::Relaxed) < 500 {
                std::thread::yield_now();
                assert!(Instant::now() < until);
            }
            rig.queue.end(EndReason::DeviceReset, round % 2 == 0);
            workers.into_iter().for_each(|worker| worker.join().unwrap());
            stop.store(true, Ordering::Relaxed);
        });
        rig.fate.end(EndReason::DeviceReset, true);
        let ledger = rig.ledger.clone();
        drop(rig);
        assert_eq!(ledger.back.load(Ordering::Relaxed), made.load(Ordering::Relaxed));
    }
}
