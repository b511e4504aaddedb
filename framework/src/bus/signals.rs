//! The host's side of [`Signals`]: words mapped, eventfds ready to be waited for and to kick.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use doorbell_queues::{Kick, SharedMem, Wake, Word32};

use super::{SignalWords, Signals};
use crate::dma::{DmaError, Prefault, map_fd};

/// An eventfd that wakes a device.
#[derive(Debug)]
pub struct EventKick(pub OwnedFd);

impl Kick for EventKick {
    fn kick(&self) {
        // A full counter is readable, so the device wakes; any other failure is the device's death,
        // which the queue learns of elsewhere.
        let _ = rustix::io::write(&self.0, &1u64.to_ne_bytes());
    }
}

/// The signals of one vector, ready for a queue of this process.
#[derive(Debug)]
pub struct MappedSignals {
    /// The eventfd that counts interrupts.
    pub interrupt: OwnedFd,
    /// The arm word, on buses whose devices interrupt only when asked.
    pub armed: Option<Word32>,
    /// How to wake the device, on buses whose devices sleep.
    pub wake: Option<Wake>,
}

impl MappedSignals {
    /// Maps the words. Works on signals of the own bus and on those that a broker sent.
    ///
    /// # Errors
    /// [`DmaError::BadArena`] if the words do not lie in the memory; [`DmaError::Os`] from the
    /// kernel.
    pub fn map(signals: Signals) -> Result<Self, DmaError> {
        let Signals { interrupt, words } = signals;
        let Some(words) = words else { return Ok(Self { interrupt, armed: None, wake: None }) };
        let SignalWords { memory, len, asleep, armed, kick } = words;
        let bad = |why: String| DmaError::BadArena { why: format!("signal words: {why}") };
        let len = usize::try_from(len).map_err(|_| bad(format!("{len} bytes")))?;
        let page = map_fd(memory.as_fd(), 0, len, Prefault::Yes)?;
        let word = |memory: &SharedMem, offset: u64| {
            let offset = usize::try_from(offset).map_err(|_| bad(format!("offset {offset}")))?;
            memory.word32(offset).map_err(|error| bad(error.to_string()))
        };
        let (asleep, armed) = (word(&page, asleep)?, word(&page, armed)?);
        let wake = Wake::new(asleep, Arc::new(EventKick(kick)));
        Ok(Self { interrupt, armed: Some(armed), wake: Some(wake) })
    }
}
