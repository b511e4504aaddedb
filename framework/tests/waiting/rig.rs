//! A queue, and the device at its other end.

use std::os::fd::AsFd;
use std::sync::atomic::Ordering;
use std::sync::{Arc, mpsc};
use std::time::Duration;

use doorbell::queues::wait::must_signal;
use doorbell::queues::{
    Cells, Doorbell, Fate, Interrupt, Queue, QueueName, QueueParts, QueueProtocol, SharedMem,
    SpinBudget, Word, Word32,
};
use doorbell::wait::{Eventfd, interrupt_with_fate};

use crate::protocol::{Completion, Entry, Loop};

pub(crate) const DEADLINE: Duration = Duration::from_secs(60);

const ENTRIES: usize = 64;

/// The device's end.
pub(crate) struct Device {
    sq: Cells<Entry>,
    cq: Cells<Completion>,
    tail: Word32,
    armed: Word32,
    event: Eventfd,
    head: usize,
    posted: usize,
    /// Commands that it has fetched and not completed.
    pub(crate) held: Vec<Entry>,
}

impl Device {
    /// Fetches what the doorbell covers.
    pub(crate) fn fetch(&mut self) {
        let tail = self.tail.load(Ordering::Acquire) as usize;
        while self.head != tail {
            self.held.push(self.sq.read(self.head));
            self.head = (self.head + 1) % ENTRIES;
        }
    }

    /// Completes a command that it holds, and signals if the host asked for it.
    pub(crate) fn complete(&mut self, held: usize) {
        let entry = self.held.swap_remove(held);
        let phase = u32::from((self.posted / ENTRIES).is_multiple_of(2));
        let head = self.head as u16;
        let completion = Completion { reserved: 0, head, tag: entry.tag, status: phase };
        self.cq.publish(self.posted % ENTRIES, &completion, Loop::PHASE_WORD);
        self.posted += 1;
        if must_signal(&self.armed) {
            self.event.signal();
        }
    }

    /// Completes everything.
    pub(crate) fn run(&mut self) {
        self.fetch();
        while !self.held.is_empty() {
            self.complete(0);
        }
    }
}

/// A queue of 32 and its device. `wrap` may put something before the interrupt.
pub(crate) fn rig(
    spin: SpinBudget,
    wrap: impl FnOnce(Box<dyn Interrupt>) -> Box<dyn Interrupt>,
) -> (Queue<Loop, ()>, Device) {
    let (sq, cq, bar) = (SharedMem::zeroed(4096), SharedMem::zeroed(4096), SharedMem::zeroed(4096));
    let word = |offset| bar.word32(offset).unwrap();
    let event = Eventfd::new().unwrap();
    let waited_for = event.as_fd().try_clone_to_owned().unwrap();
    let fate = Arc::new(Fate::new());
    let interrupt = interrupt_with_fate(waited_for, Some(word(128)), Arc::clone(&fate)).unwrap();
    let device = Device {
        sq: sq.cells(0, ENTRIES).unwrap(),
        cq: cq.cells(0, ENTRIES).unwrap(),
        tail: word(0),
        armed: word(128),
        event,
        head: 0,
        posted: 0,
        held: Vec::new(),
    };
    let queue = Queue::new(QueueParts {
        name: QueueName { device: "test".into(), queue: 1 },
        submission: sq,
        submission_entries: ENTRIES as u32,
        entry_stores: doorbell_queues::EntryStores::Plain,
        completion: cq,
        completion_entries: ENTRIES as u32,
        slots: 32,
        submission_doorbell: Doorbell::new(word(0), None),
        completion_doorbell: Doorbell::new(word(64), None),
        interrupt: wrap(interrupt),
        fate,
        spin,
    });
    (queue.unwrap(), device)
}

/// Runs `body` on a thread of its own, and fails if it takes longer than the deadline.
pub(crate) fn within_deadline(body: impl FnOnce() + Send + 'static) {
    let (told, ended) = mpsc::channel();
    let thread = std::thread::spawn(move || {
        body();
        let _ = told.send(());
    });
    if let Err(mpsc::RecvTimeoutError::Timeout) = ended.recv_timeout(DEADLINE) {
        panic!("a wake-up is lost: not done within {DEADLINE:?}");
    }
    thread.join().unwrap();
}

/// Numbers that look random, the same for the same seed (Marsaglia's xorshift).
pub(crate) struct Random(u64);

impl Random {
    /// Seeded by the clock, and printed.
    pub(crate) fn new() -> Self {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
        println!("seed {}", now.as_nanos() as u64 | 1);
        Self(now.as_nanos() as u64 | 1)
    }

    pub(crate) fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % limit as u64) as usize
    }
}
