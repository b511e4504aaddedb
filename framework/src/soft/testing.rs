//! A model for tests: a copy engine with one doorbell and one completion record, and the host's side
//! of it.
//!
//! | BAR 0 | |
//! |---|---|
//! | 0x00, 0x08 | source and destination IOVA |
//! | 0x10 | length in bytes |
//! | 0x18 | IOVA of the 16-byte completion record |
//! | 0x20 | resets seen (read only); a write makes the model panic |
//! | 0x1000 | doorbell: a new value starts a copy and comes back in the record's last word |

use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use doorbell_queues::doorbell::ring_word;
use doorbell_queues::wait::arm_word;
use doorbell_queues::{Doorbell, SharedMem, Word32};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::{HarnessOptions, Progress, SoftCx, SoftDevice};
use crate::bus::{Bus, BusError, Device, Identity, MappedSignals, Region, SoftBus, Width};
use crate::dma::{DmaShared, Fault, IovaAllocator};

pub(crate) const DOORBELL: u64 = 0x1000;
pub(crate) const RESETS: u64 = 0x20;
pub(crate) const VECTORS: u16 = 3;

/// The completion record: the byte count, whether it faulted, and the doorbell's value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
pub(crate) struct Record {
    pub(crate) copied: u64,
    pub(crate) faulted: u32,
    pub(crate) sequence: u32,
}

#[derive(Debug, Default)]
pub(crate) struct CopyEngine {
    registers: [u64; 4],
    resets: u64,
    seen: u32,
    /// Also look at the doorbell page of queue 1: for exclusive pages.
    exclusive: bool,
}

impl CopyEngine {
    pub(crate) fn with_exclusive_pages() -> Self {
        Self { exclusive: true, ..Self::default() }
    }

    fn copy(&self, cx: &mut SoftCx) -> Result<u64, Fault> {
        let [source, destination, len, _] = self.registers;
        let mut data = vec![0; len as usize];
        cx.read_bytes(source, &mut data)?;
        cx.write_bytes(destination, &data)?;
        Ok(len)
    }
}

impl SoftDevice for CopyEngine {
    fn identity(&self) -> Identity {
        Identity {
            name: "".into(),
            vendor: 0x1234,
            device: 0x11e8,
            class: 0x00ff_0000,
            numa_node: None,
        }
    }

    fn regions(&self) -> Vec<Region> {
        vec![Region { index: 0, size: 0x4000, mappable: pages(0x1000, 0x4000) }]
    }

    fn exclusive_pages(&self, _region: u8) -> bool {
        self.exclusive
    }

    fn vectors(&self) -> u16 {
        VECTORS
    }

    fn read(&mut self, _cx: &mut SoftCx, _region: u8, offset: u64, _width: Width) -> u64 {
        match offset {
            RESETS => self.resets,
            _ => self.registers.get(offset as usize / 8).copied().unwrap_or(u64::MAX),
        }
    }

    fn write(&mut self, _cx: &mut SoftCx, _region: u8, offset: u64, _width: Width, value: u64) {
        assert_ne!(offset, RESETS, "a write to this register makes the model panic");
        if let Some(register) = self.registers.get_mut(offset as usize / 8) {
            *register = value;
        }
    }

    fn poll(&mut self, cx: &mut SoftCx) -> Progress {
        let Some(doorbells) = cx.doorbells(0) else { return Progress::Idle };
        let at = DOORBELL as usize;
        let Ok(rung) = doorbells.load_u32(at, Ordering::Acquire) else { return Progress::Idle };
        if rung == self.seen {
            return Progress::Idle;
        }
        self.seen = rung;
        let copied = self.copy(cx);
        let record =
            Record { copied: copied.unwrap_or(0), faulted: copied.is_err().into(), sequence: rung };
        let _ = cx.store_entry(self.registers[3], &record, 12);
        cx.interrupt(1);
        Progress::Busy
    }

    fn reset(&mut self, _cx: &mut SoftCx) {
        *self = Self { resets: self.resets + 1, exclusive: self.exclusive, ..Self::default() };
    }
}

/// Waits until `fd` is readable.
pub(crate) fn readable(fd: impl AsFd, limit: Duration) -> bool {
    let limit = Timespec::try_from(limit).unwrap();
    let mut fds = [PollFd::new(&fd, PollFlags::IN)];
    poll(&mut fds, Some(&limit)).unwrap() > 0
}

