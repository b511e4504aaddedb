//! [`SlotTable`]: command slots that threads share.
//!
//! Each slot has a word: its tag in the upper half and its state in the lower. The state says who
//! has the slot's three cells, and every transition is made by the one who may:
//!
//! | state | buffer | outcome | waker | who may change it, and to what |
//! |---|---|---|---|---|
//! | `FREE` | - | - | - | who took the slot's bit: `AWAITED`, `DIRECT` |
//! | `AWAITED` | device | reaper | future | future: `PARKED`, `ORPHANED`, `LOST`; reaper: `DONE` |
//! | `PARKED` | device | reaper | - | future: `AWAITED`; reaper: `TAKING` |
//! | `TAKING` | device | reaper | reaper | reaper: `DONE`, `AWAITED`; future: `ABANDONED` |
//! | `ABANDONED` | device | reaper | reaper | reaper: `OVER`, `ORPHANED` |
//! | `ORPHANED` | device | reaper | - | reaper: `OVER` |
//! | `DIRECT` | device | reaper | - | reaper: `SETTLED` |
//! | `DONE` | future | future | future | future: `FREE` |
//! | `SETTLED` | who takes it off the line | same | - | same: `FREE` |
//! | `OVER` | who has the [`Orphan`] | - | - | same: `FREE` |
//! | `LOST` | future | - | future | reaper: `OVER`, without an `Orphan`: the queue has ended, it stays so |
//!
//! "Reaper" is the holder of the reaper's baton ([`SlotTable::reaper`]), one thread at a time;
//! "future" is who has the [`Command`], which is not `Clone`. So at most two threads are at a slot's
//! word at once, and each loses a race at most as often as the other moves.
//!
//! A waker is a cell that two threads may want at the same moment: the future to replace it, the
//! reaper to call it. `TAKING` is the reaper's moment; a future that meets it is about to be woken
//! (the idea of `futures::task::AtomicWaker`'s states; here they are one word with the command's).

use alloc::boxed::Box;
use core::fmt;
use core::task::Waker;

use super::super::free::FreeSlots;
use super::super::lanes::Link;
use super::super::sync::{AtomicU32, Ordering};
use super::settled::SettledLine;
use super::{Delegated, Orphan, Racy, Reserved, Turn};
use crate::error::Violation;
use crate::protocol::Tag;

pub(super) const FREE: u32 = 0;
pub(super) const AWAITED: u32 = 1;
pub(super) const PARKED: u32 = 2;
pub(super) const TAKING: u32 = 3;
pub(super) const ABANDONED: u32 = 4;
pub(super) const ORPHANED: u32 = 5;
pub(super) const DIRECT: u32 = 6;
pub(super) const DONE: u32 = 7;
pub(super) const SETTLED: u32 = 8;
pub(super) const OVER: u32 = 9;
pub(super) const LOST: u32 = 10;

pub(super) const STATE: u32 = 0xffff;

#[inline(always)]
pub(super) fn word_of(tag: u16, state: u32) -> u32 {
    u32::from(tag) << 16 | state
}

#[inline(always)]
pub(super) fn tag_of(word: u32) -> u16 {
    (word >> 16) as u16
}

/// A slot, on cache lines of its own.
///
/// # Invariants
/// * The table in the module's documentation says who may touch a cell; a transition that passes a
///   cell on releases, and who gets it has acquired the word.
/// * `buffer` is `Some` from the commit until it is taken; `outcome` in `DONE` and `SETTLED`;
///   `waker` in `PARKED`, and in `AWAITED` while its future is at it.
/// * The upper half of `word` is the slot's number in the low bits and a generation above, which
///   changes each time the slot is freed.
#[repr(align(64))]
pub(super) struct Slot<O, B> {
    pub(super) word: AtomicU32,
    /// See [`Lanes`](super::super::lanes::Lanes).
    link: Link,
    outcome: Racy<Option<O>>,
    pub(super) buffer: Racy<Option<B>>,
    waker: Racy<Option<Waker>>,
}

