//! Time and tasks for a driver, on its device's worker thread.
//!
//! A driver names no runtime: it has these few functions, and futures of its own queues.

use std::future::Future;
use std::time::Duration;

use crate::deadline::Deadline;

/// Waits.
pub async fn sleep(duration: Duration) {
    tokio::time::sleep(duration).await;
}

/// Waits for a future, at most until the deadline; `None` if that passed first. The future is
/// looked at once even then.
pub async fn within<F: Future>(deadline: Deadline, future: F) -> Option<F::Output> {
    tokio::time::timeout(deadline.remaining(), future).await.ok()
}

/// A task of the driver's own; it ends when this is dropped.
#[derive(Debug)]
#[must_use = "the task ends when this is dropped"]
pub struct Task(tokio::task::JoinHandle<()>);

/// Runs a future beside the driver's methods, on the same thread.
///
/// Call it from a driver's methods only: they run in a task set of their thread.
pub fn spawn(future: impl Future<Output = ()> + 'static) -> Task {
    Task(tokio::task::spawn_local(future))
}

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}
