//! Pollers: pinned threads that poll many queues and run the tasks that use them.
//!
//! ```no_run
//! # use doorbell::{client::{Client, QueueSpec}, poll::Pollers, queues::QueueProtocol};
//! # async fn example<P: QueueProtocol + 'static>(client: Client) -> Result<(), Box<dyn std::error::Error>> {
//! let pollers = Pollers::builder().per_node(1).build();
//! let poller = pollers.near(client.device().numa_node)?;
//! let task = poller.spawn(move || async move {
//!     // On the poller's thread from here on: the queue is its own, and need not be `Send`.
//!     let queue = client.claim::<P>(QueueSpec::depth(32)).await?.into_queue::<()>()?;
//!     queue.release().await
//! });
//! task.await??; // from any executor
//! # Ok(()) }
//! ```
//!
//! | file | what |
//! |---|---|
//! | `registry`, `poller` | which poller, where it runs; its handles |
//! | `thread` | its loop: tasks, wakes from elsewhere, queues; its sleep |
//! | `executor`, `task`, `local` | tasks, their wakers and their handles |
//! | `lines`, `sleepers`, `seat` | the queues that it looks at, and who is parked on them |
//! | `shared`, `counters` | what other threads, and other processes, see of it |
//!
//! **One thread, many queues.** A queue that is used on a poller does not spin and arms nothing. When
//! its tasks park it says where its next completion will appear; the poller looks there, which is a load
//! of a line that the device has not written since, and wakes the task. A queue without a parked task is
//! not looked at. Memory that a queue's tasks touch first comes from the node of the poller, and its
//! thread stays on one core.
//!
//! **Idle.** A poller that has found nothing for longer than its budget arms all its queues, looks once
//! more, and sleeps until a device signals, a task is woken from elsewhere, or a time limit is near. The
//! budget learns as a queue's does, so a poller of slow devices sleeps soon. It wakes as fast as the
//! kernel wakes a thread.
//!
//! **Tasks** run to completion of what they can do, in the order in which they were woken; each gets one
//! poll before any gets its next, and queues are looked at after 64 polls at most. A task that blocks, or
//! computes for long, holds up all others of its poller: nothing interrupts it. So do no blocking calls
//! there (file I/O, locks that are held for long, `block_on`).
//!
//! **Wakes** from the poller's own thread cost no atomic operation and no memory; from another thread
//! three atomic operations and a fence, and a system call only if the poller sleeps
//! ([`doorbell_queues::wakes`]).
//!
//! What it does not do: a poller steals no work of another, and moves no task; it has no timers (a
//! command's time limit is kept); tokio's I/O types need a tokio runtime, which it is not.
#![forbid(unsafe_code)]

mod counters;
mod executor;
mod lines;
mod local;
mod poller;
mod registry;
mod seat;
mod shared;
mod sleepers;
mod task;
mod thread;

pub use counters::{PollerCounters, PollerState};
pub use local::{is_poller, spawn_local};
pub use poller::{Placement, PollError, Poller};
pub use registry::{Pollers, PollersBuilder};
pub use shared::MAX_QUEUES;
pub use task::{MAX_TASKS, TaskError, TaskHandle};

pub(crate) use local::{current, leave_core, origin};
pub(crate) use seat::Seat;
pub(crate) use shared::Shared;
