//! In steady state a queue allocates nothing: commands by callback and as futures, that park, that
//! are dropped, and tasks that wait for a slot. Through the public interface only, with a device in
//! memory.

#![cfg(not(loom))]
#![allow(clippy::unwrap_used, reason = "a test")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, Wake, Waker};

use bytemuck::{Pod, Zeroable};
use doorbell_queues::{
    Cells, Doorbell, DoorbellKind, EntryStores, Fate, Interrupt, NextCompletion, Parked,
    PortalIntake, Queue, QueueName, QueueParts, QueueProtocol, SharedMem, SharedQueue, SpinBudget,
    Tag, WaitError, Word, Word32,
};

struct Counting;

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

// SAFETY: passes every call on to the system's allocator unchanged.
#[allow(unsafe_code, reason = "an allocator that counts is an unsafe trait by nature")]
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        // SAFETY: the caller's obligations are passed on.
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

#[derive(Debug, Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Pair {
    value: u32,
    word: u32,
}

struct Pairs;

impl QueueProtocol for Pairs {
    type Entry = Pair;
    type Completion = Pair;
    type Outcome = u32;

    const PHASE_WORD: usize = 4;

    fn phase(word: u32) -> bool {
        word & 1 != 0
    }
    fn stamp(entry: &mut Pair, tag: Tag) {
        entry.word = tag.0.into();
    }
    fn tag(completion: &Pair) -> Tag {
        Tag((completion.word >> 1) as u16)
    }
    fn submission_head(_: &Pair) -> Option<u16> {
        None
    }
    fn outcome(completion: &Pair) -> u32 {
        completion.value
    }
}

const ENTRIES: usize = 8;

struct Device {
    sq: Cells<Pair>,
    cq: Cells<Pair>,
    tail_bell: Word32,
    sq_head: usize,
    posted: usize,
}

impl Device {
    fn run(&mut self) {
        let tail = self.tail_bell.load(Ordering::Acquire) as usize;
        while self.sq_head != tail {
            let Pair { value, word } = self.sq.read(self.sq_head);
            self.sq_head = (self.sq_head + 1) % ENTRIES;
            let phase = u32::from((self.posted / ENTRIES).is_multiple_of(2));
            let completion = Pair { value, word: word << 1 | phase };
            self.cq.publish(self.posted % ENTRIES, &completion, Pairs::PHASE_WORD);
            self.posted += 1;
        }
    }
}

/// An interrupt that never fires: what wakes a task is that another one reaps for it.
struct Never;

impl Interrupt for Never {
    fn arm(&self, _next: &NextCompletion<'_>) {}
    fn poll_fired(&self, _: &mut Context<'_>, _: &mut Parked) -> Poll<Result<(), WaitError>> {
        Poll::Pending
    }
}

/// The same through a portal; the tag is in the low half of `value` there.
struct Portal;

impl QueueProtocol for Portal {
    type Entry = Pair;
    type Completion = Pair;
    type Outcome = u32;

    const DOORBELL: DoorbellKind = DoorbellKind::Portal { valid: 4 };
    const PHASE_WORD: usize = 4;

