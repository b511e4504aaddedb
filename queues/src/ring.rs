//! The two rings of a queue, seen from the host.
//!
//! The classic producer and consumer indices of a PCIe queue (NVMe base 2.0, 3.3.1): the host owns
//! the submission tail and the completion head and tells the device through doorbells; the device
//! tells new completions by the phase bit, which flips on each pass over the ring.
//!
//! Neither ring can overflow: a queue has fewer slots than either ring has entries, every entry
//! that the device has not fetched belongs to a slot in flight, and the completion head is always
//! told before the submission tail that re-uses its slots.

use core::sync::atomic::Ordering;

use bytemuck::Pod;

use crate::doorbell::Doorbell;
use crate::error::Violation;
use crate::mem::Cells;
use crate::protocol::QueueProtocol;

/// Submission ring: entries are stored at the tail; [`ring`](Self::ring) tells the device.
///
/// # Invariants
/// * `tail`, `rung` and `head` are below the number of cells.
/// * `head` is the last one the device reported, and lies in the cyclic range before `rung`.
#[derive(Debug)]
pub struct SubmissionRing<E> {
    cells: Cells<E>,
    tail: u16,
    rung: u16,
    head: u16,
    doorbell: Doorbell,
}

impl<E: Pod> SubmissionRing<E> {
    /// A ring over zeroed cells with the device's tail and head at 0.
    pub(crate) fn new(cells: Cells<E>, doorbell: Doorbell) -> Self {
        Self { cells, tail: 0, rung: 0, head: 0, doorbell }
    }

    #[inline]
    fn after(&self, index: u16) -> u16 {
        // The ring has at most 65,536 cells; compared as usize so that the last index wraps.
        let next = usize::from(index) + 1;
        if next == self.cells.count() { 0 } else { next as u16 }
    }

    /// Stores an entry at the tail. The caller holds a slot, so there is room.
    #[inline]
    pub(crate) fn push(&mut self, entry: &E) {
        self.cells.write(usize::from(self.tail), entry);
        self.tail = self.after(self.tail);
    }

    /// True if entries were stored that the device has not been told of.
    #[inline]
    pub(crate) fn has_unrung(&self) -> bool {
        self.tail != self.rung
    }

    /// Tells the device the tail.
    #[inline]
    pub(crate) fn ring(&mut self) {
        self.rung = self.tail;
        self.doorbell.ring(u32::from(self.tail));
    }

    /// Checks a head that the device reports and remembers it.
    #[inline]
    pub(crate) fn report_head(&mut self, reported: u16) -> Result<(), Violation> {
        let count = self.cells.count();
        let distance = |to: u16| {
            let (from, to) = (usize::from(self.head), usize::from(to));
            if to >= from { to - from } else { to + count - from }
        };
        if usize::from(reported) >= count || distance(reported) > distance(self.rung) {
            return Err(Violation::ImpossibleHead { reported, last: self.head, tail: self.rung });
        }
        self.head = reported;
        Ok(())
    }
}

/// Completion ring: [`pop`](Self::pop) takes the entry at the head if its phase is the awaited one.
///
/// # Invariants
/// * `head` and `rung` are below the number of cells.
/// * `phase` is true on the first pass over the ring and flips on each wrap of `head`.
#[derive(Debug)]
pub struct CompletionRing<P: QueueProtocol> {
    cells: Cells<P::Completion>,
    head: u16,
    phase: bool,
    rung: u16,
    doorbell: Doorbell,
}

impl<P: QueueProtocol> CompletionRing<P> {
    /// A ring over zeroed cells.
    pub(crate) fn new(cells: Cells<P::Completion>, doorbell: Doorbell) -> Self {
        Self { cells, head: 0, phase: true, rung: 0, doorbell }
    }

    #[inline]
    fn fresh(&self, index: u16, phase: bool) -> bool {
        // Acquire: the rest of the entry was written before its phase word.
        P::phase(self.cells.load_u32(usize::from(index), P::PHASE_WORD, Ordering::Acquire)) == phase
    }

    #[inline]
    fn after(&self, index: u16, phase: bool) -> (u16, bool) {
        let next = usize::from(index) + 1;
        if next == self.cells.count() { (0, !phase) } else { (next as u16, phase) }
    }

    /// Takes the next completion.
    #[inline]
    pub(crate) fn pop(&mut self) -> Option<P::Completion> {
        if !self.fresh(self.head, self.phase) {
            return None;
        }
        let completion = self.cells.read(usize::from(self.head));
        (self.head, self.phase) = self.after(self.head, self.phase);
        Some(completion)
    }

    /// Looks one entry past the head: if that one is fresh and the head is not, the device wrote
    /// out of order or with the wrong phase. For the slow path of a future that parks.
    pub(crate) fn check_order(&self) -> Result<(), Violation> {
        let (next, phase) = self.after(self.head, self.phase);
        // The order of the two looks matters: a device that writes in order has written the head
        // before the entry after it, so a look at the head that follows must find it.
        if self.fresh(next, phase) && !self.fresh(self.head, self.phase) {
            return Err(Violation::PhaseOutOfOrder { head: self.head });
        }
        Ok(())
    }

    /// How many entries were taken since the device was last told.
    #[inline]
    pub(crate) fn unrung(&self) -> usize {
        let (from, to) = (usize::from(self.rung), usize::from(self.head));
        if to >= from { to - from } else { to + self.cells.count() - from }
    }

    /// Number of entries.
    #[inline]
    pub(crate) fn count(&self) -> usize {
        self.cells.count()
    }

    /// Tells the device the head.
    #[inline]
    pub(crate) fn ring(&mut self) {
        self.rung = self.head;
        self.doorbell.ring(u32::from(self.head));
    }
}
