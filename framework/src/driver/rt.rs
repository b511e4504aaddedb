//! Time, tasks and turns for a driver, on its device's worker thread.
//!
//! A driver names no runtime: it has these few things, futures of its own queues, and
//! [`InterruptVector`](super::InterruptVector).

use std::fmt;
use std::future::Future;
use std::ops::{Deref, DerefMut};
use std::time::Duration;

use crate::deadline::{Deadline, TimedOut};

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

/// Something of which a device has only one, such as its DMA engine: the driver's methods take
/// turns, in the order in which they asked, and may wait while it is theirs.
#[derive(Default)]
pub struct Turns<T>(tokio::sync::Mutex<T>);

/// A turn: the thing itself, until this is dropped.
#[must_use = "the turn ends when this is dropped"]
pub struct Turn<'a, T>(tokio::sync::MutexGuard<'a, T>);

impl<T> Turns<T> {
    /// Nobody's yet.
    #[must_use]
    pub fn new(thing: T) -> Self {
        Self(tokio::sync::Mutex::new(thing))
    }

    /// Waits for a turn; `what` names it in the error. Dropping the future gives the place in the
    /// queue up.
    ///
    /// # Errors
    /// [`TimedOut`] if those who were first took too long.
    pub async fn take(&self, deadline: Deadline, what: &str) -> Result<Turn<'_, T>, TimedOut> {
        let turn = within(deadline, self.0.lock()).await;
        turn.map(Turn).ok_or_else(|| deadline.timed_out(format!("{what}, which others use")))
    }
}

impl<T> fmt::Debug for Turns<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Turns").finish_non_exhaustive()
    }
}

impl<T> fmt::Debug for Turn<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Turn").finish_non_exhaustive()
    }
}

impl<T> Deref for Turn<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

impl<T> DerefMut for Turn<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.0
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::rc::Rc;

    use super::*;

    #[test]
    fn turns_come_in_the_order_of_asking_and_not_for_who_gave_up() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        tokio::task::LocalSet::new().block_on(&runtime, async {
            let long = Deadline::after(Duration::from_secs(60));
            let turns = Rc::new(Turns::new(RefCell::new(Vec::new())));
            let mine = turns.take(long, "it").await.unwrap();
            let mut tasks = Vec::new();
            for number in 0..5 {
                let turns = Rc::clone(&turns);
                tasks.push(tokio::task::spawn_local(async move {
                    turns.take(long, "it").await.unwrap().borrow_mut().push(number);
                }));
                tokio::task::yield_now().await;
            }
            tasks[2].abort();
            let soon = Deadline::after(Duration::from_millis(1));
            let late = turns.take(soon, "the device").await.map(drop).unwrap_err();
            assert_eq!(late.what, "the device, which others use");
            drop(mine);
            for task in tasks {
                let _ = task.await;
            }
            assert_eq!(*turns.take(long, "it").await.unwrap().borrow(), [0, 1, 3, 4]);
        });
    }
}
