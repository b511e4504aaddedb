//! [`Line`]: one interrupt, and all the tasks that are parked on it.
//!
//! **Why no wake-up is lost.** A task arms the interrupt, looks at the ring, registers here
//! ([`Line::park`]), and goes to sleep in its runtime. Arming once gives one event, for everyone; a
//! write to the eventfd puts it on the ready list of each runtime's epoll instance. But an instance
//! that comes to look once the event was taken drops it: it reports to nobody. So:
//! * whoever takes the event (a task, the thread outside, its tick) wakes everyone *afterwards*. That
//!   the reactor's report had woken everyone is not enough: the report may be of an earlier event,
//!   and the take is of both;
//! * a task of several threads looks again once it is registered, since another thread may have
//!   taken the event, and woken everyone, after its look and before it was here. With the second
//!   look, an event that is written for it after the look finds it here, and so does who takes it;
//! * who finds `fired` set wakes nobody: the thread that set it had taken the event, and woke
//!   everyone after that.
//!
//! Modelled, with epoll and with each of the first two rules left out, in doorbell-queues' loom model
//! `lines`.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Wake, Waker};
use std::time::Duration;

use doorbell_queues::{EndReason, Fate, Parked, Tag};

use super::Eventfd;
use super::parked::{Entry, LEAVING, ParkedTasks};

/// A command that outlived its time limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Overdue {
    /// The command; `None` for a task that waits for a free slot.
    pub(crate) tag: Option<Tag>,
    /// True if the command was reported before: the queue must end.
    pub(crate) last: bool,
}

/// Time limits of the commands of one queue.
pub(crate) struct Limits {
    /// How long a command may be parked.
    pub(crate) limit: Duration,
    /// Where overdue commands are reported.
    pub(crate) report: Box<dyn Fn(Overdue) + Send + Sync>,
}

/// One interrupt line.
///
/// `Parked::since` holds milliseconds since `epoch` times two, plus one if the command was reported
/// already.
pub(crate) struct Line {
    pub(crate) event: Eventfd,
    pub(crate) fate: Arc<Fate>,
    /// Set by a thread that took the event on behalf of the tasks.
    fired: AtomicBool,
    /// True while the thread polls the event. Set back only under the lock of `parked`.
    watched: AtomicBool,
    /// How often the thread took the event while no task outside of a runtime was parked.
    in_vain: AtomicU32,
    parked: Mutex<ParkedTasks>,
    limits: Option<Limits>,
    /// When it was made, by [`millis`].
    epoch: u64,
    commands: u16,
}

/// Milliseconds of a clock that costs a few nanoseconds to read and lags by a timer tick at most.
pub(crate) fn millis() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::MonotonicCoarse);
    // Neither is negative: the clock starts with the machine.
    now.tv_sec as u64 * 1000 + now.tv_nsec as u64 / 1_000_000
}

impl fmt::Debug for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Line").field("fate", &self.fate).finish_non_exhaustive()
    }
}

impl Line {
    /// `commands` is how many can be in flight on the queue.
    pub(crate) fn new(
        event: Eventfd,
        fate: Arc<Fate>,
        limits: Option<Limits>,
        commands: u16,
    ) -> Self {
        Self {
            event,
            fate,
            fired: AtomicBool::new(false),
            watched: AtomicBool::new(false),
            in_vain: AtomicU32::new(0),
            parked: Mutex::new(ParkedTasks::with_room(commands)),
            limits,
            epoch: millis(),
            commands,
        }
    }

    fn tasks(&self) -> MutexGuard<'_, ParkedTasks> {
        // No code that holds the lock panics half-way through a change.
        self.parked.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Milliseconds since the line was made.
    pub(crate) fn now(&self) -> u64 {
        // Bounded to 62 bits: 146 million years.
        millis().wrapping_sub(self.epoch)
    }

    /// How many commands can be in flight on the queue.
    pub(crate) fn commands(&self) -> u16 {
        self.commands
    }

