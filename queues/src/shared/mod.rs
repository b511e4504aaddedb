//! [`SharedQueue`]: a submission and completion queue pair that many threads use at once.
//!
//! `Shared` mode of the design. The type is `Send + Sync`; no operation locks, waits for another
//! thread, allocates or enters the kernel (a kick of a device that sleeps enters it, and so does an
//! interrupt's arming on some buses; a task that waits for a slot may grow the line). One thread is
//! better served by [`Queue`](crate::Queue), which needs no atomic read-modify-write at all, and many
//! by a `Queue` each, where the device has enough of them.
//!
//! A command takes the way
//! `slot -> entry built -> staged -> placed in the ring -> rung -> completion -> slot free`:
//!
//! | step | how | in |
//! |---|---|---|
//! | slot | one atomic "and" clears its bit; threads begin at different words | `free` |
//! | entry built | by the caller's closure, which has the slot and nothing else | here |
//! | staged | the entry is stored beside the slot, which goes on a lane by one compare-and-swap; threads have different lanes, mostly | `lanes` |
//! | placed | by whoever holds the ringer's baton: each lane is taken by one swap, and its entries are stored in the ring, which nobody else writes | `gather` |
//! | rung | by the same: one doorbell store for all that was placed | `bells` |
//! | completion | by whoever holds the reaper's baton: settled by one compare-and-swap of the slot's word | `reaper`, `cell` |
//! | slot free | by the future (or callback, or for an orphan the reaper): one atomic "or" | `free` |
//!
//! An entry gets its place in the ring only when it is rung, and not when it is submitted. So no word is
//! written by every submission of every thread; and there is no place that is reserved and not yet
//! filled, behind which others would have to wait. The price is a second copy of the entry.
//!
//! The device sees the commands that one thread submits in their order, as long as the thread keeps to
//! one lane: that is told from where its stack lies (`free::own_word`), so a thread whose stack is larger
//! than 2 MiB, or a task that moves between threads, may use two. Between lanes there is no order. A
//! command that must follow another is submitted after that one's completion.
//!
//! # What a thread that stops can hold up, and what not
//! A thread may be preempted, or stopped by a debugger, anywhere. If it stops
//!
//! | where | others cannot meanwhile | others can |
//! |---|---|---|
//! | while it has a slot, building it or not yet on a lane | use that slot | everything else |
//! | as the ringer, with the baton | have anything rung that it has not rung, or the head acknowledged; it does so when it goes on | submit, reap, complete |
//! | as the ringer, after the baton, before a kick | have a **sleeping** device woken for what it rang; who rings after it kicks for itself | everything else |
//! | as the reaper, with the baton | have completions settled that it has not settled; so futures that are polled park or go on spinning | submit, ring, take what is settled, give slots back |
//! | as the reaper, between a parked future's state and its waker | poll that future to its end, or park it | everything else |
//! | between taking a callback's completion and calling it, or in a callback or waker | use that slot | everything else: nothing is held then |
//! | changing the line of those who wait for a slot | join or leave the line, be woken from it: who would join is polled again instead | everything else |
//!
//! So a stopped producer never delays others, neither their submitting nor their **ringing**. A stopped
//! ringer or reaper delays its work for all. Nobody waits for either: who needs the work asks the
//! holder for it and goes on (see [delegation](#delegation)).
//!
//! # Progress
//! | operation | guarantee |
//! |---|---|
//! | [`submit`](SharedQueue::submit), [`post`](SharedQueue::post) | lock-free: a slot is lost only to another thread that got it, and a place on a lane only to one that went on it or took it; full is an error at once |
//! | [`flush`](SharedQueue::flush) | wait-free for who asks; the holder repeats the work as often as others ask meanwhile, each of whom has made progress |
//! | polling a future, [`reap`](SharedQueue::reap), [`poll`](SharedQueue::poll) | lock-free; a look at a ring that another thread holds returns at once |
//! | dropping a future | lock-free: it competes with the reaper for one word, and loses at most twice |
//! | waiting for a slot | lock-free, not fair while the line is being changed: see above |
//!
//! "Full" is what a look over the words of slots found: while other threads give slots back at the same
//! moment it may be said though at each single moment some slot was free.
//!
//! # Delegation
//! Ringing must be in order, because a doorbell carries an absolute tail; reaping too, because a
//! completion ring has one head. Each is done by the holder of a baton. Who finds it taken leaves a
//! request in the same word and goes; the holder cannot let go without seeing it. (Flat combining: see
//! `cell/baton.rs` for the citation.) So everything submitted before a flush is rung by it, by the
//! holder that it asked, or by the one that has taken its lane already.
//!
//! A task that parks makes such a request too, after it has armed the interrupt: a completion that the
//! reaper's last look missed is seen by the next one, and one that comes later fires the interrupt.
//! Wakers are called only of futures that parked.
//!
//! # Where it differs from `Single`
//! * A poll of a future that is done flushes only if it is the future's first poll.
//! * [`reap`](SharedQueue::reap) settles first and calls then, so callbacks come after the buffers of
//!   orphans were dropped; [`reap`](SharedQueue::reap) and [`poll`](SharedQueue::poll) return 0 while
//!   another thread reaps.
//! * A completion beyond the number of commands told is a violation at once, whatever its tag: the
//!   ring's invariants rest on it (see `bells`), and so hold whatever a device writes.
//! * Commands of different threads reach the device in no particular order, even if one was submitted
//!   after the other.
//! * After the queue's end the slot of a command whose buffer was handed back as lost stays in use.
//!
//! Code of others (builders, callbacks, wakers, buffers' drop, kicks, the interrupt) runs while
//! nothing is held, so it may use the queue.
//!
//! # Verified by
//! Loom models of batons, reservation, ringing and parking (`models`), each with a planted mistake that
//! must be found; a property test that compares it step by step with a `Single` queue, also with a
//! device that lies; a stress test with threads, cancellations and a device that completes out of order.

