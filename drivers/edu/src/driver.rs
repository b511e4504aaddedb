//! The control plane: what runs in the broker. The whole driver is this file and the register table.
use std::time::Duration;

use doorbell::Deadline;
use doorbell::bus::{Device, Recovered};
use doorbell::dma::DmaShared;
use doorbell::driver::rt::{self, Turn, Turns};
use doorbell::driver::{DeviceMatch, Driver, DriverError, InterruptVector, Scope, Who};

use crate::admin::{BUFFER, EduAdmin, EduReply, MOST_FACTORIAL, in_buffer};
use crate::regs::*;

/// How long the device may take for one thing. QEMU's needs 100 ms for a transfer of any length.
const LIMIT: Duration = Duration::from_secs(5);
/// How long a request may wait for its turn: less than a client waits for its answer.
const TURN: Duration = Duration::from_secs(20);

/// The driver of QEMU's `edu` device. The device does one thing at a time; requests take turns.
#[derive(Debug)]
pub struct EduDriver {
    device: Device,
    registers: Registers,
    interrupt: InterruptVector,
    /// For transfers: the driver's own memory, so that a client may die in the middle of one.
    memory: Turns<DmaShared>,
}

impl Driver for EduDriver {
    const NAME: &'static str = "edu";
    const IDS: &'static [DeviceMatch] =
        &[DeviceMatch { vendor: Some(0x1234), device: Some(0x11e8), class: None }];
    const ADDRESS_BITS: u32 = 28;
    type Admin = EduAdmin;
    type Reply = EduReply;

    async fn probe(device: Device) -> Result<Self, DriverError> {
        let registers = Registers::new(device.bar(0)?);
        let interrupt = device.interrupt(0)?;
        let memory = Turns::new(device.alloc_shared(BUFFER)?);
        let edu = Self { device, registers, interrupt, memory };
        let id = edu.registers.id().read()?;
        if id.signature() != 0x00ed {
            return Err(edu.failed("identification", format!("{id:?} is not 0xRRrr00ed")));
        }
        edu.registers.liveness().write(Liveness::from_bits(0x1234_5678))?;
        let inverse = edu.registers.liveness().read()?;
        if inverse.bits() != !0x1234_5678 {
            return Err(edu.failed("liveness check", format!("{inverse:?} is not 0xedcba987")));
        }
        edu.idle(Deadline::after(LIMIT)).await?;
        Ok(edu)
    }

    async fn admin(&self, _who: &Who, operation: EduAdmin) -> Result<EduReply, DriverError> {
        match operation {
            EduAdmin::Identify => {
                let id = self.registers.id().read()?;
                Ok(EduReply::Version { major: id.major() as u8, minor: id.minor() as u8 })
            }
            EduAdmin::Factorial(number) => self.factorial(number).await.map(EduReply::Factorial),
            EduAdmin::Write { offset, mut data } => {
                self.transfer(offset, &mut data, false).await.map(|()| EduReply::Done)
            }
            EduAdmin::Read { offset, len } => {
                let mut data = vec![0; len.into()];
                self.transfer(offset, &mut data, true).await.map(|()| EduReply::Data(data))
            }
        }
    }

    async fn recover(&self, _scope: Scope, deadline: Deadline) -> Result<Recovered, DriverError> {
        let _turn = self.memory.take(deadline, "the device").await?;
        if self.idle(Deadline::after(LIMIT)).await.is_err() {
            self.device.reset(deadline)?;
            self.idle(deadline).await?;
        }
        Ok(Recovered::by_reset())
    }

    async fn shutdown(&self, deadline: Deadline) -> Result<(), DriverError> {
        let _turn = self.memory.take(deadline, "the device").await?;
        self.idle(deadline).await?;
        Ok(self.registers.status().write(Status::default())?)
    }
}

impl EduDriver {
    async fn factorial(&self, number: u32) -> Result<u32, DriverError> {
        if number > MOST_FACTORIAL {
            let most = format!("0! to {MOST_FACTORIAL}! fit 32 bits");
            return Err(DriverError::Refused(format!("the factorial of {number}; {most}")));
        }
        let _turn = self.turn().await?;
        self.registers.factorial().write(Factorial::from_bits(number))?;
        self.done(FACTORIAL_DONE, "the end of a factorial").await?;
        Ok(self.registers.factorial().read()?.bits())
    }

    async fn transfer(&self, offset: u16, data: &mut [u8], out: bool) -> Result<(), DriverError> {
        let len = data.len();
        if !in_buffer(offset.into(), len) {
            let why = format!("{len} bytes at offset {offset} are not inside of {BUFFER} bytes");
            return Err(DriverError::Refused(why));
        }
        let turn = self.turn().await?;
        let copied = |error| self.failed("copying data", format!("{error}"));
        turn.mem().copy_in(0, data).map_err(copied)?;
        // All of the driver's memory lies below 1 << ADDRESS_BITS.
        let (memory, buffer) = (turn.iova() as u32, BUFFER_ADDRESS + u32::from(offset));
        let (source, destination) = if out { (buffer, memory) } else { (memory, buffer) };
        self.registers.source().write(Source::from_bits(source))?;
        self.registers.destination().write(Destination::from_bits(destination))?;
        self.registers.count().write(Count::from_bits(len as u32))?;
        let command = Command::default().with_run(true).with_interrupt(true).with_out(out);
        self.registers.command().write(command)?;
        self.done(DMA_DONE, "the end of a DMA transfer").await?;
        turn.mem().copy_out(0, data).map_err(copied)
    }

    /// The device for one request, idle.
    async fn turn(&self) -> Result<Turn<'_, DmaShared>, DriverError> {
        let turn = self.memory.take(Deadline::after(TURN), "the device").await?;
        self.idle(Deadline::after(LIMIT)).await.map(|()| turn)
    }

    fn busy(&self) -> Result<bool, DriverError> {
        let registers = &self.registers;
        Ok(registers.status().read()?.computing() || registers.command().read()?.run())
    }

    /// Waits until the device does nothing: it cannot be stopped, and may still do what somebody
    /// asked for who is gone. By looking, for at the beginning and the end no interrupt may come.
    async fn idle(&self, deadline: Deadline) -> Result<(), DriverError> {
        while self.busy()? {
            deadline.check(|| format!("device {}: its engines to stop", self.device.name()))?;
            rt::sleep(Duration::from_millis(1)).await;
        }
        self.registers.acknowledge().write(Acknowledge::from_bits(FACTORIAL_DONE | DMA_DONE))?;
        Ok(self.registers.status().write(Status::default().with_interrupt(true))?)
    }

    /// Waits for the interrupt that says that it is done.
    async fn done(&self, what: u32, step: &'static str) -> Result<(), DriverError> {
        let look = || {
            // An interrupt may be late, and of something before this: then the device is busy.
            Ok(self.registers.pending().read()?.bits() & what != 0 && !self.busy()?)
        };
        self.interrupt.until(Deadline::after(LIMIT), step, look).await?;
        Ok(self.registers.acknowledge().write(Acknowledge::from_bits(what))?)
    }

    fn failed(&self, step: &'static str, problem: String) -> DriverError {
        DriverError::Device { device: self.device.name().to_string(), step, problem }
    }
}
