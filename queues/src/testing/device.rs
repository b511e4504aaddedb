//! A device in memory that completes in whatever order it is told, and misbehaves on request.

use core::sync::atomic::Ordering;

use super::protocol::{Completion, Entry, TestProtocol};
use crate::mem::{Cells, SharedMem, Word, Word32};
use crate::protocol::{QueueProtocol, Tag};

pub(crate) struct Device {
    sq: Cells<Entry>,
    cq: Cells<Completion>,
    tail_bell: Word32,
    head_bell: Word32,
    sq_head: usize,
    cq_tail: usize,
    phase: bool,
    /// Commands fetched and not completed, oldest first.
    pub(crate) held: Vec<Entry>,
}

impl Device {
    pub(super) fn new(
        sq: &SharedMem,
        submission: usize,
        cq: &SharedMem,
        completion: usize,
        bar: &SharedMem,
    ) -> Self {
        // A queue over impossible numbers is for the queue to refuse, not for the test's device.
        Self {
            sq: sq.cells(0, submission.max(1)).or_else(|_| sq.cells(0, 1)).unwrap(),
            cq: cq.cells(0, completion.max(1)).or_else(|_| cq.cells(0, 1)).unwrap(),
            tail_bell: bar.word32(0).unwrap(),
            head_bell: bar.word32(4).unwrap(),
            sq_head: 0,
            cq_tail: 0,
            phase: true,
            held: Vec::new(),
        }
    }

    /// Takes another word for its tail doorbell.
    pub(crate) fn listen_at(&mut self, tail_bell: Word32) {
        self.tail_bell = tail_bell;
    }

    /// Takes another word for its head doorbell.
    pub(crate) fn acknowledged_at(&mut self, head_bell: Word32) {
        self.head_bell = head_bell;
    }

    /// Fetches every entry that the doorbell covers; returns how many.
    pub(crate) fn fetch(&mut self) -> usize {
        let tail = self.tail_bell.load(Ordering::Acquire) as usize;
        assert!(tail < self.sq.count(), "the host rang a tail that is an index of the ring");
        let before = self.held.len();
        while self.sq_head != tail {
            self.held.push(self.sq.read(self.sq_head));
            self.sq_head = (self.sq_head + 1) % self.sq.count();
        }
        self.held.len() - before
    }

    /// The head of the completion ring that the host told.
    pub(crate) fn told_head(&self) -> usize {
        self.head_bell.load(Ordering::Relaxed) as usize
    }

    /// How many completions can be posted before the ring is full, as the device sees it.
    pub(crate) fn room(&self) -> usize {
        let count = self.cq.count();
        (self.told_head() + count - self.cq_tail - 1) % count
    }

    /// Completes the `index`th of the commands held with the result that its entry holds.
    pub(crate) fn complete(&mut self, index: usize) -> Entry {
        let entry = self.held.remove(index);
        self.post(Tag(entry.tag), self.sq_head as u16, entry.words[0]);
        entry
    }

    /// Fetches and completes everything, in order.
    pub(crate) fn run(&mut self) -> usize {
        self.fetch();
        let count = self.held.len();
        for _ in 0..count {
            self.complete(0);
        }
        count
    }

    /// Posts a completion, of whatever.
    pub(crate) fn post(&mut self, tag: Tag, head: u16, result: u64) {
        assert!(self.room() > 0, "the host left room for every completion");
        self.write_at(self.cq_tail, self.phase, tag, head, result);
        self.cq_tail = (self.cq_tail + 1) % self.cq.count();
        self.phase ^= self.cq_tail == 0;
    }

    /// Posts a completion with the wrong phase, and goes on after it.
    pub(crate) fn post_wrong_phase(&mut self, tag: Tag) {
        self.phase = !self.phase;
        self.post(tag, self.sq_head as u16, 0);
        self.phase ^= true;
    }

    /// Posts a completion one entry too far, and nothing where it should be.
    pub(crate) fn post_out_of_order(&mut self, tag: Tag) {
        let next = (self.cq_tail + 1) % self.cq.count();
        self.write_at(next, self.phase ^ (next == 0), tag, self.sq_head as u16, 0);
    }

    /// The submission queue head that it reports.
    pub(crate) fn head(&self) -> u16 {
        self.sq_head as u16
    }

    /// Writes any bytes to any completion entry.
    pub(crate) fn scribble(&mut self, index: usize, completion: Completion) {
        let index = index % self.cq.count();
        self.cq.publish(index, &completion, TestProtocol::PHASE_WORD);
    }

    fn write_at(&self, index: usize, phase: bool, tag: Tag, head: u16, result: u64) {
        let status = u16::from(phase);
        let completion = Completion { result, head, queue: 3, tag: tag.0, status };
        self.cq.publish(index, &completion, TestProtocol::PHASE_WORD);
    }
}