impl<O: Copy, B> Slot<O, B> {
    /// Moves from one state to another, if that is still the state.
    #[inline]
    pub(super) fn change(&self, word: u32, state: u32) -> Result<(), u32> {
        let next = word & !STATE | state;
        // Release: the cells that the transition passes on. Acquire: those that it takes, and in
        // the case of failure what the other has passed on.
        self.word.compare_exchange(word, next, Ordering::AcqRel, Ordering::Acquire).map(drop)
    }

    /// # Safety
    /// The caller has the buffer's cell.
    #[inline]
    pub(super) unsafe fn take_buffer(&self) -> Option<B> {
        // SAFETY: the caller's promise.
        self.buffer.with_mut(|at| unsafe { (*at).take() })
    }

    /// # Safety
    /// The caller has the outcome's cell.
    #[inline]
    pub(super) unsafe fn set_outcome(&self, outcome: O) {
        // SAFETY: the caller's promise.
        self.outcome.with_mut(|at| unsafe { *at = Some(outcome) });
    }

    /// # Safety
    /// The caller has the outcome's cell.
    #[inline]
    pub(super) unsafe fn take_outcome(&self) -> Option<O> {
        // SAFETY: the caller's promise.
        self.outcome.with_mut(|at| unsafe { (*at).take() })
    }

    /// # Safety
    /// The caller has the waker's cell.
    #[inline]
    pub(super) unsafe fn swap_waker(&self, waker: Option<Waker>) -> Option<Waker> {
        // SAFETY: the caller's promise.
        self.waker.with_mut(|at| unsafe { core::mem::replace(&mut *at, waker) })
    }
}

/// The slots of one queue; `R` is what its reaper needs besides.
pub(in super::super) struct SlotTable<O, B, R> {
    slots: Box<[Slot<O, B>]>,
    mask: u16,
    free: FreeSlots,
    settled: SettledLine,
    reaper: Delegated<R>,
}

// SAFETY:
// * cells pass between threads by their slot's word (invariant of `Slot`), so what is in them must be
//   `Send`: buffers and outcomes; wakers are;
// * no cell is ever seen by two threads at once, so nothing in them need be `Sync`;
// * `R` is behind its baton, which asks for `Send`.
unsafe impl<O: Send, B: Send, R: Send> Sync for SlotTable<O, B, R> {}

/// What a completion means for its slot.
pub(in super::super) enum Settled<'t, O, B, R> {
    /// It is for its future, whose task is not parked; or for nobody any more.
    Kept,
    /// It is for its future, whose task this wakes.
    Wake(Waker),
    /// It is in line for a callback.
    Direct,
    /// Nobody waits: its buffer goes back to its owner, and the waker of a task that has just gone is
    /// to be dropped.
    Orphan(Orphan<'t, O, B, R>, Option<Waker>),
}

impl<O: Copy, B, R> SlotTable<O, B, R> {
    /// `count` must lie in `1..=MAX_SLOTS`; the queue's constructor checks it.
    pub(in super::super) fn new(count: u16, reaper: R) -> Self {
        let slot = |index| Slot {
            word: AtomicU32::new(word_of(index, FREE)),
            link: Link::new(0),
            outcome: Racy::new(None),
            buffer: Racy::new(None),
            waker: Racy::new(None),
        };
        Self {
            slots: (0..count).map(slot).collect(),
            mask: count.next_power_of_two() - 1,
            free: FreeSlots::new(count),
            settled: SettledLine::new(count),
            reaper: Delegated::new(reaper),
        }
    }

    pub(in super::super) fn capacity(&self) -> usize {
        self.slots.len()
    }

    /// Which slots are free.
    #[inline]
    pub(in super::super) fn free(&self) -> &FreeSlots {
        &self.free
    }

    /// The reaper's baton.
    #[inline]
    pub(in super::super) fn reaper(&self) -> &Delegated<R> {
        &self.reaper
    }

