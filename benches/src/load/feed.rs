//! [`Feed`]: what tells the tasks of an async runtime when to begin their next operation.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::os::fd::OwnedFd;
use std::task::Poll;
use std::time::Duration;

use anyhow::{Context, Result};
use rustix::io::Errno;
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
    timerfd_settime,
};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::Mutex;

use super::{Arrivals, Outcome, Recorder, Stop, Time, Wall};
use crate::series::Series;

/// One operation: when it was meant to begin, and when it did.
#[derive(Debug)]
#[must_use = "an operation that is done is handed back"]
pub struct Ticket {
    intended: u64,
    started: u64,
}

/// A load for tasks of one thread: as many as may be in flight, each of which asks for its next
/// operation and hands it back when it is done. Nobody spins: a task that waits for an arrival
/// sleeps on a timer of the kernel (the runtime's own timer counts milliseconds).
///
/// In an open loop one task waits for the next arrival and the others for their turn, so arrivals
/// are started in order. How late the timer and the runtime wake the task is part of the latency:
/// so it is for any program that sleeps.
#[derive(Debug)]
pub struct Feed {
    time: Wall,
    state: State,
}

#[derive(Debug)]
enum State {
    Closed { stop: Stop, started: Cell<u64>, bytes: Cell<u64>, series: RefCell<Series> },
    Open { recorder: Box<RefCell<Recorder>>, turn: Mutex<AsyncFd<OwnedFd>> },
}

impl Feed {
    /// A closed loop that begins now.
    ///
    /// # Errors
    /// As [`Series::new`].
    pub fn closed(stop: Stop) -> Result<Self> {
        let (started, bytes) = (Cell::new(0), Cell::new(0));
        let series = RefCell::new(Series::new()?);
        Ok(Self { time: Wall::start(), state: State::Closed { stop, started, bytes, series } })
    }

    /// An open loop that begins now. Called inside of a tokio runtime with I/O enabled.
    ///
    /// # Errors
    /// If the kernel gives no timer.
    pub fn open(arrivals: Arrivals, stop: Stop) -> Result<Self> {
        let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
        let timer = timerfd_create(TimerfdClockId::Monotonic, flags).context("making a timer")?;
        let turn = Mutex::new(register(timer).context("registering a timer")?);
        let recorder = Box::new(RefCell::new(Recorder::new(arrivals, stop)?));
        Ok(Self { time: Wall::start(), state: State::Open { recorder, turn } })
    }

    /// Waits for the next operation; `None` if there is no more.
    ///
    /// # Errors
    /// If the timer fails.
    pub async fn next(&self) -> Result<Option<Ticket>> {
        match &self.state {
            State::Closed { stop, started, .. } => {
                let now = self.time.now();
                if stop.is_due_ns(started.get(), now) {
                    return Ok(None);
                }
                started.set(started.get() + 1);
                Ok(Some(Ticket { intended: now, started: now }))
            }
            State::Open { recorder, turn } => {
                let timer = turn.lock().await;
                loop {
                    let now = self.time.now();
                    let Some(due) = recorder.borrow().next(now) else { return Ok(None) };
                    if due <= now {
                        let intended = recorder.borrow_mut().take();
                        return Ok(Some(Ticket { intended, started: now }));
                    }
                    sleep(&timer, due - now).await?;
                }
            }
        }
    }

    /// An operation is done; it moved so many bytes.
    #[expect(clippy::needless_pass_by_value, reason = "a ticket is used once")]
    pub fn done(&self, ticket: Ticket, moved: u64) {
        let now = self.time.now();
        match &self.state {
            State::Closed { bytes, series, .. } => {
                series.borrow_mut().record(now.saturating_sub(ticket.started));
                bytes.set(bytes.get() + moved);
            }
            State::Open { recorder, .. } => {
                recorder.borrow_mut().done(ticket.intended, ticket.started, now, moved);
            }
        }
    }

    /// What it saw, after all tasks have ended.
    #[must_use]
    pub fn finish(self) -> Outcome {
        let now = self.time.now();
        match self.state {
            State::Closed { bytes, series, .. } => {
                let mut series = series.into_inner();
                series.extend(Duration::from_nanos(now), bytes.get());
                Outcome::closed(series)
            }
            State::Open { recorder, .. } => recorder.into_inner().finish(now),
        }
    }
}

