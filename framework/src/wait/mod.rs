//! Interrupts under tokio, tokio-uring, or no runtime at all.
//!
//! A [`QueueInterrupt`] is what a queue's futures park on. Who waits decides how, at each poll:
//!
//! * inside a tokio runtime (a tokio-uring runtime is one): the interrupt's eventfd is registered
//!   with the runtime's own reactor. The runtime must have I/O enabled (`enable_all`, as
//!   `#[tokio::main]` and tokio-uring do); tokio panics otherwise.
//! * anywhere else: a thread (the client's, or one of its own) polls the eventfd.
//!
//! A runtime keeps one waker per descriptor, but many tasks may wait for one queue. So what is
//! registered is one waker for the whole line (`line.rs`), and that wakes every parked task: a task that was
//! dropped, or that nobody polls again, cannot make the others miss their wake-up. Each woken task
//! looks at the completion ring before it parks again, so whoever comes first reaps for all. A
//! parked task is never kept ready: between interrupts nothing runs.
//!
//! Tasks of several runtimes, and of none, may be parked on one line at the same time: each runtime
//! has a registration of its own, and whoever takes the event wakes everyone, so that nobody waits
//! for a signal that another one has consumed.
//!
//! **Turns.** Whoever never parks keeps its thread from its files, sockets and timers: see `turn.rs`.
//!
//! **Time limits.** A future remembers when its command first parked. The thread looks at the parked
//! commands a few times per limit (no system call when a task parks) and wakes the overdue; a
//! command that is then still not complete is reported: first to be aborted, a limit later to have
//! its queue ended. A command whose future nobody polls is waited for by nobody, and is not
//! reported.
//!
//! What it does not do: it does not poll a device. A queue spins by itself before it parks.
#![forbid(unsafe_code)]

pub mod eventfd;
pub(crate) mod hub;
pub mod interrupt;
pub(crate) mod line;
mod parked;
mod turn;

pub use eventfd::Eventfd;
pub use interrupt::QueueInterrupt;

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use doorbell_queues::slots::MAX_SLOTS;
use doorbell_queues::{Fate, Interrupt, Word32};

/// An interrupt for a queue of this process that is no client's: a driver's admin queue. `event` is
/// the vector's eventfd, `armed` its arm word where the device has one. It has no time limits of its
/// own. Made to be passed to `Device::own_queue`.
///
/// # Errors
/// None at present.
pub fn interrupt(event: OwnedFd, armed: Option<Word32>) -> io::Result<Box<dyn Interrupt>> {
    interrupt_with_fate(event, armed, Arc::new(Fate::new()))
}

/// As [`interrupt()`], and ready also once `fate` says that the queue has ended.
///
/// # Errors
/// None at present.
pub fn interrupt_with_fate(
    event: OwnedFd,
    armed: Option<Word32>,
    fate: Arc<Fate>,
) -> io::Result<Box<dyn Interrupt>> {
    let line = Arc::new(line::Line::new(Eventfd::from(event), fate, None, MAX_SLOTS));
    Ok(Box::new(QueueInterrupt::new(line, armed, None)))
}
