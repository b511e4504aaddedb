//! Doorbells: one aligned 32-bit store that tells a device its ring's new tail or head.
//!
//! A software device may sleep when it has nothing to do. It announces that in an **asleep word**
//! beside the doorbells; whoever rings checks the word after the store and, if it is set, kicks the
//! device. While the device is awake that costs a fence and a load of a line that nobody writes.
//!
//! The protocol is Dekker's store-then-load on two words, one for each side:
//!
//! | host ([`ring_word`]) | device ([`fall_asleep`]) |
//! |---|---|
//! | store doorbell; full fence; load asleep | store asleep = 1; full fence; load doorbell |
//!
//! With a full fence on both sides at least one of the two loads sees the other side's store, so
//! either the host kicks or the device sees the new tail and stays awake. (E. W. Dijkstra,
//! "Cooperating sequential processes", 1965, section 2.1, of T. J. Dekker's algorithm; the fences
//! are what a machine with store buffers needs in addition.) A loom model explores all
//! interleavings, and that either fence left out loses a wake-up.
//!
//! A doorbell may have a copy in memory that spares most writes of its register: [`shadow`].
//!
//! What it does not do: a doorbell is written, never read; and nothing here says whether a kick
//! arrived. [`fall_asleep`] and [`wake_up`] are the device's half, for software devices.

use alloc::sync::Arc;
use core::fmt;

use core::sync::atomic::Ordering;
#[cfg(not(loom))]
use core::sync::atomic::fence;
#[cfg(loom)]
use loom::sync::atomic::fence;

use crate::mem::{Word, Word32};

pub mod shadow;

pub use shadow::Shadow;

/// Wakes a sleeping device; an eventfd in the framework.
pub trait Kick: Send + Sync {
    /// Wakes the device's thread. May be called at any time and any number of times; a kick that
    /// comes before the device sleeps must keep it from sleeping (an eventfd does). It is called by
    /// whoever flushes, so it should not block.
    fn kick(&self);
}

/// How to wake the device behind a doorbell.
///
/// # Invariants
/// The device writes `asleep`, the host only reads it; whoever sees it set after storing a doorbell
/// kicks.
#[derive(Clone)]
pub struct Wake {
    asleep: Word32,
    kick: Arc<dyn Kick>,
}

impl fmt::Debug for Wake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Wake").field("asleep", &self.asleep).finish_non_exhaustive()
    }
}

impl Wake {
    /// `asleep` is not zero while the device sleeps; `kick` ends that.
    #[must_use]
    pub fn new(asleep: Word32, kick: Arc<dyn Kick>) -> Self {
        Self { asleep, kick }
    }
}

/// A tail (or head) doorbell register.
#[derive(Debug, Clone)]
pub struct Doorbell {
    register: Word32,
    wake: Option<Wake>,
    shadow: Option<Shadow>,
}

impl Doorbell {
    /// `wake` is given on buses whose device may sleep, and only for doorbells that bring new work.
    #[must_use]
    pub fn new(register: Word32, wake: Option<Wake>) -> Self {
        Self { register, wake, shadow: None }
    }

    /// The same doorbell with a shadow, if there is one: the register is written only when the device
    /// asks for it, see [`shadow`].
    #[must_use]
    pub fn with_shadow(self, shadow: Option<Shadow>) -> Self {
        Self { shadow, ..self }
    }

    /// Tells the device the new tail or head, and wakes it if it sleeps. Everything written to the
    /// ring before is visible to the device before the new value is.
    #[inline]
    pub fn ring(&self, value: u32) {
        if self.store(value) {
            self.kick();
        }
    }

    /// First half of [`ring`](Self::ring): true if the device sleeps and [`kick`](Self::kick) must
    /// follow. For a caller that must not run the kick's code yet.
    #[inline]
    pub(crate) fn store(&self, value: u32) -> bool {
        if let Some(shadow) = &self.shadow
            && !shadow.ring(value)
        {
            return false;
        }
        match &self.wake {
            None => {
                publish(&self.register, value);
                false
            }
            Some(wake) => ring_word(&self.register, &wake.asleep, value),
        }
    }

    /// Second half: wakes the device, where it can sleep.
    #[cold]
    pub(crate) fn kick(&self) {
        if let Some(wake) = &self.wake {
            wake.kick.kick();
        }
    }
}

/// Stores a doorbell value after everything that was written to the ring by ordinary stores. The ring
/// must lie in write-back memory (DMA memory, a memfd).
///
/// Two things need a store fence (`sfence`) before this, because neither is kept in program order with
/// later stores: entries that were stored past the caches ([`EntryStores::NonTemporal`]; the queue
/// does it, once per batch), and a ring in write-combining memory, which no bus here has.
///
/// [`EntryStores::NonTemporal`]: crate::EntryStores::NonTemporal
#[inline]
pub fn publish<W: Word>(register: &W, value: u32) {
    // Release: the entries (relaxed stores) must be visible before the value that covers them. On
    // x86 this is a compiler barrier: stores to write-back memory and to uncached registers stay
    // in program order.
    register.store(value, Ordering::Release);
}

/// Host side: publishes a doorbell value; true if the device must be kicked.
#[inline]
pub fn ring_word<W: Word>(register: &W, asleep: &W, value: u32) -> bool {
    publish(register, value);
    // SeqCst: the load below must not pass the store above (pairs with `fall_asleep`).
    fence(Ordering::SeqCst);
    asleep.load(Ordering::Relaxed) != 0
}

/// Device side: announces sleep. The caller must look at every doorbell once more after this, and
/// sleep only if there is nothing new; then [`wake_up`], whether it slept or not.
#[inline]
pub fn fall_asleep<W: Word>(asleep: &W) {
    asleep.store(1, Ordering::Relaxed);
    // SeqCst: the doorbell loads that follow must not pass the store (pairs with `ring_word`).
    fence(Ordering::SeqCst);
}

/// Device side: awake again; hosts need not kick from now on.
#[inline]
pub fn wake_up<W: Word>(asleep: &W) {
    // Relaxed: a host that still sees 1 kicks once too often, which is harmless.
    asleep.store(0, Ordering::Relaxed);
}
