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

/// Where a command is. It shares a word with the tag, above its 16 bits: so one comparison says that
/// a completion names the current command of its slot, and what is to be done about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct State(u32);

impl State {
    /// On the free list, or taken while its entry is being built.
    const FREE: Self = Self(0);
    /// The device has it; a future waits that has not parked.
    const AWAITED: Self = Self(1 << 16);
    /// The device has it; a future waits, and its task's waker is there.
    const PARKED: Self = Self(2 << 16);
    /// The device has it; `reap` hands it to a callback.
    const DIRECT: Self = Self(3 << 16);
    /// The device has it; its future was dropped.
    const ORPHANED: Self = Self(4 << 16);
    /// Completed; the future has not looked yet.
    const DONE: Self = Self(5 << 16);
    /// Completed while a future looked at the ring; the next `reap` hands it to its callback.
    const DEFERRED: Self = Self(6 << 16);
    /// Its queue ended and its buffer was given back; the completion may still lie in the ring.
    const LOST: Self = Self(7 << 16);

    /// The slot's word with this state.
    #[inline]
    fn with(self, tag: u16) -> u32 {
        self.0 | u32::from(tag)
    }
}

/// Every field is a [`Cell`]: whatever runs code of others (a buffer's drop, a waker) finds nothing
/// borrowed. Only what each command touches is here; what a parked task leaves is in [`Task`].
struct Slot<O, B> {
    buffer: Cell<Option<B>>,
    outcome: Cell<Option<O>>,
    /// The [`State`], and in the low 16 bits the current tag of the slot, or the next one while it is
    /// free.
    word: Cell<u32>,
    /// The next slot of the list that this one is on: free, or deferred.
    next: Cell<u16>,
}

impl<O, B> Slot<O, B> {
    #[inline]
    fn tag(&self) -> u16 {
        self.word.get() as u16
    }

    #[inline]
    fn state(&self) -> State {
        State(self.word.get() & !0xffff)
    }

    #[inline]
    fn set_state(&self, state: State) {
        self.word.set(state.with(self.tag()));
    }

    fn is_awaited(&self) -> bool {
        matches!(self.state(), State::AWAITED | State::PARKED)
    }
}

/// What a parked task leaves at its command's slot.
#[derive(Default)]
struct Task {
    waker: Cell<Option<Waker>>,
    /// [`Parked::since`](crate::Parked) of the task behind the waker.
    since: Cell<Option<u64>>,
}

/// A slot that was taken for an entry that is being built.
pub(crate) struct Reserved<'t, O, B> {
    /// The slot's number.
    pub(crate) index: u16,
    /// The tag of the command that it will be.
    pub(crate) tag: Tag,
    slot: &'t Slot<O, B>,
}

/// What a completion means for its slot.
#[derive(Debug)]
pub(crate) enum Settled<B> {
    /// Kept for its future, which has not parked.
    Kept,
    /// For the callback of `reap`; the slot is free again.
    Direct(B),
    /// Nothing was done: it is for [`SlotTable::complete_other`].
    Other,
}

/// What the completion of any other command means.
#[derive(Debug)]
pub(crate) enum SettledOther<B> {
    /// Kept for its future, or for the next `reap`; the waker if a task had parked.
    Kept(Option<Waker>),
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
/// * `free` leads through each slot in state `FREE` exactly once, but for those that are reserved, and
///   through no other, and ends in `NONE`; `in_use` counts the slots that it does not lead through.
/// * `deferred` leads likewise through those in state `DEFERRED`, in order of completion, and
///   `deferred_last` is the last of them.
/// * `buffer` is `Some` exactly in `AWAITED`, `PARKED`, `DIRECT`, `ORPHANED`, `DONE` and `DEFERRED`;
///   `outcome` is that of the command in `DONE` and `DEFERRED`, and means nothing elsewhere.
/// * `tasks` has the task of each slot; its `waker` is `Some` exactly in `PARKED`, and `since` is
///   `None` but there.
/// * A slot's tag is its number in the bits of `mask`; the rest, the generation, changes each time
///   the slot is freed. `mask` is a power of two less one, and `generation` is that power.
pub(crate) struct SlotTable<O, B> {
    slots: Box<[Slot<O, B>]>,
    mask: u16,
    generation: u16,
    free: Cell<u16>,
    in_use: Cell<u16>,
    deferred: Cell<u16>,
    deferred_last: Cell<u16>,
    /// Whether tasks wait for a slot: what the queue's line says, next to what is looked at anyway.
    pub(crate) awaited: Cell<bool>,
    /// Apart from the slots: a command whose future never parks touches none of it.
    tasks: Box<[Task]>,
}

impl<O: Copy, B> SlotTable<O, B> {
    /// `count` must lie in `1..=MAX_SLOTS`; the queue's constructor checks it.
    pub(crate) fn new(count: u16) -> Self {
        let slot = |index| Slot {
            buffer: Cell::new(None),
            outcome: Cell::new(None),
            word: Cell::new(State::FREE.with(index)),
            next: Cell::new(if index + 1 == count { NONE } else { index + 1 }),
        };
        Self {
            slots: (0..count).map(slot).collect(),
            mask: count.next_power_of_two() - 1,
            generation: count.next_power_of_two(),
            free: Cell::new(0),
            in_use: Cell::new(0),
            deferred: Cell::new(NONE),
            deferred_last: Cell::new(NONE),
            awaited: Cell::new(false),
            tasks: (0..count).map(|_| Task::default()).collect(),
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
        debug_assert_eq!(slot.tag(), tag.0, "a slot is not reused while its future lives");
        slot
    }

    /// The task of a command that is this queue's.
    fn task_of(&self, tag: Tag) -> &Task {
        &self.tasks[usize::from(self.index_of(tag))]
    }

    /// Takes a free slot, and its tag. It stays taken until [`commit`](Self::commit) and a completion,
    /// or [`cancel`](Self::cancel).
    #[inline]
    pub(crate) fn reserve(&self) -> Option<Reserved<'_, O, B>> {
        let index = self.free.get();
        // `NONE` is not the number of a slot: no free one, no slot.
        let slot = self.slots.get(usize::from(index))?;
        self.free.set(slot.next.get());
        self.in_use.set(self.in_use.get() + 1);
        Some(Reserved { index, tag: Tag(slot.tag()), slot })
    }