use alloc::boxed::Box;
use alloc::sync::Arc;
use core::fmt;

use crate::error::{BadGeometry, QueueError, Rejected, Violation};
use crate::fate::Fate;
use crate::mem::{CellArray, CellWords, Cells, EntryStores, SharedMem};
use crate::protocol::{DoorbellKind, QueueName, QueueProtocol, Tag};
use crate::queue::{Completed, QueueParts};
use crate::wait::{Interrupt, SpinBudget};

mod batch;
mod bells;
#[allow(
    unsafe_code,
    reason = "cells that threads hand to each other: each site lists its obligations"
)]
mod cell;
mod ending;
mod free;
mod gather;
mod in_flight;
mod lanes;
mod laps;
mod line;
#[cfg(test)]
#[cfg(loom)]
mod models;
mod reaper;
mod sync;
#[cfg(test)]
#[cfg(not(loom))]
mod tests;
mod turns;
mod waiting;

pub use in_flight::SharedInFlight;
pub use waiting::SharedSlotFree;

use bells::Bells;
use cell::{Delegated, Reserved, SlotTable, WriteOnce};
use free::own_word;
use lanes::Lanes;
use line::Line;
use reaper::{Look, Peek, Reaper};
use sync::AtomicBool;
use turns::Turns;

/// The slots of a shared queue.
type Slots<P, B> = SlotTable<<P as QueueProtocol>::Outcome, B, Reaper<P>>;

/// A queue pair that many threads use at once. See the [module's documentation](self).
///
/// `B` is what a command keeps while the device works on it: its buffer. It is dropped, or given
/// back, only after the command's completion, or after the queue has ended and the device is known
/// to be done ([`Fate::end`] with `quiesced`).
pub struct SharedQueue<P: QueueProtocol, B> {
    // Read by every operation and written by none: together, and apart from the rest.
    fate: Arc<Fate>,
    entries: Cells<P::Entry>,
    non_temporal: bool,
    completions: Cells<P::Completion>,
    interrupt: Box<dyn Interrupt>,
    /// The completion ring's memory, for whoever looks on the queue's behalf.
    completion_memory: SharedMem,
    name: QueueName,
    /// What the device did wrong. Invariant: once set, the completion ring is stopped.
    violation: WriteOnce<Violation>,
    /// Every parked task is to be woken, by the reaper.
    wake_all: AtomicBool,

