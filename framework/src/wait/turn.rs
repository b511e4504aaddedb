//! Turns: a thread that serves queues without ever sleeping lets its runtime serve files, sockets
//! and timers now and then.
//!
//! A command that completes within the spin budget is ready at its first poll, so a task can keep
//! its thread for as long as the device is fast. A runtime then polls nothing else; and even where
//! tasks yield to each other, tokio-uring hands its operations to the kernel only when its thread
//! goes to sleep, which it does only if *no* task is ready. So after [`BOUND`] without sleep the
//! thread owes a turn: every task that waits for one of its queues is told to stay pending
//! ([`Interrupt::poll_turn`]), the run queue empties, the thread goes to sleep, and is woken at
//! once by an eventfd of ours, the nudge.
//!
//! **When a turn is over.** The nudge is signalled when the turn begins, and wakes the tasks when
//! the reactor reports it. On a single-threaded runtime that is not enough: its scheduler also
//! polls the reactor without sleeping, every 61 polls of tasks. There the runtime's own count of
//! sleeps tells the two apart: if it has not moved, the nudge is signalled again, and nobody is
//! woken. If the thread does not come to sleep because a task of others is always ready, the turn
//! is given up after [`ROUNDS`] such polls, and more if many tasks wait: the reactor was polled
//! meanwhile, which is all that can be had. On a runtime of several threads it is enough that the
//! reactor was polled, by whichever thread.
//!
//! **Who has turns.** A thread inside of a task of a tokio runtime; each thread its own. Elsewhere
//! nothing is owed. A thread that merely entered a runtime ([`runtime::Handle::enter`]) and polls
//! futures by other means may never drive the reactor, so it is not made to wait for it: it yields
//! once to whoever polls it. The same is done where a task opted out of tokio's budget
//! (`tokio::task::unconstrained`), which looks the same from here.
//!
//! A task that polls its futures in a loop of its own, without going back to its executor, keeps the
//! reactor from being polled as well. It is told from the others by polling again and again while
//! the turn is open: after [`POLLS`] of those the turn is given up, and the thread is not asked for
//! one again for a while.
//!
//! What it costs: one question each [`TURN_EVERY`](doorbell_queues::wait::TURN_EVERY) waits, with a
//! look at the clock; and a turn, which is two or three system calls, per [`BOUND`] without sleep.
//! The device goes on working on what it has meanwhile.
//!
//! [`Interrupt::poll_turn`]: doorbell_queues::Interrupt::poll_turn

use std::cell::RefCell;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Wake, Waker};
use std::time::{Duration, Instant};

use tokio::io::unix::AsyncFd;
use tokio::runtime::{self, RuntimeFlavor, RuntimeMetrics};
use tokio::task::{coop, unconstrained};

use super::Eventfd;
use super::interrupt::register;

/// How long a thread may work on queues without going to sleep. A turn is two system calls under
/// tokio (the nudge, and an epoll that finds it), three under tokio-uring (the submission), and a
/// wake of each task of the thread: 1 to 3 microseconds, so a hundredth of this at most. Shorter
/// would cost more than files and timers gain, whose own operations take tens of microseconds.
const BOUND: Duration = Duration::from_micros(300);
/// How many polls of the reactor without sleep a turn may take. Tasks come to rest one after the
/// other, 61 between two polls, so for each [`PER_ROUND`] of them there is one more.
const ROUNDS: usize = 16;
const PER_ROUND: usize = 16;

/// How many polls a turn may see between two polls of the reactor, and more if many tasks wait. A
/// task that awaits hundreds of commands at once polls all of them in a row.
const POLLS: usize = 512;
/// How much longer a thread may work that was found not to drive its reactor: what its last turn
/// cost is a few thousandths of this.
const UNDRIVEN: u32 = 32;

std::thread_local! {
    /// The thread's turn in the runtime it was last asked in.
    static TURN: RefCell<Option<ThreadTurn>> = const { RefCell::new(None) };
}

/// [`Interrupt::poll_turn`](doorbell_queues::Interrupt::poll_turn) of every queue of the calling
/// thread.
pub(crate) fn poll_turn(cx: &mut Context<'_>) -> Poll<()> {
    let Ok(handle) = runtime::Handle::try_current() else { return Poll::Ready(()) };
    // A waker's code may run in here, and use a queue; and a thread that ends has no turns.
    let asked = TURN.try_with(|turn| {
        let Ok(mut turn) = turn.try_borrow_mut() else { return Poll::Ready(()) };
        if turn.as_ref().is_none_or(|turn| turn.runtime != handle.id()) {
            // The one of another runtime goes first, with its descriptor.
            *turn = None;
        }
        turn.get_or_insert_with(|| ThreadTurn::new(&handle)).poll(cx)
    });
    asked.unwrap_or(Poll::Ready(()))
}

