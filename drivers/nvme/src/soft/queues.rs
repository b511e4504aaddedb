//! Submission and completion queues as the controller keeps them (base 3.3; PCIe 3.1.2).
//!
//! Heads, tails and phases are the controller's own; of the host's memory it reads doorbells and
//! entries only. A completion entry is taken *before* a command is fetched, so posting never finds a
//! full queue: a command is fetched when there is room for its completion, and the completion queue
//! head doorbell is read only when there seems to be none.

use std::sync::atomic::Ordering;

use doorbell::dma::{Access, Fault};
use doorbell::queues::mem::{Word, Word32};
use doorbell::soft::SoftCx;

use crate::spec::{Cqe, Sqe, Status};

/// The phase tag in the second word of a completion (base 3.3.3.2: dword 3, bit 16).
const PHASE_BIT: u32 = 48;

/// What a look at a tail doorbell showed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Look {
    /// Nothing to fetch.
    Idle,
    /// Commands to fetch.
    Work,
    /// The doorbell holds a value that cannot be. It is reported once and otherwise ignored.
    Bad(u32),
}

/// How a submission queue goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Life {
    /// Commands are fetched.
    Running,
    /// A command that was fetched could not be started yet: it lies in `Queues::stash`.
    Stalled,
    /// A Delete I/O Submission Queue waits for the commands under way.
    Deleting,
    /// Its memory cannot be reached by DMA; only deletion is left.
    Dead,
}

/// A submission queue.
///
/// # Invariants
/// `head`, `tail` < `size`; the entries from `head` to `tail` were published by the host.
#[derive(Debug)]
pub(crate) struct Sq {
    doorbell: Word32,
    /// The doorbell's value when it was last looked at.
    raw: u32,
    pub(crate) head: u32,
    tail: u32,
    pub(crate) size: u32,
    base: u64,
    pub(crate) cqid: u16,
    pub(crate) life: Life,
    /// Commands that were fetched and are not complete (parked ones not counted).
    pub(crate) inflight: u32,
}

impl Sq {
    pub(crate) fn new(base: u64, size: u32, cqid: u16, doorbell: Word32) -> Self {
        doorbell.store(0, Ordering::Relaxed);
        let life = Life::Running;
        Self { doorbell, raw: 0, head: 0, tail: 0, size, base, cqid, life, inflight: 0 }
    }

    /// Looks at the doorbell.
    #[inline]
    pub(crate) fn look(&mut self) -> Look {
        // Acquire: the entries that the host stored before this value are visible.
        let raw = self.doorbell.load(Ordering::Acquire);
        if raw != self.raw {
            self.raw = raw;
            let fetchable = distance(self.head, self.tail, self.size);
            // A full queue holds one entry less than its size (base 3.3.1.2).
            let room = self.size - 1 - fetchable;
            if raw >= self.size || distance(self.tail, raw, self.size) > room {
                return Look::Bad(raw);
            }
            self.tail = raw;
        }
        match self.life {
            Life::Running if self.head != self.tail => Look::Work,
            Life::Stalled => Look::Work,
            Life::Running | Life::Deleting | Life::Dead => Look::Idle,
        }
    }
}

/// A completion queue.
///
/// # Invariants
/// `head`, `tail` < `size`; `free` + entries from `head` to `tail` + entries reserved for commands
/// under way = `size - 1`.
#[derive(Debug)]
pub(crate) struct Cq {
    doorbell: Word32,
    raw: u32,
    head: u32,
    tail: u32,
    pub(crate) size: u32,
    free: u32,
    phase: bool,
    base: u64,
    /// Interrupt vector, if interrupts are enabled.
    vector: Option<u16>,
    /// Completions were posted since the last interrupt.
    unsignalled: bool,
    /// Submission queues that complete here.
    pub(crate) users: u32,
    /// Its memory cannot be reached by DMA: completions are dropped.
    pub(crate) dead: bool,
}

/// A queue's memory cannot be reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Lost {
    /// It is one of the admin queues.
    pub(crate) admin: bool,
    pub(crate) fault: Fault,
}

/// The completion queue head doorbell holds a value that cannot be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct BadHead(pub(crate) u32);

impl Cq {
    pub(crate) fn new(base: u64, size: u32, vector: Option<u16>, doorbell: Word32) -> Self {
        doorbell.store(0, Ordering::Relaxed);
        Self {
            doorbell,
            raw: 0,
            head: 0,
            tail: 0,
            size,
            free: size - 1,
            phase: true,
            base,
            vector,
            unsignalled: false,
            users: 0,
            dead: false,
        }
    }

    /// Takes note of what the host has consumed.
    pub(crate) fn look(&mut self) -> Result<(), BadHead> {
        // Acquire: the host is done with the entries before this value.
        let raw = self.doorbell.load(Ordering::Acquire);
        if raw == self.raw {
            return Ok(());
        }
        self.raw = raw;
        let posted = distance(self.head, self.tail, self.size);
        if raw >= self.size || distance(self.head, raw, self.size) > posted {
            return Err(BadHead(raw));
        }
        self.free += distance(self.head, raw, self.size);
        self.head = raw;
        Ok(())
    }

