//! What the device does unasked: DMA faults, failing, and leaving.

use std::future::pending;
use std::os::fd::OwnedFd;
use std::rc::Rc;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::unit::Unit;
use crate::broker::readable::register;
use crate::bus::{Bus, BusError, DeviceEvent, Recovered};
use crate::deadline::Deadline;
use crate::driver::Scope;
use crate::driver::rt;
use crate::wire::EndCause;

/// Why nothing works any more after a removal.
const REMOVED: &str = "the device was removed; start the broker again once it is back";

/// Faults of one look that the driver is told of. A client can make any number of them.
const TOLD: usize = 16;

/// What tells that there are events, on buses that have such a thing.
struct Bell(Option<AsyncFd<OwnedFd>>);

impl Bell {
    /// Without one, events are looked for now and then.
    fn of(bus: &dyn Bus) -> Self {
        let device = &bus.identity().name;
        let fd = match bus.event_fd() {
            Ok(fd) => fd,
            Err(error) => {
                tracing::warn!(%device, %error, "events are seen late");
                None
            }
        };
        let watched = fd.map(|fd| register(fd, Interest::READABLE)).transpose();
        Self(watched.unwrap_or_else(|error| {
            tracing::warn!(%device, %error, "events are seen late");
            None
        }))
    }

    /// Waits for a ring. Cancel-safe. Look for events after it.
    async fn rung(&self) {
        let Some(fd) = &self.0 else { return pending().await };
        match fd.readable().await {
            // Before the look, so that what comes after it rings again.
            Ok(mut ready) => ready.clear_ready(),
            Err(error) => {
                tracing::warn!(%error, "waiting for a device's events");
                pending().await
            }
        }
    }
}

/// Looks for the events of a unit whenever its bus says that there are some, until it is dropped.
pub(super) fn watch(unit: &Rc<Unit>) -> rt::Task {
    let bell = Bell::of(&*unit.bus);
    let unit = Rc::downgrade(unit);
    rt::spawn(async move {
        loop {
            bell.rung().await;
            let Some(unit) = unit.upgrade() else { return };
            unit.look_for_events();
        }
    })
}

impl Unit {
    /// Looks for events. Faults are counted and logged, one line per look.
    pub(super) fn look_for_events(self: &Rc<Self>) {
        let events = self.bus.events();
        if events.is_empty() {
            return;
        }
        let (mut removed, mut failed) = (false, false);
        let mut told = Vec::new();
        {
            let records = &mut *self.records.borrow_mut();
            let before = records.faults;
            for event in events {
                match event {
                    DeviceEvent::Fault(fault) => {
                        records.faults += 1;
                        records.last_fault = Some(fault);
                        if told.len() < TOLD {
                            told.push(DeviceEvent::Fault(fault));
                        }
                    }
                    DeviceEvent::Removed => removed = true,
                    DeviceEvent::Failed { .. } => {
                        failed = true;
                        told.push(event);
                    }
                }
            }
            let new = records.faults - before;
            if let (Some(fault), true) = (records.last_fault, new > 0) {
                tracing::warn!(device = %self.name, new, total = records.faults, last = %fault, "DMA faults");
            }
        }
        if removed {
            told.push(DeviceEvent::Removed);
        }
        let unit = Rc::clone(self);
        tokio::task::spawn_local(async move {
            for event in told {
                let asked = unit.driver.event(event);
                if tokio::time::timeout(unit.common.timeouts.abort, asked).await.is_err() {
                    tracing::warn!(device = %unit.name, "the driver takes too long over an event");
                }
            }
            if removed {
                unit.removed().await;
            } else if failed {
                unit.failed().await;
            }
        });
    }

    /// The device failed: a reset mends it, or it is out of service.
    async fn failed(&self) {
        let mut last = self.reset.lock().await;
        if let Some(recovered) = self.recover(Scope::Device).await {
            self.all_were_reset(&recovered, EndCause::DeviceReset);
            *last = Some(recovered);
        }
    }

    /// The device is gone, or about to go: every grant ends.
    async fn removed(&self) {
        self.end_all(EndCause::DeviceGone, REMOVED).await;
        self.end_functions(REMOVED);
        if self.bus.wanted_back() {
            self.removed.set(true);
            self.common.given_back.notify_one();
        }
    }

    /// A reset or removal of the device takes its virtual functions with it (NVMe base 2.0, 8.26.3:
    /// secondary controllers go offline): whoever is on one is told.
    pub(super) fn end_functions(&self, why: &'static str) {
        if self.function.is_some() {
            return;
        }
        for unit in self.common.units().into_iter().filter(|unit| unit.function.is_some()) {
            tokio::task::spawn_local(async move { unit.end_all(EndCause::DeviceReset, why).await });
        }
    }

    /// Ends every queue of the unit for a reason that does not lie in it, and the unit's service.
    async fn end_all(&self, cause: EndCause, why: &str) {
        let mut last = self.reset.lock().await;
        let proof = match self.bus.silence(Deadline::after(self.common.timeouts.abort)) {
            // It does no DMA any more, or is not there any more: it reaches no memory.
            Ok(()) | Err(BusError::Gone { .. }) => Some(Recovered::by_removal()),
            Err(error) => {
                tracing::error!(device = %self.name, %error, "a function that ends may do DMA still");
                None
            }
        };
        if let Some(proof) = proof {
            self.records.borrow_mut().resets += 1;
            self.all_were_reset(&proof, cause);
            *last = Some(proof);
        }
        self.out_of_service(why);
    }
}
