//! [`Positions`]: places in the submission ring, in the order in which the device sees them.
//!
//! A position is a number that only grows; its remainder is the index in the ring. It is **reserved**
//! by a fetch-and-add, which cannot fail: whoever reserves holds a slot, and there are fewer slots
//! than entries. It is **published** through a word of its own, which says in which pass over the
//! ring its entry was stored last (the sequence words of D. Vyukov's bounded MPMC queue; LMAX
//! Disruptor's "available buffer" for many producers). It is **rung** once the doorbell covers it,
//! which needs all positions before it to be published too: the doorbell is one number.
//!
//! Who rings may find a position that is reserved and not yet published, and entries behind it that
//! are. It leaves a mark in that position's word and goes. Who publishes swaps the word and so finds
//! the mark: then the ringing is its duty. Mark and publication are read-modify-writes of one word,
//! so one of the two comes first and nothing falls between them.

use alloc::boxed::Box;

use super::sync::{AtomicU32, AtomicU64, Ordering, Padded};

/// How a count that only grows is cut into passes over a ring.
#[derive(Debug, Clone, Copy)]
pub(super) struct Laps {
    count: u64,
    /// The exponent, if `count` is a power of two: most are, and a division takes longer than all
    /// the rest of a reservation. Otherwise [`NO_POWER`].
    shift: u32,
}

const NO_POWER: u32 = 64;

impl Laps {
    pub(super) fn new(count: usize) -> Self {
        let shift = if count.is_power_of_two() { count.trailing_zeros() } else { NO_POWER };
        Self { count: count as u64, shift }
    }

    pub(super) fn count(&self) -> u64 {
        self.count
    }

    /// The number of the pass, modulo 2^31, and the index in the ring.
    #[inline]
    fn split(&self, number: u64) -> (u32, usize) {
        let (lap, index) = if self.shift == NO_POWER {
            (number / self.count, number % self.count)
        } else {
            (number >> (self.shift & 63), number & (self.count - 1))
        };
        (lap as u32 & u32::MAX >> 1, index as usize)
    }

    /// Another order of the indices, in which neighbours are a cache line apart: producers that follow
    /// each other do not share the line of their words. (An odd factor is one to one modulo a power of
    /// two; a ring of another size has its words in order.)
    #[inline]
    fn scatter(&self, index: usize) -> usize {
        if self.shift == NO_POWER { index } else { (index * 17) & (self.count as usize - 1) }
    }

    /// The index in the ring.
    #[inline]
    pub(super) fn index(&self, number: u64) -> usize {
        self.split(number).1
    }
}

/// In the word of a position: a ringer wants to be told of its publication.
const MARK: u32 = 1;

/// Positions of a submission ring.
///
/// # Invariants
/// * `rung <= reserved <= rung + slots`, and `slots < entries`: a reserved position holds a slot
///   until its command has completed, and [`Turn`](super::cell::Turn)s of the reaper take no more
///   completions than `rung` (whatever the device writes). So a word serves one position at a time.
/// * The word of a position in pass `n` is `n << 1` until it is published, perhaps with [`MARK`], and
///   `n + 1 << 1` from then on, modulo 2^32.
/// * Every position below `rung` is published. Only the holder of the ringer's baton writes `rung`.
#[derive(Debug)]
pub(super) struct Positions {
    laps: Laps,
    published: Box<[AtomicU32]>,
    reserved: Padded<AtomicU64>,
    rung: Padded<AtomicU64>,
}

impl Positions {
    pub(super) fn new(entries: usize) -> Self {
        Self {
            laps: Laps::new(entries),
            published: (0..entries).map(|_| AtomicU32::new(0)).collect(),
            reserved: Padded(AtomicU64::new(0)),
            rung: Padded(AtomicU64::new(0)),
        }
    }

    pub(super) fn laps(&self) -> Laps {
        self.laps
    }

    /// The word of a position, and what it holds until the position is published.
    #[inline]
    fn word(&self, position: u64) -> (&AtomicU32, u32) {
        let (lap, index) = self.laps.split(position);
        (&self.published[self.laps.scatter(index)], lap << 1)
    }

    /// Takes the next position. The caller holds a slot that it has not used for another one.
    #[inline]
    pub(super) fn reserve(&self) -> u64 {
        // AcqRel: the entry that lay here was fetched, which the caller must not overtake. Among
        // this position and the `entries` before it two used the same slot, so one of those was
        // completed, and its completion was seen before the slot was taken again; this orders that
        // before the stores that follow here.
        self.reserve_with(Ordering::AcqRel)
    }

    /// With an ordering, so that a model can show what a weaker one does.
    #[inline]
    pub(super) fn reserve_with(&self, order: Ordering) -> u64 {
        self.reserved.fetch_add(1, order)
    }

    /// The entry is stored. True if a ringer left its duty to the caller.
    #[inline]
    #[must_use = "a ringer may have left its duty"]
    pub(super) fn publish(&self, position: u64) -> bool {
        // Release: the entry comes before (pairs with `scan`). A swap: see the module.
        self.publish_with(position, Ordering::AcqRel)
    }

    /// With an ordering, so that a model can show what a weaker one does.
    #[inline]
    pub(super) fn publish_with(&self, position: u64, order: Ordering) -> bool {
        let (word, waiting) = self.word(position);
        word.swap(waiting.wrapping_add(2), order) & MARK != 0
    }

    /// True if positions may be reserved that the device has not been told of. A caller's own are
    /// always seen.
    #[inline]
    pub(super) fn has_unrung(&self) -> bool {
        // Relaxed: a position of the caller's own was reserved before by its own thread, and if
        // `rung` covers it, someone took over its ringing.
        self.rung.load(Ordering::Relaxed) != self.reserved.load(Ordering::Relaxed)
    }

    /// How many positions the device was told of, or is being told of.
    #[inline]
    pub(super) fn rung(&self) -> u64 {
        // Acquire: whoever takes completions for these positions has seen them published, so that
        // their words may be used again.
        self.rung.load(Ordering::Acquire)
    }

    /// For the holder of the ringer's baton: the position up to which all are published. If the next
    /// one is reserved, its producer is told to ring. At most as many steps as there are slots.
    pub(super) fn scan(&self) -> u64 {
        let mut at = self.rung.load(Ordering::Relaxed);
        loop {
            let (word, waiting) = self.word(at);
            // Acquire: pairs with `publish`; the doorbell's release passes the entry on.
            let seen = word.load(Ordering::Acquire);
            if seen & !MARK != waiting {
                at += 1;
                continue;
            }
            // Relaxed: who published beyond this position and wants it rung has handed over the
            // baton since, or asked for it, so what it reserved is seen.
            if seen & MARK != 0 || self.reserved.load(Ordering::Relaxed) == at {
                return at;
            }
            // Acquire on failure: it was published just now. Release: nothing was done for it, but
            // what the holder did is ordered before what the producer does for it.
            let marked =
                word.compare_exchange(waiting, waiting | MARK, Ordering::AcqRel, Ordering::Acquire);
            if marked.is_ok() {
                return at;
            }
        }
    }

    /// For the holder of the ringer's baton, before it stores the doorbell.
    #[inline]
    pub(super) fn set_rung(&self, rung: u64) {
        // Release: pairs with `rung`. Before the doorbell, so that a device that has seen the
        // doorbell never reports more than a reaper finds here.
        self.rung.store(rung, Ordering::Release);
    }
}
