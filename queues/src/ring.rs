//! The two rings of a queue, seen from the host.
//!
//! The classic producer and consumer indices of a PCIe queue (NVM Express base 2.0, 3.3.1): the
//! host owns the submission tail and the completion head and tells the device through doorbells;
//! the device tells new completions by the phase bit, which flips on each pass over the ring.
//!
//! Two threads (or a thread and a device) touch a ring, each index has one writer, and there are
//! two points of publication; loom runs this very code with cells of its own:
//!
//! * host to device: entries are relaxed stores, the doorbell that covers them is a `Release` store
//!   ([`crate::doorbell::publish`]); the device loads it with `Acquire`, then reads entries;
//! * device to host: the word with the phase is stored last with `Release`
//!   ([`Cells::publish`]); the host loads it with `Acquire`, then reads the rest.
//!
//! Neither ring can overflow, whatever order the device completes in:
//! * submission: a queue has fewer slots than the ring has entries, and every entry that the device
//!   has not fetched belongs to a slot in flight;
//! * completion: commands in flight plus entries taken and not yet told to the device stay below
//!   the number of entries, which [`Queue::flush`](crate::Queue::flush) sees to.

use core::cell::Cell;
use core::marker::PhantomData;
use core::sync::atomic::Ordering;

use bytemuck::Pod;

use crate::error::Violation;
use crate::mem::{CellArray, CellCursor, CellHere, CellWords, Cells, EntryStores, store_fence};
use crate::protocol::QueueProtocol;

/// Steps from `from` up to `to`, around a ring of `count` entries.
#[inline]
fn distance(from: u16, to: u16, count: usize) -> usize {
    let (from, to) = (usize::from(from), usize::from(to));
    if to >= from { to - from } else { to + count - from }
}

/// Submission ring: entries are stored at the tail; [`take_tail`](Self::take_tail) is what the
/// device is then told.
///
/// # Invariants
/// * `rung` and `head` are at most `last`, the number of cells less one, and `rung_place` is the place
///   of `tail` when it was at `rung`.
/// * `rung..tail` are the entries stored and not yet told to the device.
/// * `head` is the last one the device reported, and lies in the cyclic range that ends at `rung`.
#[derive(Debug)]
pub(crate) struct SubmissionRing<E, C: CellArray = Cells<E>> {
    tail: C::Cursor,
    rung_place: Cell<usize>,
    non_temporal: bool,
    last: u16,
    rung: Cell<u16>,
    head: Cell<u16>,
    _entry: PhantomData<fn(E)>,
}

impl<E: Pod, C: CellArray> SubmissionRing<E, C> {
    /// A ring over 2 to 65,536 zeroed cells, with the device's tail and head at 0.
    pub(crate) fn new(cells: C, stores: EntryStores) -> Self {
        let last = (cells.count() - 1) as u16;
        let non_temporal = stores == EntryStores::NonTemporal;
        let [rung, head] = [const { Cell::new(0) }; 2];
        let tail = cells.into_cursor();
        let rung_place = Cell::new(tail.place());
        Self { tail, rung_place, non_temporal, last, rung, head, _entry: PhantomData }
    }

    /// Stores an entry at the tail. The caller holds a slot, so there is room.
    #[inline]
    pub(crate) fn push(&self, entry: &E) {
        let here = self.tail.here();
        if self.non_temporal {
            here.stream(entry);
        } else {
            here.write(entry);
        }
        here.advance();
    }

    /// Before the doorbell: what [`push`](Self::push) stored past the caches is visible before it.
    #[inline]
    pub(crate) fn settle_stores(&self) {
        if self.non_temporal {
            store_fence();
        }
    }

    /// True if entries were stored that the device has not been told of.
    #[inline]
    pub(crate) fn has_unrung(&self) -> bool {
        self.tail.place() != self.rung_place.get()
    }

    /// The tail that the device must be told now.
    #[inline]
    pub(crate) fn take_tail(&self) -> u32 {
        let tail = self.tail.index();
        self.rung.set(tail);
        self.rung_place.set(self.tail.place());
        u32::from(tail)
    }

    /// Checks a head that the device reports and remembers it; false if it is impossible. It may only
    /// go forward, and not past what the device was told of.
    #[inline]
    pub(crate) fn report_head(&self, reported: u16) -> bool {
        let (from, to) = (self.head.get(), self.rung.get());
        // `from..=to` around the ring; `to` is an index of it.
        let possible = if from <= to {
            from <= reported && reported <= to
        } else {
            (from <= reported && reported <= self.last) || reported <= to
        };
        if possible {
            self.head.set(reported);
        }
        possible
    }

