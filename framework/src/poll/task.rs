//! Tasks: what a poller runs, and the handles by which others wait for them.

use std::any::Any;
use std::fmt;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, Waker};

use tokio::sync::oneshot;

use super::poller::Core;
use super::shared::Shared;

/// The most tasks of a poller.
pub const MAX_TASKS: usize = 3071;

/// A task that the executor keeps.
pub(super) struct Local {
    pub(super) future: Pin<Box<dyn Future<Output = ()>>>,
    pub(super) control: Arc<Control>,
}

/// A task on its way: made on the poller's thread, where it may hold what is not `Send`.
pub(super) type Arrival = Box<dyn FnOnce() -> Local + Send>;

/// A task's result is not to be had.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TaskError {
    /// It panicked. The poller and its other tasks go on.
    #[error("a task on poller {poller} panicked: {message}")]
    Panicked {
        /// The poller.
        poller: Arc<str>,
        /// What the panic said.
        message: String,
    },
    /// [`TaskHandle::abort`] ended it.
    #[error("a task on poller {poller} was aborted")]
    Aborted {
        /// The poller.
        poller: Arc<str>,
    },
    /// The poller ended first: every handle of it is gone, or it was stopped.
    #[error("poller {poller} has ended, and with it its tasks")]
    PollerEnded {
        /// The poller.
        poller: Arc<str>,
    },
    /// The poller has as many tasks as it can have.
    #[error("poller {poller} has {limit} tasks, which is as many as one can have; use another one")]
    TooMany {
        /// The poller.
        poller: Arc<str>,
        /// The limit.
        limit: usize,
    },
    /// [`spawn_local`](super::spawn_local) was called on a thread that is no poller's.
    #[error("this thread is no poller's, so it has no tasks of its own")]
    NoPoller,
}

/// What a task's handle can tell the task.
#[derive(Debug, Default)]
pub(super) struct Control {
    aborted: AtomicBool,
    /// Set when the task is admitted. It may outlive the task: waking the one that comes after it in its
    /// place is harmless.
    pub(super) waker: OnceLock<Waker>,
}

/// Waits for a task: a future, on any executor. Dropping it lets the task go on by itself.
///
/// It keeps the poller alive.
#[derive(Debug)]
#[must_use = "a task goes on without its handle, but its result and its error are lost"]
pub struct TaskHandle<T> {
    answer: Result<oneshot::Receiver<Result<T, TaskError>>, TaskError>,
    control: Arc<Control>,
    poller: Arc<str>,
    _keep: Option<Arc<Core>>,
}

impl<T> TaskHandle<T> {
    /// Ends the task at its next poll, which comes at once: its future is dropped on its poller's
    /// thread. Commands that it had in flight are orphaned, as with any dropped future. A task that has
    /// ended is not changed.
    pub fn abort(&self) {
        // Release: pairs with the acquire in `Task::poll`.
        self.control.aborted.store(true, Ordering::Release);
        if let Some(waker) = self.control.waker.get() {
            waker.wake_by_ref();
        }
    }

    pub(super) fn refused(error: TaskError, poller: Arc<str>) -> Self {
        Self { answer: Err(error), control: Arc::default(), poller, _keep: None }
    }
}

impl<T> Future for TaskHandle<T> {
    type Output = Result<T, TaskError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        match &mut this.answer {
            Err(error) => Poll::Ready(Err(error.clone())),
            Ok(answer) => Pin::new(answer).poll(cx).map(|answer| match answer {
                Ok(result) => result,
                Err(_) => Err(TaskError::PollerEnded { poller: Arc::clone(&this.poller) }),
            }),
        }
    }
}

/// A task: its future, contained.
struct Task<F: Future> {
    /// `None` once it has ended.
    future: Option<Pin<Box<F>>>,
    answer: Option<oneshot::Sender<Result<F::Output, TaskError>>>,
    control: Arc<Control>,
    booked: Booked,
}

/// A place that was booked for a task; given back when the task is gone.
pub(super) struct Booked(pub(super) Arc<Shared>);

impl Drop for Booked {
    fn drop(&mut self) {
        self.0.unbook();
    }
}

impl<F: Future> Task<F> {
    /// Drops the future and gives its result out. Both may run code of others that panics.
    #[cold]
    fn end(&mut self, result: Result<F::Output, TaskError>) {
        let (future, answer) = (self.future.take(), self.answer.take());
        let end = AssertUnwindSafe(|| {
            drop(future);
            // Whoever waits may have given up.
            let _ = answer.map(|answer| answer.send(result));
        });
        if let Err(panic) = catch_unwind(end) {
            let poller = &self.booked.0.name;
            tracing::error!(%poller, message = %message(&*panic), "a task panicked as it ended");
        }
    }
}

impl<F: Future> Future for Task<F> {
    type Output = ();

    #[inline]
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = &mut *self;
        let Some(future) = &mut this.future else { return Poll::Ready(()) };
        // Acquire: pairs with the release in `abort`.
        if this.control.aborted.load(Ordering::Acquire) {
            let poller = Arc::clone(&this.booked.0.name);
            this.end(Err(TaskError::Aborted { poller }));
            return Poll::Ready(());
        }
        // What the task leaves behind in its own cells when it panics is its own affair; nothing of the
        // poller's is in its hands.
        let result = match catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(cx))) {
            Ok(Poll::Pending) => return Poll::Pending,
            Ok(Poll::Ready(value)) => Ok(value),
            Err(panic) => {
                let (poller, message) = (Arc::clone(&this.booked.0.name), message(&*panic));
                tracing::error!(%poller, %message, "a task panicked");
                Err(TaskError::Panicked { poller, message })
            }
        };
        this.end(result);
        Poll::Ready(())
    }
}

/// What a panic said.
pub(super) fn message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "no message".into())
}

impl fmt::Debug for Local {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Local").field("control", &self.control).finish_non_exhaustive()
    }
}

/// A task of this thread.
pub(super) fn here<F>(booked: Booked, future: F) -> (Local, TaskHandle<F::Output>)
where
    F: Future + 'static,
{
    let (answer, control, handle) = parts(&booked, None);
    (task(booked, answer, control, future), handle)
}

/// A task for another thread, which makes its future.
pub(super) fn elsewhere<M, F>(
    booked: Booked,
    keep: Arc<Core>,
    make: M,
) -> (Arrival, TaskHandle<F::Output>)
where
    M: FnOnce() -> F + Send + 'static,
    F: Future + 'static,
    F::Output: Send + 'static,
{
    let (answer, control, handle) = parts(&booked, Some(keep));
    // `make` is called in the first poll, where its panic is the task's.
    let arrival = move || task(booked, answer, control, async move { make().await });
    (Box::new(arrival), handle)
}

type Answer<T> = oneshot::Sender<Result<T, TaskError>>;

fn parts<T>(booked: &Booked, keep: Option<Arc<Core>>) -> (Answer<T>, Arc<Control>, TaskHandle<T>) {
    let (sender, receiver) = oneshot::channel();
    let control = Arc::new(Control::default());
    let handle = TaskHandle {
        answer: Ok(receiver),
        control: Arc::clone(&control),
        poller: Arc::clone(&booked.0.name),
        _keep: keep,
    };
    (sender, control, handle)
}

fn task<F: Future + 'static>(
    booked: Booked,
    answer: Answer<F::Output>,
    control: Arc<Control>,
    future: F,
) -> Local {
    let own = Arc::clone(&control);
    let future = Some(Box::pin(future));
    Local { future: Box::pin(Task { future, answer: Some(answer), control: own, booked }), control }
}
