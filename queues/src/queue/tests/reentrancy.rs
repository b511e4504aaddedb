//! Code of others that the queue runs may use the queue: nothing is borrowed meanwhile.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::pin::{Pin, pin};
use std::rc::{Rc, Weak};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};

use crate::testing::{Count, Entry, Rig, TestProtocol, TestQueue, parts, rig};
use crate::wait::{Interrupt, NextCompletion, Parked, WaitError};
use crate::{Kick, Queue, QueueError, QueueParts, SharedMem, Wake};

/// Uses every part of a queue that takes `&self`.
fn use_it<B: Default>(queue: &TestQueue<B>) {
    let _ = queue.reap(1, drop);
    let _ = queue.poll(1);
    if let Ok(future) = queue.submit(B::default(), |_, _| Entry::filled(0)) {
        drop(future);
    }
    let _ = queue.post(B::default(), |_, _| Entry::filled(0));
    queue.flush();
    let mut waiting = pin!(queue.slot_free());
    let _ = waiting.as_mut().poll(&mut Context::from_waker(Waker::noop()));
    assert!(queue.in_flight() <= queue.capacity());
    let _ = (queue.ended(), format!("{queue:?}"));
}

/// A buffer whose drop uses its queue, a few times.
#[derive(Default)]
struct Nosy(Option<(Weak<NosyQueue>, Rc<Cell<u32>>)>);

type NosyQueue = TestQueue<Nosy>;

impl Drop for Nosy {
    fn drop(&mut self) {
        if let Some((queue, drops)) = self.0.take() {
            drops.set(drops.get() + 1);
            if let Some(queue) = queue.upgrade() {
                use_it(&queue);
            }
        }
    }
}

#[test]
fn the_drop_of_a_buffer_may_use_the_queue() {
    let Rig { queue, mut device, .. } = rig::<Nosy>(16, 16, 8);
    let (queue, drops) = (Rc::new(queue), Rc::new(Cell::new(0)));
    let nosy = || Nosy(Some((Rc::downgrade(&queue), drops.clone())));
    queue.post(nosy(), |_, _| Entry::filled(0)).unwrap();
    drop(queue.submit(nosy(), |_, _| Entry::filled(0)).unwrap());
    let completed = queue.submit(nosy(), |_, _| Entry::filled(0)).unwrap();
    let mut lost = queue.submit(nosy(), |_, _| Entry::filled(0)).unwrap();
    queue.flush();
    device.fetch();
    for _ in 0..3 {
        device.complete(0);
    }
    queue.reap(usize::MAX, drop).unwrap();
    drop(completed);
    assert_eq!(drops.get(), 3);
    queue.fate.end(crate::EndReason::DeviceReset, true);
    let mut cx = Context::from_waker(Waker::noop());
    assert!(Pin::new(&mut lost).poll(&mut cx).is_ready());
    assert_eq!(drops.get(), 4);
}

#[test]
fn a_callback_and_a_builder_may_use_the_queue() {
    let mut rig = rig::<u32>(16, 16, 8);
    for _ in 0..3 {
        let queue = &rig.queue;
        queue
            .post(1, |_, _| {
                use_it(queue);
                Entry::filled(0)
            })
            .unwrap();
    }
    rig.queue.flush();
    rig.device.run();
    let mut called = 0;
    rig.queue
        .reap(usize::MAX, |_| {
            called += 1;
            if called < 3 {
                use_it(&rig.queue);
            }
        })
        .unwrap();
    assert!(called > 0);
}

/// A kick that uses the queue, through a place where it will be put.
#[derive(Default)]
struct NosyKick(Mutex<Option<usize>>);

type Hook = Box<dyn FnOnce(&TestQueue<u32>)>;

thread_local! {
    static QUEUE: Cell<Option<&'static TestQueue<u32>>> = const { Cell::new(None) };
    static DROPPED: Cell<u32> = const { Cell::new(0) };
    static HOOK: Cell<Option<Hook>> = const { Cell::new(None) };
}

impl Kick for NosyKick {
    fn kick(&self) {
        *self.0.lock().unwrap().get_or_insert(0) += 1;
        if let Some(queue) = QUEUE.take() {
            use_it(queue);
        }
    }
}

#[test]
fn a_kick_may_use_the_queue_and_the_tail_does_not_go_back() {
    let (mut parts, mut device) = parts(16, 16, 8);
    let bar = SharedMem::zeroed(8);
    let kick = Arc::new(NosyKick::default());
    let wake = Wake::new(bar.word32(4).unwrap(), kick.clone());
    let word = bar.word32(0).unwrap();
    crate::doorbell::fall_asleep(&bar.word32(4).unwrap());
    parts.submission_doorbell = crate::Doorbell::new(word.clone(), Some(wake));
    device.listen_at(word);
    let queue = reachable(parts);
    queue.post(1, |_, _| Entry::filled(0)).unwrap();
    queue.flush();
    assert_eq!(device.fetch(), 3, "its own and the two of the kick");
    assert!(kick.0.lock().unwrap().unwrap() >= 2);
}

/// A task that uses the queue when woken, and when its last waker is dropped: the last clone of an
/// executor's waker drops the task, with the futures in it.
struct Task(AtomicUsize);