/// True inside of a task that tokio polls: those, and only those, have a budget that ends. It is
/// spent to see that, and given back.
fn in_task() -> bool {
    /// More than tokio gives to a task at once (128).
    const MOST: usize = 1024;
    let mut nobody = Context::from_waker(Waker::noop());
    // Restores, when dropped, what there was before it.
    let mut first = None;
    for _ in 0..MOST {
        if !coop::has_budget_remaining() {
            return true;
        }
        match coop::poll_proceed(&mut nobody) {
            Poll::Ready(spent) if first.is_none() => first = Some(spent),
            Poll::Ready(spent) => spent.made_progress(),
            Poll::Pending => return true,
        }
    }
    false
}

/// What a thread remembers of its turns in one runtime.
#[derive(Debug)]
struct ThreadTurn {
    runtime: runtime::Id,
    metrics: RuntimeMetrics,
    /// How often the thread had slept when it was last known to have.
    sleeps: u64,
    /// When that was known.
    since: Instant,
    /// How long the thread may work from then on.
    bound: Duration,
    /// Made when it is first asked for, so that a turn allocates nothing.
    nudge: Option<Arc<Nudge>>,
}

impl ThreadTurn {
    fn new(handle: &runtime::Handle) -> Self {
        let metrics = handle.metrics();
        let sleeps = sleeps(&metrics);
        let (since, bound) = (Instant::now(), BOUND);
        let nudge = Nudge::new(&metrics).ok();
        Self { runtime: handle.id(), metrics, sleeps, since, bound, nudge }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let sleeps = sleeps(&self.metrics);
        if self.nudge.as_ref().is_some_and(|nudge| nudge.take_over()) || sleeps != self.sleeps {
            self.sleeps = sleeps;
            self.since = Instant::now();
            self.bound = BOUND;
            return Poll::Ready(());
        }
        if self.since.elapsed() < self.bound {
            return Poll::Ready(());
        }
        self.yield_turn(cx)
    }

    #[cold]
    fn yield_turn(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let due = match &self.nudge {
            Some(nudge) => Ok(Arc::clone(nudge)),
            None => Nudge::new(&self.metrics).inspect(|nudge| {
                self.nudge = Some(Arc::clone(nudge));
            }),
        };
        let waits = due.and_then(|nudge| {
            if nudge.is_open() || in_task() { nudge.join(cx.waker()).map(Some) } else { Ok(None) }
        });
        match waits {
            Ok(Some(Joined::Waits)) => Poll::Pending,
            Ok(Some(Joined::GaveUp)) => {
                self.since = Instant::now();
                self.bound = BOUND * UNDRIVEN;
                Poll::Ready(())
            }
            Ok(None) => {
                self.since = Instant::now();
                cx.waker().wake_by_ref();
                Poll::Pending
            }
            Err(error) => {
                // The runtime shuts down, or has no descriptor left. Nobody is kept waiting.
                tracing::debug!(%error, "a thread takes no turns");
                self.nudge = None;
                self.since = Instant::now();
                Poll::Ready(())
            }
        }
    }
}

impl Drop for ThreadTurn {
    fn drop(&mut self) {
        if let Some(nudge) = &self.nudge {
            nudge.close();
        }
    }
}

/// How often a single-threaded runtime's thread went to sleep or woke up; 0 for the others, whose
/// metrics do not say which worker the caller is.
fn sleeps(metrics: &RuntimeMetrics) -> u64 {
    if metrics.num_workers() == 1 { metrics.worker_park_unpark_count(0) } else { 0 }
}

/// What became of a task that was to wait for a turn.
enum Joined {
    /// It is woken when the turn is over.
    Waits,
    /// Nobody drives the reactor: there is no turn, and all that waited were woken.
    GaveUp,
}

/// The tasks that wait for their thread's turn to be over, and what ends it.
#[derive(Debug)]
struct Nudge {
    state: Mutex<State>,
    metrics: RuntimeMetrics,
    /// True if the reactor is polled without sleep as well, and sleep is what is waited for.
    must_sleep: bool,
}

/// # Invariants
/// While `open`, the descriptor has a signal that the reactor has not reported yet, and the nudge's
/// waker is registered for it. Otherwise `waiting` is empty.
#[derive(Debug)]
struct State {
    /// `None` once the thread has turned to another runtime, or ended.
    fd: Option<AsyncFd<Eventfd>>,
    open: bool,
    /// A turn was over, and the thread has not taken note of it.
    over: bool,
    waiting: Vec<Waker>,
    /// How often the reactor reported the nudge without sleep.
    rounds: usize,
    /// Polls of waiting tasks since the reactor was last seen.
    polls: usize,
    sleeps: u64,
}

