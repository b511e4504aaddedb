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
    Cells, Doorbell, EntryStores, Fate, Interrupt, NextCompletion, Parked, Queue, QueueName,
    QueueParts, QueueProtocol, SharedMem, SpinBudget, Tag, WaitError, Word, Word32,
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

fn queue() -> (Queue<Pairs, u32>, Device) {
    let (sq, cq, bar) = (SharedMem::zeroed(64), SharedMem::zeroed(64), SharedMem::zeroed(8));
    let device = Device {
        sq: sq.cells(0, ENTRIES).unwrap(),
        cq: cq.cells(0, ENTRIES).unwrap(),
        tail_bell: bar.word32(0).unwrap(),
        sq_head: 0,
        posted: 0,
    };
    let parts = QueueParts {
        name: QueueName { device: "test".into(), queue: 1 },
        submission: sq,
        submission_entries: ENTRIES as u32,
        entry_stores: EntryStores::Plain,
        completion: cq,
        completion_entries: ENTRIES as u32,
        slots: 4,
        submission_doorbell: Doorbell::new(bar.word32(0).unwrap(), None),
        completion_doorbell: Doorbell::new(bar.word32(4).unwrap(), None),
        interrupt: Box::new(Never),
        fate: Arc::new(Fate::new()),
        spin: SpinBudget::adaptive(0),
    };
    (Queue::new(parts).unwrap(), device)
}

struct Quiet;

impl Wake for Quiet {
    fn wake(self: Arc<Self>) {}
}

fn ready(future: &mut (impl Future + Unpin), cx: &mut Context<'_>) -> bool {
    Pin::new(future).poll(cx).is_ready()
}

/// One round of everything.
fn round(queue: &Queue<Pairs, u32>, device: &mut Device, cx: &mut Context<'_>) {
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
}

#[test]
fn nothing_is_allocated_per_command() {
    let (queue, mut device) = queue();
    let waker = Waker::from(Arc::new(Quiet));
    let mut cx = Context::from_waker(&waker);
    // The line of waiting tasks grows once.
    round(&queue, &mut device, &mut cx);
    let before = ALLOCATIONS.get();
    assert!(before > 0, "it counts");
    for _ in 0..1000 {
        round(&queue, &mut device, &mut cx);
    }
    assert_eq!(ALLOCATIONS.get() - before, 0);
}
