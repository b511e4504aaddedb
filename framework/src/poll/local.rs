//! What belongs to a poller's thread: the tasks that are ready, and the queues that it looks at.
//!
//! A task's waker that is called on the poller's own thread finds the list of ready tasks here,
//! without a lock, an atomic operation or memory. So does a queue's interrupt.
//!
//! Nothing here is borrowed while code of others runs.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::sync::Arc;
use std::task::{RawWakerVTable, Waker};

use super::lines::Lines;
use super::shared::Shared;
use super::task::{self, Booked, MAX_TASKS, TaskError, TaskHandle};
use crate::topology::CpuSet;

/// What a poller's thread has.
pub(super) struct Here {
    /// The poller's number; 0 on any other thread.
    poller: Cell<u64>,
    pub(super) ready: RefCell<Ready>,
    pub(super) lines: RefCell<Lines>,
    /// Tasks that tasks of this thread have made.
    arrivals: RefCell<Vec<task::Local>>,
    shared: RefCell<Option<Arc<Shared>>>,
    /// The task that is being polled.
    running: Cell<Option<Running>>,
    /// The processors that the thread could run on before it was pinned.
    origin: RefCell<Option<CpuSet>>,
}

/// A task that is being polled, and its waker's parts.
#[derive(Clone, Copy)]
struct Running {
    place: u32,
    data: *const (),
    vtable: &'static RawWakerVTable,
}

thread_local! {
    static HERE: Here = const {
        Here {
            poller: Cell::new(0),
            ready: RefCell::new(Ready::new()),
            lines: RefCell::new(Lines::new()),
            arrivals: RefCell::new(Vec::new()),
            shared: RefCell::new(None),
            running: Cell::new(None),
            origin: RefCell::new(None),
        }
    };
}

/// Tasks that are ready, in the order in which they became so.
///
/// # Invariants
/// A place is in `order` once if its flag in `queued` is set, and else not.
pub(super) struct Ready {
    order: VecDeque<u32>,
    queued: Vec<bool>,
    /// Tasks that were ever put in, and taken out.
    put: u64,
    taken: u64,
}

impl Ready {
    pub(super) const fn new() -> Self {
        Self { order: VecDeque::new(), queued: Vec::new(), put: 0, taken: 0 }
    }

    /// Room for the places below `places`, so that waking does not allocate.
    pub(super) fn grow(&mut self, places: usize) {
        if self.queued.len() < places {
            self.queued.resize(places, false);
            self.order.reserve(places.saturating_sub(self.order.len()));
        }
    }

    #[inline]
    pub(super) fn push(&mut self, place: u32) {
        // A waker may outlive its executor's places.
        if let Some(queued) = self.queued.get_mut(place as usize)
            && !std::mem::replace(queued, true)
        {
            self.order.push_back(place);
            self.put += 1;
        }
    }

    #[inline]
    pub(super) fn pop(&mut self) -> Option<u32> {
        let place = self.order.pop_front()?;
        if let Some(queued) = self.queued.get_mut(place as usize) {
            *queued = false;
        }
        self.taken += 1;
        Some(place)
    }

    #[inline]
    pub(super) fn len(&self) -> usize {
        self.order.len()
    }

    /// A moment: everything that is ready now has been polled when [`has_passed`](Self::has_passed).
    pub(super) fn moment(&self) -> u64 {
        self.put
    }

    pub(super) fn has_passed(&self, moment: u64) -> bool {
        self.taken >= moment
    }
}

impl Here {
    /// Polls of the task in `place` begin and end.
    pub(super) fn enter(&self, place: u32, waker: &Waker) {
        self.running.set(Some(Running { place, data: waker.data(), vtable: waker.vtable() }));
    }

    pub(super) fn leave(&self) {
        self.running.set(None);
    }

    /// The place of the running task, if the waker is its own.
    #[inline]
    pub(super) fn running_as(&self, waker: &Waker) -> Option<u32> {
        let running = self.running.get()?;
        let same = running.data == waker.data() && std::ptr::eq(running.vtable, waker.vtable());
        same.then_some(running.place)
    }

