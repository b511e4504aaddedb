//! The line of tasks that wait for a free slot.

use alloc::collections::VecDeque;
use core::task::Waker;

/// Tasks that wait for a slot, in the order in which they came. A task keeps its ticket, and with
/// it its place, until it has got a slot or gives up.
///
/// As with the slots, wakers are handed out and never dropped here.
///
/// # Invariants
/// `line` is sorted by ticket, and no ticket is in it twice.
#[derive(Debug, Default)]
pub(crate) struct SlotWaiters {
    line: VecDeque<(u64, Waker)>,
    /// Tickets given out so far. It does not wrap: 2^64 waits take centuries.
    tickets: u64,
}

impl SlotWaiters {
    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.line.is_empty()
    }

    pub(crate) fn len(&self) -> usize {
        self.line.len()
    }

    /// A place at the end of the line.
    pub(crate) fn ticket(&mut self) -> u64 {
        self.tickets += 1;
        self.tickets
    }

    /// Lets `waker` be called when it is the ticket's turn; returns the waker it replaces.
    pub(crate) fn register(&mut self, ticket: u64, waker: Waker) -> Option<Waker> {
        match self.line.binary_search_by_key(&ticket, |(ticket, _)| *ticket) {
            Ok(at) => self.line.get_mut(at).map(|(_, old)| core::mem::replace(old, waker)),
            Err(at) => {
                self.line.insert(at, (ticket, waker));
                None
            }
        }
    }

    /// Takes a ticket out of the line.
    pub(crate) fn remove(&mut self, ticket: u64) -> Option<Waker> {
        let at = self.line.binary_search_by_key(&ticket, |(ticket, _)| *ticket).ok()?;
        self.line.remove(at).map(|(_, waker)| waker)
    }

    /// Whose turn it is. The task registers again if someone else was faster.
    pub(crate) fn pop(&mut self) -> Option<Waker> {
        self.line.pop_front().map(|(_, waker)| waker)
    }
}
