//! [`Hub`]: the lines that a thread waits for, for queues that are used outside of a runtime.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;

use super::Eventfd;
use super::line::Line;

/// What a waiting thread shares with the queues it waits for.
#[derive(Debug)]
pub(crate) struct Hub {
    wake: Eventfd,
    /// Lines to be polled from now on.
    arriving: Mutex<Vec<Arc<Line>>>,
    /// Every line whose time limits are looked after.
    limited: Mutex<Vec<Weak<Line>>>,
}

/// What the thread itself keeps.
#[derive(Debug, Default)]
pub(crate) struct Watching {
    lines: Vec<Arc<Line>>,
    next_tick: Option<Instant>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // No code that holds one of these locks panics half-way through a change.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Hub {
    /// A hub for a thread that the caller starts.
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self {
            wake: Eventfd::new()?,
            arriving: Mutex::new(Vec::new()),
            limited: Mutex::new(Vec::new()),
        })
    }

    /// A hub with a thread of its own, which ends when the hub is dropped everywhere else.
    pub(crate) fn spawn() -> io::Result<Arc<Self>> {
        let hub = Arc::new(Self::new()?);
        let weak = Arc::downgrade(&hub);
        let wake = hub.wake.as_fd().try_clone_to_owned()?;
        let origin = crate::poll::origin();
        std::thread::Builder::new().name("doorbell-wait".to_owned()).spawn(move || {
            crate::poll::leave_core(origin);
            let wake = Eventfd::from(wake);
            let mut watching = Watching::default();
            while let Some(hub) = weak.upgrade() {
                watching.admit(&hub);
                drop(hub);
                if let Err(error) = watching.wait(&wake, None, None) {
                    tracing::error!(%error, "waiting for interrupts failed; they are lost");
                    return;
                }
            }
        })?;
        Ok(hub)
    }

    /// Has the thread poll a line until `watched` is taken back.
    pub(crate) fn watch(&self, line: &Arc<Line>) {
        if line.watch() {
            lock(&self.arriving).push(Arc::clone(line));
            self.wake.signal();
        }
    }

    /// Has the thread look after a line's time limits.
    pub(crate) fn limit(&self, line: &Arc<Line>) {
        lock(&self.limited).push(Arc::downgrade(line));
        self.wake.signal();
    }

    /// Makes the thread look around.
    pub(crate) fn nudge(&self) {
        self.wake.signal();
    }

    /// The eventfd that [`Hub::nudge`] signals.
    pub(crate) fn wake(&self) -> &Eventfd {
        &self.wake
    }

    /// Runs what is due of the time limits; when to call it again.
    pub(crate) fn tick(&self, watching: &mut Watching) -> Option<Instant> {
        let lines: Vec<_> = {
            let limited = &mut *lock(&self.limited);
            limited.retain(|line| line.strong_count() > 0);
            limited.iter().filter_map(Weak::upgrade).collect()
        };
        let every = lines.iter().filter_map(|line| line.tick_every()).min()?;
        let now = Instant::now();
        match watching.next_tick {
            Some(at) if now < at.min(now + every) => Some(at.min(now + every)),
            _ => {
                lines.iter().for_each(|line| line.tick());
                watching.next_tick = Some(now + every);
                watching.next_tick
            }
        }
    }
}

impl Drop for Hub {
    fn drop(&mut self) {
        // The thread wakes up and finds nobody.
        self.wake.signal();
    }
}

/// A descriptor that the thread waits for besides the lines.
#[derive(Debug)]
pub(crate) struct Extra<'a> {
    pub(crate) fd: BorrowedFd<'a>,
    pub(crate) write: bool,
}

impl Watching {
    /// Takes over the lines that were given to the hub.
    pub(crate) fn admit(&mut self, hub: &Hub) {
        self.lines.retain(|line| line.is_watched());
        // Drained, not taken: a thread that parks does not allocate.
        for line in lock(&hub.arriving).drain(..) {
            // It may have been let go of and asked for again before this looked.
            if line.is_watched() && !self.lines.iter().any(|known| Arc::ptr_eq(known, &line)) {
                self.lines.push(line);
            }
        }
    }

    /// Waits until `wake`, a line, `extra` or `until`, and fires the lines that were signalled.
    pub(crate) fn wait(
        &self,
        wake: &Eventfd,
        extra: Option<Extra<'_>>,
        until: Option<Instant>,
    ) -> io::Result<()> {
        let mut fds = Vec::with_capacity(self.lines.len() + 2);
        fds.push(PollFd::new(wake, PollFlags::IN));
        fds.extend(self.lines.iter().map(|line| PollFd::new(&line.event, PollFlags::IN)));
        if let Some(extra) = extra {
            let write = if extra.write { PollFlags::OUT } else { PollFlags::empty() };
            fds.push(PollFd::from_borrowed_fd(extra.fd, PollFlags::IN | write));
        }
        let timeout = until.map(|at| timespec(at.saturating_duration_since(Instant::now())));
        match rustix::event::poll(&mut fds, timeout.as_ref()) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
        if fds.first().is_some_and(|fd| !fd.revents().is_empty()) {
            wake.take()?;
        }
        for (line, fd) in self.lines.iter().zip(fds.iter().skip(1)) {
            if !fd.revents().is_empty() && line.event.take()? {
                line.fired_for();
                line.fire();
            }
        }
        Ok(())
    }
}

fn timespec(duration: Duration) -> Timespec {
    // Rounded up to the next millisecond: waking early would only mean to wait again.
    let millis = duration.as_micros().div_ceil(1000).min(86_400_000) as i64;
    Timespec { tv_sec: millis / 1000, tv_nsec: millis % 1000 * 1_000_000 }
}