    fn phase(word: u32) -> bool {
        Pairs::phase(word)
    }
    fn stamp(entry: &mut Pair, tag: Tag) {
        entry.value = entry.value << 16 | u32::from(tag.0);
    }
    fn tag(completion: &Pair) -> Tag {
        Pairs::tag(completion)
    }
    fn submission_head(_: &Pair) -> Option<u16> {
        None
    }
    fn outcome(completion: &Pair) -> u32 {
        completion.value
    }
}

fn parts(bar: &SharedMem, entry_stores: EntryStores) -> QueueParts {
    QueueParts {
        name: QueueName { device: "test".into(), queue: 1 },
        submission: SharedMem::zeroed(64),
        submission_entries: ENTRIES as u32,
        entry_stores,
        completion: SharedMem::zeroed(64),
        completion_entries: ENTRIES as u32,
        slots: 4,
        submission_doorbell: Doorbell::new(bar.word32(0).unwrap(), None),
        completion_doorbell: Doorbell::new(bar.word32(4).unwrap(), None),
        interrupt: Box::new(Never),
        fate: Arc::new(Fate::new()),
        spin: SpinBudget::adaptive(0),
    }
}

fn rig(entry_stores: EntryStores) -> (QueueParts, Device) {
    let bar = SharedMem::zeroed(8);
    let parts = parts(&bar, entry_stores);
    let device = Device {
        sq: parts.submission.cells(0, ENTRIES).unwrap(),
        cq: parts.completion.cells(0, ENTRIES).unwrap(),
        tail_bell: bar.word32(0).unwrap(),
        sq_head: 0,
        posted: 0,
    };
    (parts, device)
}

struct Quiet;

impl Wake for Quiet {
    fn wake(self: Arc<Self>) {}
}

fn ready(future: &mut (impl Future + Unpin), cx: &mut Context<'_>) -> bool {
    Pin::new(future).poll(cx).is_ready()
}

/// One round of everything, of either kind of queue.
macro_rules! round {
    ($queue:expr, $device:expr, $cx:expr) => {{
        let (queue, device, cx) = ($queue, $device, $cx);
        let entry = |_, value: &mut u32| Pair { value: *value, word: 0 };

        // By callback, and as a future that is dropped.
        for value in 0..3 {
            queue.post(value, entry).unwrap();
        }
        drop(queue.submit(3, entry).unwrap());
        assert!(queue.submit(4, entry).is_err(), "full");
        device.run();
        let mut sum = 0;
        assert_eq!(queue.reap(usize::MAX, |done| sum += done.outcome + done.buffer), Ok(4));
        assert_eq!(sum, 6);

        // As futures that park, and tasks that wait for their slots.
        let [mut a, mut b, c, d] =
            std::array::from_fn(|value| queue.submit(value as u32, entry).unwrap());
        let (mut first, mut second) = (pin!(queue.slot_free()), pin!(queue.slot_free()));
        assert!(!ready(&mut a, cx) && !ready(&mut b, cx) && !ready(&mut first, cx));
        assert!(!ready(&mut second, cx));
        device.run();
        assert!(ready(&mut b, cx) && ready(&mut a, cx));
        assert!(ready(&mut first, cx) && ready(&mut second, cx));
        drop((c, d));
        assert_eq!(queue.in_flight(), 0);
    }};
}

/// Allocations in a thousand rounds, after the first: the line of waiting tasks grows once.
fn allocations(mut round: impl FnMut(&mut Context<'_>)) -> u64 {
    let waker = Waker::from(Arc::new(Quiet));
    let mut cx = Context::from_waker(&waker);
    round(&mut cx);
    let before = ALLOCATIONS.get();
    assert!(before > 0, "it counts");
    (0..1000).for_each(|_| round(&mut cx));
    ALLOCATIONS.get() - before
}

#[test]
fn nothing_is_allocated_per_command() {
    for stores in [EntryStores::Plain, EntryStores::NonTemporal] {
        let (parts, mut device) = rig(stores);
        let queue = Queue::<Pairs, u32>::new(parts).unwrap();
        assert_eq!(allocations(|cx| round!(&queue, &mut device, cx)), 0);
    }
}

#[test]
fn nor_by_a_shared_queue() {
    for stores in [EntryStores::Plain, EntryStores::NonTemporal] {
        let (parts, mut device) = rig(stores);
        let queue = SharedQueue::<Pairs, u32>::new(parts).unwrap();
        assert_eq!(allocations(|cx| round!(&queue, &mut device, cx)), 0);
    }
}

#[test]
fn nor_through_a_portal() {
    let bar = SharedMem::zeroed(8);
    let parts = parts(&bar, EntryStores::Plain);
    let mut portal = PortalIntake::<Portal>::new(&parts.submission, 0, ENTRIES).unwrap();
    let cq = parts.completion.cells(0, ENTRIES).unwrap();
    let queue = Queue::<Portal, u32>::new(parts).unwrap();
    let entry = |_, value: &mut u32| Pair { value: *value, word: 0 };
    let mut cx = Context::from_waker(Waker::noop());
    let mut posted = 0;
    let before = ALLOCATIONS.get();
    for _ in 0..1000 {
        queue.post(1, entry).unwrap();
        let mut future = queue.submit(2, entry).unwrap();
        assert!(!ready(&mut future, &mut cx));
        while let Some(Pair { value, .. }) = portal.take() {
            let phase = u32::from((posted / ENTRIES).is_multiple_of(2));
            let completion = Pair { value: value >> 16, word: value << 17 >> 16 | phase };
            cq.publish(posted % ENTRIES, &completion, Portal::PHASE_WORD);
            posted += 1;
        }
        let mut sum = 0;
        assert_eq!(queue.reap(usize::MAX, |done| sum += done.outcome + done.buffer), Ok(2));
        assert!(ready(&mut future, &mut cx) && sum == 2);
    }
    assert_eq!((posted, ALLOCATIONS.get() - before), (2000, 0));
}
