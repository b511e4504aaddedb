//! Command slots. A tag is the slot's number in the low bits and a generation in the high bits, so
//! completion is O(1) and a completion that comes twice, late, or from nowhere is recognised.
//!
//! The idea of command id = slot index is SPDK's and libvfn's; the sequence number in the rest of
//! the id is openvmm's. A completion that is late by exactly as many uses of its slot as the
//! generation has values (16 with 4,096 slots, 1,024 with 64) is taken for the current one.

use alloc::boxed::Box;
use alloc::collections::VecDeque;
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
    /// Its queue ended and its buffer was given back. Never used again.
    Lost,
}

#[derive(Debug)]
struct Slot<O, B> {
    state: State,
    /// The current tag of the slot, or the next one while it is free.
    tag: u16,
    /// The next slot of the free list, while this one is free.
    next: u16,
    outcome: Option<O>,
    buffer: Option<B>,
    waker: Option<Waker>,
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
/// queue, so they are handed out for the queue to drop outside of its borrow.
///
/// # Invariants
/// * `free` leads through each slot in state `Free` exactly once, and no other, and ends in `NONE`;
///   `in_use` counts the others.
/// * `deferred` holds each slot in state `Deferred` once, in order of completion; its capacity is
///   the number of slots, so it never allocates.
/// * `buffer` is `Some` exactly in `Awaited`, `Direct`, `Orphaned`, `Done` and `Deferred`, `outcome`
///   exactly in `Done` and `Deferred`; `waker` is `None` but in `Awaited`.
/// * The low `slot_bits` of a slot's tag are its number; the rest, the generation, changes each time
///   the slot is freed.
#[derive(Debug)]
pub(crate) struct SlotTable<O, B> {
    slots: Box<[Slot<O, B>]>,
    free: u16,
    in_use: u16,
    slot_bits: u32,
    deferred: VecDeque<u16>,
}

impl<O, B> SlotTable<O, B> {
    /// `count` must lie in `1..=MAX_SLOTS`; the queue's constructor checks it.
    pub(crate) fn new(count: u16) -> Self {
        let slot = |index| Slot {
            state: State::Free,
            tag: index,
            next: if index + 1 == count { NONE } else { index + 1 },
            outcome: None,
            buffer: None,
            waker: None,
        };
        Self {
            slots: (0..count).map(slot).collect(),
            free: 0,
            in_use: 0,
            slot_bits: count.next_power_of_two().trailing_zeros(),
            deferred: VecDeque::with_capacity(usize::from(count)),
        }
    }

    pub(crate) fn capacity(&self) -> usize {
        self.slots.len()
    }

    /// Slots that are not free.
    #[inline]
    pub(crate) fn in_use(&self) -> usize {
        usize::from(self.in_use)
    }

    #[inline]
    pub(crate) fn has_free(&self) -> bool {
        self.free != NONE
    }

    #[inline]
    fn slot_of(&self, tag: Tag) -> usize {
        usize::from(tag.0) & ((1 << self.slot_bits) - 1)
    }

    /// Takes a free slot, and its tag.
    #[inline]
    pub(crate) fn reserve(&mut self) -> Option<(u16, Tag)> {
        let index = self.free;
        // `NONE` is not the number of a slot: no free one, no slot.
        let slot = self.slots.get_mut(usize::from(index))?;
        self.free = slot.next;
        slot.state = State::Reserved;
        self.in_use += 1;
        Some((index, Tag(slot.tag)))
    }

    /// Gives a reserved slot back unused.
    pub(crate) fn cancel(&mut self, index: u16) {
        self.release(usize::from(index));
    }

    /// The entry is in the ring: the slot keeps the buffer until the device is done. The slot held
    /// none, so nothing is dropped here.
    #[inline]
    pub(crate) fn commit(&mut self, index: u16, buffer: B, direct: bool) {
        let slot = &mut self.slots[usize::from(index)];
        slot.state = if direct { State::Direct } else { State::Awaited };
        slot.buffer = Some(buffer);
    }

    /// A completion came for `tag`. `defer` keeps it for the next `reap` if it is for the callback
    /// of one.
    #[inline]
    pub(crate) fn complete(
        &mut self,
        tag: Tag,
        outcome: O,
        defer: bool,
    ) -> Result<Settled<B>, Violation> {
        let index = self.slot_of(tag);
        let Some(slot) = self.slots.get_mut(index) else {
            return Err(Violation::UnknownTag(tag));
        };
        if slot.tag != tag.0 {
            return Err(Violation::StaleTag(tag));
        }
        match slot.state {
            State::Awaited => {
                slot.state = State::Done;
                slot.outcome = Some(outcome);
                Ok(Settled::Kept(slot.waker.take()))
            }
            State::Direct if defer => {
                slot.state = State::Deferred;
                slot.outcome = Some(outcome);
                self.deferred.push_back(index as u16);
                Ok(Settled::Kept(None))
            }
            State::Direct | State::Orphaned => {
                let direct = slot.state == State::Direct;
                let Some(buffer) = slot.buffer.take() else {
                    return Err(Violation::UnknownTag(tag));
                };
                self.release(index);
                Ok(if direct { Settled::Direct(buffer) } else { Settled::Orphan(buffer) })
            }
            // Its future knows that the outcome is lost; a completion that comes after all is none.
            State::Lost => Ok(Settled::Kept(None)),
            State::Done | State::Deferred => Err(Violation::StaleTag(tag)),
            State::Free | State::Reserved => Err(Violation::UnknownTag(tag)),
        }
    }