    /// Gives a reserved slot back unused.
    pub(crate) fn cancel(&self, reserved: &Reserved<'_, O, B>) {
        self.release(reserved.index, reserved.tag.0, reserved.slot);
    }

    /// The entry is in the ring: the slot keeps the buffer until the device is done.
    #[inline]
    pub(crate) fn commit(&self, reserved: &Reserved<'_, O, B>, buffer: B, direct: bool) {
        let Reserved { tag, slot, .. } = reserved;
        let state = if direct { State::DIRECT } else { State::AWAITED };
        slot.word.set(state.with(tag.0));
        // A reserved slot holds no buffer: forgetting what was there costs less than dropping it.
        core::mem::forget(slot.buffer.replace(Some(buffer)));
    }

    /// A completion came for `tag`: what is to be done about nearly all of them, each told by one
    /// comparison. `defer` keeps it for the next `reap` if it is for the callback of one.
    #[inline]
    pub(crate) fn complete(&self, tag: Tag, outcome: O, defer: bool) -> Settled<B> {
        let index = self.index_of(tag);
        let Some(slot) = self.slots.get(usize::from(index)) else { return Settled::Other };
        let word = slot.word.get();
        if word == State::AWAITED.with(tag.0) {
            slot.outcome.set(Some(outcome));
            slot.word.set(State::DONE.with(tag.0));
            return Settled::Kept;
        }
        if word == State::DIRECT.with(tag.0)
            && !defer
            && let Some(buffer) = slot.buffer.take()
        {
            self.release(index, tag.0, slot);
            return Settled::Direct(buffer);
        }
        Settled::Other
    }

    /// The rest of [`complete`](Self::complete).
    #[cold]
    #[inline(never)]
    pub(crate) fn complete_other(
        &self,
        tag: Tag,
        outcome: O,
    ) -> Result<SettledOther<B>, Violation> {
        let index = self.index_of(tag);
        let Some(slot) = self.slots.get(usize::from(index)) else {
            return Err(Violation::UnknownTag(tag));
        };
        if slot.tag() != tag.0 {
            return Err(Violation::StaleTag(tag));
        }
        match slot.state() {
            State::PARKED => {
                let task = self.task_of(tag);
                slot.outcome.set(Some(outcome));
                slot.set_state(State::DONE);
                task.since.set(None);
                Ok(SettledOther::Kept(task.waker.take()))
            }
            // For the callback of the next `reap`: nobody reaps with one now.
            State::DIRECT => {
                slot.outcome.set(Some(outcome));
                self.defer(index, slot);
                Ok(SettledOther::Kept(None))
            }
            State::ORPHANED => {
                let Some(buffer) = slot.buffer.take() else {
                    return Err(Violation::UnknownTag(tag));
                };
                self.release(index, tag.0, slot);
                Ok(SettledOther::Orphan(buffer))
            }
            // Its future was told that the outcome is lost, and has the buffer.
            State::LOST => {
                self.release(index, tag.0, slot);
                Ok(SettledOther::Kept(None))
            }
            State::DONE | State::DEFERRED => Err(Violation::StaleTag(tag)),
            _ => Err(Violation::UnknownTag(tag)),
        }
    }

