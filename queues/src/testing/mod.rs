//! What the unit tests share: a protocol, a device in memory, an interrupt and wakers that record.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Wake, Waker};

use crate::wait::{Interrupt, NextCompletion, Parked, SpinBudget, WaitError};
use crate::{Doorbell, EntryStores, Fate, Queue, QueueName, QueueParts, SharedMem};

mod device;
mod protocol;

pub(crate) use device::Device;
pub(crate) use protocol::{Completion, Entry, Outcome, TestProtocol};

pub(crate) type TestQueue<B> = Queue<TestProtocol, B>;

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What a [`Line`] was asked, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Asked {
    Arm,
    Poll(Parked),
}

type Hook = Box<dyn FnMut() + Send>;

#[derive(Default)]
struct LineState {
    asked: Vec<Asked>,
    fired: bool,
    broken: Option<WaitError>,
    wakers: Vec<Waker>,
    on_arm: Option<Hook>,
    on_poll: Option<Hook>,
}

/// An interrupt that fires when told, and records what it was asked. Hooks run at each call, while
/// nothing is locked.
#[derive(Clone, Default)]
pub(crate) struct Line(Arc<Mutex<LineState>>);

impl Line {
    pub(crate) fn asked(&self) -> Vec<Asked> {
        std::mem::take(&mut lock(&self.0).asked)
    }

    pub(crate) fn fire(&self) {
        let wakers = {
            let state = &mut *lock(&self.0);
            state.fired = true;
            std::mem::take(&mut state.wakers)
        };
        wakers.into_iter().for_each(Waker::wake);
    }

    pub(crate) fn break_it(&self, error: WaitError) {
        lock(&self.0).broken = Some(error);
    }

    pub(crate) fn on_arm(&self, hook: impl FnMut() + Send + 'static) {
        lock(&self.0).on_arm = Some(Box::new(hook));
    }

    pub(crate) fn on_poll(&self, hook: impl FnMut() + Send + 'static) {
        lock(&self.0).on_poll = Some(Box::new(hook));
    }

    fn run(&self, which: impl Fn(&mut LineState) -> &mut Option<Hook>) {
        let hook = which(&mut lock(&self.0)).take();
        if let Some(mut hook) = hook {
            hook();
            which(&mut lock(&self.0)).get_or_insert(hook);
        }
    }
}

impl Interrupt for Line {
    fn arm(&self, _next: &NextCompletion<'_>) {
        lock(&self.0).asked.push(Asked::Arm);
        self.run(|state| &mut state.on_arm);
    }

    fn poll_fired(&self, cx: &mut Context<'_>, parked: &mut Parked) -> Poll<Result<(), WaitError>> {
        lock(&self.0).asked.push(Asked::Poll(*parked));
        parked.since.get_or_insert(7);
        self.run(|state| &mut state.on_poll);
        let state = &mut *lock(&self.0);
        if let Some(error) = state.broken {
            return Poll::Ready(Err(error));
        }
        if std::mem::take(&mut state.fired) {
            return Poll::Ready(Ok(()));
        }
        state.wakers.push(cx.waker().clone());
        Poll::Pending
    }
}

/// A waker that counts.
#[derive(Debug, Default)]
pub(crate) struct Count(AtomicUsize);

impl Wake for Count {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

impl Count {
    pub(crate) fn new() -> (Arc<Self>, Waker) {
        let count = Arc::new(Self::default());
        (count.clone(), Waker::from(count))
    }

    /// How often it was woken since the last time this was asked.
    pub(crate) fn taken(&self) -> usize {
        self.0.swap(0, Ordering::Relaxed)
    }
}

/// A queue, its device, and what they share.
pub(crate) struct Rig<B> {
    pub(crate) queue: TestQueue<B>,
    pub(crate) device: Device,
    pub(crate) line: Line,
    pub(crate) fate: Arc<Fate>,
}

pub(crate) fn name() -> QueueName {
    QueueName { device: "soft:test".into(), queue: 3 }
}

/// Parts over fresh memory, and the device at its other end.
pub(crate) fn parts(submission: u32, completion: u32, slots: u16) -> (QueueParts, Device) {
    let sq = SharedMem::zeroed(submission as usize * size_of::<Entry>());
    let cq = SharedMem::zeroed(completion as usize * size_of::<Completion>());
    let bar = SharedMem::zeroed(8);
    let bell = |offset| Doorbell::new(bar.word32(offset).unwrap(), None);
    let device = Device::new(&sq, submission as usize, &cq, completion as usize, &bar);
    let parts = QueueParts {
        name: name(),
        submission: sq,
        submission_entries: submission,
        entry_stores: EntryStores::Plain,
        completion: cq,
        completion_entries: completion,
        slots,
        submission_doorbell: bell(0),
        completion_doorbell: bell(4),
        interrupt: Box::new(crate::SpinOnly),
        fate: Arc::new(Fate::new()),
        spin: SpinBudget::adaptive(0),
    };
    (parts, device)
}

/// A queue whose interrupt is a [`Line`], and its device.
pub(crate) fn rig<B>(submission: u32, completion: u32, slots: u16) -> Rig<B> {
    let (mut parts, device) = parts(submission, completion, slots);
    let (line, fate) = (Line::default(), parts.fate.clone());
    parts.interrupt = Box::new(line.clone());
    Rig { queue: Queue::new(parts).unwrap(), device, line, fate }
}
