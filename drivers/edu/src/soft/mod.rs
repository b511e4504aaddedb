//! The device in software: the same registers, seen from the device's side, and faults on request.
//!
//! As on QEMU's device a factorial and a transfer take time, during which their registers are busy
//! and ignore writes, and a DMA address is cut to 28 bits. A transfer outside of the buffer does
//! nothing.

use std::time::Instant;

use doorbell::bus::{Identity, Region, Width};
use doorbell::soft::{Idle, Progress, SoftCx, SoftDevice};

use crate::regs::{BUFFER_ADDRESS, Command, DMA_DONE, FACTORIAL_DONE, Status};
use options::Options;

mod options;

/// Bytes of the buffer.
const BUFFER: usize = 4096;
/// Bits of an address that the DMA engine sends.
const ADDRESS_MASK: u64 = (1 << 28) - 1;
/// Every factorial from here on is a multiple of 2^32.
const ZERO_FROM: u32 = 34;

/// The model's state.
#[derive(Debug)]
pub struct SoftEdu {
    options: Options,
    liveness: u32,
    factorial: u32,
    /// When the factorial will be done.
    computing: Option<Instant>,
    interrupt_on_factorial: bool,
    pending: u32,
    source: u64,
    destination: u64,
    count: u64,
    command: u32,
    /// When the transfer will be done.
    transferring: Option<Instant>,
    buffer: Vec<u8>,
}

/// Makes a model from the options of `soft:edu`: `latency`, `interrupt`, `liveness`, `id`, `dma`.
///
/// # Errors
/// One line that names the option that is wrong.
pub fn build(options: &[(String, String)]) -> Result<Box<dyn SoftDevice>, String> {
    Ok(Box::new(SoftEdu::new(Options::parse(options)?)))
}

impl SoftEdu {
    fn new(options: Options) -> Self {
        Self {
            options,
            liveness: 0,
            factorial: 0,
            computing: None,
            interrupt_on_factorial: false,
            pending: 0,
            source: 0,
            destination: 0,
            count: 0,
            command: 0,
            transferring: None,
            buffer: vec![0; BUFFER],
        }
    }

    fn raise(&mut self, cx: &mut SoftCx, bits: u32) {
        if self.options.interrupts {
            self.pending |= bits;
            if self.pending != 0 {
                cx.interrupt(0);
            }
        }
    }

    fn running(&self) -> bool {
        Command::from_bits(self.command).run()
    }

    /// Moves the data. What is outside of the buffer, or not mapped, is not moved.
    fn transfer(&mut self, cx: &mut SoftCx) {
        let to_memory = Command::from_bits(self.command).out();
        let (inside, address) = if to_memory {
            (self.source, self.destination)
        } else {
            (self.destination, self.source)
        };
        let start = inside.checked_sub(BUFFER_ADDRESS.into()).unwrap_or(u64::MAX);
        let end = start.checked_add(self.count).filter(|end| *end <= BUFFER as u64);
        let Some(part) = end.and_then(|end| self.buffer.get_mut(start as usize..end as usize))
        else {
            let (inside, count) = (self.source.max(self.destination), self.count);
            tracing::warn!(inside, count, "soft:edu: a transfer outside of its buffer");
            return;
        };
        let address = address & ADDRESS_MASK;
        // A fault was counted by the IOMMU, which tells the host.
        let _ =
            if to_memory { cx.write_bytes(address, part) } else { cx.read_bytes(address, part) };
    }
}

/// n! modulo 2^32.
fn factorial(number: u32) -> u32 {
    if number >= ZERO_FROM { 0 } else { (1..=number).fold(1, u32::wrapping_mul) }
}

impl SoftDevice for SoftEdu {
    fn identity(&self) -> Identity {
        Identity {
            name: "".into(),
            vendor: 0x1234,
            device: 0x11e8,
            class: 0x00_ff_00,
            numa_node: None,
        }
    }

    fn regions(&self) -> Vec<Region> {
        vec![Region { index: 0, size: 1 << 20, mappable: Vec::new() }]
    }

    fn vectors(&self) -> u16 {
        1
    }

    fn read(&mut self, _cx: &mut SoftCx, _region: u8, offset: u64, width: Width) -> u64 {
        if width != Width::B4 && (offset < 0x80 || width != Width::B8) {
            return u64::MAX;
        }
        let computing = u32::from(self.computing.is_some());
        match offset {
            0x00 => self.options.id.into(),
            0x04 => self.liveness.into(),
            0x08 => self.factorial.into(),
            0x20 => {
                let status = Status::default().with_interrupt(self.interrupt_on_factorial);
                u64::from(status.bits() | computing)
            }
            0x24 => self.pending.into(),
            0x80 => self.source,
            0x88 => self.destination,
            0x90 => self.count,
            0x98 => self.command.into(),
            _ => u64::MAX,
        }
    }

    fn write(&mut self, cx: &mut SoftCx, _region: u8, offset: u64, width: Width, value: u64) {
        if width != Width::B4 && (offset < 0x80 || width != Width::B8) {
            return;
        }
        // Registers of 32 bits take the low half, which is all of a 4-byte write.
        let word = value as u32;
        match offset {
            0x04 => self.liveness = if self.options.alive { !word } else { word },
            0x08 if self.computing.is_none() => {
                self.factorial = word;
                self.computing = Some(Instant::now() + self.options.latency);
            }
            0x20 => self.interrupt_on_factorial = Status::from_bits(word).interrupt(),
            0x60 => self.raise(cx, word),
            0x64 => self.pending &= !word,
            0x80 if !self.running() => self.source = value,
            0x88 if !self.running() => self.destination = value,
            0x90 if !self.running() => self.count = value,
            0x98 if !self.running() && Command::from_bits(word).run() => {
                self.command = word;
                self.transferring =
                    (!self.options.stuck).then(|| Instant::now() + self.options.latency);
            }
            _ => {}
        }
    }

    fn poll(&mut self, cx: &mut SoftCx) -> Progress {
        if self.computing.is_none() && self.transferring.is_none() {
            return Progress::Idle;
        }
        let now = Instant::now();
        let mut progress = Progress::Idle;
        if self.computing.is_some_and(|at| at <= now) {
            self.computing = None;
            self.factorial = factorial(self.factorial);
            if self.interrupt_on_factorial {
                self.raise(cx, FACTORIAL_DONE);
            }
            progress = Progress::Busy;
        }
        if self.transferring.is_some_and(|at| at <= now) {
            self.transferring = None;
            self.transfer(cx);
            let command = Command::from_bits(self.command);
            self.command = command.with_run(false).bits();
            if command.interrupt() {
                self.raise(cx, DMA_DONE);
            }
            progress = Progress::Busy;
        }
        progress
    }

    fn idle(&self) -> Idle<'_> {
        let until = [self.computing, self.transferring].into_iter().flatten().min();
        Idle { fds: Vec::new(), until }
    }

    fn reset(&mut self, _cx: &mut SoftCx) {
        *self = Self::new(self.options);
    }
}
