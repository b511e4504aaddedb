//! [`Lanes`]: commands that are built and have no place in the submission ring yet.
//!
//! Each is in a lane; threads begin at different lanes, so that a thread that submits writes no line
//! that others write. A lane is a stack of slot numbers, linked through the slots (R. K. Treiber,
//! "Systems programming: coping with parallelism", IBM RJ 5118, 1986). Whoever rings takes whole lanes
//! at once, by one swap each, and gives the entries their places. So there is no word that every
//! submission writes, and no reserved place whose entry is missing.
//!
//! The head counts its stack, so that the taker, who meets the newest first, knows its place.
//!
//! A compare-and-swap that finds the head it expects may find an old one that has come back (ABA).
//! That is harmless: nothing is taken by it, and the slot below the new one is the one that the head
//! names, whatever was there in between.

use super::sync::{AtomicU16, AtomicU32, Ordering, Padded};

/// Lanes that threads are spread over.
const LANES: usize = 8;

/// The link of a slot: the number of the one below it.
pub(super) type Link = AtomicU16;

/// Stacks of slots with staged commands.
///
/// # Invariants
/// * A head is 0, or its stack's count in the upper half and the number of its newest slot in the
///   lower. Heads are only changed by read-modify-writes.
/// * A slot is on one stack at most, once: it was taken off before its command was told to the device,
///   so before it was free again. Its link is written by who pushes it, before it is on the stack.
#[derive(Debug)]
pub(super) struct Lanes([Padded<AtomicU32>; LANES]);

/// A stack that was taken: slots from the newest to the oldest.
pub(super) struct Taken<'l, F> {
    left: u32,
    slot: u16,
    link: F,
    _lanes: core::marker::PhantomData<&'l Lanes>,
}

impl<'l, F: Fn(u16) -> &'l Link> Iterator for Taken<'l, F> {
    type Item = u16;

    #[inline]
    fn next(&mut self) -> Option<u16> {
        let slot = self.slot;
        self.left = self.left.checked_sub(1)?;
        // Relaxed: written before the push, which the taking acquired. Under the last one lies nothing.
        self.slot = (self.link)(slot).load(Ordering::Relaxed);
        Some(slot)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.left as usize, Some(self.left as usize))
    }
}

impl<'l, F: Fn(u16) -> &'l Link> ExactSizeIterator for Taken<'l, F> {}

impl Lanes {
    pub(super) fn new() -> Self {
        Self([(); LANES].map(|()| Padded(AtomicU32::new(0))))
    }

    /// Puts a slot with a command on a lane. The caller has the slot.
    #[inline]
    pub(super) fn push(&self, lane: usize, slot: u16, link: &Link) {
        // Release: the entry, and the command's cells, come before (pairs with `take`; later pushes are
        // read-modify-writes, so that any number of them may lie between).
        self.push_with(lane, slot, link, Ordering::Release);
    }

    /// With an ordering, so that a model can show what a weaker one does.
    #[inline]
    pub(super) fn push_with(&self, lane: usize, slot: u16, link: &Link, order: Ordering) {
        let head = &self.0[lane % LANES];
        let mut seen = head.load(Ordering::Relaxed);
        loop {
            link.store(seen as u16, Ordering::Relaxed);
            let next = (((seen >> 16) + 1) << 16) | u32::from(slot);
            // Failing is another's progress: it pushed, or took.
            match head.compare_exchange_weak(seen, next, order, Ordering::Relaxed) {
                Ok(_) => return,
                Err(now) => seen = now,
            }
        }
    }

    /// Whether commands are on this lane.
    #[inline]
    pub(super) fn has(&self, lane: usize) -> bool {
        self.0[lane % LANES].load(Ordering::Relaxed) != 0
    }

    /// Whether commands are on any lane. A caller's own are always seen, and if they are gone, someone
    /// has taken them and sees to them.
    #[inline]
    pub(super) fn any(&self) -> bool {
        self.0.iter().any(|head| head.load(Ordering::Relaxed) != 0)
    }

    /// Takes every lane's stack, one after the other.
    #[inline]
    pub(super) fn take<'l, F: Fn(u16) -> &'l Link + Copy>(
        &'l self,
        link: F,
    ) -> impl Iterator<Item = Taken<'l, F>> {
        self.0.iter().filter_map(move |head| {
            // Relaxed: what the caller was asked to take, it has acquired from who asked.
            if head.load(Ordering::Relaxed) == 0 {
                return None;
            }
            // Acquire: pairs with `push`. Only takers make a head 0, and there is one.
            let taken = head.swap(0, Ordering::Acquire);
            let (left, slot) = (taken >> 16, taken as u16);
            Some(Taken { left, slot, link, _lanes: core::marker::PhantomData })
        })
    }
}
