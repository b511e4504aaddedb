//! [`QueueInterrupt`]: what a queue's futures park on.

use std::fmt;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::{Context, Poll, Waker};

use doorbell_queues::wait::arm_word;
use doorbell_queues::{Interrupt, NextCompletion, Parked, WaitError, Word32};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::runtime;

use super::hub::Hub;
use super::line::Line;
use crate::poll::Seat;

/// The line's descriptor, for a runtime's reactor.
struct Source(Arc<Line>);

impl AsRawFd for Source {
    fn as_raw_fd(&self) -> RawFd {
        self.0.event.as_raw_fd()
    }
}

/// The registration with the runtime that the queue was last polled in.
struct Registered {
    runtime: runtime::Id,
    fd: AsyncFd<Source>,
}

/// An interrupt that is an eventfd. See the [module](super).
pub struct QueueInterrupt {
    line: Arc<Line>,
    /// Wakes every task that is parked on the line.
    everyone: Waker,
    armed: Option<Word32>,
    /// Locked by who parks only.
    registered: Mutex<Option<Registered>>,
    hub: OnceLock<Arc<Hub>>,
    /// Where it is used on a poller.
    seat: Seat,
}

impl fmt::Debug for QueueInterrupt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("QueueInterrupt").field("line", &self.line).finish_non_exhaustive()
    }
}

impl QueueInterrupt {
    /// `hub` is the thread that waits outside of runtimes; without one it is started when needed.
    pub(crate) fn new(line: Arc<Line>, armed: Option<Word32>, hub: Option<Arc<Hub>>) -> Self {
        let everyone = Waker::from(Arc::clone(&line));
        let hub = hub.map_or_else(OnceLock::new, OnceLock::from);
        Self { line, everyone, armed, registered: Mutex::new(None), hub, seat: Seat::default() }
    }

    fn registered(&self) -> MutexGuard<'_, Option<Registered>> {
        // No code that holds the lock panics half-way through a change.
        self.registered.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn poll_runtime(&self, current: runtime::Id) -> Poll<Result<(), WaitError>> {
        let mut slot = self.registered();
        if slot.as_ref().is_some_and(|registered| registered.runtime != current) {
            // The queue moved to another runtime; the old registration goes before a new one comes.
            *slot = None;
        }
        let registered = match &mut *slot {
            Some(registered) => registered,
            empty => {
                self.line.watched.store(false, Ordering::Relaxed);
                let source = Source(Arc::clone(&self.line));
                let fd = register(source).map_err(broken)?;
                empty.insert(Registered { runtime: current, fd })
            }
        };
        let mut everyone = Context::from_waker(&self.everyone);
        loop {
            let Poll::Ready(ready) = registered.fd.poll_read_ready(&mut everyone) else {
                return Poll::Pending;
            };
            let mut guard = ready.map_err(broken)?;
            let fired = self.line.event.take().map_err(broken)?;
            guard.clear_ready();
            if fired {
                return Poll::Ready(Ok(()));
            }
        }
    }

    fn poll_thread(&self) -> Poll<Result<(), WaitError>> {
        let registered = self.registered().take();
        drop(registered);
        if self.line.event.take().map_err(broken)? {
            return Poll::Ready(Ok(()));
        }
        let hub = match self.hub.get() {
            Some(hub) => hub,
            None => {
                let hub = Hub::spawn().map_err(broken)?;
                self.hub.get_or_init(|| hub)
            }
        };
        hub.watch(&self.line);
        Poll::Pending
    }
}

#[allow(
    deprecated,
    reason = "its successor is unsafe, for types whose descriptor may change; `Source` owns its own"
)]
fn register(source: Source) -> std::io::Result<AsyncFd<Source>> {
    AsyncFd::with_interest(source, Interest::READABLE)
}

#[expect(clippy::needless_pass_by_value, reason = "used as a function for map_err")]
fn broken(error: std::io::Error) -> WaitError {
    WaitError::Broken(error.raw_os_error().unwrap_or(0))
}

impl Interrupt for QueueInterrupt {
    fn arm(&self, next: &NextCompletion<'_>) {
        if self.seat.arm(&self.line, self.armed.as_ref(), next) {
            return;
        }
        if let Some(armed) = &self.armed {
            arm_word(armed);
        }
    }

    fn poll_fired(&self, cx: &mut Context<'_>, parked: &mut Parked) -> Poll<Result<(), WaitError>> {
        if let Some(polled) = self.seat.park(&self.line, cx, parked) {
            return polled;
        }
        // Registered before anything is looked at: whoever fires or ends the queue after the look
        // finds the task.
        self.line.park(parked, cx.waker());
        let polled = if self.line.fate.ended().is_some() || self.line.take_fired() {
            Poll::Ready(Ok(()))
        } else {
            match runtime::Handle::try_current() {
                Ok(handle) => self.poll_runtime(handle.id()),
                Err(_) => self.poll_thread(),
            }
        };
        if polled.is_ready() {
            self.line.unpark(parked, cx.waker());
        }
        polled
    }
}

impl Drop for QueueInterrupt {
    fn drop(&mut self) {
        self.line.watched.store(false, Ordering::Relaxed);
    }
}
