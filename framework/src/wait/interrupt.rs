//! [`QueueInterrupt`]: what a queue's futures park on.

use std::fmt;
use std::future::{Future, poll_fn};
use std::os::fd::{AsRawFd, RawFd};
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::{Context, Poll, Waker};

use doorbell_queues::wait::arm_word;
use doorbell_queues::{Interrupt, NextCompletion, Parked, WaitError, Word32};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::runtime;
use tokio::task::unconstrained;

use super::hub::Hub;
use super::line::Line;
use super::turn;
use crate::poll::Seat;

/// The line's descriptor, for a runtime's reactor.
struct Source(Arc<Line>);

impl AsRawFd for Source {
    fn as_raw_fd(&self) -> RawFd {
        self.0.event.as_raw_fd()
    }
}

/// The line's registration with a runtime in which a task of the queue has parked.
struct Registered {
    runtime: runtime::Id,
    fd: AsyncFd<Source>,
}

/// Where a task waits: who looks at the line's descriptor on its behalf.
enum Place {
    /// The reactor of the tokio runtime that polls the task.
    Runtime(runtime::Id),
    /// The client's thread, or one of the queue's own.
    Thread,
}

impl Place {
    fn here() -> Self {
        runtime::Handle::try_current().map_or(Self::Thread, |handle| Self::Runtime(handle.id()))
    }
}

/// An interrupt that is an eventfd. See the [module](super).
pub struct QueueInterrupt {
    line: Arc<Line>,
    /// Wakes every task that is parked on the line.
    everyone: Waker,
    armed: Option<Word32>,
    /// One for each runtime; locked by who parks only.
    registered: Mutex<Vec<Registered>>,
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
        let registered = Mutex::new(Vec::new());
        Self { line, everyone, armed, registered, hub, seat: Seat::default() }
    }

    fn registered(&self) -> MutexGuard<'_, Vec<Registered>> {
        // No code that holds the lock panics half-way through a change.
        self.registered.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn poll_runtime(&self, current: runtime::Id) -> Poll<Result<(), WaitError>> {
        let mut list = self.registered();
        let at = match list.iter().position(|registered| registered.runtime == current) {
            Some(at) => at,
            None => {
                // Runtimes that have shut down leave their registration behind.
                list.retain(|registered| self.is_alive(registered));
                let fd = register(Source(Arc::clone(&self.line))).map_err(broken)?;
                list.push(Registered { runtime: current, fd });
                list.len() - 1
            }
        };
        let Some(registered) = list.get(at) else { return Poll::Pending };
        loop {
            let Poll::Ready(ready) = self.poll_ready(registered) else { return Poll::Pending };
            let mut guard = match ready {
                Ok(guard) => guard,
                Err(error) => {
                    list.swap_remove(at);
                    return Poll::Ready(Err(broken(error)));
                }
            };
            let fired = self.line.event.take().map_err(broken)?;
            guard.clear_ready();
            if fired {
                return Poll::Ready(Ok(()));
            }
        }
    }

    /// Registers the line's waker with a runtime's reactor.
    fn poll_ready<'a>(
        &self,
        registered: &'a Registered,
    ) -> Poll<std::io::Result<tokio::io::unix::AsyncFdReadyGuard<'a, Source>>> {
        // Outside of the task's budget: once it is used up, tokio would call the waker again and
        // again instead of waiting.
        let ready = unconstrained(poll_fn(|cx| registered.fd.poll_read_ready(cx)));
        pin!(ready).poll(&mut Context::from_waker(&self.everyone))
    }

    /// False once a runtime has shut down. Otherwise its tasks stay registered as they were.
    fn is_alive(&self, registered: &Registered) -> bool {
        !matches!(self.poll_ready(registered), Poll::Ready(Err(_)))
    }

    fn poll_thread(&self) -> Poll<Result<(), WaitError>> {
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

/// Registers a descriptor with the runtime of the calling task.
#[allow(
    deprecated,
    reason = "its successor is unsafe, for types whose descriptor may change; these own theirs"
)]
pub(super) fn register<T: AsRawFd>(source: T) -> std::io::Result<AsyncFd<T>> {
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
        let place = Place::here();
        // Registered before anything is looked at: whoever fires or ends the queue after the look
        // finds the task.
        if self.line.park(parked, cx.waker(), matches!(place, Place::Thread)) {
            return Poll::Ready(Ok(()));
        }
        if self.line.fate.ended().is_some() || self.line.take_fired() {
            self.line.unpark(parked, cx.waker());
            return Poll::Ready(Ok(()));
        }
        let polled = match place {
            Place::Runtime(current) => self.poll_runtime(current),
            Place::Thread => self.poll_thread(),
        };
        if polled.is_ready() {
            self.line.unpark(parked, cx.waker());
            // The event was taken, and with it the word that armed it, for everyone: whoever else
            // is parked, in this runtime or another, may have lost the only signal that comes, and
            // epoll reports to no runtime an event that is gone. See `line.rs`.
            self.line.wake_all();
        }
        polled
    }

    fn poll_turn(&self, cx: &mut Context<'_>) -> Poll<()> {
        turn::poll_turn(cx)
    }
}

impl Drop for QueueInterrupt {
    fn drop(&mut self) {
        self.line.unwatch();
    }
}
