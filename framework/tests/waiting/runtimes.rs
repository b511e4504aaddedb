//! One line, and tasks of several runtimes and of none that are parked on it at the same time, as
//! those of a shared queue are.

use std::future::{Future, poll_fn};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Barrier};
use std::task::Poll;
use std::thread::{self, JoinHandle};

use doorbell::queues::wait::must_signal;
use doorbell::queues::{Fate, Interrupt, NextCompletion, Parked, SharedMem, Tag, Word32};
use doorbell::wait::{Eventfd, interrupt_with_fate};
use tokio::runtime::{Builder, Runtime};
use tokio::task::LocalSet;

use crate::rig::{Random, within_deadline};

/// What one waiter asked for, and got.
#[derive(Default)]
struct Account {
    asked: AtomicU64,
    given: AtomicU64,
}

/// A line, its device, and the waiters' accounts.
struct Hall {
    interrupt: Box<dyn Interrupt>,
    accounts: Vec<Account>,
    memory: SharedMem,
    stop: AtomicBool,
}

impl Hall {
    /// With a device thread that gives each waiter what it asked for, in any order, and signals as
    /// a device does: only who is armed.
    fn open(waiters: usize) -> (Arc<Self>, JoinHandle<()>) {
        let memory = SharedMem::zeroed(4096);
        let armed = memory.word32(0).unwrap();
        let event = Eventfd::new().unwrap();
        let waited_for = event.as_fd().try_clone_to_owned().unwrap();
        let fate = Arc::new(Fate::new());
        let interrupt = interrupt_with_fate(waited_for, Some(armed.clone()), fate).unwrap();
        let accounts = (0..waiters).map(|_| Account::default()).collect();
        let hall = Arc::new(Self { interrupt, accounts, memory, stop: AtomicBool::new(false) });
        let theirs = Arc::clone(&hall);
        let mut random = Random::new();
        let device = thread::spawn(move || theirs.serve(&armed, &event, &mut random));
        (hall, device)
    }

    fn serve(&self, armed: &Word32, event: &Eventfd, random: &mut Random) {
        while !self.stop.load(Ordering::Relaxed) {
            let Some(account) = self.accounts.get(random.below(self.accounts.len())) else {
                return;
            };
            let given = account.given.load(Ordering::Relaxed);
            if account.asked.load(Ordering::Acquire) == given {
                thread::yield_now();
                continue;
            }
            (0..random.below(2_000)).for_each(|_| std::hint::spin_loop());
            account.given.store(given + 1, Ordering::Release);
            if must_signal(armed) {
                event.signal();
            }
        }
    }

    fn close(&self, device: JoinHandle<()>) {
        self.stop.store(true, Ordering::Relaxed);
        device.join().unwrap();
    }

    /// Asks, and waits for it as a queue does: arm, look, park.
    async fn ask(&self, waiter: usize) {
        let account = &self.accounts[waiter];
        let target = account.asked.fetch_add(1, Ordering::AcqRel) + 1;
        let mut parked = Parked { tag: Some(Tag(waiter as u16)), since: None };
        poll_fn(|cx| {
            loop {
                self.interrupt.arm(&NextCompletion {
                    ring: &self.memory,
                    offset: 64,
                    phase: |word| word == 1,
                    fresh: true,
                });
                if account.given.load(Ordering::Acquire) >= target {
                    return Poll::Ready(());
                }
                match self.interrupt.poll_fired(cx, &mut parked) {
                    Poll::Ready(fired) => fired.unwrap(),
                    Poll::Pending => return Poll::Pending,
                }
            }
        })
        .await;
    }
}

fn current_thread() -> Runtime {
    Builder::new_current_thread().enable_all().build().unwrap()
}

/// Runs a future in one of the ways in which a program may.
fn run(how: usize, future: impl Future<Output = ()>) {
    match how % 4 {
        0 => current_thread().block_on(future),
        1 => tokio_uring::start(future),
        2 => pollster::block_on(future),
        _ => Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap()
            .block_on(future),
    }
}

#[test]
fn tasks_of_two_runtimes_wait_on_one_line() {
    within_deadline(|| {
        let (hall, device) = Hall::open(2);
        let together = Arc::new(Barrier::new(2));
        let threads: Vec<_> = (0..2)
            .map(|waiter| {
                let (hall, together) = (Arc::clone(&hall), Arc::clone(&together));
                thread::spawn(move || {
                    current_thread().block_on(async {
                        together.wait();
                        for _ in 0..5_000 {
                            hall.ask(waiter).await;
                        }
                    });
                })
            })
            .collect();
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        hall.close(device);
    });
}

#[test]
fn tasks_of_every_kind_of_runtime_and_of_none_wait_on_one_line() {
    within_deadline(|| {
        let (hall, device) = Hall::open(5);
        let threads: Vec<_> = (0..5)
            .map(|waiter| {
                let hall = Arc::clone(&hall);
                thread::spawn(move || {
                    run(waiter, async {
                        for _ in 0..1_500 {
                            hall.ask(waiter).await;
                        }
                    });
                })
            })
            .collect();
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        hall.close(device);
    });
}

/// One runtime after another shuts down while tasks of it are parked; the tasks of the other
/// threads, inside of a runtime and outside, miss nothing.
#[test]
fn a_runtime_that_shuts_down_takes_no_wake_up_with_it() {
    within_deadline(|| {
        let (hall, device) = Hall::open(4);
        let stay: Vec<_> = [0, 2]
            .map(|waiter| {
                let hall = Arc::clone(&hall);
                thread::spawn(move || {
                    run(waiter, async {
                        for _ in 0..3_000 {
                            hall.ask(waiter).await;
                        }
                    });
                })
            })
            .into();
        let mut runtimes = 0;
        while stay.iter().any(|thread| !thread.is_finished()) {
            let (runtime, local) = (current_thread(), LocalSet::new());
            let theirs = Arc::clone(&hall);
            local.spawn_local(async move {
                // Dropped where it is when the runtime goes, most of the time while it is parked.
                loop {
                    theirs.ask(3).await;
                }
            });
            local.block_on(&runtime, async {
                for _ in 0..5 {
                    hall.ask(1).await;
                }
            });
            runtimes += 1;
        }
        assert!(runtimes > 1);
        stay.into_iter().for_each(|thread| thread.join().unwrap());
        hall.close(device);
    });
}
