//! Command slots. A tag is the slot's number in the low bits and a generation in the high bits, so
//! completion is O(1) and a completion that comes twice, late, or from nowhere is recognised.
//!
//! The idea of command id = slot index is SPDK's and libvfn's; the sequence number in the rest of
//! the id is openvmm's. A completion that is late by exactly as many uses of its slot as the
//! generation has values (16 with 4,096 slots, 1,024 with 64) is taken for the current one.

use alloc::boxed::Box;
use core::cell::Cell;
use core::task::Waker;

use crate::error::Violation;
use crate::protocol::Tag;

/// Most slots a queue can have: leaves four bits of the tag for the generation.
pub const MAX_SLOTS: u16 = 4096;

/// End of the free list: no slot has this number.
const NONE: u16 = u16::MAX;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// On the free list.
    Free,
    /// Taken; its entry is being built.
    Reserved,
    /// The device has it; a future waits.
    Awaited,
    /// The device has it; `reap` hands it to a callback.
    Direct,
    /// The device has it; its future was dropped.
    Orphaned,
    /// Completed; the future has not looked yet.
    Done,
    /// Completed while a future looked at the ring; the next `reap` hands it to its callback.
    Deferred,
    /// Its queue ended and its buffer was given back; the completion may still lie in the ring.
    Lost,
}

/// Every field is a [`Cell`]: whatever runs code of others (a buffer's drop, a waker) finds nothing
/// borrowed.
struct Slot<O, B> {
    state: Cell<State>,
    /// The current tag of the slot, or the next one while it is free.
    tag: Cell<u16>,
    /// The next slot of the list that this one is on: free, or deferred.
    next: Cell<u16>,
    outcome: Cell<Option<O>>,
    buffer: Cell<Option<B>>,
    waker: Cell<Option<Waker>>,
    /// [`Parked::since`](crate::Parked) of the task behind the waker.
    since: Cell<Option<u64>>,
}

/// What a completion means for its slot.
#[derive(Debug)]
pub(crate) enum Settled<B> {
    /// Kept for its future, or for the next `reap`; the waker if a task had parked.
    Kept(Option<Waker>),
    /// For the callback of `reap`; the slot is free again.
    Direct(B),
    /// Nobody waits; the slot is free again and the buffer goes back to its owner.
    Orphan(B),
}

/// What a waker is to do at a slot: see [`SlotTable::waker_wanted`].
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum WakerWanted {
    /// The command has completed: do not wait.
    Done,
    /// This task's waker is there already.
    Kept,
    /// A clone of the waker must be put there.
    New,
}

/// The slots of one queue, with a LIFO free list: the slot freed last is the one in the cache.
///
/// Nothing here drops a buffer or a waker: those run code of others, which may come back to the
/// table, so they are handed out once the table is consistent.
///
/// # Invariants
/// * `free` leads through each slot in state `Free` exactly once, and no other, and ends in `NONE`;
///   `in_use` counts the others.
/// * `deferred` leads likewise through those in state `Deferred`, in order of completion, and
///   `deferred_last` is the last of them.
/// * `buffer` is `Some` exactly in `Awaited`, `Direct`, `Orphaned`, `Done` and `Deferred`,
///   `outcome` exactly in `Done` and `Deferred`; `waker` is `None` but in `Awaited`, and `since`
///   but with it.
/// * A slot's tag is its number in the bits of `mask`; the rest, the generation, changes each time
///   the slot is freed. `mask` is a power of two less one.
pub(crate) struct SlotTable<O, B> {
    slots: Box<[Slot<O, B>]>,
    mask: u16,
    free: Cell<u16>,
    in_use: Cell<u16>,
    deferred: Cell<u16>,
    deferred_last: Cell<u16>,
    /// Whether tasks wait for a slot: what the queue's line says, next to what is looked at anyway.
    pub(crate) awaited: Cell<bool>,
}

impl<O: Copy, B> SlotTable<O, B> {
    /// `count` must lie in `1..=MAX_SLOTS`; the queue's constructor checks it.
    pub(crate) fn new(count: u16) -> Self {
        let slot = |index| Slot {
            state: Cell::new(State::Free),
            tag: Cell::new(index),
            next: Cell::new(if index + 1 == count { NONE } else { index + 1 }),
            outcome: Cell::new(None),
            buffer: Cell::new(None),
            waker: Cell::new(None),
            since: Cell::new(None),
        };
        Self {
            slots: (0..count).map(slot).collect(),
            mask: count.next_power_of_two() - 1,
            free: Cell::new(0),
            in_use: Cell::new(0),
            deferred: Cell::new(NONE),
            deferred_last: Cell::new(NONE),
            awaited: Cell::new(false),
        }
    }

