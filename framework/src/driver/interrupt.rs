//! [`InterruptVector`]: how a driver waits for its device's interrupts without a queue.
#![forbid(unsafe_code)]

use std::fmt;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::sync::Arc;

use doorbell_queues::Word32;
use doorbell_queues::wait::arm_word;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::Notify;

use super::{DriverError, rt};
use crate::bus::{BusError, Device, MappedSignals};
use crate::deadline::Deadline;
use crate::wait::Eventfd;

/// The vector's eventfd, for the reactor.
struct Source(Eventfd);

impl AsRawFd for Source {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

/// An interrupt vector in the hands of a driver, on any bus. Several of the driver's methods may
/// wait for it at once: devices signal many things with one interrupt.
///
/// An interrupt says only that something may have happened. So what is waited for is a condition on
/// the device, and the interrupt is when to look at it again ([`InterruptVector::until`]).
pub struct InterruptVector {
    device: Arc<str>,
    vector: u16,
    event: AsyncFd<Source>,
    /// On buses whose devices interrupt only when asked.
    armed: Option<Word32>,
    /// Tells everyone who waits that somebody took the event.
    taken: Notify,
}

impl fmt::Debug for InterruptVector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "InterruptVector({}, {})", self.device, self.vector)
    }
}

impl Device {
    /// Interrupt vector `vector` for the driver's own use. Take it once, in
    /// [`Driver::probe`](super::Driver::probe): handles of one vector take each other's interrupts,
    /// and the vector of a queue is the queue's.
    ///
    /// # Errors
    /// [`BusError::Vector`] if there is no such vector; [`BusError::Dma`] or [`BusError::Os`] if its
    /// descriptors cannot be used, or outside of a driver's thread.
    pub fn interrupt(&self, vector: u16) -> Result<InterruptVector, BusError> {
        let signals = self.bus().signals(vector)?;
        let signals = MappedSignals::map(signals)
            .map_err(|source| BusError::Dma { device: self.name(), source })?;
        let what = "watching an interrupt";
        let event = watch(signals.interrupt).map_err(|source| BusError::Os {
            device: self.name(),
            what,
            source,
        })?;
        let taken = Notify::new();
        Ok(InterruptVector { device: self.name(), vector, event, armed: signals.armed, taken })
    }
}

#[allow(
    deprecated,
    reason = "its successor is unsafe, for types whose descriptor may change; `Source` owns its own"
)]
fn watch(interrupt: OwnedFd) -> io::Result<AsyncFd<Source>> {
    tokio::runtime::Handle::try_current().map_err(io::Error::other)?;
    AsyncFd::with_interest(Source(Eventfd::from(interrupt)), Interest::READABLE)
}

impl InterruptVector {
    /// Waits until `look` says that what is waited for has come. `look` reads the device's
    /// registers; `step` is what it waits for, in words, for the error.
    ///
    /// No wake-up is lost: `look` runs after the interrupt was asked for, so what the device did
    /// before is seen by it, and what the device does later interrupts. After each interrupt,
    /// whoever of several tasks takes it, every waiting task looks again. Dropping the future is
    /// safe.
    ///
    /// # Errors
    /// What `look` says. [`BusError::TimedOut`] if no interrupt brought it before the deadline;
    /// [`BusError::Os`] if the interrupt's descriptor fails.
    pub async fn until(
        &self,
        deadline: Deadline,
        step: &'static str,
        look: impl FnMut() -> Result<bool, DriverError>,
    ) -> Result<(), DriverError> {
        match rt::within(deadline, self.wait(look)).await {
            Some(found) => found,
            None => Err(self.late(deadline, step).into()),
        }
    }

    async fn wait(
        &self,
        mut look: impl FnMut() -> Result<bool, DriverError>,
    ) -> Result<(), DriverError> {
        loop {
            // Registered before the look: whoever takes an event after it wakes this task.
            let taken = self.taken.notified();
            tokio::pin!(taken);
            taken.as_mut().enable();
            if let Some(armed) = &self.armed {
                arm_word(armed);
            }
            if look()? {
                return Ok(());
            }
            tokio::select! {
                () = taken => {}
                fired = self.fired() => fired?,
            }
            // A device that does nothing but interrupt cannot keep the others from running.
            tokio::task::yield_now().await;
        }
    }

    /// Ready once the interrupt has fired; everyone else who waits is told.
    async fn fired(&self) -> Result<(), BusError> {
        let broken = |source| BusError::Os {
            device: Arc::clone(&self.device),
            what: "waiting for an interrupt",
            source,
        };
        let mut ready = self.event.readable().await.map_err(broken)?;
        let fired = self.event.get_ref().0.take();
        ready.clear_ready();
        if fired.map_err(broken)? {
            self.taken.notify_waiters();
        }
        Ok(())
    }

    fn late(&self, deadline: Deadline, step: &str) -> BusError {
        let what = format!("interrupt {}: {step}", self.vector);
        BusError::TimedOut { device: Arc::clone(&self.device), source: deadline.timed_out(what) }
    }
}
