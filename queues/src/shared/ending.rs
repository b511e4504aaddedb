//! How a shared queue ends, and what becomes of its buffers.

use alloc::vec::Vec;

use super::SharedQueue;
use crate::error::{QueueError, RejectReason, Rejected};
use crate::fate::EndReason;
use crate::protocol::QueueProtocol;

impl<P: QueueProtocol, B> SharedQueue<P, B> {
    /// Why the queue has ended, if it has. The first reason stays.
    pub fn ended(&self) -> Option<QueueError> {
        let reason = self.fate.ended()?;
        let queue = self.name.clone();
        Some(match (reason, self.violation.get()) {
            (EndReason::Violation, Some(violation)) => QueueError::Violation { queue, violation },
            _ => QueueError::Ended { queue, reason },
        })
    }

    #[cold]
    pub(super) fn rejected(&self, buffer: B) -> Rejected<B> {
        let reason = match self.ended() {
            Some(error) => RejectReason::Ended(error),
            None => RejectReason::Full(self.name.clone()),
        };
        Rejected { reason, buffer }
    }

    /// Ends the queue: every task that waits on it is woken and gets [`QueueError::Ended`].
    /// `quiesced` as in [`Fate::end`](crate::Fate::end).
    pub fn end(&self, reason: EndReason, quiesced: bool) {
        self.fate.end(reason, quiesced);
        self.wake_everyone();
    }

    /// Gives the queue up and returns every buffer that it still holds: the device may be writing
    /// to them. Whoever takes them keeps them until the device is known to be done (the queue
    /// deleted or the device reset).
    #[must_use]
    pub fn give_up(mut self) -> Vec<B> {
        self.fate.end(EndReason::Released, false);
        let slots = 0..self.slots.capacity();
        slots.filter_map(|index| self.slots.end_buffer(index, false)).collect()
    }
}

impl<P: QueueProtocol, B> Drop for SharedQueue<P, B> {
    /// Ends the queue, as released. Buffers still with the device are leaked, not freed: freeing
    /// memory that a device may write is worse than losing it. [`SharedQueue::give_up`] hands them
    /// to someone who can wait. Once the fate is quiesced they are dropped like the others.
    fn drop(&mut self) {
        self.fate.end(EndReason::Released, false);
        if self.fate.quiesced() {
            return;
        }
        for index in 0..self.slots.capacity() {
            core::mem::forget(self.slots.end_buffer(index, true));
        }
    }
}