    pub(crate) fn capacity(&self) -> usize {
        self.slots.len()
    }

    /// Slots that are not free.
    #[inline]
    pub(crate) fn in_use(&self) -> usize {
        usize::from(self.in_use.get())
    }

    #[inline]
    pub(crate) fn has_free(&self) -> bool {
        self.free.get() != NONE
    }

    #[inline]
    fn index_of(&self, tag: Tag) -> u16 {
        tag.0 & self.mask
    }

    /// The slot of a command that is this queue's.
    #[inline]
    fn slot_of(&self, tag: Tag) -> &Slot<O, B> {
        let slot = &self.slots[usize::from(self.index_of(tag))];
        debug_assert_eq!(slot.tag.get(), tag.0, "a slot is not reused while its future lives");
        slot
    }

    /// Takes a free slot, and its tag.
    #[inline]
    pub(crate) fn reserve(&self) -> Option<(u16, Tag)> {
        let index = self.free.get();
        // `NONE` is not the number of a slot: no free one, no slot.
        let slot = self.slots.get(usize::from(index))?;
        self.free.set(slot.next.get());
        slot.state.set(State::Reserved);
        self.in_use.set(self.in_use.get() + 1);
        Some((index, Tag(slot.tag.get())))
    }

    /// Gives a reserved slot back unused.
    pub(crate) fn cancel(&self, index: u16) {
        self.release(index, &self.slots[usize::from(index)]);
    }

    /// The entry is in the ring: the slot keeps the buffer until the device is done.
    #[inline]
    pub(crate) fn commit(&self, index: u16, buffer: B, direct: bool) {
        let slot = &self.slots[usize::from(index)];
        slot.state.set(if direct { State::Direct } else { State::Awaited });
        // A reserved slot holds no buffer: forgetting what was there costs less than dropping it.
        core::mem::forget(slot.buffer.replace(Some(buffer)));
    }

    /// A completion came for `tag`. `defer` keeps it for the next `reap` if it is for the callback
    /// of one.
    #[inline]
    pub(crate) fn complete(
        &self,
        tag: Tag,
        outcome: O,
        defer: bool,
    ) -> Result<Settled<B>, Violation> {
        let index = self.index_of(tag);
        let Some(slot) = self.slots.get(usize::from(index)) else {
            return Err(Violation::UnknownTag(tag));
        };
        if slot.tag.get() != tag.0 {
            return Err(Violation::StaleTag(tag));
        }
        match slot.state.get() {
            State::Awaited => {
                slot.outcome.set(Some(outcome));
                slot.state.set(State::Done);
                let waker = slot.waker.take();
                if waker.is_some() {
                    slot.since.set(None);
                }
                Ok(Settled::Kept(waker))
            }
            State::Direct if defer => {
                slot.outcome.set(Some(outcome));
                self.defer(index, slot);
                Ok(Settled::Kept(None))
            }
            state @ (State::Direct | State::Orphaned) => {
                let Some(buffer) = slot.buffer.take() else {
                    return Err(Violation::UnknownTag(tag));
                };
                self.release(index, slot);
                let direct = state == State::Direct;
                Ok(if direct { Settled::Direct(buffer) } else { Settled::Orphan(buffer) })
            }
            // Its future was told that the outcome is lost, and has the buffer.
            State::Lost => {
                self.release(index, slot);
                Ok(Settled::Kept(None))
            }
            State::Done | State::Deferred => Err(Violation::StaleTag(tag)),
            State::Free | State::Reserved => Err(Violation::UnknownTag(tag)),
        }
    }

    #[inline]
    fn release(&self, index: u16, slot: &Slot<O, B>) {
        let generation = self.mask + 1;
        // The carry out of the generation falls off the top: a tag has no room for it.
        let mut tag = slot.tag.get().wrapping_add(generation);
        if tag == u16::MAX {
            // FFFFh means "no command" in NVMe's error log (NVM Express base 2.0, 5.16.1.2).
            tag = tag.wrapping_add(generation);
        }
        slot.tag.set(tag);
        slot.state.set(State::Free);
        slot.next.set(self.free.replace(index));
        self.in_use.set(self.in_use.get() - 1);
    }