    /// What [`report_head`](Self::report_head) found.
    #[cold]
    pub(crate) fn impossible_head(&self, reported: u16) -> Violation {
        Violation::ImpossibleHead { reported, last: self.head.get(), tail: self.rung.get() }
    }
}

/// Completion ring: [`pop`](Self::pop) takes the entry at the head if its phase is the awaited one.
///
/// # Invariants
/// * `rung` is at most `last`, the number of cells less one.
/// * `rung..head` are the entries taken that the device has not been told of.
/// * `awaited` is the phase of the next entry: 1 on the first pass over the ring, flipped on each wrap
///   of `head`; once stopped it is [`STOPPED`], which no entry has, and stays.
#[derive(Debug)]
pub(crate) struct CompletionRing<
    P: QueueProtocol,
    C: CellArray = Cells<<P as QueueProtocol>::Completion>,
> {
    head: C::Cursor,
    awaited: Cell<u8>,
    /// Looks that found nothing, modulo 256.
    idle: Cell<u8>,
    last: u16,
    rung: Cell<u16>,
    _protocol: PhantomData<fn(P)>,
}

/// The phase of no entry.
const STOPPED: u8 = 2;

impl<P: QueueProtocol, C: CellArray> CompletionRing<P, C> {
    /// A ring over 2 to 65,536 zeroed cells.
    pub(crate) fn new(cells: C) -> Self {
        let last = (cells.count() - 1) as u16;
        let (head, rung) = (cells.into_cursor(), Cell::new(0));
        Self { head, awaited: Cell::new(1), idle: Cell::new(0), last, rung, _protocol: PhantomData }
    }

    #[inline]
    fn fresh(cell: impl CellWords, awaited: u8) -> bool {
        // Acquire: pairs with the release that published the word; the rest of the entry was
        // written before it.
        let word = u32::from_le(cell.load_u32(P::PHASE_WORD, Ordering::Acquire));
        u8::from(P::phase(word)) == awaited
    }

    /// True if the entry at the head has the awaited phase. [`pop`](Self::pop) takes it.
    #[inline]
    pub(crate) fn has_fresh(&self) -> bool {
        Self::fresh(self.head.here(), self.awaited.get())
    }

    /// The index of the entry that comes next, and its phase.
    pub(crate) fn next(&self) -> (u16, bool) {
        (self.head.index(), self.awaited.get() == 1)
    }

    /// Takes nothing any more: the device has broken the protocol.
    pub(crate) fn stop(&self) {
        self.awaited.set(STOPPED);
    }

    /// Takes the next completion: a copy, so what is checked on it stays true. After `None` comes
    /// [`missed`](Self::missed).
    #[inline]
    pub(crate) fn pop(&self) -> Option<P::Completion> {
        let awaited = self.awaited.get();
        let cell = self.head.here();
        if !Self::fresh(cell, awaited) {
            return None;
        }
        let completion = cell.read();
        if cell.advance() {
            self.awaited.set(awaited ^ 1);
        }
        Some(completion)
    }

    /// Nothing was there. Who parks looks at the order each time. Who only looks would do so forever
    /// beside a completion with the wrong phase, so it is looked for now and then.
    #[inline]
    pub(crate) fn missed(&self) -> Result<(), Violation> {
        self.idle.set(self.idle.get().wrapping_add(1));
        if self.idle.get() == 0 { self.check_order() } else { Ok(()) }
    }

    /// Looks one entry past the head: if that one is fresh and the head is not, the device wrote
    /// out of order or with the wrong phase. Off the hot path: a second line to load.
    #[cold]
    pub(crate) fn check_order(&self) -> Result<(), Violation> {
        let (head, awaited) = (self.head.index(), self.awaited.get());
        if awaited == STOPPED {
            return Ok(());
        }
        let (next, next_awaited) =
            if head == self.last { (0, awaited ^ 1) } else { (head + 1, awaited) };
        let cell = |index| self.head.array().words(usize::from(index));
        // The order of the two looks matters: a device that writes in order has written the head
        // before the entry after it, so a look at the head that follows must find it.
        if Self::fresh(cell(next), next_awaited) && !Self::fresh(cell(head), awaited) {
            return Err(Violation::PhaseOutOfOrder { head });
        }
        Ok(())
    }

    /// How many entries were taken since the device was last told.
    #[inline]
    pub(crate) fn unrung(&self) -> usize {
        distance(self.rung.get(), self.head.index(), self.count())
    }

    /// Number of entries.
    #[inline]
    pub(crate) fn count(&self) -> usize {
        usize::from(self.last) + 1
    }

    /// The head that the device must be told now.
    #[inline]
    pub(crate) fn take_head(&self) -> u32 {
        let head = self.head.index();
        self.rung.set(head);
        u32::from(head)
    }
}

#[cfg(test)]
#[cfg(not(loom))]
mod tests;
