//! [`Poller`]: a handle of one poller, and how its thread is started and placed.

use std::fmt;
use std::future::Future;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc;
use std::time::Duration;

use doorbell_queues::SpinBudget;

use super::counters::PollerCounters;
use super::shared::Shared;
use super::task::{self, Booked, TaskHandle};
use super::{local, thread};
use crate::deadline::{Deadline, TimedOut};
use crate::dma::DmaError;
use crate::topology::{self, CpuSet};

/// How long a thread may take to start.
const START: Duration = Duration::from_secs(10);

/// A poller cannot be had, or does not end.
#[derive(Debug, thiserror::Error)]
pub enum PollError {
    /// This process may run on no processor that is known.
    #[error("no processor is left for a poller near node {node:?}: none of them may be used here")]
    NoCpu {
        /// The node that was asked for.
        node: Option<u32>,
    },
    /// Its memory cannot be had.
    #[error(transparent)]
    Memory(#[from] DmaError),
    /// A system call failed.
    #[error("{what}: {source}")]
    Os {
        /// What was tried.
        what: &'static str,
        /// The kernel's answer.
        source: io::Error,
    },
    /// It did not start, or did not end, in time: a task of it does not return.
    #[error("poller {poller}: {source}; does a task of it block?")]
    TimedOut {
        /// The poller.
        poller: Arc<str>,
        /// What was waited for.
        source: TimedOut,
    },
}

/// Where a poller runs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Placement {
    /// The processor that it is pinned to; `None` if that was not possible.
    pub cpu: Option<u32>,
    /// The NUMA node that it serves; `None` if its devices' node is unknown.
    pub node: Option<u32>,
    /// The node that its thread takes new memory from; `None` if the kernel was not asked or refused.
    pub memory: Option<u32>,
    /// What was refused, in words; empty if nothing was. The poller works all the same.
    pub trouble: String,
}

/// A thread that polls many queues and runs the tasks that use them. Cheap to clone.
///
/// When the last handle is gone (and the last [`TaskHandle`]) its thread drops the tasks that are left
/// and ends.
#[derive(Debug, Clone)]
pub struct Poller {
    pub(super) core: Arc<Core>,
}

/// What the handles of a poller share.
pub(super) struct Core {
    pub(super) shared: Arc<Shared>,
    pub(super) placement: Placement,
    /// How often it was given to someone.
    pub(super) given: AtomicU32,
}

impl fmt::Debug for Core {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Core")
            .field("name", &self.shared.name)
            .field("placement", &self.placement)
            .finish_non_exhaustive()
    }
}

impl Drop for Core {
    fn drop(&mut self) {
        self.shared.close();
    }
}

impl Poller {
    /// Runs a task on the poller: `make` is called on its thread and returns the task's future, which
    /// need not be `Send`. Queues that the task claims are polled by the poller.
    ///
    /// The task shares its thread with others: it must not block. A panic ends the task only.
    ///
    /// ```no_run
    /// # use doorbell::client::{Client, QueueSpec};
    /// # use doorbell::poll::{Pollers, TaskError};
    /// # use doorbell::queues::QueueProtocol;
    /// # async fn example<P: QueueProtocol + 'static>(client: Client) -> Result<(), Box<dyn std::error::Error>> {
    /// let pollers = Pollers::builder().per_node(1).build();
    /// let poller = pollers.near(client.device().numa_node)?;
    /// let task = poller.spawn(move || async move {
    ///     let queue = client.claim::<P>(QueueSpec::depth(32)).await?.into_queue::<()>()?;
    ///     queue.release().await
    /// });
    /// task.await??;
    /// # Ok(()) }
    /// ```
    pub fn spawn<M, F>(&self, make: M) -> TaskHandle<F::Output>
    where
        M: FnOnce() -> F + Send + 'static,
        F: Future + 'static,
        F::Output: Send + 'static,
    {
        let shared = &self.core.shared;
        if !shared.book() {
            return local::refuse(shared);
        }
        let booked = Booked(Arc::clone(shared));
        let (arrival, handle) = task::elsewhere(booked, Arc::clone(&self.core), make);
        shared.send(arrival);
        handle
    }

