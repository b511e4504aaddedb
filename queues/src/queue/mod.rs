//! [`Queue`]: a submission and completion queue pair for one thread at a time.
//!
//! `Single` mode of the design, which is the only mode so far: the type is `Send` and not `Sync`,
//! so the compiler keeps it on one thread and no operation locks, allocates or enters the kernel.
//! (A kick of a device that sleeps enters it, and so does an interrupt's arming on some buses; both
//! are the framework's.)
//!
//! A command takes the way `reserve slot -> build entry -> store at the tail -> ring -> completion
//! -> slot free`. It is awaited as a future ([`Queue::submit`]) or handed to a callback
//! ([`Queue::post`] and [`Queue::reap`]); both may be mixed on one queue.
//!
//! What it does not do: it has no clock, so it times out nothing ([`Interrupt`] may, and a driver
//! does); it does not tell the device when it is dropped; and it does not know what a buffer is.
//!
//! Code of others (the entry's builder, callbacks, wakers, buffers' drop, kicks, the interrupt)
//! runs while the queue's state is whole and nothing of it is borrowed, so it may use the queue.

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::cell::{Cell, RefCell};
use core::fmt;

use crate::doorbell::Doorbell;
use crate::error::{BadGeometry, QueueError, RejectReason, Rejected, Violation};
use crate::fate::{EndReason, Fate};
use crate::in_flight::InFlight;
use crate::mem::SharedMem;
use crate::protocol::{QueueName, QueueProtocol, Tag};
use crate::ring::{CompletionRing, SubmissionRing};
use crate::slots::{Reserved, SlotTable};
use crate::wait::{Interrupt, Patience};
use crate::waiters::SlotWaiters;

mod parts;
#[cfg(test)]
#[cfg(not(loom))]
mod tests;
mod waiting;

pub use parts::{Completed, QueueParts};
pub(crate) use waiting::ROUNDS;
pub use waiting::SlotFree;

/// A queue pair. See the module's documentation.
///
/// `B` is what a command keeps while the device works on it: its buffer. It is dropped, or given
/// back, only after the command's completion, or after the queue has ended and the device is known
/// to be done ([`Fate::end`] with `quiesced`).
///
/// All of its state lies in cells, so that no code of others can find it borrowed. That also makes
/// it `!Sync`: two threads cannot have it at once, and a future, which borrows it, stays on its
/// thread.
///
/// ```compile_fail,E0277
/// # use doorbell_queues::{Queue, QueueProtocol};
/// fn two_threads<P: QueueProtocol>(queue: &Queue<P, ()>) {
///     std::thread::scope(|scope| {
///         scope.spawn(|| queue.flush()); // `Queue` cannot be shared between threads safely
///     });
/// }
/// ```
pub struct Queue<P: QueueProtocol, B> {
    fate: Arc<Fate>,
    slots: SlotTable<P::Outcome, B>,
    completion: CompletionRing<P>,
    submission: SubmissionRing<P::Entry>,
    patience: Patience,
    submission_doorbell: Doorbell,
    completion_doorbell: Doorbell,
    interrupt: Box<dyn Interrupt>,
    /// The completion ring's memory, for whoever looks on the queue's behalf.
    completion_memory: SharedMem,
    /// Never borrowed while code of others runs.
    waiters: RefCell<SlotWaiters>,
    /// What the device did wrong. Invariant: once set, the completion ring is stopped.
    violation: Cell<Option<Violation>>,
    name: QueueName,
}

impl<P: QueueProtocol, B> fmt::Debug for Queue<P, B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Queue")
            .field("name", &self.name)
            .field("in_flight", &self.in_flight())
            .finish_non_exhaustive()
    }
}

/// Gives a reserved slot back if the entry's builder panics.
struct Building<'q, P: QueueProtocol, B> {
    queue: &'q Queue<P, B>,
    reserved: Reserved<'q, P::Outcome, B>,
}

impl<P: QueueProtocol, B> Drop for Building<'_, P, B> {
    fn drop(&mut self) {
        self.queue.slots.cancel(&self.reserved);
        self.queue.slot_freed();
    }
}

