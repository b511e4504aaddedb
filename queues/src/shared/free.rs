//! [`FreeSlots`]: which slots are free, as bits.
//!
//! Taking a slot is one atomic "and" of the word with its bit, giving it back one atomic "or": a
//! thread that stops in between, anywhere, holds nobody up, which a ring of free slots or a lock
//! could not say. (A slot that is on its way back in a ring hides those behind it.) There is no ABA
//! problem: a bit has no history.
//!
//! The bits are spread over a few words on cache lines of their own, and each thread begins its
//! search at a word of its own choice. So threads that keep to themselves do not share a line here,
//! nor the lines of their slots. (The idea of per-thread starting points is that of scalable
//! counters and of Hoard-like allocators' arenas.)

use alloc::boxed::Box;

use super::sync::{AtomicU64, Ordering, Padded};

/// Words that slots are spread over, if there are enough of them.
const SPREAD: usize = 8;
/// Slots of a word below which more words would not be worth their search.
const FEW: usize = 8;

/// The free slots of a queue.
///
/// # Invariants
/// * Slot `n` is bit `n % 2^shift` of word `n / 2^shift`; bits above, or of slots that do not exist,
///   are never set.
/// * A set bit is a free slot. Who clears it has the slot, alone, until it sets it again.
#[derive(Debug)]
pub(super) struct FreeSlots {
    words: Box<[Padded<AtomicU64>]>,
    /// A power of two, because a division takes longer than all the rest.
    shift: u32,
}

/// A word to begin with: another for each thread, mostly.
///
/// Where the thread's stack lies is the one thing that tells threads apart without an operating
/// system. Stacks of threads lie one after the other, 2 MiB each by Rust's default. It is a hint:
/// any value is right.
#[inline]
pub(super) fn own_word() -> usize {
    let here = 0_u8;
    core::ptr::from_ref(&here).addr() >> 21
}

impl FreeSlots {
    /// `count` slots, all free.
    pub(super) fn new(count: u16) -> Self {
        let count = usize::from(count);
        let words = count.div_ceil(64).max(count.div_ceil(FEW).min(SPREAD)).next_power_of_two();
        let per_word = count.div_ceil(words).next_power_of_two();
        let bits = |word: usize| {
            let slots = count.saturating_sub(word * per_word).min(per_word);
            if slots == 64 { u64::MAX } else { (1 << slots) - 1 }
        };
        let words = (0..words).map(|word| Padded(AtomicU64::new(bits(word)))).collect();
        Self { words, shift: per_word.trailing_zeros() }
    }

    /// Takes a free slot. `None` if none was found; under threads that give slots back at the same
    /// moment that is a statement about each word at the time it was looked at.
    #[inline]
    pub(super) fn take(&self) -> Option<usize> {
        self.take_from(own_word())
    }

    #[inline]
    pub(super) fn take_from(&self, start: usize) -> Option<usize> {
        let last = self.words.len() - 1;
        // Neighbouring threads begin far apart, whichever of them is the first: one that has emptied its
        // word does not come upon its neighbour's next.
        let start = start.wrapping_mul(5);
        for step in 0..=last {
            // The number of words is a power of two.
            let at = start.wrapping_add(step) & last;
            let word = self.words.get(at)?;
            // Relaxed: only where to try.
            let mut free = word.load(Ordering::Relaxed);
            while free != 0 {
                let bit = free.trailing_zeros();
                // Acquire: whoever had the slot before is done with it (pairs with `give`; both are
                // read-modify-writes, so that any number of them may lie between).
                let before = word.fetch_and(!(1 << bit), Ordering::Acquire);
                if before & 1 << bit != 0 {
                    return Some((at << self.shift) + bit as usize);
                }
                // Someone else got it: progress, though not ours. (Read again, so that only one bit of the
                // value before is looked at: that is one instruction on x86, and all of them a loop.)
                free = word.load(Ordering::Relaxed);
            }
        }
        None
    }

    /// Gives a slot back. The caller had it.
    #[inline]
    pub(super) fn give(&self, slot: usize) {
        // Release: what the caller did with the slot comes before what the next one does. Acquire:
        // see `any_settled`.
        self.give_with(slot, Ordering::AcqRel);
    }

    /// With an ordering, so that a model can show what a weaker one does.
    #[inline]
    pub(super) fn give_with(&self, slot: usize, order: Ordering) {
        if let Some(word) = self.words.get(slot >> self.shift) {
            word.fetch_or(1 << (slot & ((1 << self.shift) - 1)), order);
        }
    }

    /// Whether a slot is free, at a glance.
    #[inline]
    pub(super) fn any(&self) -> bool {
        self.words.iter().any(|word| word.load(Ordering::Relaxed) != 0)
    }

    /// Whether a slot is free, for a task that has announced that it waits: either this sees a slot
    /// that was given back, or who gives one back after it sees the announcement.
    ///
    /// That is Dekker's store-then-load on both sides, without a fence on the side that gives slots
    /// back: both sides read-modify-write the same word, so one of the two comes first, and the
    /// other acquires what it released.
    pub(super) fn any_settled(&self) -> bool {
        // All of them: a slot might be given back to any.
        let look = |any, word: &Padded<AtomicU64>| word.fetch_or(0, Ordering::AcqRel) != 0 || any;
        self.words.iter().fold(false, look)
    }

    /// How many are free; a sum over words that may change meanwhile.
    pub(super) fn count(&self) -> usize {
        let ones = |word: &Padded<AtomicU64>| word.load(Ordering::Relaxed).count_ones() as usize;
        self.words.iter().map(ones).sum()
    }
}
