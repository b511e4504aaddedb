//! The words of one vector: how its holder sees that the relay sleeps, and wakes it.

use std::os::fd::{AsFd, OwnedFd};

use doorbell_queues::Word32;
use doorbell_queues::doorbell::{fall_asleep, wake_up};

use crate::bus::SignalWords;
use crate::bus::vfio_user::link::new_eventfd;
use crate::dma::map::PAGE;
use crate::dma::{DmaError, HugePages, Memfd, Prefault};

/// Byte offset of the asleep word.
const ASLEEP: usize = 0;
/// Byte offset of the arm word, on a cache line that no prefetcher pairs with the other. Nobody reads
/// it: a device server interrupts whether it was armed or not.
const ARMED: usize = 128;

/// A page of words, and a kick.
#[derive(Debug)]
pub(super) struct WordsPage {
    words: Memfd,
    asleep: Word32,
    kick: OwnedFd,
}

impl WordsPage {
    pub(super) fn new() -> Result<Self, DmaError> {
        let words = Memfd::create("doorbell-relay-words", PAGE, HugePages::No)?;
        let asleep = words.map(Prefault::Yes)?.word32(ASLEEP);
        let asleep = asleep.map_err(|error| DmaError::BadArena { why: error.to_string() })?;
        let kick = new_eventfd().map_err(|source| DmaError::Os { what: "eventfd", source })?;
        Ok(Self { words, asleep, kick })
    }

    pub(super) fn kick(&self) -> &OwnedFd {
        &self.kick
    }

    /// Duplicates for a holder.
    pub(super) fn signals(&self) -> std::io::Result<SignalWords> {
        Ok(SignalWords {
            memory: self.words.as_fd().try_clone_to_owned()?,
            len: PAGE as u64,
            asleep: ASLEEP as u64,
            armed: ARMED as u64,
            kick: self.kick.try_clone()?,
        })
    }

    pub(super) fn fall_asleep(&self) {
        fall_asleep(&self.asleep);
    }

    pub(super) fn wake_up(&self) {
        wake_up(&self.asleep);
    }
}