impl<P: QueueProtocol, B> Queue<P, B> {
    /// Builds a queue over its parts.
    ///
    /// # Errors
    /// [`BadGeometry`] if the rings or slots are out of range or the memory is too small.
    pub fn new(parts: QueueParts) -> Result<Self, BadGeometry> {
        let (submission, completion) = parts.rings::<P>()?;
        Ok(Self {
            fate: parts.fate,
            slots: SlotTable::new(parts.slots),
            completion: CompletionRing::new(completion),
            submission: SubmissionRing::new(submission, parts.entry_stores),
            patience: Patience::new(parts.spin),
            submission_doorbell: parts.submission_doorbell,
            completion_doorbell: parts.completion_doorbell,
            interrupt: parts.interrupt,
            completion_memory: parts.completion,
            waiters: RefCell::default(),
            violation: Cell::new(None),
            name: parts.name,
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

    /// Slots in use: in flight, orphaned, or completed and not yet looked at.
    pub fn in_flight(&self) -> usize {
        self.slots.in_use()
    }

    /// Why the queue has ended, if it has. The first reason stays.
    pub fn ended(&self) -> Option<QueueError> {
        let reason = self.fate.ended()?;
        let queue = self.name.clone();
        Some(match (reason, self.violation.get()) {
            (EndReason::Violation, Some(violation)) => QueueError::Violation { queue, violation },
            _ => QueueError::Ended { queue, reason },
        })
    }

    /// Submits an entry and returns the future of its completion. `build` gets the slot's number
    /// (`0..capacity`, its own until completion: an index into per-command memory such as PRP
    /// lists) and the buffer, and returns the entry, which is stored word by word straight into the
    /// ring. The device is not told before [`flush`](Self::flush) or the future's first poll.
    ///
    /// # Errors
    /// [`Rejected`] with the buffer if every slot is in use or the queue has ended.
    #[inline]
    pub fn submit(
        &self,
        buffer: B,
        build: impl FnOnce(u16, &mut B) -> P::Entry,
    ) -> Result<InFlight<'_, P, B>, Rejected<B>> {
        self.place(buffer, build, false).map(|tag| InFlight::new(self, tag))
    }

    /// Submits an entry whose completion goes to the callback of [`reap`](Self::reap), and only
    /// there. Otherwise as [`submit`](Self::submit).
    ///
    /// # Errors
    /// [`Rejected`] with the buffer if every slot is in use or the queue has ended.
    #[inline]
    pub fn post(
        &self,
        buffer: B,
        build: impl FnOnce(u16, &mut B) -> P::Entry,
    ) -> Result<Tag, Rejected<B>> {
        self.place(buffer, build, true)
    }

    // Each caller brings a builder of its own type, so this is compiled for each of them anyway.
    #[inline(always)]
    fn place(
        &self,
        mut buffer: B,
        build: impl FnOnce(u16, &mut B) -> P::Entry,
        direct: bool,
    ) -> Result<Tag, Rejected<B>> {
        if !self.fate.is_alive() {
            return Err(self.rejected(buffer));
        }
        let Some(reserved) = self.slots.reserve() else {
            return Err(self.rejected(buffer));
        };
        let building = Building { queue: self, reserved };
        let tag = building.reserved.tag;
        let mut entry = build(building.reserved.index, &mut buffer);
        P::stamp(&mut entry, tag);
        self.submission.push(&entry);
        self.slots.commit(&building.reserved, buffer, direct);
        core::mem::forget(building);
        Ok(tag)
    }

    #[cold]
    fn rejected(&self, buffer: B) -> Rejected<B> {
        let reason = match self.ended() {
            Some(error) => RejectReason::Ended(error),
            None => RejectReason::Full(self.name.clone()),
        };
        Rejected { reason, buffer }
    }

    /// Tells the device of everything submitted since the last flush: one store to the tail
    /// doorbell. Does nothing if there is nothing new, or if the queue has ended.
    ///
    /// The head doorbell is only rung when the completion ring could otherwise overflow, which is
    /// once in many batches if the ring has twice as many entries as the queue has slots.
    #[inline]
    pub fn flush(&self) {
        if self.submission.has_unrung() {
            self.ring();
        }
    }

    fn ring(&self) {
        if !self.fate.is_alive() {
            return;
        }
        // What the device may still complete, and the entries that it does not know to be free
        // again: together they must stay below the ring's size, or the ring would look full.
        let unrung = self.completion.unrung();
        let full = unrung > 0 && unrung + self.slots.in_use() >= self.completion.count();
        // The head first: the entries it frees are those the new commands will fill. Both stores
        // before any kick, whose code might flush again.
        let kick_head = full && self.completion_doorbell.store(self.completion.take_head());
        self.submission.settle_stores();
        let kick_tail = self.submission_doorbell.store(self.submission.take_tail());
        if kick_head || kick_tail {
            self.kick(kick_head, kick_tail);
        }
    }

    /// Reaps up to `budget` completions for everyone: wakes parked futures, frees orphans, and
    /// hands completions of [`post`](Self::post) to `direct`, in the order of their completion.
    /// Returns how many there were.
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
        let mut deferred = 0;
        while deferred < budget && self.slots.has_deferred() {
            let Some((tag, outcome, buffer)) = self.slots.take_deferred() else { break };
            deferred += 1;
            self.slot_freed();
            direct(Completed { tag, outcome, buffer });
        }
        match self.look(budget - deferred, None, Some(direct)) {
            Err(QueueError::Ended { .. }) if deferred > 0 => Ok(deferred),
            looked => looked.map(|reaped| deferred + reaped),
        }
    }

    /// Reaps up to `budget` completions of futures. Completions of [`post`](Self::post) count too,
    /// and wait for the next [`reap`](Self::reap). For loops that drive futures only.
    ///
    /// # Errors
    /// As [`reap`](Self::reap).
    #[inline]
    pub fn poll(&self, budget: usize) -> Result<usize, QueueError> {
        self.look(budget, None, None::<fn(_)>)
    }

    #[cold]
    fn violated(&self, violation: Violation) -> QueueError {
        self.completion.stop();
        self.violation.set(Some(violation));
        // Not quiesced: a device that breaks the protocol may still write to the buffers.
        self.fate.end(EndReason::Violation, false);
        self.wake_everyone();
        QueueError::Violation { queue: self.name.clone(), violation }
    }

    /// Gives the queue up and returns every buffer that it still holds: the device may be writing
    /// to them. Whoever takes them keeps them until the device is known to be done (the queue
    /// deleted or the device reset).
    #[must_use]
    pub fn give_up(self) -> Vec<B> {
        self.fate.end(EndReason::Released, false);
        let slots = 0..self.slots.capacity();
        slots.filter_map(|index| self.slots.take_buffer(index)).collect()
    }
}

impl<P: QueueProtocol, B> Drop for Queue<P, B> {
    /// Ends the queue, as released. Buffers still with the device are leaked, not freed: freeing
    /// memory that a device may write is worse than losing it. [`Queue::give_up`] hands them to
    /// someone who can wait. Once the fate is quiesced they are dropped like the others.
    fn drop(&mut self) {
        self.fate.end(EndReason::Released, false);
        if self.fate.quiesced() {
            return;
        }
        for index in 0..self.slots.capacity() {
            core::mem::forget(self.slots.take_device_buffer(index));
        }
    }
}
