//! A poller's thread: its loop, and its sleep.
//!
//! A turn polls the tasks that are ready, takes what other threads have sent, and looks at the queues.
//! Turns in vain are counted; when there were more than the budget, which learns like a queue's, the
//! thread asks every device that somebody waits for to signal, looks once more, and sleeps until a
//! signal, a wake or the next time limit.

use std::os::fd::OwnedFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use doorbell_queues::SpinBudget;
use rustix::buffer::spare_capacity;
use rustix::event::{Timespec, epoll};
use rustix::io::Errno;

use super::counters::{PollerCounters, PollerState};
use super::executor::Executor;
use super::lines::Lines;
use super::local::{self, Here};
use super::shared::{FIRST_LINE, FIRST_TASK, INBOX, Shared};
use super::task;
use crate::topology::CpuSet;
use crate::wait::line::millis;

/// Turns between two looks at the clock.
const CLOCK: u64 = 256;
/// How long a time limit may be left alone, in milliseconds, where nobody waits with one.
const FAR: u64 = 1_000;
/// Events that one wait may bring; more come with the next.
const EVENTS: usize = 64;
/// Marks the poller's own eventfd among the events.
const KICK: u64 = u64::MAX;

/// The epoll instance that a poller sleeps on.
pub(super) fn sleeping_place(shared: &Shared) -> std::io::Result<OwnedFd> {
    let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    // Edges: each kick ends one sleep, and none is ever read.
    let flags = epoll::EventFlags::IN | epoll::EventFlags::ET;
    epoll::add(&epoll, &shared.kick, epoll::EventData::new_u64(KICK), flags)?;
    Ok(epoll)
}

/// Runs a poller on this thread to its end.
pub(super) fn run(
    shared: &Arc<Shared>,
    epoll: &OwnedFd,
    spin: SpinBudget,
    origin: Option<CpuSet>,
) -> std::io::Result<()> {
    let lines = Lines::on(epoll.try_clone()?);
    let _poller = local::become_poller(shared, lines, origin);
    local::with(|here| Turning::new(shared, epoll, spin).run(here));
    Ok(())
}

/// Says that a poller's thread has ended, however it did.
pub(super) struct Ending(pub(super) Arc<Shared>);

impl Drop for Ending {
    fn drop(&mut self) {
        let rest = self.0.close_inbox();
        // What a task was to be made of is code of others.
        let _ = catch_unwind(AssertUnwindSafe(|| drop(rest)));
        let counters = PollerCounters { state: PollerState::Ended, ..self.0.page.read() };
        self.0.page.publish(&PollerCounters { tasks: 0, queues: 0, ..counters });
        self.0.mark_ended();
    }
}

struct Turning<'a> {
    shared: &'a Arc<Shared>,
    epoll: &'a OwnedFd,
    executor: Executor,
    spin: SpinBudget,
    started: Instant,
    counters: PollerCounters,
    /// When time limits are looked after next, by [`millis`].
    next_tick: u64,
    events: Vec<epoll::Event>,
    due: super::lines::Due,
}

impl<'a> Turning<'a> {
    fn new(shared: &'a Arc<Shared>, epoll: &'a OwnedFd, spin: SpinBudget) -> Self {
        Self {
            shared,
            epoll,
            executor: Executor::new(Arc::clone(shared)),
            spin,
            started: Instant::now(),
            counters: PollerCounters { state: PollerState::Awake, ..shared.page.read() },
            next_tick: 0,
            events: Vec::with_capacity(EVENTS),
            due: Vec::new(),
        }
    }

    fn run(mut self, here: &Here) {
        let (mut idle, mut budget) = (0, 0);
        while !self.shared.closing() {
            let turns = self.counters.turns;
            self.counters.turns = turns.wrapping_add(1);
            if self.turn(here) {
                self.counters.busy_turns += 1;
                if idle > 0 {
                    self.spin.hit(idle);
                    idle = 0;
                }
            } else {
                if idle == 0 {
                    budget = self.spin.begin();
                }
                idle += 1;
                if idle > budget {
                    self.spin.missed();
                    self.sleep(here);
                    idle = 0;
                } else if idle > SpinBudget::QUIET_LOOKS {
                    std::hint::spin_loop();
                }
            }
            if turns.is_multiple_of(CLOCK) {
                self.look_at_the_clock(here);
            }
        }
        self.executor.clear(here);
        self.publish();
    }

