//! Waiting: who waits, polls; who has polled long enough, arms the interrupt and parks.

use core::fmt;
use core::task::{Context, Poll};

use core::sync::atomic::Ordering;
#[cfg(not(loom))]
use core::sync::atomic::fence;
#[cfg(loom)]
use loom::sync::atomic::fence;

use crate::mem::{SharedMem, Word};
use crate::protocol::Tag;

mod budget;
mod patience;

pub use budget::SpinBudget;
pub(crate) use patience::{Patience, YIELD};

/// The wait failed for good: the interrupt can no longer come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WaitError {
    /// The interrupt's descriptor or its runtime failed; the number is the errno, 0 if there is
    /// none.
    Broken(i32),
}

impl fmt::Display for WaitError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Broken(errno) => write!(f, "the interrupt failed (errno {errno})"),
        }
    }
}

impl core::error::Error for WaitError {}

/// A queue's interrupt, as the framework supplies it.
///
/// The order of calls is fixed: [`arm`](Self::arm), then the queue looks at its completion ring
/// once more, then [`poll_fired`](Self::poll_fired). A completion that arrives after `arm` returned
/// makes the interrupt fire; one that arrived before is seen by that last look. So no wake-up is
/// lost.
///
/// The queue calls these while nothing of it is borrowed: an implementation may use the queue. They
/// are called when the spin budget is used up, so a system call is affordable, waiting is not.
///
/// A queue of one thread calls it from that thread alone; a shared one from all of its threads.
pub trait Interrupt: Send + Sync {
    /// Asks for an interrupt at the next completion. Contains a full fence. Armed is armed: calling
    /// it twice is harmless. A bus whose interrupts always fire does nothing. `next` is where that
    /// completion will appear: an implementation that polls for many queues looks there instead.
    fn arm(&self, next: &NextCompletion<'_>);

    /// Ready once the interrupt has fired since the last time this was ready (and consumes that);
    /// otherwise registers the task's waker. Many tasks may be registered at once: all are woken.
    /// It is also ready, and wakes every task, when another thread ends the queue's
    /// [`Fate`](crate::Fate). `parked` names the command that waits: an implementation with a clock
    /// enforces the command's time limit from it. It wakes the task first and acts only if the task
    /// parks again, so that a command which has completed unnoticed is not taken for a hung one.
    fn poll_fired(&self, cx: &mut Context<'_>, parked: &mut Parked) -> Poll<Result<(), WaitError>>;

    /// Whether the thread may go on serving this queue, or owes a turn to what else it serves.
    ///
    /// A task whose commands complete within the spin budget never sleeps, and while one task of a
    /// thread is awake the thread does not: files, sockets and timers of its runtime starve. So the
    /// queue counts its waits and asks here every so often ([`TURN_EVERY`]). Pending means that the
    /// turn is due: the task's waker is kept and called once the thread has slept, or has polled
    /// its files at least. The task is not woken before, and every queue of the thread is told the
    /// same until then: the thread can sleep only if all of its tasks do.
    ///
    /// The queue does not register the task for completions meanwhile, and asks again at its next
    /// poll. Waiting here is bounded by the runtime's own round, not by the device.
    ///
    /// Ready, the default, is right for whoever runs no executor: a thread of its own, a poller.
    fn poll_turn(&self, cx: &mut Context<'_>) -> Poll<()> {
        let _ = cx;
        Poll::Ready(())
    }
}

/// How many waits of a queue's futures pass between two questions for a turn
/// ([`Interrupt::poll_turn`]). A wait takes 100 ns at least, the question 50: so it is asked often
/// enough to notice a due turn within microseconds, and costs next to nothing. Clock-free.
pub const TURN_EVERY: u32 = 64;

/// A command whose future has parked. The queue keeps it from one poll to the next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Parked {
    /// The command; `None` for a task that waits for a free slot.
    pub tag: Option<Tag>,
    /// When it first parked, in the interrupt's own units; `None` until the interrupt sets it.
    pub since: Option<u64>,
}

/// Where a queue's next completion will appear, and how to see it: for whoever looks on the queue's
/// behalf while its tasks are parked. It stays right until the queue is reaped; after that a look
/// at it may say "fresh" of an old completion, which costs one look at the queue in vain.
#[derive(Clone, Copy)]
pub struct NextCompletion<'a> {
    /// The completion ring.
    pub ring: &'a SharedMem,
    /// Byte offset of the word with the phase in `ring`, a multiple of 4.
    pub offset: usize,
    /// [`QueueProtocol::phase`](crate::QueueProtocol::phase).
    pub phase: fn(u32) -> bool,
    /// What `phase` says of the word once the completion is there.
    pub fresh: bool,
}

impl fmt::Debug for NextCompletion<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { offset, fresh, .. } = self;
        f.debug_struct("NextCompletion").field("offset", offset).field("fresh", fresh).finish()
    }
}

/// No interrupt: a parked future asks to be polled again at once.
///
/// For benchmarks and for devices without interrupts. It keeps its task permanently ready, which
/// starves file and socket operations of a tokio-uring runtime; use a real interrupt there.
#[derive(Debug, Clone, Copy, Default)]
pub struct SpinOnly;

impl Interrupt for SpinOnly {
    fn arm(&self, _next: &NextCompletion<'_>) {}

    fn poll_fired(
        &self,
        cx: &mut Context<'_>,
        _parked: &mut Parked,
    ) -> Poll<Result<(), WaitError>> {
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

/// Host side of an arm word: asks the device to signal. Look at the ring once more after this.
///
/// Dekker again (see [`crate::doorbell`]): host stores armed, fences, loads the ring; the device
/// stores the completion, fences, loads armed. Either the host sees the completion or the device
/// sees the word. Modelled in loom, as there.
#[inline]
pub fn arm_word<W: Word>(armed: &W) {
    announce(armed);
    // SeqCst: the look at the ring must not pass the store (pairs with `must_signal`).
    fence(Ordering::SeqCst);
}

/// The first half of [`arm_word`]: for many queues at once, whose arm words are stored one after the
/// other and made visible by one fence, that of [`WakeSet::fall_asleep`](crate::WakeSet::fall_asleep).
#[inline]
pub fn announce<W: Word>(armed: &W) {
    armed.store(1, Ordering::Relaxed);
}

/// Takes back what [`announce`] said: no signal is wanted any more. One may come all the same.
#[inline]
pub fn withdraw<W: Word>(armed: &W) {
    armed.store(0, Ordering::Relaxed);
}

/// Device side: after completions were stored; true if the host asked for a signal. Asking once
/// gives one signal: the word is taken back.
#[inline]
pub fn must_signal<W: Word>(armed: &W) -> bool {
    // SeqCst: the load must not pass the completion's stores (pairs with `arm_word`).
    fence(Ordering::SeqCst);
    // Load first: the line stays shared while nobody arms, and a swap would take it each time.
    armed.load(Ordering::Relaxed) != 0 && armed.swap(0, Ordering::Relaxed) != 0
}
