//! Command slots. A tag is the slot's number in the low bits and a generation in the high bits, so
//! completion is O(1) and a completion that comes twice, late, or from nowhere is recognised.
//!
//! The idea of command id = slot index is SPDK's and libvfn's; the sequence number in the rest of
//! the id is openvmm's.

use alloc::vec::Vec;
use core::task::Waker;

use crate::error::Violation;
use crate::protocol::Tag;

/// Most slots a queue can have: leaves four bits of the tag for the generation.
pub const MAX_SLOTS: u16 = 4096;

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
}

#[derive(Debug)]
struct Slot<O, B> {
    state: State,
    generation: u16,
    outcome: Option<O>,
    buffer: Option<B>,
    waker: Option<Waker>,
}

/// What a completion means for its slot.
#[derive(Debug)]
pub(crate) enum Settled<B> {
    /// Kept for its future; the waker if it had parked.
    Kept(Option<Waker>),
    /// For the callback of `reap`; the slot is free again.
    Direct(B),
    /// Nobody waits; the slot is free again and the buffer goes back to its owner.
    Orphan(B),
}

/// The slots of one queue, with a LIFO free list: the slot freed last is the one in the cache.
///
/// # Invariants
/// * `free` holds each slot in state `Free` exactly once, and no other; it never reallocates.
/// * `buffer` is `Some` in `Awaited`, `Direct`, `Orphaned` and `Done`; `outcome` is `Some` in `Done`.
/// * A slot's generation changes each time it is taken.
#[derive(Debug)]
pub(crate) struct SlotTable<O, B> {
    slots: Vec<Slot<O, B>>,
    free: Vec<u16>,
    slot_bits: u32,
}

impl<O, B> SlotTable<O, B> {
    /// `count` must lie in `1..=MAX_SLOTS`; the queue's constructor checks it.
    pub(crate) fn new(count: u16) -> Self {
        let slot = |_| Slot {
            state: State::Free,
            generation: 0,
            outcome: None,
            buffer: None,
            waker: None,
        };
        Self {
            slots: (0..count).map(slot).collect(),
            free: (0..count).rev().collect(),
            slot_bits: u32::from(count).next_power_of_two().trailing_zeros(),
        }
    }

    pub(crate) fn capacity(&self) -> usize {
        self.slots.len()
    }

    #[inline]
    pub(crate) fn in_use(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    #[inline]
    fn slot_of(&self, tag: Tag) -> usize {
        usize::from(tag.0) & ((1 << self.slot_bits) - 1)
    }

    /// Takes a free slot and gives it its next tag.
    #[inline]
    pub(crate) fn reserve(&mut self) -> Option<(u16, Tag)> {
        let index = self.free.pop()?;
        let bits = self.slot_bits;
        let slot = &mut self.slots[usize::from(index)];
        slot.state = State::Reserved;
        slot.generation = slot.generation.wrapping_add(1);
        if (slot.generation << bits) | index == u16::MAX {
            // FFFFh means "no command" in NVMe's error log (base 2.0, figure 204).
            slot.generation = slot.generation.wrapping_add(1);
        }
        Some((index, Tag((slot.generation << bits) | index)))
    }

    /// Gives a reserved slot back unused.
    pub(crate) fn cancel(&mut self, index: u16) {
        self.slots[usize::from(index)].state = State::Free;
        self.free.push(index);
    }

    /// The entry is in the ring: the slot keeps the buffer until the device is done.
    #[inline]
    pub(crate) fn commit(&mut self, index: u16, buffer: B, direct: bool) {
        let slot = &mut self.slots[usize::from(index)];
        slot.state = if direct { State::Direct } else { State::Awaited };
        slot.buffer = Some(buffer);
    }

    /// A completion came for `tag`.
    #[inline]
    pub(crate) fn complete(&mut self, tag: Tag, outcome: O) -> Result<Settled<B>, Violation> {
        let (index, bits) = (self.slot_of(tag), self.slot_bits);
        let Some(slot) = self.slots.get_mut(index) else {
            return Err(Violation::UnknownTag(tag));
        };
        if (slot.generation << bits) | index as u16 != tag.0 {
            return Err(Violation::StaleTag(tag));
        }
        match (slot.state, slot.buffer.take()) {
            (State::Awaited, buffer) => {
                slot.state = State::Done;
                slot.buffer = buffer;
                slot.outcome = Some(outcome);
                Ok(Settled::Kept(slot.waker.take()))
            }
            (State::Direct, Some(buffer)) => {
                self.release(index as u16);
                Ok(Settled::Direct(buffer))
            }
            (State::Orphaned, Some(buffer)) => {
                self.release(index as u16);
                Ok(Settled::Orphan(buffer))
            }
            (State::Done, buffer) => {
                slot.buffer = buffer;
                Err(Violation::StaleTag(tag))
            }
            (_, buffer) => {
                slot.buffer = buffer;
                Err(Violation::UnknownTag(tag))
            }
        }
    }

    #[inline]
    fn release(&mut self, index: u16) {
        self.slots[usize::from(index)].state = State::Free;
        self.free.push(index);
    }

    /// The outcome and buffer of a completed command; the slot is free again.
    #[inline]
    pub(crate) fn take_done(&mut self, tag: Tag) -> Option<(O, B)> {
        let index = self.slot_of(tag);
        let slot = &mut self.slots[index];
        if slot.state != State::Done {
            return None;
        }
        let taken = slot.outcome.take().zip(slot.buffer.take());
        slot.waker = None;
        self.release(index as u16);
        taken
    }

    /// The buffer of a command whose queue has ended and is quiesced; the slot stays out of use.
    pub(crate) fn take_buffer(&mut self, tag: Tag) -> Option<B> {
        let index = self.slot_of(tag);
        self.slots[index].waker = None;
        self.slots[index].buffer.take()
    }

    /// The waker to call when this command completes.
    pub(crate) fn set_waker(&mut self, tag: Tag, waker: &Waker) {
        let index = self.slot_of(tag);
        match &mut self.slots[index].waker {
            Some(old) => old.clone_from(waker),
            empty => *empty = Some(waker.clone()),
        }
    }

    /// The future of a command in flight is gone. Returns what was kept for it, if it had completed.
    pub(crate) fn orphan(&mut self, tag: Tag) -> Option<(O, B)> {
        let index = self.slot_of(tag);
        let slot = &mut self.slots[index];
        if slot.state == State::Awaited {
            slot.state = State::Orphaned;
            slot.waker = None;
            return None;
        }
        self.take_done(tag)
    }

    /// Empties every slot: the buffers that are still with the device.
    pub(crate) fn take_all_buffers(&mut self) -> Vec<B> {
        self.slots.iter_mut().filter_map(|slot| slot.buffer.take()).collect()
    }
}
