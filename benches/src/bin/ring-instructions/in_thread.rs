//! A queue of NVMe's shape (64-byte entries, 16-byte completions) and a device in the same thread,
//! for counting what the queue itself costs: no other core, no cache line that moves.
//!
//! The device does what any must: reads its doorbell, copies each entry out of the ring, looks at
//! its opcode and address, and publishes a completion. Its work is part of every figure.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, Waker};

use bytemuck::{Pod, Zeroable};
use doorbell_queues::{
    Cells, Doorbell, EntryStores, Fate, InFlight, Queue, QueueName, QueueParts, QueueProtocol,
    SharedMem, SpinBudget, SpinOnly, Tag, Word, Word32,
};

/// Entries of both rings, twice the slots, as a framework would choose.
const ENTRIES: u32 = 128;
const SLOTS: u16 = 64;

/// A read command (NVM command set 1.0, 3.2.4), as far as it matters here.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub(crate) struct Entry {
    opcode: u8,
    flags: u8,
    tag: u16,
    nsid: u32,
    reserved: u64,
    metadata: u64,
    prp1: u64,
    prp2: u64,
    lba: u64,
    blocks: u32,
    words: [u32; 3],
}

/// A completion (NVM Express base 2.0, 3.3.3.2).
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub(crate) struct Completion {
    result: u64,
    head: u16,
    queue: u16,
    tag: u16,
    status: u16,
}

pub(crate) enum Nvme {}

impl QueueProtocol for Nvme {
    type Entry = Entry;
    type Completion = Completion;
    type Outcome = u16;

    const PHASE_WORD: usize = 12;

    fn phase(word: u32) -> bool {
        word & 1 << 16 != 0
    }
    fn stamp(entry: &mut Entry, tag: Tag) {
        entry.tag = tag.0;
    }
    fn tag(completion: &Completion) -> Tag {
        Tag(completion.tag)
    }
    fn submission_head(completion: &Completion) -> Option<u16> {
        Some(completion.head)
    }
    fn outcome(completion: &Completion) -> u16 {
        completion.status >> 1
    }
}

/// What a command owns: like a DMA buffer, a pointer with a drop.
pub(crate) type Buffer = Box<[u64; 8]>;

struct Device {
    sq: Cells<Entry>,
    cq: Cells<Completion>,
    tail_bell: Word32,
    sq_head: u16,
    cq_tail: u16,
    phase: bool,
    sum: u64,
}

impl Device {
    /// Completes everything that the doorbell covers.
    fn run(&mut self) {
        let tail = self.tail_bell.load(Ordering::Acquire) as u16;
        while self.sq_head != tail {
            let entry = self.sq.read(usize::from(self.sq_head));
            self.sq_head = (self.sq_head + 1) % ENTRIES as u16;
            let bad = entry.opcode != 2 || entry.prp1 == 0;
            self.sum = self.sum.wrapping_add(entry.lba);
            let status = u16::from(bad) << 1 | u16::from(self.phase);
            let (head, tag) = (self.sq_head, entry.tag);
            let completion = Completion { result: 0, head, queue: 1, tag, status };
            self.cq.publish(usize::from(self.cq_tail), &completion, Nvme::PHASE_WORD);
            self.cq_tail = (self.cq_tail + 1) % ENTRIES as u16;
            self.phase ^= self.cq_tail == 0;
        }
    }
}

/// The queue, to be borrowed by the futures of a [`Bench`].
pub(crate) fn queue(
    entry_stores: EntryStores,
) -> Result<(Queue<Nvme, Buffer>, Side), Box<dyn std::error::Error>> {
    let sq = SharedMem::zeroed(ENTRIES as usize * size_of::<Entry>());
    let cq = SharedMem::zeroed(ENTRIES as usize * size_of::<Completion>());
    let bar = SharedMem::zeroed(128);
    let device = Device {
        sq: sq.cells(0, ENTRIES as usize)?,
        cq: cq.cells(0, ENTRIES as usize)?,
        tail_bell: bar.word32(0)?,
        sq_head: 0,
        cq_tail: 0,
        phase: true,
        sum: 0,
    };
    let parts = QueueParts {
        name: QueueName { device: "bench".into(), queue: 1 },
        submission: sq,
        submission_entries: ENTRIES,
        entry_stores,
        completion: cq,
        completion_entries: ENTRIES,
        slots: SLOTS,
        submission_doorbell: Doorbell::new(bar.word32(0)?, None),
        completion_doorbell: Doorbell::new(bar.word32(4)?, None),
        interrupt: Box::new(SpinOnly),
        fate: Arc::new(Fate::new()),
        spin: SpinBudget::default(),
    };
    Ok((Queue::new(parts)?, Side { device, lba: 0 }))
}

