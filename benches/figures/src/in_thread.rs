//! A queue of NVMe's shape (64-byte entries, 16-byte completions) and a device in the same thread,
//! for counting what the queue itself costs: no other core, no cache line that moves.
//!
//! The device does what any must: reads its doorbell, copies out of each entry what a read without
//! a PRP list uses (opcode, tag, namespace, PRP1, LBA and the number of blocks: four words of eight),
//! looks at it, and publishes a completion. It fetches no other word and moves no data. Its work is part
//! of every figure of a [`Bench`].

use std::fmt;
use std::future::Future;
use std::mem::offset_of;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, Waker};

use anyhow::Result;
use bytemuck::{Pod, Zeroable};
use doorbell_queues::{
    Cells, Doorbell, EntryStores, Fate, InFlight, Queue, QueueName, QueueParts, QueueProtocol,
    SharedMem, SpinBudget, SpinOnly, Tag, Word, Word32,
};

/// Slots of a queue whose rings have 128 entries: a framework gives twice the slots.
pub const SLOTS: u16 = 64;

/// A read command (NVM command set 1.0, 3.2.4), as far as it matters here.
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub struct Entry {
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
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub struct Completion {
    result: u64,
    head: u16,
    queue: u16,
    tag: u16,
    status: u16,
}

/// The protocol of both.
#[derive(Debug)]
pub enum Nvme {}

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
pub type Buffer = Box<[u64; 8]>;

/// The device's side of one queue.
#[derive(Debug)]
pub struct Device {
    sq: Cells<Entry>,
    cq: Cells<Completion>,
    tail_bell: Word32,
    sq_head: u16,
    cq_tail: u16,
    /// The number of entries less one; that number is a power of two.
    mask: u16,
    phase: bool,
    sum: u64,
}

impl Device {
    /// Completes everything that the doorbell covers, after showing each entry to `seen`.
    #[inline]
    pub fn run(&mut self, mut seen: impl FnMut(&Entry)) {
        let tail = self.tail_bell.load(Ordering::Acquire) as u16;
        // Its places and its sum are registers of the device, not memory.
        let Self { mut sq_head, mut cq_tail, mut phase, mut sum, mask, .. } = *self;
        while sq_head != tail {
            let entry = self.fetch(sq_head);
            sq_head = (sq_head + 1) & mask;
            seen(&entry);
            let bad = entry.opcode != 2 || entry.prp1 == 0;
            sum = sum.wrapping_add(entry.lba).wrapping_add(entry.blocks.into());
            let status = u16::from(bad) << 1 | u16::from(phase);
            let (head, tag) = (sq_head, entry.tag);
            let completion = Completion { result: 0, head, queue: 1, tag, status };
            self.cq.publish(usize::from(cq_tail), &completion, Nvme::PHASE_WORD);
            cq_tail = (cq_tail + 1) & mask;
            phase ^= cq_tail == 0;
        }
        (self.sq_head, self.cq_tail, self.phase, self.sum) = (sq_head, cq_tail, phase, sum);
    }

    /// What a read without a PRP list uses of an entry: four words of eight. The others
    /// are not looked at.
    #[inline]
    fn fetch(&self, index: u16) -> Entry {
        let word = |offset| {
            // Acquire was the doorbell's.
            self.sq.load_u64(usize::from(index), offset, Ordering::Relaxed)
        };
        let command = word(offset_of!(Entry, opcode));
        Entry {
            opcode: command as u8,
            tag: (command >> 16) as u16,
            nsid: (command >> 32) as u32,
            prp1: word(offset_of!(Entry, prp1)),
            lba: word(offset_of!(Entry, lba)),
            blocks: word(offset_of!(Entry, blocks)) as u32,
            ..Entry::zeroed()
        }
    }

    /// True if the doorbell covers an entry that was not completed.
    #[inline]
    #[must_use]
    pub fn has_work(&self) -> bool {
        self.tail_bell.load(Ordering::Acquire) as u16 != self.sq_head
    }
}

/// What a queue of `slots` (a power of two, at most 4,096) is made of, with rings of twice as many
/// entries, and the device behind it. Nothing wakes: a queue of these parts spins.
///
/// # Errors
/// None, for such a number.
pub fn parts(slots: u16) -> Result<(QueueParts, Device)> {
    let entries = 2 * u32::from(slots);
    let sq = SharedMem::zeroed(entries as usize * size_of::<Entry>());
    let cq = SharedMem::zeroed(entries as usize * size_of::<Completion>());
    let bar = SharedMem::zeroed(128);
    let device = Device {
        sq: sq.cells(0, entries as usize)?,
        cq: cq.cells(0, entries as usize)?,
        tail_bell: bar.word32(0)?,
        sq_head: 0,
        cq_tail: 0,
        mask: (entries - 1) as u16,
        phase: true,
        sum: 0,
    };
    let parts = QueueParts {
        name: QueueName { device: "bench".into(), queue: 1 },
        submission: sq,
        submission_entries: entries,
        entry_stores: EntryStores::Plain,
        completion: cq,
        completion_entries: entries,
        slots,
        submission_doorbell: Doorbell::new(bar.word32(0)?, None),
        completion_doorbell: Doorbell::new(bar.word32(64)?, None),
        interrupt: Box::new(SpinOnly),
        fate: Arc::new(Fate::new()),
        spin: SpinBudget::default(),
    };
    Ok((parts, device))
}

/// The queue, to be borrowed by the futures of a [`Bench`], and the other side.
///
/// # Errors
/// As [`parts`].
pub fn queue(slots: u16) -> Result<(Queue<Nvme, Buffer>, Side)> {
    queue_storing(slots, EntryStores::Plain)
}

/// As [`queue`], with entries stored in a way of the caller's.
///
/// # Errors
/// As [`parts`].
pub fn queue_storing(slots: u16, stores: EntryStores) -> Result<(Queue<Nvme, Buffer>, Side)> {
    let (mut parts, device) = parts(slots)?;
    parts.entry_stores = stores;
    Ok((Queue::new(parts)?, Side { device, lba: 0 }))
}

/// The other side of the queue, and the caller's state.
#[derive(Debug)]
pub struct Side {
    device: Device,
    lba: u64,
}

impl Side {
    /// Rings the doorbell for entries that lie in the ring from before, as no queue would, and lets
    /// the device work: its own share of the figures.
    #[inline(never)]
    fn device_alone(&mut self, depth: usize) {
        let tail = (u32::from(self.device.sq_head) + depth as u32) & u32::from(self.device.mask);
        self.device.tail_bell.store(tail, Ordering::Release);
        self.device.run(|_| ());
    }

    /// What the device saw, so that nothing is optimised away.
    #[must_use]
    pub fn sum(&self) -> u64 {
        self.device.sum
    }
}

/// Who does what in a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The device alone.
    Device,
    /// Completions by callback.
    Direct,
    /// Each command a future that is polled in place.
    Futures,
}