    /// True if an entry can be taken without looking at the doorbell.
    #[inline]
    pub(crate) fn has_room(&self) -> bool {
        self.free > 0 || self.dead
    }

    /// Takes an entry for a completion to come.
    #[inline]
    pub(crate) fn reserve(&mut self) {
        self.free = self.free.saturating_sub(1);
    }

    /// Gives an entry back that was reserved and will not be used.
    pub(crate) fn release(&mut self) {
        self.free += 1;
    }

    /// Stores a completion in an entry that was reserved. The phase is set here; with `flip` to the
    /// wrong value (fault injection).
    #[inline]
    fn post(&mut self, cx: &mut SoftCx, [low, high]: [u64; 2], flip: bool) -> Result<(), Fault> {
        if self.dead {
            return Ok(());
        }
        // As words: a store of 8 bytes right after one of 2 to the same place would stall.
        let phased = high | u64::from(self.phase != flip) << PHASE_BIT;
        let at = self.base + u64::from(self.tail) * size_of::<Cqe>() as u64;
        cx.store_entry(at, &[low, phased], Cqe::PHASE_WORD)?;
        self.tail = next(self.tail, self.size);
        self.phase ^= self.tail == 0;
        self.unsignalled = true;
        Ok(())
    }

    /// Interrupts the host if completions were posted since the last time.
    #[inline]
    pub(crate) fn signal(&mut self, cx: &mut SoftCx) {
        if self.unsignalled {
            self.unsignalled = false;
            if let Some(vector) = self.vector {
                cx.interrupt(vector);
            }
        }
    }
}

#[inline]
fn next(index: u32, size: u32) -> u32 {
    if index + 1 == size { 0 } else { index + 1 }
}

/// Steps from `from` to `to` on a ring; both are below `size`.
#[inline]
fn distance(from: u32, to: u32, size: u32) -> u32 {
    if to >= from { to - from } else { to + size - from }
}

/// All queues of the controller, by identifier.
#[derive(Debug)]
pub(crate) struct Queues {
    sqs: Vec<Option<Sq>>,
    cqs: Vec<Option<Cq>>,
    /// Identifiers of the submission queues that exist, ascending: the polling order.
    pub(crate) active: Vec<u16>,
    /// Per submission queue that is stalled: the command that could not be started.
    stash: Vec<Sqe>,
    /// A completion queue had no room at the last look: someone must look again.
    pub(crate) starved: bool,
}

/// What an attempt to fetch a command came to.
#[derive(Debug)]
pub(crate) enum Fetch {
    /// A command, for which a completion entry is taken. True if it was stalled before.
    Command(bool),
    /// There is none, or the queue does not fetch.
    None,
    /// The completion queue is full. If its head doorbell holds what it cannot: that.
    Full(Option<BadHead>),
    /// The entry cannot be read.
    Lost(Fault),
}

impl Queues {
    /// Room for `io_queues` I/O queue pairs and the admin queues.
    pub(crate) fn new(io_queues: u16) -> Self {
        let count = usize::from(io_queues) + 1;
        Self {
            sqs: (0..count).map(|_| None).collect(),
            cqs: (0..count).map(|_| None).collect(),
            active: Vec::with_capacity(count),
            stash: vec![Sqe::default(); count],
            starved: false,
        }
    }

    #[inline]
    pub(crate) fn sq(&mut self, id: u16) -> Option<&mut Sq> {
        self.sqs.get_mut(usize::from(id))?.as_mut()
    }

    #[inline]
    pub(crate) fn cq(&mut self, id: u16) -> Option<&mut Cq> {
        self.cqs.get_mut(usize::from(id))?.as_mut()
    }

    /// Fetches the next command of a queue into `sqe`, if its completion can be posted.
    #[inline]
    pub(crate) fn fetch(&mut self, cx: &mut SoftCx, sqid: u16, sqe: &mut Sqe) -> Fetch {
        let Some(sq) = self.sqs.get_mut(usize::from(sqid)).and_then(Option::as_mut) else {
            return Fetch::None;
        };
        if sq.life != Life::Running {
            return self.unstall(sqid, sqe);
        }
        if sq.head == sq.tail {
            return Fetch::None;
        }
        let Some(cq) = self.cqs.get_mut(usize::from(sq.cqid)).and_then(Option::as_mut) else {
            return Fetch::None;
        };
        if !cq.has_room() {
            let looked = cq.look();
            if !cq.has_room() {
                self.starved = true;
                return Fetch::Full(looked.err());
            }
        }
        let at = sq.base + u64::from(sq.head) * size_of::<Sqe>() as u64;
        // In place, and in one piece: neither the queue nor a mapping begins inside of an entry.
        let read = cx.pieces(at, size_of::<Sqe>(), Access::Read, |piece| {
            let _ = piece.memory.copy_out(piece.offset, bytemuck::bytes_of_mut(sqe));
        });
        if let Err(fault) = read {
            return Fetch::Lost(fault);
        }
        sq.head = next(sq.head, sq.size);
        sq.inflight += 1;
        cq.reserve();
        Fetch::Command(false)
    }

