//! [`Sleepers`]: the tasks of a poller that are parked on one queue.

use std::collections::VecDeque;
use std::task::Waker;

use doorbell_queues::Tag;

use super::local::Ready;

/// Who is to be woken.
#[derive(Debug)]
pub(super) enum Sleeper {
    /// A task of this thread, by its place: nothing is counted and nothing allocated.
    Task(u32),
    /// A waker from within a task: that of a future which polls several others.
    Other(Waker),
}

impl Sleeper {
    /// Wakes it. Wakers of others are handed out: they are called when nothing is borrowed.
    #[inline]
    fn wake(self, ready: &mut Ready, others: &mut Vec<Waker>) {
        match self {
            Self::Task(place) => ready.push(place),
            Self::Other(waker) => others.push(waker),
        }
    }

    fn is_same(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Task(one), Self::Task(two)) => one == two,
            (Self::Other(one), Self::Other(two)) => one.will_wake(two),
            _ => false,
        }
    }
}

/// One parked task.
#[derive(Debug)]
struct Parked {
    who: Sleeper,
    /// When it parked, as [`Line`](crate::wait::line::Line) stamps it.
    since: u64,
}

/// A command's place.
#[derive(Debug, Default)]
struct Slot {
    parked: Option<Parked>,
    listed: bool,
}

/// The parked tasks of a queue.
///
/// A command's entry lies at its slot: the low bits of its tag. The queue wakes a task whose command
/// has completed by itself, without a word to this, so an entry may be an old one: waking its task
/// once too often is harmless, and the next command of the slot overwrites it.
///
/// # Invariants
/// `order` has the numbers of at least the slots that hold an entry, each number once, which the flag
/// beside the entry tells. `count` is the number of entries in `slots` and `others`.
#[derive(Debug)]
pub(super) struct Sleepers {
    slots: Vec<Slot>,
    order: VecDeque<u16>,
    /// Tasks that wait for a free slot.
    others: VecDeque<Parked>,
    count: usize,
    mask: u16,
}

impl Sleepers {
    /// `commands` is how many can be in flight on the queue. No memory is needed after this, but for
    /// tasks that wait for a slot.
    pub(super) fn new(commands: u16) -> Self {
        let slots = usize::from(commands).next_power_of_two();
        Self {
            slots: (0..slots).map(|_| Slot::default()).collect(),
            order: VecDeque::with_capacity(slots),
            others: VecDeque::new(),
            count: 0,
            mask: (slots - 1) as u16,
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Remembers a task; returns whom it replaces, to be dropped when nothing is borrowed.
    #[inline]
    pub(super) fn put(&mut self, tag: Option<Tag>, who: Sleeper, since: u64) -> Option<Sleeper> {
        let parked = Parked { who, since };
        let Some(tag) = tag else { return self.put_other(parked) };
        let number = tag.0 & self.mask;
        let slot = self.slots.get_mut(usize::from(number))?;
        let replaced = slot.parked.replace(parked);
        if !std::mem::replace(&mut slot.listed, true) {
            self.order.push_back(number);
        }
        self.count += usize::from(replaced.is_none());
        replaced.map(|old| old.who)
    }

    fn put_other(&mut self, parked: Parked) -> Option<Sleeper> {
        match self.others.iter_mut().find(|old| old.who.is_same(&parked.who)) {
            Some(old) => Some(std::mem::replace(old, parked).who),
            None => {
                self.others.push_back(parked);
                self.count += 1;
                None
            }
        }
    }

    fn pop(&mut self) -> Option<Sleeper> {
        while let Some(number) = self.order.pop_front() {
            if let Some(slot) = self.slots.get_mut(usize::from(number)) {
                slot.listed = false;
                if let Some(parked) = slot.parked.take() {
                    self.count -= 1;
                    return Some(parked.who);
                }
            }
        }
        let parked = self.others.pop_front()?;
        self.count -= 1;
        Some(parked.who)
    }

    /// Wakes the one that has been in line for longest.
    #[inline]
    pub(super) fn wake_one(&mut self, ready: &mut Ready, others: &mut Vec<Waker>) {
        if let Some(sleeper) = self.pop() {
            sleeper.wake(ready, others);
        }
    }

    pub(super) fn wake_all(&mut self, ready: &mut Ready, others: &mut Vec<Waker>) {
        while let Some(sleeper) = self.pop() {
            sleeper.wake(ready, others);
        }
    }

    /// When the first of them parked.
    pub(super) fn oldest(&self) -> Option<u64> {
        let slots = self.slots.iter().filter_map(|slot| slot.parked.as_ref());
        slots.chain(&self.others).map(|parked| parked.since).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ready() -> Ready {
        let mut ready = Ready::new();
        ready.grow(100);
        ready
    }

    fn woken(ready: &mut Ready) -> Vec<u32> {
        std::iter::from_fn(|| ready.pop()).collect()
    }

    #[test]
    fn the_first_in_line_is_woken_first_and_all_are_found() {
        let (mut sleepers, mut ready, mut others) = (Sleepers::new(8), ready(), Vec::new());
        for (place, tag) in [(7, 3), (8, 1), (9, 0x15)] {
            assert!(sleepers.put(Some(Tag(tag)), Sleeper::Task(place), 5).is_none());
        }
        sleepers.put(None, Sleeper::Task(10), 4);
        assert_eq!(sleepers.oldest(), Some(4));
        sleepers.wake_one(&mut ready, &mut others);
        assert_eq!(woken(&mut ready), [7]);
        sleepers.wake_all(&mut ready, &mut others);
        assert_eq!(woken(&mut ready), [8, 9, 10]);
        assert!(sleepers.is_empty() && sleepers.oldest().is_none() && others.is_empty());
    }

    #[test]
    fn the_next_command_of_a_slot_takes_the_place_of_the_last() {
        let (mut sleepers, mut ready, mut others) = (Sleepers::new(4), ready(), Vec::new());
        sleepers.put(Some(Tag(1)), Sleeper::Task(1), 5);
        let replaced = sleepers.put(Some(Tag(0x11)), Sleeper::Task(2), 6);
        assert!(matches!(replaced, Some(Sleeper::Task(1))));
        sleepers.put(None, Sleeper::Task(3), 6);
        assert!(sleepers.put(None, Sleeper::Task(3), 7).is_some(), "it waits once");
        let waker = Waker::noop().clone();
        sleepers.put(None, Sleeper::Other(waker.clone()), 7);
        assert!(sleepers.put(None, Sleeper::Other(waker), 8).is_some());
        sleepers.wake_all(&mut ready, &mut others);
        assert_eq!((woken(&mut ready), others.len()), (vec![2, 3], 1));
        assert!(sleepers.is_empty());
    }
}