/// One caller with `depth` commands in flight at a time.
pub struct Bench<'q> {
    queue: &'q Queue<Nvme, Buffer>,
    buffers: Vec<Buffer>,
    depth: usize,
    futures: Vec<InFlight<'q, Nvme, Buffer>>,
    failed: u64,
}

impl fmt::Debug for Bench<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bench").field("depth", &self.depth()).finish_non_exhaustive()
    }
}

impl<'q> Bench<'q> {
    /// `depth` commands at a time, which the queue has slots for.
    #[must_use]
    pub fn new(queue: &'q Queue<Nvme, Buffer>, depth: usize) -> Self {
        let buffers = (0..depth).map(|_| Box::default()).collect();
        Self { queue, buffers, depth, futures: Vec::with_capacity(depth), failed: 0 }
    }

    /// One batch of a kind.
    #[inline]
    pub fn batch(&mut self, side: &mut Side, kind: Kind) {
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
    #[must_use]
    pub fn failed(&self) -> u64 {
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
        side.device.run(|_| ());
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
        side.device.run(|_| ());
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

/// A read that says which of many callers it is from, for [`Device::run`] to tell them apart.
#[inline]
#[must_use]
pub fn read_from(caller: u32, lba: u64) -> Entry {
    Entry { opcode: 2, nsid: caller, prp1: 4096, lba, blocks: 7, ..Entry::zeroed() }
}

impl Entry {
    /// Who it is from; see [`read_from`].
    #[inline]
    #[must_use]
    pub fn caller(&self) -> u32 {
        self.nsid
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
