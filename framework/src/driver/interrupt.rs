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

#[cfg(test)]
#[cfg(feature = "soft")]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::bus::{Bar, Bus, Identity, Region, SoftBus, Width};
    use crate::soft::{HarnessOptions, Progress, SoftCx, SoftDevice};

    /// Register 0 counts; a write to it counts on, interrupts, or both.
    #[derive(Default)]
    struct Counter {
        value: u32,
        /// Counts on this many times more, one per poll, each with an interrupt.
        more: u32,
    }

    const COUNT: u64 = 1;
    const INTERRUPT: u64 = 2;

    impl SoftDevice for Counter {
        fn identity(&self) -> Identity {
            Identity { name: "".into(), vendor: 1, device: 1, class: 0, numa_node: None }
        }
        fn regions(&self) -> Vec<Region> {
            vec![Region { index: 0, size: 4096, mappable: Vec::new() }]
        }
        fn vectors(&self) -> u16 {
            1
        }
        fn read(&mut self, _: &mut SoftCx, _: u8, _: u64, _: Width) -> u64 {
            self.value.into()
        }
        fn write(&mut self, cx: &mut SoftCx, _: u8, offset: u64, _: Width, value: u64) {
            if offset == 8 {
                self.more = value as u32;
                return;
            }
            self.value += u32::from(value & COUNT != 0);
            if value & INTERRUPT != 0 {
                cx.interrupt(0);
            }
        }
        fn poll(&mut self, cx: &mut SoftCx) -> Progress {
            if self.more == 0 {
                return Progress::Idle;
            }
            self.more -= 1;
            self.value += 1;
            cx.interrupt(0);
            Progress::Busy
        }
        fn reset(&mut self, _: &mut SoftCx) {}
    }

    fn device() -> Device {
        let options = HarnessOptions { name: "soft:counter".into(), ..HarnessOptions::default() };
        let bus = SoftBus::start(Box::new(Counter::default()), options).unwrap();
        Device::attach(Arc::new(bus) as Arc<dyn Bus>, 64).unwrap().0
    }

    fn on_a_drivers_thread(test: impl Future<Output = ()>) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        tokio::task::LocalSet::new().block_on(&runtime, test);
    }

    async fn reaches(vector: &InterruptVector, bar: &Bar, least: u32, limit: Duration) -> String {
        let look = || Ok(bar.read32(0)? >= least);
        match vector.until(Deadline::after(limit), "the count", look).await {
            Ok(()) => "reached".to_owned(),
            Err(error) => error.to_string(),
        }
    }

    const LONG: Duration = Duration::from_secs(60);

    #[test]
    fn what_was_before_the_wait_needs_no_interrupt() {
        on_a_drivers_thread(async {
            let device = device();
            let (vector, bar) = (device.interrupt(0).unwrap(), device.bar(0).unwrap());
            bar.write32(0, COUNT as u32).unwrap();
            assert_eq!(reaches(&vector, &bar, 1, LONG).await, "reached");
        });
    }

    #[test]
    fn every_task_looks_again_whoever_takes_the_interrupt() {
        on_a_drivers_thread(async {
            let device = device();
            let vector = std::rc::Rc::new(device.interrupt(0).unwrap());
            let bar = device.bar(0).unwrap();
            let tasks: Vec<_> = (1..=50)
                .map(|least| {
                    let (vector, bar) = (std::rc::Rc::clone(&vector), bar.clone());
                    tokio::task::spawn_local(
                        async move { reaches(&vector, &bar, least, LONG).await },
                    )
                })
                .collect();
            tokio::task::yield_now().await;
            // Many interrupts while they look and park again.
            bar.write32(8, 50).unwrap();
            for task in tasks {
                assert_eq!(task.await.unwrap(), "reached");
            }
        });
    }

    #[test]
    fn an_interrupt_that_never_comes_says_which_and_for_what() {
        on_a_drivers_thread(async {
            let device = device();
            let (vector, bar) = (device.interrupt(0).unwrap(), device.bar(0).unwrap());
            // An interrupt that brings nothing is not what is waited for.
            bar.write32(0, INTERRUPT as u32).unwrap();
            let said = reaches(&vector, &bar, 1, Duration::from_millis(20)).await;
            assert_eq!(said, "device soft:counter: waited 0.020 s for interrupt 0: the count");
            // Without an interrupt nobody looks again, and the wait that gave up left nothing behind.
            bar.write32(0, COUNT as u32).unwrap();
            assert_eq!(reaches(&vector, &bar, 1, LONG).await, "reached");
        });
    }

    #[test]
    fn a_vector_that_is_not_there_and_a_thread_that_is_no_drivers() {
        on_a_drivers_thread(async {
            let error = device().interrupt(1).unwrap_err();
            assert!(error.to_string().contains("interrupt vector 1: the device has 1"), "{error}");
        });
        let error = device().interrupt(0).unwrap_err();
        assert!(error.to_string().contains("soft:counter: watching an interrupt"), "{error}");
    }
}