/// Waits for a condition that another thread makes true.
pub(crate) fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = crate::Deadline::after(Duration::from_secs(20));
    while !condition() {
        assert!(!deadline.expired(), "waited in vain for {what}");
        std::thread::yield_now();
    }
}

/// A running copy engine and its driver.
pub(crate) struct Rig {
    pub(crate) bus: Arc<SoftBus>,
    pub(crate) device: Device,
    pub(crate) iova: IovaAllocator,
    pub(crate) signals: MappedSignals,
    pub(crate) register: Word32,
    asleep: Word32,
    record: DmaShared,
}

impl Rig {
    pub(crate) fn new(spin: Duration) -> Self {
        Self::of(CopyEngine::default(), HarnessOptions { spin, ..options() })
    }

    pub(crate) fn of(model: CopyEngine, options: HarnessOptions) -> Self {
        let bus = Arc::new(SoftBus::start(Box::new(model), options).unwrap());
        let (device, iova) = Device::attach(Arc::clone(&bus) as Arc<dyn Bus>, 64).unwrap();
        let page = bus.signals(1).unwrap().words.unwrap();
        let words = crate::dma::map_fd(page.memory.as_fd(), 0, 4096, crate::dma::Prefault::No);
        let asleep = words.unwrap().word32(page.asleep as usize).unwrap();
        let signals = MappedSignals::map(bus.signals(1).unwrap()).unwrap();
        let register = bus.map(0, DOORBELL, 4).unwrap().word32(0).unwrap();
        let record = device.alloc_shared(size_of::<Record>()).unwrap();
        device.bar(0).unwrap().write64(0x18, record.iova()).unwrap();
        Self { bus, device, iova, signals, register, asleep, record }
    }

    pub(crate) fn set_up(&self, source: u64, destination: u64, len: u64) -> Result<(), BusError> {
        let bar = self.device.bar(0)?;
        bar.write64(0, source)?;
        bar.write64(8, destination)?;
        bar.write64(16, len)
    }

    /// The doorbell as a queue has it.
    pub(crate) fn doorbell(&self) -> Doorbell {
        Doorbell::new(self.register.clone(), self.signals.wake.clone())
    }

    /// Rings without kicking; true if the device said that it must be kicked.
    pub(crate) fn ring_only(&self, value: u32) -> bool {
        ring_word(&self.register, &self.asleep, value)
    }

    pub(crate) fn record(&self) -> Record {
        let phase = self.record.mem().load_u32(12, Ordering::Acquire).unwrap();
        Record { sequence: phase, ..self.record.mem().read::<Record>(0).unwrap() }
    }

    /// Arms the interrupt, looks once more, and sleeps until it fires.
    pub(crate) fn sleep_until(&self, sequence: u32) {
        loop {
            arm_word(self.signals.armed.as_ref().unwrap());
            if self.record().sequence == sequence {
                return;
            }
            assert!(
                readable(&self.signals.interrupt, Duration::from_secs(20)),
                "no interrupt for {sequence}: a wake-up was lost"
            );
            let mut count = [0; 8];
            rustix::io::read(&self.signals.interrupt, &mut count).unwrap();
        }
    }

    /// Rings and waits by polling.
    pub(crate) fn run(&self, sequence: u32) -> Record {
        self.doorbell().ring(sequence);
        eventually("a completion", || self.record().sequence == sequence);
        self.record()
    }
}

pub(crate) fn options() -> HarnessOptions {
    HarnessOptions { name: "soft:copy".into(), ..HarnessOptions::default() }
}

/// Bytes that differ from their neighbours and from zero.
pub(crate) fn pattern(memory: &SharedMem) {
    let bytes: Vec<u8> = (0..memory.len()).map(|i| (i % 251 + 1) as u8).collect();
    memory.copy_in(0, &bytes).unwrap();
}

pub(crate) fn bytes(memory: &SharedMem) -> Vec<u8> {
    let mut bytes = vec![0; memory.len()];
    memory.copy_out(0, &mut bytes).unwrap();
    bytes
}

/// One mappable range.
pub(crate) fn pages(start: u64, end: u64) -> Vec<std::ops::Range<u64>> {
    std::iter::once(start..end).collect()
}