    #[inline]
    fn release(&mut self, index: usize) {
        let bits = self.slot_bits;
        let slot = &mut self.slots[index];
        slot.state = State::Free;
        // The carry out of the generation falls off the top: a tag has no room for it.
        slot.tag = slot.tag.wrapping_add(1 << bits);
        if slot.tag == u16::MAX {
            // FFFFh means "no command" in NVMe's error log (NVM Express base 2.0, 5.16.1.2).
            slot.tag = slot.tag.wrapping_add(1 << bits);
        }
        slot.next = self.free;
        self.free = index as u16;
        self.in_use -= 1;
    }

    /// The outcome and buffer of a completed command; the slot is free again.
    #[inline]
    pub(crate) fn take_done(&mut self, tag: Tag) -> Option<(O, B)> {
        let index = self.slot_of(tag);
        let slot = &mut self.slots[index];
        if slot.state != State::Done {
            return None;
        }
        debug_assert_eq!(slot.tag, tag.0, "a slot is not reused while its future lives");
        let taken = slot.outcome.take().zip(slot.buffer.take());
        self.release(index);
        taken
    }

    /// The completion that was deferred first; its slot is free again.
    #[inline]
    pub(crate) fn take_deferred(&mut self) -> Option<(Tag, O, B)> {
        if self.deferred.is_empty() {
            return None;
        }
        let index = usize::from(self.deferred.pop_front()?);
        let slot = &mut self.slots[index];
        let tag = Tag(slot.tag);
        let taken = slot.outcome.take().zip(slot.buffer.take());
        self.release(index);
        taken.map(|(outcome, buffer)| (tag, outcome, buffer))
    }

    /// The future of a command is gone. What comes back is its buffer, if the device is done with
    /// it, and the waker that was there, to be dropped:
    /// * completed: the slot is free again;
    /// * the queue ended and is `quiesced`: the slot stays out of use;
    /// * in flight: no buffer; it stays until the completion.
    pub(crate) fn abandon(&mut self, tag: Tag, quiesced: bool) -> (Option<B>, Option<Waker>) {
        let index = self.slot_of(tag);
        let slot = &mut self.slots[index];
        if slot.state != State::Awaited {
            return (self.take_done(tag).map(|(_, buffer)| buffer), None);
        }
        if !quiesced {
            slot.state = State::Orphaned;
            return (None, slot.waker.take());
        }
        slot.state = State::Lost;
        (slot.buffer.take(), slot.waker.take())
    }

    /// Whether `waker` must be put at this command's slot, for its completion to call.
    #[inline]
    pub(crate) fn waker_wanted(&self, tag: Tag, waker: &Waker) -> WakerWanted {
        let slot = &self.slots[self.slot_of(tag)];
        match &slot.waker {
            _ if slot.state != State::Awaited => WakerWanted::Done,
            Some(old) if old.will_wake(waker) => WakerWanted::Kept,
            _ => WakerWanted::New,
        }
    }

    /// Puts a waker there. Returns the one that was there before; the new one itself if the command
    /// completed in the meantime.
    pub(crate) fn put_waker(&mut self, tag: Tag, waker: Waker) -> Result<Option<Waker>, Waker> {
        let index = self.slot_of(tag);
        let slot = &mut self.slots[index];
        if slot.state == State::Awaited { Ok(slot.waker.replace(waker)) } else { Err(waker) }
    }

    /// The waker of slot number `index`, if a task waits there.
    pub(crate) fn take_waker(&mut self, index: usize) -> Option<Waker> {
        self.slots.get_mut(index)?.waker.take()
    }

    /// The buffer of slot number `index`, whatever its state. For the queue's end only.
    pub(crate) fn take_buffer(&mut self, index: usize) -> Option<B> {
        self.slots.get_mut(index)?.buffer.take()
    }

    /// The buffer of slot number `index` if the device may still use it. For the queue's end only.
    pub(crate) fn take_device_buffer(&mut self, index: usize) -> Option<B> {
        let slot = self.slots.get_mut(index)?;
        let device = matches!(slot.state, State::Awaited | State::Direct | State::Orphaned);
        if device { slot.buffer.take() } else { None }
    }
}

#[cfg(test)]
#[cfg(not(loom))]
mod tests;
