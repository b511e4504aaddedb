//! The rights to a slot: to build a command in it, to its outcome, to what nobody waits for.

use core::task::Waker;

use super::super::sync::Ordering;
use super::slots::{
    ABANDONED, AWAITED, DIRECT, DONE, LOST, ORPHANED, PARKED, STATE, SlotTable, TAKING, word_of,
};
use crate::protocol::Tag;

/// A slot that was taken and is not in use yet. Dropping it gives it back.
pub(in super::super) struct Reserved<'t, O: Copy, B, R> {
    table: &'t SlotTable<O, B, R>,
    slot: u16,
    tag: u16,
}

/// The right to the outcome of a command: its future's.
pub(in super::super) struct Command<'t, O, B, R> {
    table: &'t SlotTable<O, B, R>,
    tag: u16,
    /// Until its outcome was taken or it was abandoned.
    live: bool,
}

/// A completed command that nobody waits for.
pub(in super::super) struct Orphan<'t, O, B, R> {
    table: &'t SlotTable<O, B, R>,
    slot: u16,
}

/// What became of a waker at [`Command::set_waker`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in super::super) enum WakerSet {
    /// The completion will call it.
    Set,
    /// The command has completed.
    Done,
    /// The reaper is about to call the one before: its task should be polled again.
    Again,
}

impl<'t, O: Copy, B, R> Reserved<'t, O, B, R> {
    /// The caller took the slot's bit, and this is the right to it.
    #[inline]
    pub(super) fn new(table: &'t SlotTable<O, B, R>, slot: u16, tag: u16) -> Self {
        Self { table, slot, tag }
    }

    /// The slot's number.
    #[inline]
    pub(in super::super) fn slot(&self) -> u16 {
        self.slot
    }

    /// The command's tag.
    #[inline]
    pub(in super::super) fn tag(&self) -> Tag {
        Tag(self.tag)
    }

    #[inline]
    fn store(self, buffer: B, state: u32) -> &'t SlotTable<O, B, R> {
        let table = self.table;
        let slot = table.slot(self.slot);
        // SAFETY: who took the slot's bit has its cells, and `self` is that right, used up here. It
        // held no buffer; forgetting what was there costs less than dropping it.
        slot.buffer.with_mut(|at| unsafe { at.write(Some(buffer)) });
        // Release: the reaper may have to take the buffer.
        slot.word.store(word_of(self.tag, state), Ordering::Release);
        core::mem::forget(self);
        table
    }

    /// The slot keeps the buffer until the device is done; its future waits for it.
    #[inline]
    pub(in super::super) fn commit(self, buffer: B) -> Command<'t, O, B, R> {
        let tag = self.tag;
        let table = self.store(buffer, AWAITED);
        Command { table, tag, live: true }
    }

    /// The slot keeps the buffer until the device is done; a callback gets it then.
    #[inline]
    pub(in super::super) fn commit_direct(self, buffer: B) -> Tag {
        let tag = self.tag();
        self.store(buffer, DIRECT);
        tag
    }
}

impl<O: Copy, B, R> Drop for Reserved<'_, O, B, R> {
    fn drop(&mut self) {
        self.table.release(self.slot, self.table.slot(self.slot));
    }
}

impl<'t, O: Copy, B, R> Orphan<'t, O, B, R> {
    /// The caller made the slot `OVER`, and this is the right to it.
    pub(super) fn new(table: &'t SlotTable<O, B, R>, slot: u16) -> Self {
        Self { table, slot }
    }

    /// The buffer; the slot is free again.
    pub(in super::super) fn take(self) -> Option<B> {
        let slot = self.table.slot(self.slot);
        // SAFETY: the slot is `OVER`, and `self`, of which there is one, is the right to it.
        let buffer = unsafe {
            slot.take_outcome();
            slot.take_buffer()
        };
        self.table.release(self.slot, slot);
        buffer
    }
}

