//! The control plane of an NVMe controller: what runs in the broker.
//!
//! | file | what |
//! |---|---|
//! | `regs` | the registers as a table |
//! | `bringup` | reset, enable, shutdown, each with the deadline that the controller states |
//! | `admin_queue` | admin commands, with a time limit that escalates to an Abort |
//! | `identify` | what the controller and its namespaces are |
//! | `queues` | I/O queue pairs: create, delete, undo |
//! | `shadow` | shadow doorbells, on controllers that offer them |
//! | `functions` | virtual functions: what each gets, online and offline |
//! | `events` | asynchronous events |
//! | `logs` | log pages |
//! | `ops` | what clients may ask for, and who |
//! | `state` | what is kept of the controller; reset and recovery |
//!
//! All of it runs on one thread, in safe code. A client's long command (a Format) delays no other's:
//! methods run concurrently, and a part of the admin queue is kept for the driver's own needs.
//!
//! What it does not do: it never reads or writes a client's memory, and it moves no I/O.
#![forbid(unsafe_code)]

use std::rc::Rc;
use std::time::Duration;

use doorbell::bus::{DeviceEvent, QueueToken, Quiesced, Recovered};
use doorbell::deadline::Deadline;
use doorbell::driver::{
    DeviceMatch, Driver, DriverError, Plan, QueueGrant, QueueMemory, QueueRequest, Scope,
    VirtualResources, Who,
};
use doorbell_queues::Tag;

use crate::admin::{NvmeAdmin, NvmeReply};
use crate::spec::{Cqe, Sqe};

mod admin_queue;
mod bringup;
mod error;
mod events;
mod functions;
mod identify;
mod logs;
mod ops;
mod queues;
mod regs;
mod shadow;
mod state;

use state::Shared;

/// How long an ordinary admin command may take before it is aborted. The specification gives no
/// bound; controllers answer within milliseconds.
const ADMIN_LIMIT: Duration = Duration::from_secs(5);

/// The NVM Express class code: mass storage, non-volatile memory, NVM Express (PCIe transport 1.0,
/// 3.8.1.4).
pub const CLASS: u32 = 0x01_08_02;

/// The driver of NVMe controllers.
#[derive(Debug)]
pub struct NvmeDriver {
    shared: Rc<Shared>,
}

impl Driver for NvmeDriver {
    const NAME: &'static str = "nvme";
    const IDS: &'static [DeviceMatch] =
        &[DeviceMatch { vendor: None, device: None, class: Some(CLASS) }];
    type Admin = NvmeAdmin;
    type Reply = NvmeReply;

    async fn probe(device: doorbell::bus::Device) -> Result<Self, DriverError> {
        Ok(Self { shared: Shared::probe(device).await? })
    }

    fn plan(&self) -> Plan {
        Plan {
            portal: false,
            queues: self.shared.controller().map_or(0, |controller| controller.queues),
            max_entries: self.shared.limits().cap.max_entries(),
            submission_entry: size_of::<Sqe>() as u32,
            completion_entry: size_of::<Cqe>() as u32,
        }
    }

    async fn create_queue(
        &self,
        id: u16,
        request: &QueueRequest,
        memory: QueueMemory,
    ) -> Result<QueueGrant, DriverError> {
        let step = "creating an I/O queue pair";
        let shared = &self.shared;
        let plan = self.plan();
        let page = shared.limits().page.bytes();
        let problem = if id == 0 || id > plan.queues {
            format!("queue {id}: 1 to {} are possible", plan.queues)
        } else if !(2..=plan.max_entries).contains(&request.entries) {
            format!("{} entries: 2 to {} are possible", request.entries, plan.max_entries)
        } else if !memory.submission.is_multiple_of(page) || !memory.completion.is_multiple_of(page)
        {
            format!("a ring is not aligned to {page} bytes")
        } else {
            return self.create(id, request.entries, memory).await;
        };
        Err(error::broken(shared.name(), step, problem))
    }

    async fn quiesce_queue(
        &self,
        queue: QueueToken,
        deadline: Deadline,
    ) -> Result<Quiesced, (QueueToken, DriverError)> {
        // A controller that is gone or has failed deletes nothing: the broker need not wait for that.
        let alive = bringup::check_alive(self.shared.name(), &self.shared.regs);
        let admin = match alive.and_then(|()| self.shared.admin()) {
            Ok(admin) => admin,
            Err(error) => return Err((queue, error)),
        };
        let deleted = self.shared.queues.delete(&admin, queue.queue(), deadline).await;
        match deleted {
            Ok(()) => Ok(queue.quiesced()),
            Err(error) => Err((queue, self.shared.failed(error, "deleting an I/O queue pair"))),
        }
    }

    async fn abort(&self, queue: u16, tag: u16, deadline: Deadline) -> Result<(), DriverError> {
        bringup::check_alive(self.shared.name(), &self.shared.regs)?;
        let admin = self.shared.admin()?;
        let aborted = admin.send_abort(queue, Tag(tag), deadline).await;
        let aborted = aborted.map_err(|error| self.shared.failed(error, "aborting a command"))?;
        let device = self.shared.name();
        tracing::warn!(%device, queue, tag, aborted, "a client's command took too long");
        Ok(())
    }

    async fn admin(&self, who: &Who, operation: NvmeAdmin) -> Result<NvmeReply, DriverError> {
        self.shared.unstick().await?;
        ops::execute(&self.shared, who, operation).await
    }

    async fn event(&self, event: DeviceEvent) {
        let device = self.shared.name();
        match event {
            DeviceEvent::Fault(fault) => tracing::error!(%device, %fault, "refused by the IOMMU"),
            DeviceEvent::Failed { how } => tracing::error!(%device, how, "the device failed"),
            DeviceEvent::Removed => {
                tracing::error!(%device, "removed");
                self.shared.removed();
            }
        }
    }

    async fn recover(&self, scope: Scope, deadline: Deadline) -> Result<Recovered, DriverError> {
        tracing::warn!(device = %self.shared.name(), ?scope, "resetting the controller");
        self.shared.reset(deadline).await?;
        Ok(Recovered::by_reset())
    }

    async fn prepare_virtual_function(
        &self,
        index: u16,
        of: u16,
    ) -> Result<VirtualResources, DriverError> {
        functions::prepare(&self.shared, index, of).await
    }

    async fn release_virtual_function(&self, index: u16) -> Result<(), DriverError> {
        functions::release(&self.shared, index).await
    }

    async fn shutdown(&self, deadline: Deadline) -> Result<(), DriverError> {
        self.shared.shut_down(deadline).await
    }
}

impl NvmeDriver {
    async fn create(
        &self,
        id: u16,
        entries: u32,
        memory: QueueMemory,
    ) -> Result<QueueGrant, DriverError> {
        let shared = &self.shared;
        // A vector of its own for each pair, so that nobody is woken for another's completions.
        let new = queues::NewPair { id, entries, memory, vector: id };
        let shadow = shared.create_queue(new).await?;
        let cap = shared.limits().cap;
        Ok(QueueGrant {
            region: 0,
            submission_doorbell: cap.sq_doorbell(id),
            completion_doorbell: cap.cq_doorbell(id),
            vector: id,
            shadow,
        })
    }
}
