//! The control plane: what runs in the broker. It never touches a portal.

use std::time::Duration;

use doorbell::Deadline;
use doorbell::bus::{Bar, Device, QueueToken, Quiesced, Recovered};
use doorbell::driver::{
    DeviceMatch, Driver, DriverError, Plan, QueueGrant, QueueMemory, QueueRequest, Scope, Who,
};

use crate::protocol::{Completion, Descriptor};

/// PCI ids of the engine, and what its identification register reads.
pub const VENDOR: u16 = 0x1234;
pub const DEVICE: u16 = 0x00cf;
pub const IDENTIFICATION: u32 = 0x00f0_07a1;
/// How many queues it has, where their registers begin, and how far apart they are.
pub const QUEUES: u16 = 4;
pub const QUEUE_BLOCKS: u64 = 0x100;
pub const QUEUE_STRIDE: u64 = 0x20;
/// Two pages per queue: its portal, and its completion head doorbell.
pub const PORTALS: u64 = 0x1000;
pub const PORTAL_STRIDE: u64 = 0x2000;
pub const HEAD_DOORBELL: u64 = 0x1000;
/// Cells of a portal: a page of descriptors.
pub const CELLS: u32 = 64;

doorbell::registers! {
    /// The engine's own registers (datasheet, section 2).
    pub block EngineRegisters;

    /// Identification (2.1).
    id @ 0x00: u32, ro, never_ones => Id {}
    /// Control (2.2).
    control @ 0x04: u32, rw => Control {
        /// The engine runs. Writing 0 stops all queues at once.
        run | with_run: 0,
    }
}

doorbell::registers! {
    /// One queue's registers (datasheet, section 3).
    pub block QueueRegisters;

    /// IOVA of completion 0 (3.1).
    completion @ 0x00: u64, rw => CompletionBase {}
    /// Size and state (3.2).
    state @ 0x08: u32, rw => State {
        /// Cells of the portal and entries of the completion ring.
        entries | with_entries: 15:0,
        /// The queue is served. Its portal is emptied when this is set. Reads 0 once the engine has
        /// let go of the queue's memory.
        enabled | with_enabled: 31,
    }
}

/// The engine, brought up.
#[derive(Debug)]
pub struct PortalEngine {
    bar: Bar,
}

impl PortalEngine {
    fn queue(&self, id: u16) -> QueueRegisters {
        QueueRegisters::at(self.bar.clone(), QUEUE_BLOCKS + u64::from(id) * QUEUE_STRIDE)
    }

    async fn stopped(&self, id: u16, deadline: Deadline) -> Result<(), DriverError> {
        while self.queue(id).state().read()?.enabled() {
            deadline.check(|| format!("queue {id} of the portal engine to stop"))?;
            tokio::task::yield_now().await;
        }
        Ok(())
    }

    fn run(&self, run: bool) -> Result<(), DriverError> {
        let registers = EngineRegisters::new(self.bar.clone());
        Ok(registers.control().write(Control::default().with_run(run))?)
    }
}

impl Driver for PortalEngine {
    const NAME: &'static str = "portal-engine";
    const IDS: &'static [DeviceMatch] =
        &[DeviceMatch { vendor: Some(VENDOR), device: Some(DEVICE), class: None }];
    type Admin = ();
    type Reply = u32;

    async fn probe(device: Device) -> Result<Self, DriverError> {
        device.reset(Deadline::after(Duration::from_secs(1)))?;
        let engine = Self { bar: device.bar(0)? };
        let id = EngineRegisters::new(engine.bar.clone()).id().read()?.bits();
        if id != IDENTIFICATION {
            return Err(DriverError::Device {
                device: device.name().to_string(),
                step: "identification",
                problem: format!("the register reads {id:#x}, not {IDENTIFICATION:#x}"),
            });
        }
        engine.run(true)?;
        Ok(engine)
    }

    // ANCHOR: plan
    fn plan(&self) -> Plan {
        Plan {
            queues: QUEUES - 1,
            max_entries: CELLS,
            portal: true,
            submission_entry: size_of::<Descriptor>() as u32,
            completion_entry: size_of::<Completion>() as u32,
        }
    }

    async fn create_queue(
        &self,
        id: u16,
        request: &QueueRequest,
        memory: QueueMemory,
    ) -> Result<QueueGrant, DriverError> {
        let queue = self.queue(id);
        queue.completion().write(CompletionBase::from_bits(memory.completion))?;
        queue.state().write(State::default().with_entries(request.entries).with_enabled(true))?;
        let portal = PORTALS + u64::from(id) * PORTAL_STRIDE;
        Ok(QueueGrant {
            region: 0,
            submission_doorbell: portal,
            completion_doorbell: portal + HEAD_DOORBELL,
            vector: id,
            shadow: None,
        })
    }
    // ANCHOR_END: plan

    async fn quiesce_queue(
        &self,
        queue: QueueToken,
        deadline: Deadline,
    ) -> Result<Quiesced, (QueueToken, DriverError)> {
        let id = queue.queue();
        if let Err(error) = self.queue(id).state().write(State::default()) {
            return Err((queue, error.into()));
        }
        match self.stopped(id, deadline).await {
            Ok(()) => Ok(queue.quiesced()),
            Err(error) => Err((queue, error)),
        }
    }

    async fn admin(&self, _who: &Who, (): ()) -> Result<u32, DriverError> {
        Ok(EngineRegisters::new(self.bar.clone()).id().read()?.bits())
    }

    async fn recover(&self, _scope: Scope, deadline: Deadline) -> Result<Recovered, DriverError> {
        self.run(false)?;
        for id in 1..QUEUES {
            self.stopped(id, deadline).await?;
        }
        self.run(true)?;
        Ok(Recovered::by_reset())
    }

    async fn shutdown(&self, _deadline: Deadline) -> Result<(), DriverError> {
        self.run(false)
    }
}
