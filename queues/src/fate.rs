//! Why a queue ended: one word that another thread sets and the queue's thread reads.
//!
//! A one-shot flag with a value: the first reason stays, later writers may only add `QUIESCED`. So a
//! reason that was given out is final. Each write releases and each read acquires, and all writes are
//! read-modify-writes, so a reader that sees a reason or `QUIESCED` sees everything that its writer did
//! before, whoever wrote in between (C++20 release sequences).
//!
//! What it does not do: it wakes nobody. Whoever ends a queue from another thread also wakes the
//! tasks that are parked on its [`Interrupt`](crate::Interrupt).

use core::fmt;
use core::sync::atomic::Ordering;

#[cfg(not(loom))]
use core::sync::atomic::AtomicU32;
#[cfg(loom)]
use loom::sync::atomic::AtomicU32;

/// Why a queue takes no more entries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum EndReason {
    /// The operator, or the broker's policy, took the grant back.
    Revoked = 1,
    /// The device was reset; the commands in flight were lost.
    DeviceReset = 2,
    /// The device is gone (surprise removal) or failed for good.
    DeviceGone = 3,
    /// A command outlived its time limit and the queue had to be deleted.
    TimedOut = 4,
    /// The connection to the broker was lost.
    BrokerGone = 5,
    /// The device broke the queue's protocol: see the error that named it.
    Violation = 6,
    /// The owner released the queue.
    Released = 7,
    /// The doorbell's mapping reaches nobody any more (the broker took it back, or the device was
    /// reset or is gone), and nobody has said why for as long as whoever looks after the queue waits
    /// for that.
    DoorbellLost = 8,
}

impl EndReason {
    fn from_code(code: u32) -> Option<Self> {
        Some(match code {
            1 => Self::Revoked,
            2 => Self::DeviceReset,
            3 => Self::DeviceGone,
            4 => Self::TimedOut,
            5 => Self::BrokerGone,
            6 => Self::Violation,
            7 => Self::Released,
            8 => Self::DoorbellLost,
            _ => return None,
        })
    }
}

impl fmt::Display for EndReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Revoked => "the broker revoked it",
            Self::DeviceReset => "the device was reset",
            Self::DeviceGone => "the device is gone",
            Self::TimedOut => "a command timed out and the queue was deleted",
            Self::BrokerGone => "the broker is gone",
            Self::Violation => "the device broke the protocol",
            Self::Released => "its owner released it",
            Self::DoorbellLost => {
                "its doorbell was taken away (the broker revoked it or has ended, or the device was reset \
                 or is gone)"
            }
        })
    }
}

const QUIESCED: u32 = 0x100;

/// The shared word: alive, or ended for a reason, and whether the device is known to be done with
/// the queue's memory.
///
/// ```
/// use doorbell_queues::{EndReason, Fate};
///
/// let fate = Fate::new();
/// fate.end(EndReason::Revoked, false);   // the broker took the grant back
/// fate.end(EndReason::Released, true);   // later: the device's queue is deleted
/// assert_eq!(fate.ended(), Some(EndReason::Revoked));
/// assert!(fate.quiesced());
/// ```
#[derive(Debug, Default)]
pub struct Fate {
    /// Invariant: 0, or an [`EndReason`] code, plus [`QUIESCED`]; the reason is set once and stays;
    /// QUIESCED is only ever added.
    word: AtomicU32,
}

impl Fate {
    /// A queue that is alive.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Ends the queue; the first reason stays. `quiesced` says that the device can no longer touch
    /// the memory of its commands, so their buffers may go back to their owners.
    ///
    /// Lock-free, and no system call.
    pub fn end(&self, reason: EndReason, quiesced: bool) {
        let flag = if quiesced { QUIESCED } else { 0 };
        let next = |word: u32| {
            let first = word & 0xff;
            let kept = if first == 0 { reason as u32 } else { first };
            let next = kept | word & QUIESCED | flag;
            (next != word).then_some(next)
        };
        // Release: what the caller did before (a queue deleted, a buffer unmapped) is visible to
        // whoever sees the end. An error means that there is nothing to change.
        let _ = self.word.fetch_update(Ordering::Release, Ordering::Relaxed, next);
    }

    /// Why the queue ended, or `None` while it is alive. One load of a line that is written once.
    #[inline]
    pub fn ended(&self) -> Option<EndReason> {
        // Acquire: pairs with the release in `end`.
        match self.word.load(Ordering::Acquire) {
            0 => None,
            word => EndReason::from_code(word & 0xff),
        }
    }

    /// True until someone ends the queue. One load, for the data path.
    #[inline]
    pub fn is_alive(&self) -> bool {
        // Acquire: pairs with the release in `end`.
        self.word.load(Ordering::Acquire) == 0
    }

    /// True once the device is known to be done with the queue's memory.
    #[inline]
    pub fn quiesced(&self) -> bool {
        // Acquire: pairs with the release in `end`.
        self.word.load(Ordering::Acquire) & QUIESCED != 0
    }
}

#[cfg(test)]
#[cfg(not(loom))]
mod tests {
    use super::*;

    #[test]
    fn the_first_reason_stays_and_quiesced_may_come_later() {
        let fate = Fate::new();
        assert_eq!(fate.ended(), None);
        fate.end(EndReason::Revoked, false);
        fate.end(EndReason::BrokerGone, false);
        assert_eq!(fate.ended(), Some(EndReason::Revoked));
        assert!(!fate.quiesced());
        fate.end(EndReason::Released, true);
        assert_eq!(fate.ended(), Some(EndReason::Revoked));
        assert!(fate.quiesced());
    }
}
