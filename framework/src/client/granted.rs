//! [`Granted`]: what a connection knows of a queue that it was granted.
//!
//! # How a queue ends whose doorbells are taken away
//!
//! A store to a doorbell that the broker revoked, or that went with the broker or the device, finds
//! nobody ([`crate::dma::guard`]), and often before the broker's word is read: the broker takes the
//! doorbell back first and tells of it then, a broker that is killed tells nothing, and a device that is
//! being reset takes its doorbells away for as long as that lasts. What the fault says is not why.
//!
//! So it ends nothing. The queue goes on, and reaches nobody: commands are taken and not seen, tasks park,
//! `reap` finds nothing. Its flag is set, and the client's thread wakes up. The queue then ends as the
//! broker says, or with the connection; and if neither is heard of for [`SETTLE`], or for a command's time
//! limit if that is shorter, with `EndReason::DoorbellLost`. Whichever it is, it is the first that anyone
//! is told and the last.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::wait::line::Line;

/// How long a client waits to be told why a doorbell was lost. Revoking takes milliseconds, and a
/// connection ends when its broker does; the rest is for a device that is being reset, and for a kernel
/// that closes a killed broker's devices before its sockets.
pub(super) const SETTLE: Duration = Duration::from_secs(5);

/// A queue, until its release is answered.
#[derive(Debug)]
pub(super) struct Granted {
    line: Arc<Line>,
    /// Set by the guard of the doorbells' mapping.
    lost: Arc<AtomicBool>,
    /// Until when the reason is awaited; set when `lost` is first seen.
    until: Option<Instant>,
}

impl Granted {
    pub(super) fn new(line: Arc<Line>, lost: Arc<AtomicBool>) -> Self {
        Self { line, lost, until: None }
    }

    /// Who is told of its end.
    pub(super) fn line(&self) -> Arc<Line> {
        Arc::clone(&self.line)
    }

    /// Until when the reason of its end is awaited; `None` if its doorbells are there, or it has ended.
    pub(super) fn awaits_word(&mut self, now: Instant) -> Option<Instant> {
        // Acquire: pairs with the guard's release.
        if !self.lost.load(Ordering::Acquire) || self.line.fate.ended().is_some() {
            return None;
        }
        let patience = self.line.time_limit().map_or(SETTLE, |limit| limit.min(SETTLE));
        Some(*self.until.get_or_insert(now + patience))
    }
}
