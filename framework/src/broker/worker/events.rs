//! What the device does unasked: DMA faults, and leaving.

use std::rc::Rc;

use super::Worker;
use crate::bus::{BusError, DeviceEvent, Recovered};
use crate::deadline::Deadline;
use crate::wire::EndCause;

/// Faults of one look that the driver is told of. A client can make any number of them.
const TOLD: usize = 16;

impl Worker {
    /// Looks for events. Faults are counted and logged, one line per look.
    pub(super) fn look_for_events(self: &Rc<Self>) {
        let events = self.bus.events();
        if events.is_empty() {
            return;
        }
        let mut removed = false;
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
                    DeviceEvent::Failed { .. } => told.push(event),
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
            }
        });
    }

    /// The device is gone, or about to go: every grant ends.
    async fn removed(&self) {
        let mut last = self.reset.lock().await;
        let proof = match self.bus.reset(Deadline::after(self.timeouts.abort)) {
            Ok(()) => Some(Recovered::by_reset()),
            // It is not there any more, so it reaches no memory.
            Err(BusError::Gone { .. }) => Some(Recovered::by_removal()),
            Err(error) => {
                tracing::error!(device = %self.name, %error, "a device that goes cannot be reset");
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
    }
}