impl Nudge {
    fn new(metrics: &RuntimeMetrics) -> std::io::Result<Arc<Self>> {
        let fd = register(Eventfd::new()?)?;
        let flavor = runtime::Handle::current().runtime_flavor();
        let state = State {
            fd: Some(fd),
            open: false,
            over: false,
            waiting: Vec::with_capacity(64),
            rounds: 0,
            polls: 0,
            sleeps: 0,
        };
        Ok(Arc::new(Self {
            state: Mutex::new(state),
            metrics: metrics.clone(),
            must_sleep: flavor == RuntimeFlavor::CurrentThread,
        }))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // No code that holds the lock panics half-way through a change.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_open(&self) -> bool {
        self.state().open
    }

    /// True once after a turn.
    fn take_over(&self) -> bool {
        std::mem::take(&mut self.state().over)
    }

    /// Adds a task to those that wait for the end of the turn, which its first one begins.
    fn join(self: &Arc<Self>, waker: &Waker) -> std::io::Result<Joined> {
        // Cloning wakers is foreign code: it runs outside of the lock.
        let waker = waker.clone();
        let waiting = {
            let state = &mut *self.state();
            if !state.open {
                state.signal(self)?;
                state.open = true;
                (state.rounds, state.polls) = (0, 0);
                state.sleeps = sleeps(&self.metrics);
            }
            state.polls += 1;
            if state.polls <= POLLS + 2 * state.waiting.len() {
                // A task with many commands comes many times in a row.
                if state.waiting.last().is_none_or(|last| !last.will_wake(&waker)) {
                    state.waiting.push(waker);
                }
                return Ok(Joined::Waits);
            }
            let waiting = state.end();
            // The thread learns it here.
            state.over = false;
            waiting
        };
        self.release(waiting);
        Ok(Joined::GaveUp)
    }

    /// Wakes those that waited.
    fn release(&self, mut waiting: Vec<Waker>) {
        // Wakers are foreign code: they run outside of the lock.
        waiting.drain(..).for_each(Waker::wake);
        let state = &mut *self.state();
        if state.waiting.capacity() == 0 {
            state.waiting = waiting;
        }
    }

    /// The reactor has reported the nudge.
    fn reported(self: &Arc<Self>) {
        let waiting = {
            let state = &mut *self.state();
            if !state.open {
                return;
            }
            state.rounds += 1;
            state.polls = 0;
            let slept = !self.must_sleep || sleeps(&self.metrics) != state.sleeps;
            let most = ROUNDS + state.waiting.len() / PER_ROUND;
            if !slept && state.rounds < most && state.signal(self).is_ok() {
                return;
            }
            state.end()
        };
        self.release(waiting);
    }

    /// The thread is gone. Whoever still waits looks for itself.
    fn close(&self) {
        let (fd, waiting) = {
            let state = &mut *self.state();
            (state.fd.take(), state.end())
        };
        // With the registration goes the reactor's reference to the nudge.
        drop(fd);
        waiting.into_iter().for_each(Waker::wake);
    }
}

impl State {
    fn end(&mut self) -> Vec<Waker> {
        self.open = false;
        self.over = true;
        std::mem::take(&mut self.waiting)
    }

    /// Registers the nudge's waker and makes the reactor call it at its next poll.
    fn signal(&self, nudge: &Arc<Nudge>) -> std::io::Result<()> {
        let Some(fd) = &self.fd else { return Err(std::io::ErrorKind::NotConnected.into()) };
        let waker = Waker::from(Arc::clone(nudge));
        let cx = &mut Context::from_waker(&waker);
        // Readiness that was reported already is taken back; then the waker is registered. The
        // budget of the task that runs must not stand in the way: it may be used up.
        let registered = poll_fn(|cx| {
            loop {
                match fd.poll_read_ready(cx) {
                    Poll::Ready(Ok(mut guard)) => guard.clear_ready(),
                    Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                    Poll::Pending => return Poll::Ready(Ok(())),
                }
            }
        });
        match pin!(unconstrained(registered)).poll(cx) {
            Poll::Ready(registered) => registered?,
            Poll::Pending => return Err(std::io::ErrorKind::WouldBlock.into()),
        }
        // The descriptor is always readable; adding to it is news to the reactor all the same.
        fd.get_ref().signal();
        Ok(())
    }
}

impl Wake for Nudge {
    fn wake(self: Arc<Self>) {
        self.reported();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.reported();
    }
}
