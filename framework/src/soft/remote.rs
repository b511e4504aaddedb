//! Memory that a peer did not share: a device reaches it by messages.
//!
//! Reads wait for the peer's answer, with a deadline. Writes are sent and not waited for: they arrive
//! in the order in which they were sent, and an interrupt that follows them is held back until the
//! peer has acknowledged them ([`super::SoftCx::interrupt`]).
//!
//! A peer that waits for an answer of ours (a register read, an unmap) may answer nothing meanwhile.
//! So a read that waits is given up when a request for the device's thread arrives, if the model can
//! do it again ([`super::SoftDevice::repeats_dma`]); the model tries again after the request.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;

/// Why an access did not happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RemoteError {
    /// A request for the device's thread came first; the access can be made again.
    Interrupted,
    /// The peer refused it, did not answer in time, or is gone.
    #[cfg_attr(not(feature = "vfio-user"), allow(dead_code, reason = "no peers in this build"))]
    Failed,
}

/// A peer's memory.
pub(crate) trait RemoteMemory: Send + Sync + fmt::Debug {
    /// Reads; waits until the peer has answered. Only an `interruptible` read is given up for a
    /// request.
    fn read(&self, iova: u64, to: &mut [u8], interruptible: bool) -> Result<(), RemoteError>;

    /// Sends a write, and does not wait for it.
    fn write(&self, iova: u64, from: &[u8]) -> Result<(), RemoteError>;

    /// How many writes were sent so far.
    fn sent(&self) -> u64;

    /// How many of them the peer has acknowledged.
    fn acknowledged(&self) -> u64;
}

/// The device's side of a peer's memory.
#[derive(Debug, Default)]
pub(super) struct Remote {
    pub(super) peer: Option<Arc<dyn RemoteMemory>>,
    /// Reads may be given up: the model repeats them.
    pub(super) interruptible: bool,
    /// A read was given up in this poll.
    pub(super) interrupted: bool,
    /// Writes may be under way: spares a look at the peer for each completion where none ever is.
    pub(super) writing: bool,
    /// Interrupts that wait for writes: how many writes must be acknowledged, and the vector.
    pub(super) held: VecDeque<(u64, u16)>,
    pub(super) buffer: Vec<u8>,
}

impl Remote {
    /// Reads from the peer; false if it did not happen.
    pub(super) fn read(&mut self, iova: u64, to: &mut [u8]) -> bool {
        let Some(peer) = self.peer.clone().filter(|_| !self.interrupted) else {
            return false;
        };
        let read = peer.read(iova, to, self.interruptible);
        self.interrupted |= read == Err(RemoteError::Interrupted);
        read.is_ok()
    }

    /// Writes to the peer; false if it did not happen.
    pub(super) fn write(&mut self, iova: u64, from: &[u8]) -> bool {
        let Some(peer) = &self.peer else { return false };
        self.writing = true;
        peer.write(iova, from).is_ok()
    }

    /// A buffer for data on the way; give it back by [`Remote::keep`].
    pub(super) fn buffer(&mut self, len: usize) -> Vec<u8> {
        let mut buffer = std::mem::take(&mut self.buffer);
        buffer.clear();
        buffer.resize(len, 0);
        buffer
    }

    pub(super) fn keep(&mut self, buffer: Vec<u8>) {
        self.buffer = buffer;
    }

    /// True if no write is under way.
    pub(super) fn arrived(&self) -> bool {
        self.peer.as_ref().is_none_or(|peer| peer.acknowledged() >= peer.sent())
    }

    /// True if writes are under way, so that an interrupt must wait.
    #[inline]
    pub(super) fn hold(&mut self, vector: u16) -> bool {
        let Some(peer) = self.peer.as_ref().filter(|_| self.writing) else { return false };
        let sent = peer.sent();
        if peer.acknowledged() >= sent {
            self.writing = false;
            return false;
        }
        if !self.held.contains(&(sent, vector)) {
            self.held.push_back((sent, vector));
        }
        true
    }

    /// The next vector whose writes have all arrived.
    pub(super) fn released(&mut self) -> Option<u16> {
        let (after, vector) = *self.held.front()?;
        let arrived = self.peer.as_ref().is_none_or(|peer| peer.acknowledged() >= after);
        if !arrived {
            return None;
        }
        self.held.pop_front();
        Some(vector)
    }
}