#[allow(
    deprecated,
    reason = "its successor is unsafe, for types whose descriptor may change; `OwnedFd` keeps its own"
)]
fn register(timer: OwnedFd) -> std::io::Result<AsyncFd<OwnedFd>> {
    AsyncFd::with_interest(timer, Interest::READABLE)
}

/// Sleeps for `ns` nanoseconds, above 0.
async fn sleep(timer: &AsyncFd<OwnedFd>, ns: u64) -> Result<()> {
    let never = Timespec { tv_sec: 0, tv_nsec: 0 };
    let span = Timespec {
        tv_sec: i64::try_from(ns / 1_000_000_000).unwrap_or(i64::MAX),
        tv_nsec: (ns % 1_000_000_000) as _,
    };
    let once = Itimerspec { it_interval: never, it_value: span };
    timerfd_settime(timer.get_ref(), TimerfdTimerFlags::empty(), &once)
        .context("setting a timer")?;
    loop {
        let mut ready = timer.readable().await.context("waiting for a timer")?;
        let mut expirations = [0; 8];
        match rustix::io::read(timer.get_ref(), &mut expirations) {
            Ok(_) => return Ok(()),
            Err(Errno::AGAIN) => ready.clear_ready(),
            Err(Errno::INTR) => {}
            Err(error) => return Err(error).context("reading a timer"),
        }
    }
}

/// Lets the other tasks that are ready run once. Unlike the runtime's own way it does not look for
/// I/O first, so it costs no system call.
pub async fn yield_once() {
    let mut yielded = false;
    poll_fn(|cx| {
        if std::mem::replace(&mut yielded, true) {
            return Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

#[cfg(test)]
mod tests {
    use super::super::Pattern;
    use super::*;
    use std::rc::Rc;
    use tokio::task::{LocalSet, spawn_local};

    fn with_tasks(tasks: usize, feed: impl FnOnce() -> Feed) -> Outcome {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build().unwrap();
        LocalSet::new().block_on(&runtime, async {
            let feed = Rc::new(feed());
            let worker = |feed: Rc<Feed>| async move {
                while let Some(ticket) = feed.next().await.unwrap() {
                    yield_once().await;
                    feed.done(ticket, 512);
                }
            };
            let tasks: Vec<_> = (0..tasks).map(|_| spawn_local(worker(Rc::clone(&feed)))).collect();
            for task in tasks {
                task.await.unwrap();
            }
            Rc::into_inner(feed).unwrap().finish()
        })
    }

    #[test]
    fn tasks_serve_every_operation_of_a_closed_loop() {
        let outcome = with_tasks(4, || Feed::closed(Stop::Operations(101)).unwrap());
        assert_eq!((outcome.completed(), outcome.response.bytes()), (101, 101 * 512));
        assert!(outcome.service.is_none());
    }

    #[test]
    fn tasks_sleep_until_operations_arrive() {
        let arrivals = || Arrivals::new(10_000.0, Pattern::Poisson, 5);
        let stop = Stop::Operations(100);
        let outcome = with_tasks(4, || Feed::open(arrivals(), stop).unwrap());
        assert_eq!((outcome.completed(), outcome.unserved), (100, 0));
        // The last one cannot be served before it arrives.
        let mut all = arrivals();
        let last = (0..100).map(|_| all.advance()).last().unwrap();
        assert!(outcome.response.elapsed() >= Duration::from_nanos(last));
        assert_eq!(outcome.scheduled_ns, last);
    }

    #[test]
    fn the_end_of_the_time_ends_the_wait_for_arrivals() {
        // One arrival in a thousand seconds, and the time is over after ten milliseconds.
        let stop = Stop::After(Duration::from_millis(10));
        let arrivals = Arrivals::new(0.001, Pattern::Fixed, 1);
        let outcome = with_tasks(2, || Feed::open(arrivals, stop).unwrap());
        assert_eq!((outcome.completed(), outcome.unserved), (0, 0));
    }
}