    #[inline]
    fn take(&self, index: u16, slot: &Slot<O, B>) -> Option<(O, B)> {
        // Both are there in the states in which this is called.
        let (outcome, buffer) = (slot.outcome.take()?, slot.buffer.take()?);
        self.release(index, slot);
        Some((outcome, buffer))
    }

    /// The outcome and buffer of a completed command; the slot is free again.
    #[inline]
    pub(crate) fn take_done(&self, tag: Tag) -> Option<(O, B)> {
        let slot = self.slot_of(tag);
        if slot.state.get() != State::Done {
            return None;
        }
        self.take(self.index_of(tag), slot)
    }

    #[cold]
    fn defer(&self, index: u16, slot: &Slot<O, B>) {
        slot.state.set(State::Deferred);
        slot.next.set(NONE);
        let before = self.deferred_last.replace(index);
        match self.slots.get(usize::from(before)) {
            Some(before) => before.next.set(index),
            None => self.deferred.set(index),
        }
    }

    #[inline]
    pub(crate) fn has_deferred(&self) -> bool {
        self.deferred.get() != NONE
    }

    /// The completion that was deferred first; its slot is free again.
    #[cold]
    pub(crate) fn take_deferred(&self) -> Option<(Tag, O, B)> {
        let index = self.deferred.get();
        let slot = self.slots.get(usize::from(index))?;
        self.deferred.set(slot.next.get());
        if slot.next.get() == NONE {
            self.deferred_last.set(NONE);
        }
        let tag = Tag(slot.tag.get());
        self.take(index, slot).map(|(outcome, buffer)| (tag, outcome, buffer))
    }

    /// The future of a command is gone. What comes back is its buffer, if the device is done with
    /// it, and the waker that was there:
    /// * completed: the slot is free again;
    /// * the queue ended and is `quiesced`: the completion, if it still comes, is nobody's;
    /// * in flight: no buffer; it stays until the completion.
    pub(crate) fn abandon(&self, tag: Tag, quiesced: bool) -> (Option<B>, Option<Waker>) {
        let slot = self.slot_of(tag);
        if slot.state.get() != State::Awaited {
            return (self.take_done(tag).map(|(_, buffer)| buffer), None);
        }
        slot.since.set(None);
        if !quiesced {
            slot.state.set(State::Orphaned);
            return (None, slot.waker.take());
        }
        slot.state.set(State::Lost);
        (slot.buffer.take(), slot.waker.take())
    }

    /// Whether `waker` must be put at this command's slot, for its completion to call.
    #[inline]
    pub(crate) fn waker_wanted(&self, tag: Tag, waker: &Waker) -> WakerWanted {
        let slot = self.slot_of(tag);
        if slot.state.get() != State::Awaited {
            return WakerWanted::Done;
        }
        let there = slot.waker.take();
        let kept = there.as_ref().is_some_and(|there| there.will_wake(waker));
        slot.waker.set(there);
        if kept { WakerWanted::Kept } else { WakerWanted::New }
    }

    /// Puts a waker there. Returns the one that was there before; the new one itself if the command
    /// completed in the meantime.
    pub(crate) fn put_waker(&self, tag: Tag, waker: Waker) -> Result<Option<Waker>, Waker> {
        let slot = self.slot_of(tag);
        let awaited = slot.state.get() == State::Awaited;
        if awaited { Ok(slot.waker.replace(Some(waker))) } else { Err(waker) }
    }

    /// When the task whose waker is there first parked.
    pub(crate) fn since(&self, tag: Tag) -> Option<u64> {
        self.slot_of(tag).since.get()
    }

    /// Remembers that, once the waker is there.
    pub(crate) fn set_since(&self, tag: Tag, since: Option<u64>) {
        self.slot_of(tag).since.set(since);
    }

    /// The waker of slot number `index`, if a task waits there.
    pub(crate) fn take_waker(&self, index: usize) -> Option<Waker> {
        let slot = self.slots.get(index)?;
        slot.since.set(None);
        slot.waker.take()
    }

    /// The buffer of slot number `index`, whatever its state. For the queue's end only.
    pub(crate) fn take_buffer(&self, index: usize) -> Option<B> {
        self.slots.get(index)?.buffer.take()
    }

    /// The buffer of slot number `index` if the device may still use it. For the queue's end only.
    pub(crate) fn take_device_buffer(&self, index: usize) -> Option<B> {
        let slot = self.slots.get(index)?;
        match slot.state.get() {
            State::Awaited | State::Direct | State::Orphaned => slot.buffer.take(),
            _ => None,
        }
    }
}

#[cfg(test)]
#[cfg(not(loom))]
mod tests;