impl<O: Copy, B, R> Command<'_, O, B, R> {
    #[inline]
    pub(in super::super) fn tag(&self) -> Tag {
        Tag(self.tag)
    }

    #[inline]
    pub(in super::super) fn is_live(&self) -> bool {
        self.live
    }

    /// Whether it has completed.
    #[inline]
    pub(in super::super) fn is_done(&self) -> bool {
        self.table.slot(self.tag).word.load(Ordering::Relaxed) & STATE == DONE
    }

    /// The outcome and the buffer, once it has completed; the slot is free again.
    #[inline]
    pub(in super::super) fn take_done(&mut self) -> Option<(O, B)> {
        let slot = self.table.slot(self.tag);
        // Acquire: outcome and buffer, from the reaper.
        if !self.live || slot.word.load(Ordering::Acquire) & STATE != DONE {
            return None;
        }
        self.live = false;
        // SAFETY: the command is live, so the slot is still its own, and `DONE`: the cells are the
        // future's, which has the only `Command`, borrowed exclusively.
        let (outcome, buffer) = unsafe { (slot.take_outcome(), slot.take_buffer()) };
        self.table.release(self.table.number(self.tag), slot);
        Some((outcome?, buffer?))
    }

    /// Lets the completion wake a task.
    pub(in super::super) fn set_waker(&mut self, waker: &Waker) -> WakerSet {
        let slot = self.table.slot(self.tag);
        let mut word = slot.word.load(Ordering::Acquire);
        loop {
            match word & STATE {
                AWAITED if self.live => break,
                PARKED if self.live => match slot.change(word, AWAITED) {
                    Ok(()) => word = word & !STATE | AWAITED,
                    Err(now) => word = now,
                },
                TAKING if self.live => return WakerSet::Again,
                _ => return WakerSet::Done,
            }
        }
        // SAFETY:
        // * the state was `AWAITED`, which gives the waker to the future, and so does the `DONE` that
        //   the reaper may make of it;
        // * the future has the only `Command`, borrowed exclusively.
        let before = unsafe { slot.swap_waker(None) };
        // Cloning and dropping wakers runs code of others, while the cell is empty and whole.
        let next = match before {
            Some(before) if before.will_wake(waker) => before,
            other => {
                drop(other);
                waker.clone()
            }
        };
        // SAFETY: as above.
        unsafe { slot.swap_waker(Some(next)) };
        match slot.change(word, PARKED) {
            Ok(()) => WakerSet::Set,
            // It was the reaper: nobody else changes `AWAITED` but the future itself.
            Err(_) => {
                // SAFETY: as above.
                drop(unsafe { slot.swap_waker(None) });
                WakerSet::Done
            }
        }
    }

    /// The future is gone. What comes back is its buffer, if the device is done with it, and the waker
    /// that was there.
    pub(in super::super) fn abandon(&mut self, quiesced: bool) -> (Option<B>, Option<Waker>) {
        let slot = self.table.slot(self.tag);
        let mut waker = None;
        let mut word = slot.word.load(Ordering::Acquire);
        while self.live {
            let state = word & STATE;
            let next = match state {
                DONE => return (self.take_done().map(|(_, buffer)| buffer), waker),
                PARKED => AWAITED,
                TAKING => ABANDONED,
                AWAITED if quiesced => LOST,
                AWAITED => ORPHANED,
                // A live command is in none of the others.
                _ => break,
            };
            if let Err(now) = slot.change(word, next) {
                word = now;
                continue;
            }
            word = word & !STATE | next;
            match next {
                // SAFETY: the future took the waker's cell back from `PARKED`, just now.
                AWAITED => waker = unsafe { slot.swap_waker(None) },
                LOST => {
                    self.live = false;
                    // SAFETY: `LOST` gives the buffer to the future; the reaper leaves it alone.
                    return (unsafe { slot.take_buffer() }, waker);
                }
                _ => self.live = false,
            }
        }
        (None, waker)
    }
}