    /// One turn; true if there was something to do.
    #[inline]
    fn turn(&mut self, here: &Here) -> bool {
        let polled = self.executor.turn(here);
        self.counters.polls = self.counters.polls.wrapping_add(polled as u64);
        let mut worked = polled > 0;
        for task in here.arrivals() {
            self.executor.admit(here, task);
            worked = true;
        }
        if self.shared.wakes.is_any() {
            self.take_wakes(here);
            worked = true;
        }
        let woken = {
            let ready = &mut *here.ready.borrow_mut();
            here.lines.borrow_mut().look(ready, &mut self.due, !worked)
        };
        self.wake_due();
        worked | woken
    }

    /// What other threads have woken and sent.
    #[cold]
    fn take_wakes(&mut self, here: &Here) {
        let (shared, executor, due) = (self.shared, &mut self.executor, &mut self.due);
        shared.wakes.take(|number| match number {
            INBOX => {
                while let Some(make) = shared.receive() {
                    executor.admit(here, make());
                }
            }
            FIRST_TASK..FIRST_LINE => here.ready.borrow_mut().push((number - FIRST_TASK) as u32),
            line => {
                let gone = {
                    let ready = &mut *here.ready.borrow_mut();
                    here.lines.borrow_mut().attend(line - FIRST_LINE, ready, due)
                };
                // Nothing is borrowed any more.
                drop(gone);
            }
        });
        self.wake_due();
    }

    /// Calls wakers of others, while nothing is borrowed.
    #[inline]
    fn wake_due(&mut self) {
        if self.due.is_empty() {
            return;
        }
        for waker in self.due.drain(..) {
            if let Err(panic) = catch_unwind(AssertUnwindSafe(|| waker.wake())) {
                let (poller, message) = (&self.shared.name, task::message(&*panic));
                tracing::error!(%poller, %message, "a waker panicked");
            }
        }
    }

    /// Time limits, and what others see of the counters.
    fn look_at_the_clock(&mut self, here: &Here) {
        let now = millis();
        if now >= self.next_tick {
            self.tick(here, now);
            self.publish();
        }
    }

    /// Milliseconds until the next tick, if one is needed.
    fn tick(&mut self, here: &Here, now: u64) -> Option<u64> {
        let next = {
            let ready = &mut *here.ready.borrow_mut();
            here.lines.borrow_mut().tick(ready, &mut self.due)
        };
        self.wake_due();
        self.next_tick = now + next.unwrap_or(FAR).min(FAR);
        next
    }

    /// Sleeps, unless there is something to do after all.
    #[cold]
    fn sleep(&mut self, here: &Here) {
        let wait = self.tick(here, millis());
        here.lines.borrow().announce_sleep();
        // The fence of this covers the arm words above. What comes from here on signals or kicks.
        self.shared.wakes.fall_asleep();
        let news = self.shared.wakes.is_any()
            || here.ready.borrow().len() > 0
            || here.lines.borrow().is_any_fresh();
        self.events.clear();
        if !news {
            let slept = Instant::now();
            self.counters.state = PollerState::Asleep;
            self.publish();
            self.wait_for_events(wait);
            self.counters.state = PollerState::Awake;
            self.counters.sleeps += 1;
            let asleep = u64::try_from(slept.elapsed().as_micros()).unwrap_or(u64::MAX);
            self.counters.asleep_us = self.counters.asleep_us.saturating_add(asleep);
        }
        self.shared.wakes.wake_up();
        here.lines.borrow().withdraw_sleep();
        for event in &self.events {
            match event.data.u64() {
                KICK => self.counters.wakes += 1,
                line => {
                    let ready = &mut *here.ready.borrow_mut();
                    here.lines.borrow_mut().signalled(line as usize, ready, &mut self.due);
                }
            }
        }
        self.wake_due();
    }

    fn wait_for_events(&mut self, millis: Option<u64>) {
        let timeout = millis.map(|millis| Timespec {
            tv_sec: (millis / 1000) as i64,
            tv_nsec: (millis % 1000 * 1_000_000) as i64,
        });
        match epoll::wait(self.epoll, spare_capacity(&mut self.events), timeout.as_ref()) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => {
                // It polls on without sleep, which is correct and costs a core.
                tracing::error!(poller = %self.shared.name, %error, "a poller cannot sleep");
                std::thread::yield_now();
            }
        }
    }

    fn publish(&mut self) {
        let alive = u64::try_from(self.started.elapsed().as_micros()).unwrap_or(u64::MAX);
        self.counters.alive_us = alive;
        self.counters.tasks = self.shared.tasks().into();
        self.counters.queues = self.shared.queues.load(Ordering::Relaxed).into();
        self.shared.page.publish(&self.counters);
    }
}
