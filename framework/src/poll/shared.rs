//! [`Shared`]: what a poller's thread and all others have in common.

use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError, TryLockError};
use std::task::Wake;

use doorbell_queues::WakeSet;

use super::counters::Page;
use super::local;
use super::poller::Placement;
use super::task::{Arrival, MAX_TASKS};
use crate::deadline::Deadline;
use crate::dma::DmaError;
use crate::wait::Eventfd;
use crate::wire::PollerAbout;

/// The number in the [`WakeSet`] that says that the inbox has something, or that the end is near.
pub(super) const INBOX: usize = 0;
/// The number of the first task.
pub(super) const FIRST_TASK: usize = 1;
/// The number of the first queue.
pub(super) const FIRST_LINE: usize = FIRST_TASK + MAX_TASKS;
/// The most queues of a poller.
pub const MAX_QUEUES: usize = doorbell_queues::wakes::MAX_NUMBERS - FIRST_LINE;

/// What others know of a poller's thread.
pub(crate) struct Shared {
    /// Its number in this process, from 1.
    pub(crate) number: u64,
    pub(crate) name: Arc<str>,
    pub(super) wakes: WakeSet,
    pub(super) kick: Eventfd,
    pub(super) page: Page,
    /// Where its thread runs; set before anyone else sees this.
    pub(super) placement: OnceLock<Placement>,
    /// Tasks that were sent and not admitted yet; `None` once the thread takes no more.
    inbox: Mutex<Option<VecDeque<Arrival>>>,
    /// Tasks that live on it or are on their way there.
    tasks: AtomicU32,
    /// Queues that it polls.
    pub(super) queues: AtomicU32,
    closing: AtomicBool,
    ended: Mutex<bool>,
    end: Condvar,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").field("name", &self.name).finish_non_exhaustive()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // No code that holds one of these locks panics half-way through a change.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    pub(super) fn new(name: &str) -> Result<Self, DmaError> {
        static NUMBER: AtomicU64 = AtomicU64::new(1);
        let what = "creating an eventfd";
        Ok(Self {
            number: NUMBER.fetch_add(1, Ordering::Relaxed),
            name: name.into(),
            wakes: WakeSet::new(doorbell_queues::wakes::MAX_NUMBERS),
            kick: Eventfd::new().map_err(|source| DmaError::Os { what, source })?,
            page: Page::new()?,
            placement: OnceLock::new(),
            inbox: Mutex::new(Some(VecDeque::new())),
            tasks: AtomicU32::new(0),
            queues: AtomicU32::new(0),
            closing: AtomicBool::new(false),
            ended: Mutex::new(false),
            end: Condvar::new(),
        })
    }

    /// Any thread: wakes a task or has a queue looked after. No system call unless the poller sleeps.
    pub(super) fn wake(&self, number: usize) {
        if self.wakes.wake(number) {
            self.kick.signal();
        }
    }

    /// Books a place for a task; false if there are too many, or the poller ends.
    pub(super) fn book(&self) -> bool {
        let room = |tasks: u32| (tasks < MAX_TASKS as u32).then_some(tasks + 1);
        // Relaxed: a count, nothing is published by it.
        !self.closing()
            && self.tasks.fetch_update(Ordering::Relaxed, Ordering::Relaxed, room).is_ok()
    }

    pub(super) fn unbook(&self) {
        self.tasks.fetch_sub(1, Ordering::Relaxed);
    }

    pub(super) fn tasks(&self) -> u32 {
        self.tasks.load(Ordering::Relaxed)
    }

    /// Tasks and queues: what the least loaded poller has least of.
    pub(super) fn load(&self) -> u32 {
        self.tasks() + self.queues.load(Ordering::Relaxed)
    }

    /// Sends a task. One that comes too late is dropped, and its handle told.
    pub(super) fn send(&self, arrival: Arrival) {
        let refused = match &mut *lock(&self.inbox) {
            Some(inbox) => {
                inbox.push_back(arrival);
                None
            }
            None => Some(arrival),
        };
        drop(refused);
        self.wake(INBOX);
    }

    /// Poller's thread: takes a task that was sent. It does not wait for a sender that was preempted in
    /// the middle: that one wakes the poller when it is done.
    pub(super) fn receive(&self) -> Option<Arrival> {
        match self.inbox.try_lock() {
            Ok(mut inbox) => inbox.as_mut()?.pop_front(),
            Err(TryLockError::Poisoned(inbox)) => inbox.into_inner().as_mut()?.pop_front(),
            Err(TryLockError::WouldBlock) => None,
        }
    }

    /// Poller's thread, at its end: what is still there. Nothing more is taken.
    pub(super) fn close_inbox(&self) -> Option<VecDeque<Arrival>> {
        lock(&self.inbox).take()
    }

    /// What a broker is told: the poller's number, what it is, and a descriptor of its counters.
    pub(crate) fn report(&self) -> std::io::Result<(PollerAbout, OwnedFd)> {
        let placement = self.placement.get().cloned().unwrap_or_default();
        let Placement { cpu, node, memory, trouble } = placement;
        let name = self.name.to_string();
        Ok((PollerAbout { name, cpu, node, memory, trouble }, self.page.descriptor()?))
    }

    /// Asks the thread to end.
    pub(super) fn close(&self) {
        self.closing.store(true, Ordering::Release);
        self.wake(INBOX);
    }

    pub(super) fn closing(&self) -> bool {
        self.closing.load(Ordering::Acquire)
    }

    pub(super) fn mark_ended(&self) {
        *lock(&self.ended) = true;
        self.end.notify_all();
    }

    /// Waits for the thread's end; false if it has not come by then.
    pub(super) fn wait_for_end(&self, deadline: &Deadline) -> bool {
        let mut ended = lock(&self.ended);
        while !*ended {
            let left = deadline.remaining();
            if left.is_zero() {
                return false;
            }
            ended = match self.end.wait_timeout(ended, left) {
                Ok((ended, _)) => ended,
                Err(poisoned) => poisoned.into_inner().0,
            };
        }
        true
    }
}

/// Wakes a task. One for each place of the executor, so waking allocates nothing.
pub(super) struct TaskWaker {
    pub(super) shared: Arc<Shared>,
    /// The task's place; its number is `FIRST_TASK + place`.
    pub(super) place: u32,
}

impl Wake for TaskWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if !local::wake(self.shared.number, self.place) {
            self.shared.wake(FIRST_TASK + self.place as usize);
        }
    }
}