    /// A command's limit and how often to look after it, in milliseconds; `None` without limits.
    pub(crate) fn limit(&self) -> Option<(u64, u64)> {
        let (limits, every) = (self.limits.as_ref()?, self.tick_every()?);
        Some((limits.limit.as_millis() as u64, every.as_millis() as u64))
    }

    /// Has a poller woken whenever all tasks are.
    pub(crate) fn tell(&self, poller: Waker) {
        self.tasks().watchers.push(poller);
    }

    /// Remembers a parked task, in place of what was remembered for the same command. `outside`
    /// says that it parks outside of a runtime.
    ///
    /// True if the task must arm and look once more before it sleeps. Where tasks of several threads
    /// park, another one may take the event, and with it what this task has armed, after this
    /// task's look and before it is found here; so it must have been here before it looked. On one
    /// thread nobody comes in between.
    #[must_use]
    pub(crate) fn park(&self, parked: &mut Parked, waker: &Waker, outside: bool) -> bool {
        let since = self.stamp(parked);
        // Cloning and dropping wakers is foreign code: it runs outside of the lock.
        let entry = Entry { waker: waker.clone(), since, outside };
        let here = std::thread::current().id();
        let (replaced, shared) = {
            let tasks = &mut *self.tasks();
            tasks.shared |= tasks.thread.replace(here).is_some_and(|thread| thread != here);
            let replaced = match parked.tag {
                Some(tag) => tasks.put(tag, entry),
                None => match tasks.others.iter_mut().find(|old| old.waker.will_wake(waker)) {
                    Some(old) => Some(std::mem::replace(old, entry)),
                    None => {
                        tasks.others.push(entry);
                        None
                    }
                },
            };
            (replaced, tasks.shared)
        };
        shared && replaced.is_none_or(|entry| !entry.waker.will_wake(waker))
    }

    /// The task goes on without having been woken through the line.
    pub(crate) fn unpark(&self, parked: &Parked, waker: &Waker) {
        let removed = {
            let tasks = &mut *self.tasks();
            match parked.tag {
                Some(tag) => tasks.take(tag),
                None => {
                    let at = tasks.others.iter().position(|entry| entry.waker.will_wake(waker));
                    at.map(|at| tasks.others.swap_remove(at))
                }
            }
        };
        drop(removed);
    }

    /// Gives the wait its start, and reports it once that is a limit ago.
    pub(crate) fn stamp(&self, parked: &mut Parked) -> u64 {
        let now = self.now();
        let since = *parked.since.get_or_insert(now << 1);
        if let Some(limits) = &self.limits
            && now.saturating_sub(since >> 1) >= limits.limit.as_millis() as u64
        {
            (limits.report)(Overdue { tag: parked.tag, last: since & 1 == 1 });
            parked.since = Some(now << 1 | 1);
            return now << 1 | 1;
        }
        since
    }

    /// True if the interrupt fired and a thread took it.
    pub(crate) fn take_fired(&self) -> bool {
        // Acquire: pairs with the release in `fire`. Loaded first: most of the time it is not set.
        self.fired.load(Ordering::Relaxed) && self.fired.swap(false, Ordering::Acquire)
    }

    /// For a thread that took the event: the next task that looks finds that it fired.
    pub(crate) fn fire(&self) {
        self.fired.store(true, Ordering::Release);
        self.wake_all();
    }

    /// A thread is to poll the event; true if none does so far. The task that needs it is parked
    /// already.
    pub(crate) fn watch(&self) -> bool {
        !self.watched.swap(true, Ordering::AcqRel)
    }

    /// The thread may let go of the event.
    pub(crate) fn unwatch(&self) {
        self.watched.store(false, Ordering::Release);
    }

    pub(crate) fn is_watched(&self) -> bool {
        self.watched.load(Ordering::Acquire)
    }