    slots: Slots<P, B>,
    /// Entry of slot `n`, from its building until it is in the ring. Invariant: written by who has the
    /// slot, before it is on a lane; read by who took it from there.
    staged: Cells<P::Entry>,
    lanes: Lanes,
    bells: Bells,
    peek: Peek,
    spin: Delegated<core::cell::Cell<SpinBudget>>,
    turns: Turns,
    line: Line,
}

impl<P: QueueProtocol, B> fmt::Debug for SharedQueue<P, B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SharedQueue")
            .field("name", &self.name)
            .field("in_flight", &self.in_flight())
            .finish_non_exhaustive()
    }
}

/// A slot whose entry is being built. If the builder panics the slot is given back, and then, when
/// the second field is dropped, those who wait for one are told.
struct Building<'q, P: QueueProtocol, B> {
    slot: Reserved<'q, P::Outcome, B, Reaper<P>>,
    freed: Freed<'q, P, B>,
}

struct Freed<'q, P: QueueProtocol, B>(&'q SharedQueue<P, B>);

impl<P: QueueProtocol, B> Drop for Freed<'_, P, B> {
    fn drop(&mut self) {
        self.0.slot_freed();
    }
}

impl<P: QueueProtocol, B> SharedQueue<P, B> {
    /// Builds a queue over its parts, which are those of a [`Queue`](crate::Queue). A protocol with a
    /// portal does not compile here.
    ///
    /// # Errors
    /// [`BadGeometry`] if the rings or slots are out of range or the memory is too small.
    pub fn new(parts: QueueParts) -> Result<Self, BadGeometry> {
        const {
            assert!(
                matches!(P::DOORBELL, DoorbellKind::Tail),
                "a portal is written by one thread: its cells are taken in order"
            );
        }
        let (entries, ring) = parts.rings::<P>()?;
        // For a look without the baton.
        let (_, completions) = parts.rings::<P>()?;
        let counts = (entries.count(), completions.count());
        let bells = Bells::new(parts.submission_doorbell, parts.completion_doorbell, counts);
        let slots = usize::from(parts.slots);
        let Ok(staged) = SharedMem::zeroed(slots * size_of::<P::Entry>()).cells(0, slots) else {
            unreachable!("memory of that size")
        };
        Ok(Self {
            fate: parts.fate,
            entries,
            staged,
            lanes: Lanes::new(),
            non_temporal: parts.entry_stores == EntryStores::NonTemporal,
            completions,
            interrupt: parts.interrupt,
            completion_memory: parts.completion,
            name: parts.name,
            violation: WriteOnce::new(),
            wake_all: AtomicBool::new(false),
            slots: SlotTable::new(parts.slots, Reaper::new(ring)),
            bells,
            peek: Peek::new(),
            spin: Delegated::new(core::cell::Cell::new(parts.spin)),
            turns: Turns::new(),
            line: Line::new(),
        })
    }

    /// Which queue this is.
    pub fn name(&self) -> &QueueName {
        &self.name
    }

    /// Commands that can be in flight at once.
    pub fn capacity(&self) -> usize {
        self.slots.capacity()
    }

    /// Slots in use: in flight, orphaned, or completed and not yet looked at. Under way in other
    /// threads it changes while it is counted.
    pub fn in_flight(&self) -> usize {
        self.slots.capacity() - self.slots.free().count()
    }

    #[inline]
    fn is_alive(&self) -> bool {
        self.fate.is_alive()
    }

