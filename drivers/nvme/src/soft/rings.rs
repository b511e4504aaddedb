//! Submission and completion rings as the controller keeps them (base 3.3; PCIe 3.1.2).
//!
//! Heads, tails and phases are the controller's own; of the host's memory it reads doorbells and
//! entries only. A completion entry is taken *before* a command is fetched, so posting never finds a
//! full queue: a command is fetched when there is room for its completion, and the completion queue
//! head doorbell is read only when there seems to be none.

use std::sync::atomic::Ordering;

use doorbell::dma::Fault;
use doorbell::queues::doorbell::shadow::behind;
use doorbell::queues::mem::{Word, Word32};
use doorbell::soft::SoftCx;

use super::shadow::Words;
use crate::spec::{Cqe, Sqe};

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
    /// The shadow doorbell cannot be reached. The queue is dead.
    Lost(Fault),
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
    /// Its ring or its shadow doorbell cannot be reached by DMA; only deletion is left.
    Dead,
}

/// A submission queue.
///
/// # Invariants
/// `head`, `tail` < `size`; the entries from `head` to `tail` were published by the host.
#[derive(Debug)]
pub(crate) struct Sq {
    doorbell: Word32,
    /// Where the doorbell is looked at instead, if the host has said so.
    pub(crate) shadow: Option<Words>,
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
        let shadow = None;
        Self { doorbell, shadow, raw: 0, head: 0, tail: 0, size, base, cqid, life, inflight: 0 }
    }

    /// The doorbell's value at the last look.
    pub(crate) fn seen(&self) -> u32 {
        self.raw
    }

    /// Looks at the doorbell.
    #[inline]
    pub(crate) fn look(&mut self, cx: &mut SoftCx) -> Look {
        let raw = match &self.shadow {
            // Acquire: the entries that the host stored before this value are visible.
            None => self.doorbell.load(Ordering::Acquire),
            Some(_) if self.life == Life::Dead => return Look::Idle,
            Some(words) => match words.load(cx) {
                Ok(raw) => raw,
                Err(fault) => {
                    self.life = Life::Dead;
                    return Look::Lost(fault);
                }
            },
        };
        if raw != self.raw {
            self.raw = raw;
            let fetchable = distance(self.head, self.tail, self.size);
            // A full queue holds one entry less than its size (base 3.3.1.2).
            let room = self.size - 1 - fetchable;
            if raw >= self.size || distance(self.tail, raw, self.size) > room {
                return Look::Bad(raw);
            }
            self.tail = raw;
            if let Some(words) = &mut self.shadow {
                words.keep_behind(cx, raw, self.size);
            }
        }
        match self.life {
            Life::Running if self.head != self.tail => Look::Work,
            Life::Stalled => Look::Work,
            Life::Running | Life::Deleting | Life::Dead => Look::Idle,
        }
    }

    /// The device will sleep: asks for a register write when the doorbell moves.
    pub(crate) fn announce(&mut self, cx: &mut SoftCx) -> Result<(), Fault> {
        let seen = self.raw;
        match &mut self.shadow {
            Some(words) if self.life != Life::Dead => {
                words.tell(cx, seen).inspect_err(|_| self.life = Life::Dead)
            }
            _ => Ok(()),
        }
    }

    /// True if the host has published no entry that was not fetched.
    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.head == self.tail
    }

    /// Reads the entry at the head, and moves on. Call it only if there is one.
    #[inline]
    pub(crate) fn take(&mut self, cx: &mut SoftCx, sqe: &mut Sqe) -> Result<(), Fault> {
        let at = self.base + u64::from(self.head) * size_of::<Sqe>() as u64;
        // In place, and in one piece: neither the queue nor a mapping begins inside of an entry.
        cx.read_bytes(at, bytemuck::bytes_of_mut(sqe))?;
        self.head = next(self.head, self.size);
        self.inflight += 1;
        Ok(())
    }

    /// The queue is gone: what its doorbell held means nothing any more.
    pub(crate) fn retire(self) {
        self.doorbell.store(0, Ordering::Relaxed);
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
    /// Where the doorbell is looked at instead, if the host has said so.
    pub(crate) shadow: Option<Words>,
    /// The shadow doorbell could not be reached: the head stays as it is.
    lost: bool,
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
            shadow: None,
            lost: false,
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

    /// The doorbell's value at the last look.
    pub(crate) fn seen(&self) -> u32 {
        self.raw
    }

    /// Takes note of what the host has consumed.
    pub(crate) fn look(&mut self, cx: &mut SoftCx) -> Result<(), BadHead> {
        let raw = match &self.shadow {
            // Acquire: the host is done with the entries before this value.
            None => self.doorbell.load(Ordering::Acquire),
            Some(_) if self.lost => return Ok(()),
            Some(words) => match words.load(cx) {
                Ok(raw) => raw,
                Err(_) => {
                    self.lost = true;
                    return Ok(());
                }
            },
        };
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
        if let Some(words) = &mut self.shadow {
            // Looked at once in a turn, so it is always moved.
            let _ = words.tell(cx, behind(raw, self.size));
        }
        Ok(())
    }

    /// True if the queue interrupts, its vector is not masked, and an entry was not consumed.
    pub(crate) fn wants_interrupt(&mut self, cx: &mut SoftCx, masks: u32) -> Result<bool, BadHead> {
        let Some(vector) = self.vector else { return Ok(false) };
        // Vectors from 32 on have no mask.
        if masks.checked_shr(vector.into()).is_some_and(|bits| bits & 1 != 0) {
            return Ok(false);
        }
        self.look(cx)?;
        Ok(self.head != self.tail)
    }

    /// True if an entry can be taken without looking at the doorbell.
    #[inline]
    pub(crate) fn has_room(&self) -> bool {
        self.free > 0 || self.dead
    }

    /// The queue is gone: what its doorbell held means nothing any more.
    pub(crate) fn retire(self) {
        self.doorbell.store(0, Ordering::Relaxed);
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
    pub(crate) fn post(
        &mut self,
        cx: &mut SoftCx,
        [low, high]: [u64; 2],
        flip: bool,
    ) -> Result<(), Fault> {
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