    /// For the thread that polls the event, before it fires it. Once nobody outside of a runtime
    /// has needed it for some time, the queue belongs to runtimes alone, and the thread would only
    /// be woken beside them at each interrupt.
    ///
    /// Under the lock that a task takes when it parks, before it asks for the thread: so either the
    /// task is found here, or it finds the event unwatched.
    pub(crate) fn fired_for(&self) {
        const ENOUGH: u32 = 8;
        let tasks = self.tasks();
        if tasks.all().any(|entry| entry.outside) {
            self.in_vain.store(0, Ordering::Relaxed);
        } else if self.in_vain.fetch_add(1, Ordering::Relaxed) + 1 >= ENOUGH {
            self.in_vain.store(0, Ordering::Relaxed);
            self.unwatch();
        }
    }

    /// Ends the queue and tells every parked task.
    pub(crate) fn end(&self, reason: EndReason, quiesced: bool) {
        self.fate.end(reason, quiesced);
        self.wake_all();
    }

    /// Wakes every parked task.
    pub(crate) fn wake_all(&self) {
        let mut leaving = {
            let tasks = &mut *self.tasks();
            let mut leaving = tasks.leaving.pop().unwrap_or_default();
            tasks.drain_into(&mut leaving);
            leaving
        };
        // Wakers are foreign code: they run outside of the lock.
        for waker in leaving.drain(..) {
            waker.wake();
        }
        let tasks = &mut *self.tasks();
        if tasks.leaving.len() < LEAVING {
            tasks.leaving.push(leaving);
        }
    }

    /// How long a command may be parked, if there is a limit.
    pub(crate) fn time_limit(&self) -> Option<Duration> {
        self.limits.as_ref().map(|limits| limits.limit)
    }

    /// How often [`Line::tick`] should run; `None` if never.
    pub(crate) fn tick_every(&self) -> Option<Duration> {
        let limits = self.limits.as_ref()?;
        Some((limits.limit / 8).clamp(Duration::from_millis(5), Duration::from_secs(1)))
    }

    /// Wakes the tasks if one of them is overdue, or if the event was signalled and nobody took it
    /// for a whole tick: a task may have parked in a runtime that nobody drives.
    pub(crate) fn tick(&self) {
        let (Some(limits), Some(tick)) = (&self.limits, self.tick_every()) else { return };
        let (now, limit) = (self.now(), limits.limit.as_millis() as u64);
        let oldest = {
            let tasks = self.tasks();
            tasks.all().map(|entry| entry.since >> 1).min()
        };
        let Some(oldest) = oldest else { return };
        let age = now.saturating_sub(oldest);
        if age >= limit {
            self.wake_all();
        } else if age >= tick.as_millis() as u64 && self.event.take().unwrap_or(false) {
            self.fire();
        }
    }
}