impl Task {
    fn waker() -> (Arc<Self>, Waker) {
        let task = Arc::new(Self(AtomicUsize::new(0)));
        (task.clone(), Waker::from(task))
    }

    fn used(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
        if let Some(queue) = QUEUE.get() {
            use_it(queue);
        }
    }
}

impl std::task::Wake for Task {
    fn wake(self: Arc<Self>) {
        self.used();
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        self.used();
        DROPPED.set(DROPPED.get() + 1);
    }
}

/// A queue that code anywhere in this thread reaches; the other test threads have their own.
fn reachable(parts: QueueParts) -> &'static TestQueue<u32> {
    let queue: &'static TestQueue<u32> = Box::leak(Box::new(Queue::new(parts).unwrap()));
    QUEUE.set(Some(queue));
    queue
}

fn poll(future: &mut crate::InFlight<'_, TestProtocol, u32>, waker: &Waker) -> bool {
    Pin::new(future).poll(&mut Context::from_waker(waker)).is_ready()
}

#[test]
fn the_drop_of_a_waker_may_use_the_queue() {
    let (mut parts, _device) = parts(64, 64, 32);
    // Forgets the wakers it is given, so that the slot's clone is the last one.
    parts.interrupt = Box::new(Deaf);
    let queue = reachable(parts);
    let parked = || {
        let mut future = queue.submit(1, |_, _| Entry::filled(0)).unwrap();
        let (_, waker) = Task::waker();
        assert!(!poll(&mut future, &waker));
        future
    };
    let mut replaced = parked();
    assert!(!poll(&mut replaced, Waker::noop()));
    assert_eq!(DROPPED.take(), 1, "another task's waker in its place");
    drop(parked());
    assert_eq!(DROPPED.take(), 1, "its future dropped");
    let waiting = || {
        while queue.post(0, |_, _| Entry::filled(0)).is_ok() {}
        let mut waiting = Box::pin(queue.slot_free());
        let (_, waker) = Task::waker();
        assert!(waiting.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
        waiting
    };
    let mut replaced = waiting();
    assert!(replaced.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
    assert_eq!(DROPPED.take(), 1, "another task's waker in its place in the line");
    drop(waiting());
    assert_eq!(DROPPED.take(), 1, "out of the line");
}

#[test]
fn a_waker_may_use_the_queue() {
    let (mut parts, mut device) = parts(64, 64, 32);
    parts.interrupt = Box::new(Deaf);
    let queue = reachable(parts);
    let (task, waker) = Task::waker();
    let mut completed = queue.submit(1, |_, _| Entry::filled(0)).unwrap();
    let mut lost = queue.submit(1, |_, _| Entry::filled(0)).unwrap();
    assert!(!poll(&mut completed, &waker) && !poll(&mut lost, &waker));
    device.fetch();
    device.complete(0);
    assert_eq!(queue.poll(1), Ok(1));
    assert_eq!(task.0.load(Ordering::Relaxed), 1);
    assert!(poll(&mut completed, &waker));
    device.post(crate::Tag(0xffff), 0, 0);
    assert!(matches!(queue.poll(usize::MAX), Err(QueueError::Violation { .. })));
    assert_eq!(task.0.load(Ordering::Relaxed), 2, "a violation wakes the parked");
}

/// An interrupt that keeps no waker and uses the queue while it is asked.
struct Deaf;

impl Interrupt for Deaf {
    fn arm(&self, _next: &NextCompletion<'_>) {
        if let Some(queue) = QUEUE.get() {
            let _ = (queue.in_flight(), queue.ended());
            queue.flush();
        }
    }

    fn poll_fired(&self, _: &mut Context<'_>, _: &mut Parked) -> Poll<Result<(), WaitError>> {
        if let (Some(queue), Some(hook)) = (QUEUE.get(), HOOK.take()) {
            hook(queue);
        }
        Poll::Pending
    }
}

#[test]
fn a_completion_reaped_while_the_interrupt_is_asked_is_not_slept_over() {
    let (mut parts, device) = parts(8, 8, 4);
    parts.interrupt = Box::new(Deaf);
    let queue = reachable(parts);
    let mut future = queue.submit(1, |_, _| Entry::filled(0)).unwrap();
    let device = RefCell::new(device);
    HOOK.set(Some(Box::new(move |queue| {
        device.borrow_mut().run();
        assert_eq!(queue.poll(1), Ok(1));
    })));
    assert!(poll(&mut future, Waker::noop()));
}

#[test]
fn a_waker_may_poll_its_future_at_once() {
    // A waker that is called while another future is being polled finds the queue free.
    let mut rig = rig(8, 8, 4);
    let (count, waker) = Count::new();
    let mut a = rig.queue.submit(1, |_, _| Entry::filled(0)).unwrap();
    let mut b = rig.queue.submit(2, |_, _| Entry::filled(0)).unwrap();
    let cx = &mut Context::from_waker(&waker);
    assert!(Pin::new(&mut a).poll(cx).is_pending());
    rig.device.run();
    assert!(Pin::new(&mut b).poll(cx).is_ready());
    assert_eq!(count.taken(), 1);
    assert!(Pin::new(&mut a).poll(cx).is_ready());
}
