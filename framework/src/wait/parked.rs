//! The tasks that are parked on a line.

use std::task::Waker;
use std::thread::ThreadId;

use doorbell_queues::Tag;

/// The thread that takes the event and the one that uses the queue may wake everyone at once; they do
/// not allocate then.
pub(super) const LEAVING: usize = 2;

#[derive(Debug)]
pub(super) struct Entry {
    pub(super) waker: Waker,
    pub(super) since: u64,
    /// Parked outside of a runtime: it is a thread that must see the event.
    pub(super) outside: bool,
}

/// The tasks that are parked on a line.
///
/// A command's entry lies at its slot: the low bits of its tag ([`doorbell_queues::slots`]). Only the
/// command that has the slot now can have a future, so an entry of an earlier one is overwritten,
/// and there are no more entries than slots: parking does not allocate.
///
/// # Invariants
/// `listed` has the numbers of at least the slots that hold an entry, and each number once, which the
/// flag beside the entry tells.
#[derive(Debug)]
pub(super) struct ParkedTasks {
    pub(super) slots: Vec<(Option<Entry>, bool)>,
    pub(super) listed: Vec<u16>,
    pub(super) others: Vec<Entry>,
    /// Pollers that look at the queue: woken with the tasks, and kept.
    pub(super) watchers: Vec<Waker>,
    /// Room for wakers on their way out, of as many threads as [`LEAVING`]; kept for its capacity.
    pub(super) leaving: Vec<Vec<Waker>>,
    pub(super) mask: u16,
    /// The thread that parked last.
    pub(super) thread: Option<ThreadId>,
    /// Tasks of several threads have parked.
    pub(super) shared: bool,
}

impl ParkedTasks {
    /// `commands` is how many can be in flight on the queue.
    pub(super) fn with_room(commands: u16) -> Self {
        let room = usize::from(commands);
        Self {
            slots: Vec::with_capacity(room.next_power_of_two()),
            listed: Vec::with_capacity(room),
            others: Vec::with_capacity(8),
            watchers: Vec::new(),
            leaving: (0..LEAVING).map(|_| Vec::with_capacity(room + 8)).collect(),
            mask: (room.next_power_of_two() - 1) as u16,
            thread: None,
            shared: false,
        }
    }

    /// Returns the entry that it replaces.
    pub(super) fn put(&mut self, tag: Tag, entry: Entry) -> Option<Entry> {
        let number = tag.0 & self.mask;
        let index = usize::from(number);
        if index >= self.slots.len() {
            self.slots.resize_with(index + 1, || (None, false));
        }
        let (place, listed) = self.slots.get_mut(index)?;
        let replaced = place.replace(entry);
        if !std::mem::replace(listed, true) {
            self.listed.push(number);
        }
        replaced
    }

    pub(super) fn take(&mut self, tag: Tag) -> Option<Entry> {
        self.slots.get_mut(usize::from(tag.0 & self.mask))?.0.take()
    }

    pub(super) fn all(&self) -> impl Iterator<Item = &Entry> {
        let listed = self.listed.iter().filter_map(|number| self.slots.get(usize::from(*number)));
        listed.filter_map(|(entry, _)| entry.as_ref()).chain(&self.others)
    }

    /// Moves every waker to `leaving`.
    pub(super) fn drain_into(&mut self, leaving: &mut Vec<Waker>) {
        for number in self.listed.drain(..) {
            if let Some((entry, listed)) = self.slots.get_mut(usize::from(number)) {
                *listed = false;
                leaving.extend(entry.take().map(|entry| entry.waker));
            }
        }
        leaving.extend(self.others.drain(..).map(|entry| entry.waker));
        leaving.extend(self.watchers.iter().cloned());
    }
}