    /// Takes up the command of a stalled queue again.
    #[cold]
    fn unstall(&mut self, sqid: u16, sqe: &mut Sqe) -> Fetch {
        match self.take_stalled(sqid) {
            Some(stalled) => *sqe = stalled,
            None => return Fetch::None,
        }
        Fetch::Command(true)
    }

    /// The command that a queue is stalled on. The queue goes on without it.
    pub(crate) fn take_stalled(&mut self, sqid: u16) -> Option<Sqe> {
        let sq = self.sq(sqid).filter(|sq| sq.life == Life::Stalled)?;
        sq.life = Life::Running;
        self.stash.get(usize::from(sqid)).copied()
    }

    /// A command that was fetched cannot be started now: the queue waits for it.
    pub(crate) fn stall(&mut self, sqid: u16, sqe: &Sqe) {
        if let Some(stash) = self.stash.get_mut(usize::from(sqid)) {
            *stash = *sqe;
        }
        if let Some(sq) = self.sq(sqid) {
            sq.life = Life::Stalled;
        }
    }

    /// The command that a queue is stalled on, if any.
    pub(crate) fn stalled(&mut self, sqid: u16) -> Option<&Sqe> {
        self.sq(sqid).filter(|sq| sq.life == Life::Stalled)?;
        self.stash.get(usize::from(sqid))
    }

    /// Posts the completion of a command that was fetched.
    ///
    /// # Errors
    /// [`Lost`] if the completion queue's memory cannot be reached; it is dead from then on.
    #[inline]
    pub(crate) fn complete(
        &mut self,
        cx: &mut SoftCx,
        (sqid, cid): (u16, u16),
        status: Status,
        dword: u32,
    ) -> Result<(), Lost> {
        let Some(sq) = self.sqs.get_mut(usize::from(sqid)).and_then(Option::as_mut) else {
            return Ok(());
        };
        sq.inflight -= 1;
        let cqid = sq.cqid;
        let cqe = Cqe { dw0: dword, ..Cqe::new(cid, sqid, sq.head as u16, status, false) };
        self.post(cx, cqid, cqe.words(), false)
    }

    /// Posts any completion in an entry that was taken.
    ///
    /// # Errors
    /// As [`Queues::complete`].
    #[inline]
    pub(crate) fn post(
        &mut self,
        cx: &mut SoftCx,
        cqid: u16,
        cqe: [u64; 2],
        flip: bool,
    ) -> Result<(), Lost> {
        let Some(cq) = self.cqs.get_mut(usize::from(cqid)).and_then(Option::as_mut) else {
            return Ok(());
        };
        cq.post(cx, cqe, flip).map_err(|fault| {
            cq.dead = true;
            Lost { admin: cqid == 0, fault }
        })
    }

    pub(crate) fn has_sq(&self, id: u16) -> bool {
        self.sqs.get(usize::from(id)).is_some_and(Option::is_some)
    }

    pub(crate) fn has_cq(&self, id: u16) -> bool {
        self.cqs.get(usize::from(id)).is_some_and(Option::is_some)
    }

    /// True if an I/O queue exists.
    pub(crate) fn any_io(&self) -> bool {
        self.sqs.iter().skip(1).any(Option::is_some) || self.cqs.iter().skip(1).any(Option::is_some)
    }

    pub(crate) fn insert_sq(&mut self, id: u16, sq: Sq) {
        if let Some(cq) = self.cq(sq.cqid) {
            cq.users += 1;
        }
        if let Some(slot) = self.sqs.get_mut(usize::from(id)) {
            *slot = Some(sq);
            self.active.push(id);
            self.active.sort_unstable();
        }
    }

    pub(crate) fn insert_cq(&mut self, id: u16, cq: Cq) {
        if let Some(slot) = self.cqs.get_mut(usize::from(id)) {
            *slot = Some(cq);
        }
    }

    pub(crate) fn remove_sq(&mut self, id: u16) {
        let Some(gone) = self.sqs.get_mut(usize::from(id)).and_then(Option::take) else { return };
        gone.doorbell.store(0, Ordering::Relaxed);
        if let Some(cq) = self.cq(gone.cqid) {
            cq.users -= 1;
        }
        self.active.retain(|active| *active != id);
    }

    pub(crate) fn remove_cq(&mut self, id: u16) {
        if let Some(gone) = self.cqs.get_mut(usize::from(id)).and_then(Option::take) {
            gone.doorbell.store(0, Ordering::Relaxed);
        }
    }

    /// A controller reset: no queue is left.
    pub(crate) fn clear(&mut self) {
        self.sqs.iter_mut().for_each(|slot| *slot = None);
        self.cqs.iter_mut().for_each(|slot| *slot = None);
        self.active.clear();
        self.starved = false;
    }

    /// Interrupts for every completion queue that needs one.
    pub(crate) fn signal_all(&mut self, cx: &mut SoftCx) {
        self.cqs.iter_mut().flatten().for_each(|cq| cq.signal(cx));
    }
}