    #[inline]
    fn release(&self, index: u16, tag: u16, slot: &Slot<O, B>) {
        // The carry out of the generation falls off the top: a tag has no room for it.
        let mut next = tag.wrapping_add(self.generation);
        if next == u16::MAX {
            // FFFFh means "no command" in NVMe's error log (NVM Express base 2.0, 5.16.1.2).
            next = next.wrapping_add(self.generation);
        }
        slot.word.set(State::FREE.with(next));
        slot.next.set(self.free.replace(index));
        self.in_use.set(self.in_use.get() - 1);
    }

    #[inline]
    fn take(&self, index: u16, tag: Tag, slot: &Slot<O, B>) -> Option<(O, B)> {
        // Both are there in the states in which this is called.
        let (outcome, buffer) = (slot.outcome.get()?, slot.buffer.take()?);
        self.release(index, tag.0, slot);
        Some((outcome, buffer))
    }

    /// The outcome and buffer of a completed command; the slot is free again.
    #[inline]
    pub(crate) fn take_done(&self, tag: Tag) -> Option<(O, B)> {
        let (index, slot) = (self.index_of(tag), self.slot_of(tag));
        if slot.word.get() != State::DONE.with(tag.0) {
            return None;
        }
        self.take(index, tag, slot)
    }

    #[cold]
    fn defer(&self, index: u16, slot: &Slot<O, B>) {
        slot.set_state(State::DEFERRED);
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
        let tag = Tag(slot.tag());
        self.take(index, tag, slot).map(|(outcome, buffer)| (tag, outcome, buffer))
    }

    /// The future of a command is gone. What comes back is its buffer, if the device is done with
    /// it, and the waker that was there:
    /// * completed: the slot is free again;
    /// * the queue ended and is `quiesced`: the completion, if it still comes, is nobody's;
    /// * in flight: no buffer; it stays until the completion.
    pub(crate) fn abandon(&self, tag: Tag, quiesced: bool) -> (Option<B>, Option<Waker>) {
        let slot = self.slot_of(tag);
        if !slot.is_awaited() {
            return (self.take_done(tag).map(|(_, buffer)| buffer), None);
        }
        let waker = self.take_waker(self.index_of(tag).into());
        if !quiesced {
            slot.set_state(State::ORPHANED);
            return (None, waker);
        }
        slot.set_state(State::LOST);
        (slot.buffer.take(), waker)
    }

    /// Whether `waker` must be put at this command's slot, for its completion to call.
    pub(crate) fn waker_wanted(&self, tag: Tag, waker: &Waker) -> WakerWanted {
        let (slot, task) = (self.slot_of(tag), self.task_of(tag));
        if !slot.is_awaited() {
            return WakerWanted::Done;
        }
        let there = task.waker.take();
        let kept = there.as_ref().is_some_and(|there| there.will_wake(waker));
        task.waker.set(there);
        if kept { WakerWanted::Kept } else { WakerWanted::New }
    }

    /// Puts a waker there. Returns the one that was there before; the new one itself if the command
    /// completed in the meantime.
    pub(crate) fn put_waker(&self, tag: Tag, waker: Waker) -> Result<Option<Waker>, Waker> {
        let slot = self.slot_of(tag);
        if !slot.is_awaited() {
            return Err(waker);
        }
        slot.set_state(State::PARKED);
        Ok(self.task_of(tag).waker.replace(Some(waker)))
    }

    /// When the task whose waker is there first parked.
    pub(crate) fn since(&self, tag: Tag) -> Option<u64> {
        self.task_of(tag).since.get()
    }

    /// Remembers that, once the waker is there.
    pub(crate) fn set_since(&self, tag: Tag, since: Option<u64>) {
        self.task_of(tag).since.set(since);
    }

    /// The waker of slot number `index`, if a task waits there.
    pub(crate) fn take_waker(&self, index: usize) -> Option<Waker> {
        let (slot, task) = (self.slots.get(index)?, self.tasks.get(index)?);
        if slot.state() == State::PARKED {
            slot.set_state(State::AWAITED);
        }
        task.since.set(None);
        task.waker.take()
    }

    /// The buffer of slot number `index`, whatever its state. For the queue's end only.
    pub(crate) fn take_buffer(&self, index: usize) -> Option<B> {
        self.slots.get(index)?.buffer.take()
    }

    /// The buffer of slot number `index` if the device may still use it. For the queue's end only.
    pub(crate) fn take_device_buffer(&self, index: usize) -> Option<B> {
        let slot = self.slots.get(index)?;
        match slot.state() {
            State::AWAITED | State::PARKED | State::DIRECT | State::ORPHANED => slot.buffer.take(),
            _ => None,
        }
    }
}

#[cfg(test)]
#[cfg(not(loom))]
mod tests;
