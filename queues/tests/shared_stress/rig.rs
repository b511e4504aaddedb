//! What the tests share: a protocol, buffers that are counted, an interrupt line, and a device.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};

use bytemuck::{Pod, Zeroable};
use doorbell_queues::wait::{arm_word, must_signal};
use doorbell_queues::{
    Cells, Doorbell, EntryStores, Fate, Interrupt, NextCompletion, Parked, QueueName, QueueParts,
    QueueProtocol, SharedMem, SharedQueue, SpinBudget, Tag, WaitError, Word, Word32,
};

#[derive(Debug, Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub(super) struct Entry {
    pub(super) value: u64,
    pub(super) check: u64,
    pub(super) tag: u64,
}

#[derive(Debug, Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub(super) struct Done {
    pub(super) value: u64,
    pub(super) head: u16,
    pub(super) tag: u16,
    pub(super) phase: u32,
}

pub(super) struct Values;

impl QueueProtocol for Values {
    type Entry = Entry;
    type Completion = Done;
    type Outcome = u64;

    const PHASE_WORD: usize = 12;

    fn phase(word: u32) -> bool {
        word & 1 != 0
    }
    fn stamp(entry: &mut Entry, tag: Tag) {
        entry.tag = tag.0.into();
    }
    fn tag(done: &Done) -> Tag {
        Tag(done.tag)
    }
    fn submission_head(done: &Done) -> Option<u16> {
        Some(done.head)
    }
    fn outcome(done: &Done) -> u64 {
        done.value
    }
}

/// xorshift64*: enough to mix schedules.
pub(super) struct Random(pub(super) u64);

impl Random {
    pub(super) fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize % bound
    }
}

pub(super) fn seed() -> u64 {
    let given = std::env::var("DOORBELL_SEED").ok().and_then(|text| text.parse().ok());
    let seed = given.unwrap_or_else(|| {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
        now.as_nanos() as u64 | 1
    });
    eprintln!("DOORBELL_SEED={seed}");
    seed
}

/// Counts buffers: made, and come back.
#[derive(Default)]
pub(super) struct Ledger {
    pub(super) back: AtomicUsize,
}

#[derive(Debug)]
pub(super) struct Buffer {
    pub(super) ledger: Arc<Ledger>,
    pub(super) value: u64,
}

impl std::fmt::Debug for Ledger {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Ledger")
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        self.ledger.back.fetch_add(1, Ordering::Relaxed);
    }
}

/// An interrupt line: fires once per arming, and wakes all who registered.
#[derive(Clone, Default)]
pub(super) struct Line(Arc<LineState>);

#[derive(Default)]
pub(super) struct LineState {
    pub(super) fired: AtomicBool,
    pub(super) wakers: Mutex<Vec<Waker>>,
}

impl Line {
    pub(super) fn fire(&self) {
        let wakers = {
            let mut wakers = self.0.wakers.lock().unwrap();
            self.0.fired.store(true, Ordering::Release);
            std::mem::take(&mut *wakers)
        };
        wakers.into_iter().for_each(Waker::wake);
    }
}

pub(super) struct ArmedLine(Line, Word32);

impl Interrupt for ArmedLine {
    fn arm(&self, _next: &NextCompletion<'_>) {
        arm_word(&self.1);
    }

    fn poll_fired(&self, cx: &mut Context<'_>, _: &mut Parked) -> Poll<Result<(), WaitError>> {
        let mut wakers = self.0.0.wakers.lock().unwrap();
        if self.0.0.fired.swap(false, Ordering::Acquire) {
            return Poll::Ready(Ok(()));
        }
        wakers.push(cx.waker().clone());
        Poll::Pending
    }
}

pub(super) struct Device {
    pub(super) sq: Cells<Entry>,
    pub(super) cq: Cells<Done>,
    pub(super) tail_bell: Word32,
    pub(super) head_bell: Word32,
    pub(super) armed: Word32,
    pub(super) line: Line,
    pub(super) random: Random,
}

impl Device {
    /// Serves until `stop`, completing whatever it holds in any order.
    pub(super) fn run(mut self, stop: &AtomicBool) {
        let (entries, count) = (self.sq.count(), self.cq.count());
        let (mut head, mut posted, mut held) = (0, 0_usize, Vec::<Entry>::new());
        while !stop.load(Ordering::Relaxed) {
            let tail = self.tail_bell.load(Ordering::Acquire) as usize;
            assert!(tail < entries);
            while head != tail {
                let entry = self.sq.read(head);
                assert_eq!(entry.check, !entry.value, "a whole entry");
                held.push(entry);
                head = (head + 1) % entries;
            }
            let mut some = 0;
            while !held.is_empty() && (held.len() > 12 || self.random.below(3) > 0) {
                let told = self.head_bell.load(Ordering::Acquire) as usize;
                let room = (told + count - posted % count - 1) % count;
                assert!(room > 0, "room for each completion");
                let entry = held.swap_remove(self.random.below(held.len()));
                let done = Done {
                    value: entry.value,
                    head: head as u16,
                    tag: entry.tag as u16,
                    phase: u32::from((posted / count).is_multiple_of(2)),
                };
                self.cq.publish(posted % count, &done, Values::PHASE_WORD);
                posted += 1;
                some += 1;
            }
            if some == 0 {
                std::thread::yield_now();
            } else if must_signal(&self.armed) {
                self.line.fire();
            }
        }
    }
}

pub(super) struct Rig {
    pub(super) queue: SharedQueue<Values, Buffer>,
    pub(super) ledger: Arc<Ledger>,
    pub(super) fate: Arc<Fate>,
}

pub(super) fn rig(entries: u32, slots: u16, spin: u32, seed: u64) -> (Rig, Device) {
    let sq = SharedMem::zeroed(entries as usize * size_of::<Entry>());
    let cq = SharedMem::zeroed(entries as usize * size_of::<Done>());
    let bar = SharedMem::zeroed(256);
    let line = Line::default();
    let device = Device {
        sq: sq.cells(0, entries as usize).unwrap(),
        cq: cq.cells(0, entries as usize).unwrap(),
        tail_bell: bar.word32(0).unwrap(),
        head_bell: bar.word32(64).unwrap(),
        armed: bar.word32(128).unwrap(),
        line: line.clone(),
        random: Random(seed),
    };
    let fate = Arc::new(Fate::new());
    let parts = QueueParts {
        name: QueueName { device: "stress".into(), queue: 1 },
        submission: sq,
        submission_entries: entries,
        entry_stores: EntryStores::default(),
        completion: cq,
        completion_entries: entries,
        slots,
        submission_doorbell: Doorbell::new(bar.word32(0).unwrap(), None),
        completion_doorbell: Doorbell::new(bar.word32(64).unwrap(), None),
        interrupt: Box::new(ArmedLine(line, bar.word32(128).unwrap())),
        fate: fate.clone(),
        spin: SpinBudget::adaptive(spin),
    };
    (Rig { queue: SharedQueue::new(parts).unwrap(), ledger: Arc::default(), fate }, device)
}