impl Wake for Line {
    fn wake(self: Arc<Self>) {
        self.wake_all();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.wake_all();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU32;

    use super::*;

    #[derive(Default)]
    struct Count(AtomicU32);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn line(limit: Duration) -> (Line, Arc<Mutex<Vec<Overdue>>>) {
        let reported = Arc::new(Mutex::new(Vec::new()));
        let list = Arc::clone(&reported);
        let report = Box::new(move |overdue| list.lock().unwrap().push(overdue));
        let event = Eventfd::new().unwrap();
        (Line::new(event, Arc::new(Fate::new()), Some(Limits { limit, report }), 8), reported)
    }

    fn parked(tag: Option<u16>) -> Parked {
        Parked { tag: tag.map(Tag), since: None }
    }

    #[test]
    fn everyone_is_woken_once_whatever_they_wait_for() {
        let (line, _) = line(Duration::from_secs(60));
        let counts: Vec<_> = (0..4).map(|_| Arc::new(Count::default())).collect();
        let wakers: Vec<_> = counts.iter().map(|count| Waker::from(Arc::clone(count))).collect();
        let mut wait = [parked(Some(1)), parked(Some(2)), parked(None), parked(None)];
        for _ in 0..3 {
            // Parking again replaces the waker.
            for (parked, waker) in wait.iter_mut().zip(&wakers) {
                let _ = line.park(parked, waker, false);
            }
        }
        line.fire();
        line.fire();
        let woken: Vec<_> = counts.iter().map(|count| count.0.load(Ordering::Relaxed)).collect();
        assert_eq!(woken, [1, 1, 1, 1]);
        assert!(line.take_fired());
        assert!(!line.take_fired());
    }

    #[test]
    fn whoever_goes_on_by_itself_is_not_woken() {
        let (line, _) = line(Duration::from_secs(60));
        let count = Arc::new(Count::default());
        let waker = Waker::from(Arc::clone(&count));
        for mut wait in [parked(Some(1)), parked(None)] {
            let _ = line.park(&mut wait, &waker, false);
            line.unpark(&wait, &waker);
        }
        line.wake_all();
        assert_eq!(count.0.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn an_overdue_command_is_reported_only_by_its_own_task_and_first_gently() {
        let (line, reported) = line(Duration::ZERO);
        let count = Arc::new(Count::default());
        let waker = Waker::from(Arc::clone(&count));
        // One that parked a limit ago. Its task is woken, and told nothing if it does not come back.
        let mut wait = Parked { tag: Some(Tag(7)), since: Some(0) };
        let _ = line.tasks().put(Tag(7), Entry { waker: waker.clone(), since: 0, outside: false });
        line.tick();
        assert_eq!(count.0.load(Ordering::Relaxed), 1);
        assert!(reported.lock().unwrap().is_empty());
        let _ = line.park(&mut wait, &waker, false);
        let _ = line.park(&mut wait, &waker, false);
        let tag = Some(Tag(7));
        let expected = [Overdue { tag, last: false }, Overdue { tag, last: true }];
        assert_eq!(*reported.lock().unwrap(), expected);
    }

    #[test]
    fn a_thread_lets_go_of_a_line_that_only_runtimes_wait_for() {
        let (line, _) = line(Duration::from_secs(60));
        let waker = Waker::noop();
        assert!(line.watch());
        assert!(!line.watch(), "it does already");
        for _ in 0..100 {
            let _ = line.park(&mut parked(Some(1)), waker, false);
            let _ = line.park(&mut parked(Some(2)), waker, true);
            line.fired_for();
            line.fire();
        }
        assert!(line.is_watched(), "someone outside waits each time");
        for _ in 0..8 {
            assert!(line.is_watched());
            let _ = line.park(&mut parked(Some(1)), waker, false);
            line.fired_for();
            line.fire();
        }
        assert!(!line.is_watched());
        assert!(line.watch(), "until someone asks for it again");
    }

    #[test]
    fn a_task_of_a_second_thread_looks_again_once_it_is_known() {
        let (line, _) = line(Duration::from_secs(60));
        let waker = Waker::noop();
        assert!(!line.park(&mut parked(Some(1)), waker, false), "the only thread");
        std::thread::scope(|scope| {
            let other = || {
                assert!(line.park(&mut parked(Some(2)), waker, false));
                assert!(!line.park(&mut parked(Some(2)), waker, false), "known since before");
            };
            scope.spawn(other).join().unwrap();
        });
        assert!(line.park(&mut parked(Some(3)), waker, false));
        line.wake_all();
        assert!(line.park(&mut parked(Some(3)), waker, false), "it was woken, and is new again");
    }

    #[test]
    fn an_event_that_nobody_takes_is_taken_by_the_tick() {
        let (mut line, _) = line(Duration::from_secs(3600));
        // As if the line were a few ticks old.
        line.epoch = line.epoch.wrapping_sub(5_000);
        let count = Arc::new(Count::default());
        let waker = Waker::from(Arc::clone(&count));
        line.event.signal();
        line.tick();
        assert!(!line.take_fired(), "nobody is parked");
        let _ = line.tasks().put(Tag(7), Entry { waker, since: 0, outside: false });
        line.tick();
        assert_eq!(count.0.load(Ordering::Relaxed), 1);
        assert!(line.take_fired());
    }
}