    /// Its name, which is its thread's as well.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.core.shared.name
    }

    /// Where it runs.
    #[must_use]
    pub fn placement(&self) -> &Placement {
        &self.core.placement
    }

    /// What it has counted, as of a few hundred turns ago at most.
    #[must_use]
    pub fn counters(&self) -> PollerCounters {
        self.core.shared.page.read()
    }

    /// Has the thread drop its tasks and end, and waits for that. Every task's handle gets
    /// [`TaskError::PollerEnded`](super::TaskError::PollerEnded). Not for the poller's own tasks.
    ///
    /// # Errors
    /// [`PollError::TimedOut`]: a task blocks the thread. It ends when the task lets it.
    pub fn stop(&self, limit: Duration) -> Result<(), PollError> {
        let deadline = Deadline::after(limit);
        self.core.shared.close();
        if self.core.shared.wait_for_end(&deadline) {
            return Ok(());
        }
        let poller = Arc::clone(&self.core.shared.name);
        Err(PollError::TimedOut { poller, source: deadline.timed_out("its thread's end") })
    }

    pub(super) fn has_ended(&self) -> bool {
        self.core.shared.closing()
    }

    /// Starts a thread on `cpu`, for devices of `node`.
    pub(super) fn start(
        name: &str,
        cpu: Option<usize>,
        node: Option<u32>,
        spin: SpinBudget,
    ) -> Result<Self, PollError> {
        let os = |what| move |source| PollError::Os { what, source };
        let shared = Arc::new(Shared::new(name)?);
        let epoll = thread::sleeping_place(&shared).map_err(os("creating a poller's epoll set"))?;
        let (told, placed) = mpsc::channel();
        let origin = local::origin();
        let theirs = Arc::clone(&shared);
        std::thread::Builder::new()
            .name(name.to_owned())
            .spawn(move || main(theirs, &epoll, spin, origin, &told, cpu, node))
            .map_err(os("starting a poller's thread"))?;
        let placement = match placed.recv_timeout(START) {
            Ok(placement) => placement,
            Err(_) => {
                shared.close();
                let source = Deadline::after(START).timed_out("its thread's start");
                return Err(PollError::TimedOut { poller: Arc::clone(&shared.name), source });
            }
        };
        let core = Core { shared, placement, given: AtomicU32::new(0) };
        Ok(Self { core: Arc::new(core) })
    }

    pub(super) fn load(&self) -> (u32, u32) {
        (self.core.shared.load(), self.core.given.load(Ordering::Relaxed))
    }
}

/// A poller's thread.
fn main(
    shared: Arc<Shared>,
    epoll: &OwnedFd,
    spin: SpinBudget,
    origin: Option<CpuSet>,
    told: &mpsc::Sender<Placement>,
    cpu: Option<usize>,
    node: Option<u32>,
) {
    let ending = thread::Ending(Arc::clone(&shared));
    let origin = origin.or_else(|| topology::allowed().ok());
    let placement = place(cpu, node);
    if !placement.trouble.is_empty() {
        tracing::warn!(poller = %shared.name, trouble = %placement.trouble, "a poller is not where it should be");
    }
    let _ = shared.placement.set(placement.clone());
    // Whoever starts it may have given up.
    if told.send(placement).is_ok()
        && let Err(error) = thread::run(&shared, epoll, spin, origin)
    {
        tracing::error!(poller = %shared.name, %error, "a poller does not start");
    }
    drop(ending);
}

/// Pins this thread and says where its memory shall come from. A refusal is no reason not to poll.
fn place(cpu: Option<usize>, node: Option<u32>) -> Placement {
    let mut trouble = Vec::new();
    let mut note = |what: String| trouble.push(what);
    let pinned = cpu.filter(|cpu| match topology::pin_thread(*cpu) {
        Ok(()) => true,
        Err(error) => {
            note(format!("not pinned to CPU {cpu}: {error}"));
            false
        }
    });
    let memory = node.filter(|node| match topology::prefer_memory_of(*node) {
        Ok(()) => true,
        Err(error) => {
            note(format!("memory is not bound to node {node}: {error}"));
            false
        }
    });
    let cpu = pinned.and_then(|cpu| u32::try_from(cpu).ok());
    Placement { cpu, node, memory, trouble: trouble.join("; ") }
}
