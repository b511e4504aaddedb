//! [`Executor`]: the tasks of one thread, polled in the order in which they were woken.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Waker};

use super::local::Here;
use super::shared::{Shared, TaskWaker};
use super::task::{self, Local};

/// Polls of one turn, so that queues are looked at meanwhile however many tasks are ready.
const TURN: usize = 64;

/// The tasks of a poller. It stays on the poller's thread.
pub(super) struct Executor {
    shared: Arc<Shared>,
    places: Vec<Place>,
    free: Vec<u32>,
}

struct Place {
    /// `None` while nobody has it.
    task: Option<Pin<Box<dyn Future<Output = ()>>>>,
    waker: Waker,
}

impl Executor {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self { shared, places: Vec::new(), free: Vec::new() }
    }

    /// Takes a task over; it is polled in the next turn.
    pub(super) fn admit(&mut self, here: &Here, local: Local) {
        let Local { future, control } = local;
        let place = match self.free.pop() {
            Some(place) => place,
            None => {
                // Tasks are booked before they come, so there are at most `MAX_TASKS` places.
                let place = self.places.len() as u32;
                let waker =
                    Waker::from(Arc::new(TaskWaker { shared: Arc::clone(&self.shared), place }));
                self.places.push(Place { task: None, waker });
                here.ready.borrow_mut().grow(self.places.len());
                place
            }
        };
        if let Some(at) = self.places.get_mut(place as usize) {
            at.task = Some(future);
            // Nobody else sets it.
            let _ = control.waker.set(at.waker.clone());
            here.ready.borrow_mut().push(place);
        }
    }

    /// Polls what was ready at the beginning of the turn, up to a bound; how many tasks that were.
    pub(super) fn turn(&mut self, here: &Here) -> usize {
        let polls = here.ready.borrow().len().min(TURN);
        for _ in 0..polls {
            let next = here.ready.borrow_mut().pop();
            let Some(place) = next else { break };
            self.poll(here, place);
        }
        polls
    }

    #[inline]
    fn poll(&mut self, here: &Here, place: u32) {
        let Some(at) = self.places.get_mut(place as usize) else { return };
        // A wake of a task that has ended is nobody's.
        let Some(task) = &mut at.task else { return };
        here.enter(place, &at.waker);
        let done = task.as_mut().poll(&mut Context::from_waker(&at.waker)).is_ready();
        here.leave();
        if done {
            // Its future is gone already (`Task::end`).
            at.task = None;
            self.free.push(place);
        }
    }

    /// Drops every task; those that the drops make as well.
    pub(super) fn clear(&mut self, here: &Here) {
        loop {
            let places = self.places.iter_mut();
            let mut tasks: Vec<_> = places.filter_map(|place| place.task.take()).collect();
            tasks.extend(here.arrivals().into_iter().map(|local| local.future));
            if tasks.is_empty() {
                return;
            }
            for task in tasks {
                if let Err(panic) = catch_unwind(AssertUnwindSafe(|| drop(task))) {
                    let (poller, message) = (&self.shared.name, task::message(&*panic));
                    tracing::error!(%poller, %message, "a task panicked as it was dropped");
                }
            }
        }
    }
}