    pub(super) fn arrivals(&self) -> Vec<task::Local> {
        std::mem::take(&mut *self.arrivals.borrow_mut())
    }

    pub(super) fn number(&self) -> u64 {
        self.poller.get()
    }

    pub(super) fn shared(&self) -> Option<Arc<Shared>> {
        self.shared.borrow().clone()
    }
}

/// Runs `f` with what this thread has, if it is a poller's.
#[inline]
pub(super) fn with<T>(f: impl FnOnce(&Here) -> T) -> Option<T> {
    // A queue may be dropped while the thread's own values are.
    HERE.try_with(|here| (here.poller.get() != 0).then(|| f(here))).ok().flatten()
}

/// Wakes a task of the poller `poller` if this is its thread.
#[inline]
pub(super) fn wake(poller: u64, place: u32) -> bool {
    let woken = HERE.try_with(|here| {
        let own = here.poller.get() == poller;
        if own {
            here.ready.borrow_mut().push(place);
        }
        own
    });
    woken.unwrap_or(false)
}

/// Makes this thread a poller's, until the guard is dropped.
pub(super) fn become_poller(shared: &Arc<Shared>, lines: Lines, origin: Option<CpuSet>) -> Became {
    HERE.with(|here| {
        here.poller.set(shared.number);
        *here.lines.borrow_mut() = lines;
        *here.shared.borrow_mut() = Some(Arc::clone(shared));
        *here.origin.borrow_mut() = origin;
    });
    Became(())
}

/// A thread that is a poller's. See [`become_poller`].
pub(super) struct Became(());

impl Drop for Became {
    fn drop(&mut self) {
        let _ = HERE.try_with(|here| {
            here.poller.set(0);
            // Dropped after the borrows: lines and tasks have code of others in them.
            let lines = std::mem::replace(&mut *here.lines.borrow_mut(), Lines::new());
            let shared = here.shared.borrow_mut().take();
            drop((lines, shared, here.arrivals()));
        });
    }
}

/// True on a poller's thread.
#[must_use]
pub fn is_poller() -> bool {
    HERE.try_with(|here| here.poller.get() != 0).unwrap_or(false)
}

/// What runs on this poller's thread, for the queues that are made here.
pub(crate) fn current() -> Option<Arc<Shared>> {
    with(Here::shared).flatten()
}

/// The processors for threads that this one starts: a poller's core is not for others. `None` if this
/// is not a poller's thread.
pub(crate) fn origin() -> Option<CpuSet> {
    with(|here| here.origin.borrow().clone()).flatten()
}

/// For a thread that was started from a poller's, with the [`origin`] of that: it inherits the poller's
/// core, and would wait there for a thread that does not sleep.
pub(crate) fn leave_core(origin: Option<CpuSet>) {
    if let Some(cpus) = origin
        && let Err(error) = crate::topology::keep_thread_on(&cpus)
    {
        tracing::warn!(%error, "a thread stays on a poller's core");
    }
}

/// Runs a future as a task of this poller's thread, beside the task that calls this. It need not be
/// `Send`: tasks of one poller may share a queue by `Rc`.
///
/// On a thread that is no poller's the handle gives [`TaskError::NoPoller`], and nothing runs.
pub fn spawn_local<F: Future + 'static>(future: F) -> TaskHandle<F::Output> {
    let Some(shared) = current() else {
        return TaskHandle::refused(TaskError::NoPoller, "none".into());
    };
    if !shared.book() {
        return refuse(&shared);
    }
    let (task, handle) = task::here(Booked(shared), future);
    with(|here| here.arrivals.borrow_mut().push(task));
    handle
}

/// Why a task cannot be had.
pub(super) fn refuse<T>(shared: &Shared) -> TaskHandle<T> {
    let poller = Arc::clone(&shared.name);
    let error = if shared.closing() {
        TaskError::PollerEnded { poller: Arc::clone(&poller) }
    } else {
        TaskError::TooMany { poller: Arc::clone(&poller), limit: MAX_TASKS }
    };
    TaskHandle::refused(error, poller)
}
