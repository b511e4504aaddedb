//! Shadow doorbells: a copy of a doorbell in memory, so that its register is written only when the
//! device wants to hear of it (NVM Express base 2.0, 5.8 and annex B.5: Doorbell Buffer Config).
//!
//! Each doorbell has two words. The host stores every new value in the **shadow**; the device says in
//! the **EventIdx** which value it would be woken at. Whoever rings writes the register only if the new
//! value *passes* the EventIdx: `old <= EventIdx < new` in the order of the ring.
//!
//! # The comparison
//! Values are indices of a ring: they go up by one and wrap to 0 at the ring's size, which may be any
//! number from 2 to 65,536. [`passes`] compares in 16-bit arithmetic without knowing that size:
//! `new - event - 1 < new - old`, modulo 65,536. That is right for every size. Take the numbers
//! `0 .. 65,536` as a circle and the move as the arc from `old` up to `new`. Without a wrap the arc is
//! `old .. new`, and the rule holds for exactly the values in it. With a wrap the arc is
//! `old .. 65,536` and `0 .. new`; all indices of the ring that lie in it are those from `old` to the
//! ring's end and from 0 to `new`, which is what the move passed. The numbers from the ring's size to
//! 65,535 lie in that arc too, but they are no indices. So:
//!
//! * an EventIdx that is an index is passed by a move exactly if it is one of the indices that the
//!   move leaves behind;
//! * an EventIdx that is none (a device may write anything) is passed at each wrap, or, from 65,536 on,
//!   is taken modulo 65,536: a write too many or too few, and nothing else;
//! * a move by a whole ring would look like none. A ring is full with one entry less than its size, so
//!   there is none.
//!
//! (The same form serves virtio's rings, whose indices wrap at 65,536: virtio 1.2, 2.7.7.2 "event
//! index". For a ring that wraps earlier it needs the argument above; a test compares it with counting
//! for every size up to 20, and at 65,536.)
//!
//! # No lost doorbell
//! It is Dekker's protocol once more (see the parent module), on shadow and EventIdx:
//!
//! | host ([`ring_shadow`]) | device ([`announce`]) |
//! |---|---|
//! | store shadow; full fence; load EventIdx | store EventIdx = last seen; full fence; load shadow |
//!
//! If the device's last look misses a new value, then the host's load sees the EventIdx: it holds the
//! value that the move starts from, so the move passes it and the register is written. Head and tail
//! doorbells are the same here; only who waits for what differs.
//!
//! With a bus whose device sleeps ([`super::Wake`]) the two compose: the device sets its asleep word
//! first, announces then, and looks last; a ring that passes the EventIdx writes the register and looks
//! at the asleep word after it, as without a shadow. Whoever reads the EventIdx of a sleeping device
//! also reads its asleep word, for a fence lies between their stores and another between the loads. A
//! ring that passes nothing touches neither.
//!
//! While the device is awake it leaves the EventIdx behind itself ([`behind`]), where no move passes it
//! before the ring has turned once, and moves it on before that ([`is_due`]). That is one store in half
//! a turn of the ring, to a line that is otherwise only read.
//!
//! What it does not do: nothing here believes the EventIdx or the shadow's old value, and neither is
//! more than a hint on whether to write a register. A device that writes nonsense there, or a client
//! that overwrites another's words (they share a page), causes register writes that are not needed, or
//! leaves out one that is: then commands wait until their time limit ends the queue.

use core::sync::atomic::Ordering;
#[cfg(not(loom))]
use core::sync::atomic::fence;
#[cfg(loom)]
use loom::sync::atomic::fence;

use super::publish;
use crate::mem::{Word, Word32};

/// The two words of one doorbell. Cloning it shares them.
#[derive(Debug, Clone)]
pub struct Shadow {
    value: Word32,
    event: Word32,
}

impl Shadow {
    /// `value` is the host's copy of the doorbell, `event` the device's EventIdx. Both hold what the
    /// register does when the queue is created: 0.
    #[must_use]
    pub fn new(value: Word32, event: Word32) -> Self {
        Self { value, event }
    }

    /// As [`ring_shadow`].
    #[inline]
    pub(super) fn ring(&self, value: u32) -> bool {
        ring_shadow(&self.value, &self.event, value)
    }
}

/// True if a doorbell that moves from `old` to `new` passes the EventIdx, so that its register must be
/// written. See the module for the arithmetic. Only the low 16 bits count.
#[inline]
#[must_use]
pub fn passes(event: u32, old: u32, new: u32) -> bool {
    // The low halves: indices are below 65,536.
    let (event, old, new) = (event as u16, old as u16, new as u16);
    new.wrapping_sub(event).wrapping_sub(1) < new.wrapping_sub(old)
}

/// Host side: stores a doorbell's new value in its shadow, after everything that was written to the
/// ring; true if the register must be written too.
///
/// One thread at a time rings a doorbell: what the shadow holds is the value before.
#[inline]
pub fn ring_shadow<W: Word>(shadow: &W, event: &W, value: u32) -> bool {
    // Relaxed: only this side stores it. What another wrote there costs or spares a register write.
    let old = shadow.load(Ordering::Relaxed);
    publish(shadow, value);
    // SeqCst: the load below must not pass the store above (pairs with `last_look`).
    fence(Ordering::SeqCst);
    passes(event.load(Ordering::Relaxed), old, value)
}

/// Device side: asks for the register to be written when the doorbell moves on from `seen`, the value at
/// the last look. The caller must look at the shadow once more after this, and sleep only if it still
/// holds `seen`.
#[inline]
pub fn announce<W: Word>(event: &W, seen: u32) {
    event.store(seen, Ordering::Relaxed);
    last_look();
}

/// Device side: the fence of [`announce`], for a device that stores several EventIdx by other means and
/// then looks at all shadows.
#[inline]
pub fn last_look() {
    // SeqCst: the loads of shadows that follow must not pass the stores of EventIdx (pairs with
    // `ring_shadow`).
    fence(Ordering::SeqCst);
}

/// Device side: the EventIdx that spares the host its register writes while the device looks at the
/// shadow anyway: right behind `seen`, on a ring of `size` entries. No move from `seen` passes it before
/// the ring has turned once.
#[inline]
#[must_use]
pub fn behind(seen: u32, size: u32) -> u32 {
    if seen == 0 { size.saturating_sub(1) } else { seen - 1 }
}

/// Device side: true if an EventIdx that was left behind must be moved on, or moves would soon pass it:
/// the doorbell has gone half a turn since. All three are indices of a ring of `size` entries.
#[inline]
#[must_use]
pub fn is_due(event: u32, seen: u32, size: u32) -> bool {
    let gone = if seen >= event { seen - event } else { (seen + size).saturating_sub(event) };
    2 * gone > size
}

#[cfg(test)]
#[cfg(not(loom))]
mod tests;
