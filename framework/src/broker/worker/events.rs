//! What the device does unasked: DMA faults, failing, and leaving.

use std::future::pending;
use std::os::fd::OwnedFd;
use std::rc::Rc;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::Worker;
use crate::broker::BrokerError;
use crate::broker::readable::register;
use crate::bus::{Bus, BusError, DeviceEvent, Recovered};
use crate::deadline::Deadline;
use crate::driver::Scope;
use crate::wire::{EndCause, ReclaimCause};

/// Faults of one look that the driver is told of. A client can make any number of them.
const TOLD: usize = 16;

/// What tells that there are events, on buses that have such a thing.
pub(super) struct Bell(Option<AsyncFd<OwnedFd>>);

impl Bell {
    /// Without one, events are looked for now and then.
    pub(super) fn of(bus: &dyn Bus) -> Self {
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
    pub(super) async fn rung(&self) {
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

impl Worker {
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
        let worker = Rc::clone(self);
        tokio::task::spawn_local(async move {
            for event in told {
                let asked = worker.driver.event(event);
                if tokio::time::timeout(worker.timeouts.abort, asked).await.is_err() {
                    tracing::warn!(device = %worker.name, "the driver takes too long over an event");
                }
            }
            if removed {
                worker.removed().await;
            } else if failed {
                worker.failed().await;
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

    /// The device's owner waits for this process to let go of it: every session ends.
    pub(super) async fn give_back(&self) -> BrokerError {
        let sessions: Vec<_> = {
            let records = &mut *self.records.borrow_mut();
            records.shutting_down = true;
            records.sessions.iter().map(|(number, s)| (*number, s.out.clone())).collect()
        };
        for (session, out) in sessions {
            self.teardown(session, ReclaimCause::DeviceGone).await;
            out.close();
        }
        BrokerError::Removed { device: self.name.clone() }
    }

    /// The device is gone, or about to go: every grant ends.
    async fn removed(&self) {
        let mut last = self.reset.lock().await;
        let proof = match self.bus.silence(Deadline::after(self.timeouts.abort)) {
            // It does no DMA any more, or is not there any more: it reaches no memory.
            Ok(()) | Err(BusError::Gone { .. }) => Some(Recovered::by_removal()),
            Err(error) => {
                tracing::error!(device = %self.name, %error, "a device that goes may do DMA still");
                None
            }
        };
        let why = "the device was removed; start the broker again once it is back";
        if let Some(proof) = proof {
            self.records.borrow_mut().resets += 1;
            self.all_were_reset(&proof, EndCause::DeviceGone);
            *last = Some(proof);
        }
        self.out_of_service(why);
        drop(last);
        if self.bus.wanted_back() {
            self.given_back.notify_one();
        }
    }
}