    /// The number of the slot that a tag names.
    #[inline]
    pub(super) fn number(&self, tag: u16) -> u16 {
        tag & self.mask
    }

    #[inline]
    pub(super) fn slot(&self, number: u16) -> &Slot<O, B> {
        &self.slots[usize::from(number & self.mask)]
    }

    /// The link of a slot in its lane.
    #[inline]
    pub(in super::super) fn link(&self, number: u16) -> &Link {
        &self.slot(number).link
    }

    /// Takes a free slot.
    #[inline]
    pub(in super::super) fn reserve(&self) -> Option<Reserved<'_, O, B, R>> {
        let slot = self.free.take()? as u16;
        // Relaxed: who freed the slot stored it before its bit, which was acquired.
        let tag = tag_of(self.slot(slot).word.load(Ordering::Relaxed));
        Some(Reserved::new(self, slot, tag))
    }

    /// Frees a slot, under its next tag. The caller has the slot, and its cells are empty.
    #[inline]
    pub(super) fn release(&self, number: u16, slot: &Slot<O, B>) {
        let generation = self.mask + 1;
        // The carry out of the generation falls off the top: a tag has no room for it.
        let mut tag = tag_of(slot.word.load(Ordering::Relaxed)).wrapping_add(generation);
        if tag == u16::MAX {
            // FFFFh means "no command" in NVMe's error log (NVM Express base 2.0, 5.16.1.2).
            tag = tag.wrapping_add(generation);
        }
        // Relaxed: the bit releases it. The reaper may see it at any time and acts on none of it.
        slot.word.store(word_of(tag, FREE), Ordering::Relaxed);
        self.free.give(usize::from(number));
    }

    /// A completion came for `tag`. `turn` is the reaper's.
    #[inline]
    pub(in super::super) fn complete(
        &self,
        turn: &Turn<'_, R>,
        tag: Tag,
        outcome: O,
    ) -> Result<Settled<'_, O, B, R>, Violation> {
        assert!(turn.is_of(&self.reaper), "the baton of this table");
        let number = tag.0 & self.mask;
        let Some(slot) = self.slots.get(usize::from(number)) else {
            return Err(Violation::UnknownTag(tag));
        };
        // Acquire: the cells, from whoever committed or orphaned the command.
        let mut word = slot.word.load(Ordering::Acquire);
        loop {
            if tag_of(word) != tag.0 {
                return Err(Violation::StaleTag(tag));
            }
            let next = match word & STATE {
                AWAITED => DONE,
                PARKED => TAKING,
                // Nobody but the reaper changes these two.
                DIRECT => {
                    // SAFETY: the outcome is the reaper's, which `turn` proves to be us.
                    unsafe { slot.set_outcome(outcome) };
                    slot.word.store(word & !STATE | SETTLED, Ordering::Relaxed);
                    self.settled.put(number);
                    return Ok(Settled::Direct);
                }
                ORPHANED => {
                    slot.word.store(word & !STATE | OVER, Ordering::Relaxed);
                    return Ok(Settled::Orphan(Orphan::new(self, number), None));
                }
                // Its future was told that the outcome is lost, and has the buffer. The queue has
                // ended: the slot is not needed again, but a second completion is recognised.
                LOST => {
                    slot.word.store(word & !STATE | OVER, Ordering::Relaxed);
                    return Ok(Settled::Kept);
                }
                DONE | SETTLED | OVER => return Err(Violation::StaleTag(tag)),
                // `TAKING` and `ABANDONED` end within a turn, and this is another one's.
                _ => return Err(Violation::UnknownTag(tag)),
            };
            // SAFETY: as above; the future looks at it only in `DONE`.
            unsafe { slot.set_outcome(outcome) };
            match slot.change(word, next) {
                Err(now) => word = now,
                Ok(()) if next == DONE => return Ok(Settled::Kept),
                Ok(()) => return Ok(self.wake(turn, number, slot, word)),
            }
        }
    }

    /// The rest of [`complete`](Self::complete) where a task is parked.
    fn wake(
        &self,
        turn: &Turn<'_, R>,
        number: u16,
        slot: &Slot<O, B>,
        word: u32,
    ) -> Settled<'_, O, B, R> {
        // SAFETY: the state is `TAKING` or `ABANDONED`, by this thread, in this turn: the waker is the
        // reaper's.
        let waker = unsafe { slot.swap_waker(None) };
        match self.leave(turn, slot, word, DONE, OVER) {
            DONE => waker.map_or(Settled::Kept, Settled::Wake),
            _ => Settled::Orphan(Orphan::new(self, number), waker),
        }
    }

    /// Leaves `TAKING` for `next`; or, if the future has gone meanwhile, `ABANDONED` for `gone`.
    fn leave(
        &self,
        _turn: &Turn<'_, R>,
        slot: &Slot<O, B>,
        word: u32,
        next: u32,
        gone: u32,
    ) -> u32 {
        match slot.change(word & !STATE | TAKING, next) {
            Ok(()) => next,
            Err(now) => {
                // `ABANDONED` is the only other state, and only the reaper leaves it.
                slot.word.store(now & !STATE | gone, Ordering::Release);
                gone
            }
        }
    }

    /// The waker of slot number `index`, if a task is parked there: its command stays in flight. A
    /// task that parks after this sees everything that the caller did before.
    pub(in super::super) fn take_waker(&self, turn: &Turn<'_, R>, index: usize) -> Option<Waker> {
        assert!(turn.is_of(&self.reaper), "the baton of this table");
        let slot = self.slots.get(index)?;
        // A read-modify-write that changes nothing: either it comes before the task's own, which
        // then sees what the caller did, or it sees the task.
        let word = slot.word.fetch_or(0, Ordering::AcqRel);
        if word & STATE != PARKED || slot.change(word, TAKING).is_err() {
            // A future that changed it meanwhile is awake, and its next change comes after this.
            return None;
        }
        // SAFETY: the state is `TAKING` or `ABANDONED`, by this thread: the waker is the reaper's.
        let waker = unsafe { slot.swap_waker(None) };
        self.leave(turn, slot, word, AWAITED, ORPHANED);
        waker
    }

    /// Whether completions are in line for a callback.
    #[inline]
    pub(in super::super) fn has_settled(&self) -> bool {
        !self.settled.is_empty()
    }

    /// The completion that is first in line; its slot is free again.
    #[inline]
    pub(in super::super) fn take_settled(&self) -> Option<(Tag, O, B)> {
        let number = self.settled.take()?;
        let slot = self.slot(number);
        let tag = tag_of(slot.word.load(Ordering::Relaxed));
        // SAFETY: the slot was taken off the line, by this thread alone; its cells came with it.
        let (outcome, buffer) = unsafe { (slot.take_outcome(), slot.take_buffer()) };
        self.release(number, slot);
        Some((Tag(tag), outcome?, buffer?))
    }

    /// The buffer of slot number `index`, whatever its state; or only if the device may still use it.
    /// For the queue's end: nobody shares the table any more.
    pub(in super::super) fn end_buffer(&mut self, index: usize, device_only: bool) -> Option<B> {
        let slot = self.slots.get(index)?;
        let state = slot.word.load(Ordering::Acquire) & STATE;
        let device = matches!(state, AWAITED | PARKED | TAKING | ABANDONED | ORPHANED | DIRECT);
        if device_only && !device {
            return None;
        }
        // SAFETY: the table is borrowed exclusively, so nobody else has a right to a cell: every
        // right borrows the table.
        unsafe { slot.take_buffer() }
    }
}

impl<O, B, R> fmt::Debug for SlotTable<O, B, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SlotTable").field("slots", &self.slots.len()).finish_non_exhaustive()
    }
}
