//! Shadow doorbells (base 2.0, 5.8 and annex B.5): told to the controller after each enable, and put
//! into the grants of I/O queues, if the controller offers them.
//!
//! Two pages hold the words of all queues, the shadows in the first and EventIdx in the second, laid out
//! as the registers are. They are the driver's, and lie in a memfd with nothing else; every client of
//! the controller maps them. So a client can write to the words of every other client's queues: such
//! grants are `Cooperative` at best. (They were before: doorbell registers of many queues share a page.
//! Where each has a page of its own, by CAP.DSTRD, the words of one queue pair fill more than one page,
//! so a controller offers either isolated doorbells or shadow doorbells.)
//!
//! The pages stay the same for as long as the device is open, also over a reset. A client whose queue
//! was taken away keeps its mapping of them, like that of a doorbell page that cannot be revoked; what it
//! stores for a queue that is gone reaches nobody, and once the queue's id is another client's it can do
//! what `Cooperative` says: ring for it too early or too late, never make the controller leave that
//! client's ring.
//!
//! The admin queue keeps its registers.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use doorbell::bus::{Device, SharedPages};
use doorbell::driver::{DriverError, QueueShadow, ShadowWords};
use doorbell_queues::OutOfBounds;

use super::ADMIN_LIMIT;
use super::admin_queue::AdminQueue;
use super::bringup::Limits;
use super::error::{AdminError, broken};
use super::state::Shared;
use crate::spec::regs::{Cap, offset};
use crate::spec::{AdminOpcode, Sqe};

impl Shared {
    /// Has the controller, which offers it, use shadow doorbells for `queues` I/O queue pairs. `None` if
    /// it refuses, or if there is no place for that many in a page: it should not have offered it then
    /// (base 2.0, 5.8).
    pub(super) async fn configure_shadows(
        &self,
        admin: &AdminQueue,
        queues: u16,
    ) -> Result<Option<Shadows>, DriverError> {
        let limits = self.limits();
        if limits.cap.cq_doorbell(queues) + 4 - offset::DOORBELLS > limits.page.bytes() {
            tracing::warn!(device = %self.name(), queues, "no room for shadow doorbells: not used");
            return Ok(None);
        }
        let known = self.shadows.borrow().clone();
        let shadows = match known {
            Some(shadows) => shadows,
            None => Shadows::new(&self.device, limits)?,
        };
        *self.shadows.borrow_mut() = Some(shadows.clone());
        let configured = shadows.configure(admin).await;
        let configured =
            configured.map_err(|error| self.failed(error, "Doorbell Buffer Config"))?;
        Ok(configured.then_some(shadows))
    }
}

/// The pages, and how words are found in them.
#[derive(Debug, Clone)]
pub(super) struct Shadows {
    pages: Arc<SharedPages>,
    cap: Cap,
    page: u64,
}

impl Shadows {
    fn new(device: &Device, limits: &Limits) -> Result<Self, DriverError> {
        let (cap, page) = (limits.cap, limits.page.bytes());
        let pages = Arc::new(device.alloc_pages(2 * page as usize)?);
        Ok(Self { pages, cap, page })
    }

    /// Has the controller use them, from 0 on. False if it refuses. No I/O queue exists.
    ///
    /// # Errors
    /// Anything but an answer: then nobody knows what the controller uses.
    async fn configure(&self, admin: &AdminQueue) -> Result<bool, AdminError> {
        let memory = self.pages.memory();
        let cleared = memory.fill(0, memory.len(), 0);
        cleared.map_err(|_| AdminError::Defect("the shadow doorbells cannot be cleared"))?;
        let shadow = self.pages.iova();
        let sqe = Sqe {
            prp1: shadow,
            prp2: shadow + self.page,
            ..Sqe::admin(AdminOpcode::DOORBELL_BUFFER_CONFIG)
        };
        match admin.run(sqe, ADMIN_LIMIT).await {
            Ok(_) => Ok(true),
            Err(error @ AdminError::Status { .. }) => {
                tracing::warn!(%error, "shadow doorbells are offered and refused; registers it is");
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }

    fn words(&self, register: u64) -> ShadowWords {
        let value = register - offset::DOORBELLS;
        ShadowWords { value, event: value + self.page }
    }

    /// The words of a queue pair that is about to be created, all 0: what a former holder of the id left
    /// there is gone.
    pub(super) fn prepare(
        &self,
        device: &Arc<str>,
        queue: u16,
    ) -> Result<QueueShadow, DriverError> {
        let submission = self.words(self.cap.sq_doorbell(queue));
        let completion = self.words(self.cap.cq_doorbell(queue));
        let words = [submission.value, submission.event, completion.value, completion.event];
        let memory = self.pages.memory();
        let clear = |at: u64| memory.store_u32(at as usize, 0, Ordering::Relaxed);
        let cleared: Result<(), OutOfBounds> = words.into_iter().try_for_each(clear);
        cleared.map_err(|error| {
            broken(device, "clearing a queue's shadow doorbells", error.to_string())
        })?;
        Ok(QueueShadow { memory: Arc::clone(&self.pages), submission, completion })
    }
}