/// The other side of the queue, and the caller's state.
pub(crate) struct Side {
    device: Device,
    lba: u64,
}

impl Side {
    /// Rings the doorbell for entries that lie in the ring from before, as no queue would, and lets
    /// the device work: its own share of the figures.
    #[inline(never)]
    pub(crate) fn device_alone(&mut self, depth: usize) {
        let tail = (u32::from(self.device.sq_head) + depth as u32) % ENTRIES;
        self.device.tail_bell.store(tail, Ordering::Release);
        self.device.run();
    }

    /// What the device saw, so that nothing is optimised away.
    pub(crate) fn sum(&self) -> u64 {
        self.device.sum
    }
}

/// Who does what in a batch.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// The device alone.
    Device,
    /// Completions by callback.
    Direct,
    /// Each command a future that is polled in place.
    Futures,
}

/// One caller with `depth` commands in flight at a time.
pub(crate) struct Bench<'q> {
    queue: &'q Queue<Nvme, Buffer>,
    buffers: Vec<Buffer>,
    depth: usize,
    futures: Vec<InFlight<'q, Nvme, Buffer>>,
    failed: u64,
}

impl<'q> Bench<'q> {
    pub(crate) fn new(queue: &'q Queue<Nvme, Buffer>, depth: usize) -> Self {
        let buffers = (0..depth).map(|_| Box::default()).collect();
        Self { queue, buffers, depth, futures: Vec::with_capacity(depth), failed: 0 }
    }

    /// One batch of a kind.
    #[inline]
    pub(crate) fn batch(&mut self, side: &mut Side, kind: Kind) {
        match kind {
            Kind::Device => side.device_alone(self.depth()),
            Kind::Direct => self.direct(side),
            Kind::Futures => self.futures(side),
        }
    }

    fn depth(&self) -> usize {
        self.depth
    }

    /// Commands that did not complete as they should; 0.
    pub(crate) fn failed(&self) -> u64 {
        self.failed
    }

    #[inline(never)]
    fn direct(&mut self, side: &mut Side) {
        while let Some(buffer) = self.buffers.pop() {
            side.lba += 8;
            let posted = self.queue.post(buffer, read(side.lba));
            self.failed += u64::from(posted.is_err());
        }
        self.queue.flush();
        side.device.run();
        let (buffers, failed) = (&mut self.buffers, &mut self.failed);
        let reaped = self.queue.reap(usize::MAX, |done| {
            *failed += u64::from(done.outcome);
            buffers.push(done.buffer);
        });
        self.failed += u64::from(reaped != Ok(self.depth()));
    }

    #[inline(never)]
    fn futures(&mut self, side: &mut Side) {
        while let Some(buffer) = self.buffers.pop() {
            side.lba += 8;
            match self.queue.submit(buffer, read(side.lba)) {
                Ok(future) => self.futures.push(future),
                Err(_) => self.failed += 1,
            }
        }
        self.queue.flush();
        side.device.run();
        let mut cx = Context::from_waker(Waker::noop());
        for mut future in self.futures.drain(..) {
            match Pin::new(&mut future).poll(&mut cx) {
                Poll::Ready(Ok((outcome, buffer))) => {
                    self.failed += u64::from(outcome);
                    self.buffers.push(buffer);
                }
                Poll::Ready(Err(_)) | Poll::Pending => self.failed += 1,
            }
        }
    }
}

#[inline]
fn read(lba: u64) -> impl FnOnce(u16, &mut Buffer) -> Entry {
    move |_, buffer| Entry {
        opcode: 2,
        nsid: 1,
        prp1: std::ptr::from_ref::<[u64; 8]>(buffer) as u64,
        lba,
        blocks: 7,
        ..Entry::zeroed()
    }
}
