//! The control plane: what runs in the broker. Registers are a table; there is no `unsafe`.

use std::time::Duration;

use doorbell::Deadline;
use doorbell::bus::{Bar, Device, QueueToken, Quiesced, Recovered};
use doorbell::driver::{
    DeviceMatch, Driver, DriverError, Plan, QueueGrant, QueueMemory, QueueRequest, Scope, Who,
};

use crate::protocol::{Completion, Descriptor};

/// PCI ids of the engine.
pub const VENDOR: u16 = 0x1234;
pub const DEVICE: u16 = 0x00ce;
/// How many queues it has, where their registers begin, and how far apart they are.
pub const QUEUES: u16 = 8;
pub const QUEUE_BLOCKS: u64 = 0x100;
pub const QUEUE_STRIDE: u64 = 0x20;
/// The doorbells: a tail and a head per queue, each on a cache line of its own.
pub const DOORBELLS: u64 = 0x1000;
pub const DOORBELL_STRIDE: u64 = 64;

// ANCHOR: registers
doorbell::registers! {
    /// The engine's own registers (datasheet, section 2).
    pub block EngineRegisters;

    /// Identification (2.1): always `0x00c0_ffee`.
    id @ 0x00: u32, ro, never_ones => Id {}
    /// Control (2.2).
    control @ 0x04: u32, rw => Control {
        /// The engine runs. Writing 0 stops all queues at once.
        run | with_run: 0,
    }
}
// ANCHOR_END: registers

doorbell::registers! {
    /// One queue's registers (datasheet, section 3).
    pub block QueueRegisters;

    /// IOVA of descriptor 0 (3.1).
    submission @ 0x00: u64, rw => SubmissionBase {}
    /// IOVA of completion 0 (3.2).
    completion @ 0x08: u64, rw => CompletionBase {}
    /// Ring size and state (3.3).
    state @ 0x10: u32, rw => State {
        /// Entries of each ring.
        entries | with_entries: 15:0,
        /// The queue is served. Reads 0 once the engine has let go of the queue's memory.
        enabled | with_enabled: 31,
    }
}

/// The engine, brought up.
#[derive(Debug)]
pub struct CopyEngine {
    bar: Bar,
}

impl CopyEngine {
    fn queue(&self, id: u16) -> QueueRegisters {
        QueueRegisters::at(self.bar.clone(), QUEUE_BLOCKS + u64::from(id) * QUEUE_STRIDE)
    }

    async fn stopped(&self, id: u16, deadline: Deadline) -> Result<(), DriverError> {
        while self.queue(id).state().read()?.enabled() {
            deadline.check(|| format!("queue {id} of the copy engine to stop"))?;
            tokio::task::yield_now().await;
        }
        Ok(())
    }
}

impl Driver for CopyEngine {
    const NAME: &'static str = "copy-engine";
    const IDS: &'static [DeviceMatch] =
        &[DeviceMatch { vendor: Some(VENDOR), device: Some(DEVICE), class: None }];
    type Admin = ();
    type Reply = u32;

    async fn probe(device: Device) -> Result<Self, DriverError> {
        device.reset(Deadline::after(Duration::from_secs(1)))?;
        let bar = device.bar(0)?;
        let registers = EngineRegisters::new(bar.clone());
        let id = registers.id().read()?.bits();
        if id != 0x00c0_ffee {
            return Err(DriverError::Device {
                device: device.name().to_string(),
                step: "identification",
                problem: format!("the register reads {id:#x}, not 0xc0ffee"),
            });
        }
        registers.control().write(Control::default().with_run(true))?;
        Ok(Self { bar })
    }

    fn plan(&self) -> Plan {
        Plan {
            portal: false,
            queues: QUEUES - 1,
            max_entries: 1024,
            submission_entry: size_of::<Descriptor>() as u32,
            completion_entry: size_of::<Completion>() as u32,
        }
    }

    // ANCHOR: create
    async fn create_queue(
        &self,
        id: u16,
        request: &QueueRequest,
        memory: QueueMemory,
    ) -> Result<QueueGrant, DriverError> {
        let queue = self.queue(id);
        queue.submission().write(SubmissionBase::from_bits(memory.submission))?;
        queue.completion().write(CompletionBase::from_bits(memory.completion))?;
        queue.state().write(State::default().with_entries(request.entries).with_enabled(true))?;
        let doorbells = DOORBELLS + u64::from(id) * 2 * DOORBELL_STRIDE;
        Ok(QueueGrant {
            region: 0,
            submission_doorbell: doorbells,
            completion_doorbell: doorbells + DOORBELL_STRIDE,
            vector: id,
            shadow: None,
        })
    }
    // ANCHOR_END: create

    // ANCHOR: quiesce
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
    // ANCHOR_END: quiesce

    async fn admin(&self, _who: &Who, (): ()) -> Result<u32, DriverError> {
        Ok(EngineRegisters::new(self.bar.clone()).id().read()?.bits())
    }

    async fn recover(&self, _scope: Scope, deadline: Deadline) -> Result<Recovered, DriverError> {
        let control = EngineRegisters::new(self.bar.clone());
        control.control().write(Control::default())?;
        for id in 1..QUEUES {
            self.stopped(id, deadline).await?;
        }
        control.control().write(Control::default().with_run(true))?;
        Ok(Recovered::by_reset())
    }

    async fn shutdown(&self, _deadline: Deadline) -> Result<(), DriverError> {
        let registers = EngineRegisters::new(self.bar.clone());
        Ok(registers.control().write(Control::default())?)
    }
}
