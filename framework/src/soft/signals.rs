//! Interrupts and wake-ups of a software device: one page of words and two eventfds per vector.
//!
//! The page holds the asleep word at 0 and the arm word at 128, on cache lines that no prefetcher
//! pairs. Each vector has a memfd and a kick eventfd of its own, so that a client holds nothing that
//! another client's wake-ups depend on, and what a former holder keeps is cut off by giving the
//! vector new ones ([`crate::bus::Bus::retire_signals`]).
//!
//! The device never reads an eventfd that it shared (a holder could drain it first and leave the
//! device blocked): it watches kicks edge-triggered. It does write interrupts; a holder that takes
//! `O_NONBLOCK` off *and* fills the counter to its limit can block the device's thread, which is one
//! of the harms that tier `Cooperative` does not exclude.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use doorbell_queues::doorbell::{fall_asleep, wake_up};
use doorbell_queues::wait::must_signal;
use doorbell_queues::{SharedMem, Word32};
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};

use crate::bus::{SignalWords, Signals};
use crate::dma::map::PAGE;
use crate::dma::{DmaError, HugePages, Memfd, Prefault};

/// Byte offset of the asleep word.
const ASLEEP: usize = 0;
/// Byte offset of the arm word.
const ARMED: usize = 128;

/// A new eventfd that neither blocks nor is inherited.
pub(crate) fn new_eventfd() -> Result<OwnedFd, DmaError> {
    eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
        .map_err(|errno| DmaError::Os { what: "eventfd", source: errno.into() })
}

/// Adds one to an eventfd. A full counter is fine: it is readable already.
pub(crate) fn signal(fd: impl AsFd) {
    match rustix::io::write(fd, &1u64.to_ne_bytes()) {
        Ok(_) | Err(rustix::io::Errno::AGAIN) => {}
        Err(error) => tracing::warn!(%error, "an eventfd could not be signalled"),
    }
}

/// The signals of one vector as the bus keeps them, to hand out duplicates.
#[derive(Debug)]
pub(crate) struct VectorPage {
    words: Memfd,
    memory: SharedMem,
    interrupt: Arc<OwnedFd>,
    kick: Arc<OwnedFd>,
}

impl VectorPage {
    pub(crate) fn new(name: &str) -> Result<Self, DmaError> {
        let words = Memfd::create(name, PAGE, HugePages::No)?;
        let memory = words.map(Prefault::Yes)?;
        let (interrupt, kick) = (Arc::new(new_eventfd()?), Arc::new(new_eventfd()?));
        Ok(Self { words, memory, interrupt, kick })
    }

    /// Duplicates for a holder.
    pub(crate) fn signals(&self) -> std::io::Result<Signals> {
        let words = SignalWords {
            memory: self.words.as_fd().try_clone_to_owned()?,
            len: PAGE as u64,
            asleep: ASLEEP as u64,
            armed: ARMED as u64,
            kick: self.kick.try_clone()?,
        };
        Ok(Signals { interrupt: self.interrupt.try_clone()?, words: Some(words) })
    }

    pub(crate) fn kick(&self) -> &OwnedFd {
        &self.kick
    }

    /// The device's side.
    pub(crate) fn device_side(&self) -> Result<ArmedVector, DmaError> {
        let word = |offset| {
            self.memory
                .word32(offset)
                .map_err(|error| DmaError::BadArena { why: error.to_string() })
        };
        Ok(ArmedVector {
            asleep: word(ASLEEP)?,
            armed: word(ARMED)?,
            interrupt: Arc::clone(&self.interrupt),
            kick: Arc::clone(&self.kick),
        })
    }
}

/// The device's side of a vector with words.
#[derive(Debug)]
pub(crate) struct ArmedVector {
    asleep: Word32,
    armed: Word32,
    interrupt: Arc<OwnedFd>,
    pub(crate) kick: Arc<OwnedFd>,
}

/// One vector, on the device's thread.
#[derive(Debug, Default)]
pub(crate) struct VectorSignals {
    /// With an arm word: signalled only when asked.
    pub(crate) words: Option<ArmedVector>,
    /// Without: a peer's eventfd that is signalled every time.
    pub(crate) always: Option<PeerEvent>,
}

/// An eventfd that a peer sent.
#[derive(Debug)]
pub(crate) struct PeerEvent {
    fd: OwnedFd,
    /// Writing may block: it is asked first whether it would.
    blocking: bool,
}

impl PeerEvent {
    /// Takes a descriptor to signal.
    pub(crate) fn new(fd: OwnedFd) -> rustix::io::Result<Self> {
        let blocking = !rustix::fs::fcntl_getfl(&fd)?.contains(rustix::fs::OFlags::NONBLOCK);
        Ok(Self { fd, blocking })
    }

    /// Adds one.
    pub(crate) fn signal(&self) {
        if self.blocking {
            let mut polled = [PollFd::new(&self.fd, PollFlags::OUT)];
            let now = Timespec { tv_sec: 0, tv_nsec: 0 };
            if poll(&mut polled, Some(&now)) != Ok(1) {
                // The counter is full: it is readable already.
                return;
            }
        }
        signal(&self.fd);
    }
}

impl VectorSignals {
    /// Signals it.
    pub(crate) fn raise(&mut self) {
        self.raise_if_armed();
        self.raise_always();
    }

    /// Signals a holder who has asked for it by the arm word.
    #[inline]
    pub(crate) fn raise_if_armed(&mut self) {
        if let Some(words) = &self.words
            && must_signal(&words.armed)
        {
            signal(&*words.interrupt);
        }
    }

    /// Signals a peer whose eventfd has no arm word.
    pub(crate) fn raise_always(&mut self) {
        if let Some(event) = &self.always {
            event.signal();
        }
    }

    /// Announces sleep; the caller looks at everything once more afterwards.
    pub(crate) fn fall_asleep(&self) {
        if let Some(words) = &self.words {
            fall_asleep(&words.asleep);
        }
    }

    pub(crate) fn wake_up(&self) {
        if let Some(words) = &self.words {
            wake_up(&words.asleep);
        }
    }
}

/// The interrupt pin (INTx), on the device's thread: level semantics over an eventfd. It masks itself
/// when it fires; when the peer unmasks it, it fires again if the device still asserts its pin.
#[derive(Debug, Default)]
pub(crate) struct Pin {
    /// Signalled when the pin is asserted and not masked.
    pub(crate) event: Option<PeerEvent>,
    /// Masked, by the peer or by having fired.
    pub(crate) masked: bool,
    /// Config space allows it: see [`crate::pci::synthetic::SyntheticConfig::may_assert_pin`].
    pub(crate) allowed: bool,
}

impl Pin {
    /// True if an asserted pin would be signalled.
    #[inline]
    pub(crate) fn is_listened_to(&self) -> bool {
        self.event.is_some() && !self.masked && self.allowed
    }

    /// The pin is asserted.
    pub(crate) fn fire(&mut self) {
        if let Some(event) = &self.event {
            event.signal();
            self.masked = true;
        }
    }
}