    /// Submits an entry and returns the future of its completion. `build` gets the slot's number
    /// (`0..capacity`, its own until completion: an index into per-command memory such as PRP
    /// lists) and the buffer, and returns the entry, which is copied into the ring
    /// when it is rung. The device is not told before [`flush`](Self::flush) or the future's first poll (or,
    /// early, because another thread's flush covers it).
    ///
    /// # Errors
    /// [`Rejected`] with the buffer if no slot was free or the queue has ended.
    #[inline]
    pub fn submit(
        &self,
        buffer: B,
        build: impl FnOnce(u16, &mut B) -> P::Entry,
    ) -> Result<SharedInFlight<'_, P, B>, Rejected<B>> {
        self.place(buffer, build, Reserved::commit)
            .map(|command| SharedInFlight::new(self, command))
    }

    /// Submits an entry whose completion goes to the callback of [`reap`](Self::reap), whichever
    /// thread calls it, and only there. Otherwise as [`submit`](Self::submit).
    ///
    /// # Errors
    /// [`Rejected`] with the buffer if no slot was free or the queue has ended.
    #[inline]
    pub fn post(
        &self,
        buffer: B,
        build: impl FnOnce(u16, &mut B) -> P::Entry,
    ) -> Result<Tag, Rejected<B>> {
        self.place(buffer, build, Reserved::commit_direct)
    }

    // Each caller brings a builder of its own type, so this is compiled for each of them anyway.
    #[inline(always)]
    fn place<'q, T>(
        &'q self,
        mut buffer: B,
        build: impl FnOnce(u16, &mut B) -> P::Entry,
        commit: impl FnOnce(Reserved<'q, P::Outcome, B, Reaper<P>>, B) -> T,
    ) -> Result<T, Rejected<B>> {
        if !self.is_alive() {
            return Err(self.rejected(buffer));
        }
        let Some(slot) = self.slots.reserve() else {
            return Err(self.rejected(buffer));
        };
        let building = Building { slot, freed: Freed(self) };
        let mut entry = build(building.slot.slot(), &mut buffer);
        P::stamp(&mut entry, building.slot.tag());
        let Building { slot, freed } = building;
        core::mem::forget(freed);
        let number = slot.slot();
        self.staged.words(number.into()).write(&entry);
        let committed = commit(slot, buffer);
        self.lanes.push(own_word(), number, self.slots.link(number));
        Ok(committed)
    }

    /// Tells the device of everything that any thread has submitted: one store to the tail doorbell,
    /// by this thread or by the one that is at it; it does not wait for that one. Does nothing if
    /// there is nothing new, or if the queue has ended.
    ///
    /// The head doorbell is only rung when the completion ring could otherwise overflow.
    #[inline]
    pub fn flush(&self) {
        if self.lanes.has(own_word()) || self.lanes.any() {
            self.bells.ring(self, || self.is_alive());
        }
    }

    /// Reaps up to `budget` completions for everyone: wakes parked futures, frees orphans, and
    /// hands completions of [`post`](Self::post) to `direct`, in the order of their completion (where
    /// several threads reap at once, each sees a part of them in that order). Returns how many there
    /// were. It is 0 also while another thread is at it; that one then serves all.
    ///
    /// `direct` runs while nothing is held: other threads reap meanwhile, and it may use the queue.
    /// Completions of futures can be settled beyond the budget, on behalf of a task that parks.
    ///
    /// # Errors
    /// * [`QueueError::Violation`] if the device broke the protocol. The queue has then ended; what
    ///   was completed before is settled, and nothing that the device writes is looked at any more.
    /// * [`QueueError::Ended`] if the queue has ended and there was nothing to reap, so a loop over
    ///   `reap` ends with its queue.
    #[inline]
    pub fn reap(
        &self,
        budget: usize,
        mut direct: impl FnMut(Completed<P, B>),
    ) -> Result<usize, QueueError> {
        let before = self.call(budget, &mut direct);
        let (looked, result) = self.look(Look::up_to(budget - before));
        let called = before + self.call(looked.direct.min(budget - before), &mut direct);
        match result {
            Err(QueueError::Ended { .. }) if called > 0 => Ok(called),
            result => result.map(|()| called + looked.settled - looked.direct),
        }
    }

    /// Hands up to `most` of the completions that are in line to the callback.
    #[inline]
    fn call(&self, most: usize, direct: &mut impl FnMut(Completed<P, B>)) -> usize {
        let mut called = 0;
        while called < most && self.slots.has_settled() {
            let Some((tag, outcome, buffer)) = self.slots.take_settled() else { break };
            called += 1;
            self.slot_freed();
            direct(Completed { tag, outcome, buffer });
        }
        called
    }

    /// Reaps up to `budget` completions of futures. Completions of [`post`](Self::post) count too,
    /// and wait for the next [`reap`](Self::reap). For loops that drive futures only.
    ///
    /// # Errors
    /// As [`reap`](Self::reap).
    #[inline]
    pub fn poll(&self, budget: usize) -> Result<usize, QueueError> {
        let (looked, result) = self.look(Look::up_to(budget));
        result.map(|()| looked.settled)
    }
}
