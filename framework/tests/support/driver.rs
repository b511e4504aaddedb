//! The control plane driver of the test device.

use std::cell::Cell;
use std::time::Duration;

use doorbell::Deadline;
use doorbell::bus::{Bar, Device, DeviceEvent, QueueToken, Quiesced, Recovered};
use doorbell::driver::{
    DeviceMatch, Driver, DriverError, Plan, QueueGrant, QueueMemory, QueueRequest, Scope, Who,
};
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;

use super::model::{MAX_ENTRIES, VENDOR};
use super::protocol::{Completion, Entry};

/// Operations of the driver.
#[derive(Debug, Serialize, Deserialize)]
pub enum Op {
    /// Answers at once.
    Ping(u32),
    /// Answers when somebody asks for `Finish`.
    Slow,
    /// Lets `Slow` go on.
    Finish,
    /// Completes all held commands.
    Release,
    /// Resets fail from now on.
    Deafen,
    /// The model panics: the device is gone.
    Vanish,
    /// The device touches an address that nobody mapped.
    Touch(u64),
    /// The device reports an error that only a reset mends.
    Fail,
    /// Who asks?
    WhoAmI,
    /// An answer of this many bytes.
    Bytes(u32),
    /// What the driver has seen.
    Seen,
}

/// Answers of the driver.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Answer {
    Pong(u32),
    Done,
    You { pid: i32, uid: u32, operator: bool, queues: Vec<u16> },
    Bytes(Vec<u8>),
    Seen { faults: u32, removed: bool },
}

pub struct LoopDriver {
    device: Device,
    bar: Bar,
    queues: u16,
    stride: u64,
    slow: Notify,
    faults: Cell<u32>,
    removed: Cell<bool>,
}

impl LoopDriver {
    fn write(&self, offset: u64, value: u64) -> Result<(), DriverError> {
        Ok(self.bar.write64(offset, value)?)
    }
}

impl Driver for LoopDriver {
    const NAME: &'static str = "loop";
    const IDS: &'static [DeviceMatch] =
        &[DeviceMatch { vendor: Some(VENDOR), device: Some(1), class: None }];
    type Admin = Op;
    type Reply = Answer;

    async fn probe(device: Device) -> Result<Self, DriverError> {
        device.reset(Deadline::after(Duration::from_secs(5)))?;
        let bar = device.bar(0)?;
        let queues = bar.read64(0x40)? as u16;
        let stride = bar.read64(0x50)?;
        let (faults, removed) = (Cell::new(0), Cell::new(false));
        Ok(Self { device, bar, queues, stride, slow: Notify::new(), faults, removed })
    }

    fn plan(&self) -> Plan {
        Plan {
            portal: false,
            queues: self.queues,
            max_entries: MAX_ENTRIES,
            submission_entry: size_of::<Entry>() as u32,
            completion_entry: size_of::<Completion>() as u32,
        }
    }

    async fn create_queue(
        &self,
        id: u16,
        request: &QueueRequest,
        memory: QueueMemory,
    ) -> Result<QueueGrant, DriverError> {
        self.write(0x00, id.into())?;
        self.write(0x08, memory.submission)?;
        self.write(0x10, memory.completion)?;
        self.write(0x18, request.entries.into())?;
        self.write(0x20, 1)?;
        let submission_doorbell = 0x1000 + u64::from(id) * self.stride;
        let completion_doorbell = submission_doorbell + 4;
        Ok(QueueGrant {
            region: 0,
            submission_doorbell,
            completion_doorbell,
            vector: id,
            shadow: None,
        })
    }

    async fn quiesce_queue(
        &self,
        queue: QueueToken,
        deadline: Deadline,
    ) -> Result<Quiesced, (QueueToken, DriverError)> {
        let gone = || -> Result<bool, DriverError> {
            self.write(0x00, queue.queue().into())?;
            self.write(0x20, 2)?;
            Ok(self.bar.read64(0x20)? == 0)
        };
        loop {
            match gone() {
                Ok(true) => return Ok(queue.quiesced()),
                Ok(false) if !deadline.expired() => {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
                Ok(false) => {
                    let error = deadline.timed_out("the queue's deletion").into();
                    return Err((queue, error));
                }
                Err(error) => return Err((queue, error)),
            }
        }
    }

    async fn abort(&self, queue: u16, tag: u16, _deadline: Deadline) -> Result<(), DriverError> {
        self.write(0x00, queue.into())?;
        self.write(0x28, tag.into())?;
        if self.bar.read64(0x28)? == 1 {
            return Ok(());
        }
        Err(DriverError::Refused("the command cannot be aborted".to_owned()))
    }

    async fn admin(&self, who: &Who, operation: Op) -> Result<Answer, DriverError> {
        match operation {
            Op::Ping(value) => return Ok(Answer::Pong(value)),
            Op::Slow => self.slow.notified().await,
            Op::Finish => self.slow.notify_one(),
            Op::Release => self.write(0x30, 1)?,
            Op::Deafen => self.write(0x38, 1)?,
            Op::Vanish => drop(self.write(0x40, 1)),
            Op::Touch(iova) => self.write(0x48, iova)?,
            Op::Fail => self.write(0x58, 1)?,
            Op::WhoAmI => {
                let queues = who.queues.clone();
                return Ok(Answer::You {
                    pid: who.pid,
                    uid: who.uid,
                    operator: who.operator,
                    queues,
                });
            }
            Op::Bytes(count) => return Ok(Answer::Bytes(vec![7; count as usize])),
            Op::Seen => {
                let (faults, removed) = (self.faults.get(), self.removed.get());
                return Ok(Answer::Seen { faults, removed });
            }
        }
        Ok(Answer::Done)
    }

    async fn event(&self, event: DeviceEvent) {
        match event {
            DeviceEvent::Fault(_) => self.faults.set(self.faults.get() + 1),
            DeviceEvent::Removed => self.removed.set(true),
            DeviceEvent::Failed { .. } => {}
        }
    }

    async fn recover(&self, _scope: Scope, deadline: Deadline) -> Result<Recovered, DriverError> {
        let before = self.bar.read64(0x38)?;
        self.device.reset(deadline)?;
        if self.bar.read64(0x38)? == before {
            return Err(DriverError::Device {
                device: self.device.name().to_string(),
                step: "reset",
                problem: "it did not reset".to_owned(),
            });
        }
        Ok(Recovered::by_reset())
    }

    async fn shutdown(&self, deadline: Deadline) -> Result<(), DriverError> {
        self.device.reset(deadline)?;
        Ok(())
    }
}
