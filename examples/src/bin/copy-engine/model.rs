//! The engine in software: the same registers and rings, seen from the device's side.

use doorbell::bus::{Identity, Region, Width};
use doorbell::dma::Fault;
use doorbell::queues::SharedMem;
use doorbell::soft::{Progress, SoftCx, SoftDevice};
use std::sync::atomic::Ordering;

use crate::driver::{
    DEVICE, DOORBELL_STRIDE, DOORBELLS, QUEUE_BLOCKS, QUEUE_STRIDE, QUEUES, VENDOR,
};
use crate::protocol::{Completion, Descriptor, MAX_COPY};

/// Most descriptors of one queue that one poll executes, so that queues take turns.
const BATCH: usize = 16;

#[derive(Debug, Clone, Copy, Default)]
struct Ring {
    submission: u64,
    completion: u64,
    entries: u16,
    enabled: bool,
    head: u16,
    tail: u16,
    phase: bool,
}

/// The model's state.
#[derive(Debug)]
pub struct CopyModel {
    run: bool,
    rings: [Ring; QUEUES as usize],
    scratch: SharedMem,
}

impl CopyModel {
    /// An engine after power-on.
    pub fn new() -> Self {
        let rings = [Ring::default(); QUEUES as usize];
        Self { run: false, rings, scratch: SharedMem::zeroed(MAX_COPY as usize) }
    }

    fn ring_of(&mut self, offset: u64) -> Option<(&mut Ring, u64)> {
        let from_first = offset.checked_sub(QUEUE_BLOCKS)?;
        let index = usize::try_from(from_first / QUEUE_STRIDE).ok()?;
        Some((self.rings.get_mut(index)?, from_first % QUEUE_STRIDE))
    }

    /// Executes what is new on one queue.
    fn serve(&mut self, cx: &mut SoftCx, id: usize) -> Result<Progress, Fault> {
        let doorbell = DOORBELLS as usize + id * 2 * DOORBELL_STRIDE as usize;
        let mut ring = self.rings[id];
        // Acquire: the descriptors were written before the doorbell. A tail outside of the ring, or
        // no doorbell at all, is no work.
        let told = cx.doorbells(0).and_then(|bar| bar.load_u32(doorbell, Ordering::Acquire).ok());
        let Some(tail) = told.filter(|tail| *tail < u32::from(ring.entries)) else {
            return Ok(Progress::Idle);
        };
        let mut done = 0;
        while u32::from(ring.head) != tail && done < BATCH {
            let at = ring.submission + u64::from(ring.head) * size_of::<Descriptor>() as u64;
            let descriptor: Descriptor = cx.read(at)?;
            ring.head = (ring.head + 1) % ring.entries;
            let status = self.copy(cx, &descriptor);
            let completion = Completion {
                tag: descriptor.tag,
                head: ring.head,
                status_and_phase: status << 1 | u32::from(ring.phase),
            };
            let at = ring.completion + u64::from(ring.tail) * size_of::<Completion>() as u64;
            cx.store_entry(at, &completion, 4)?;
            ring.tail = (ring.tail + 1) % ring.entries;
            ring.phase ^= ring.tail == 0;
            done += 1;
        }
        self.rings[id] = ring;
        if done == 0 {
            return Ok(Progress::Idle);
        }
        cx.interrupt(id as u16);
        Ok(Progress::Busy)
    }

    fn copy(&mut self, cx: &mut SoftCx, descriptor: &Descriptor) -> u32 {
        if descriptor.len == 0 || descriptor.len > MAX_COPY {
            return 1;
        }
        let len = descriptor.len as usize;
        let copied = cx
            .read_into(descriptor.source, &self.scratch, 0, len)
            .and_then(|()| cx.write_from(descriptor.target, &self.scratch, 0, len));
        if copied.is_ok() { 0 } else { 2 }
    }
}

impl SoftDevice for CopyModel {
    fn identity(&self) -> Identity {
        Identity {
            name: "".into(),
            vendor: VENDOR,
            device: DEVICE,
            class: 0x08_80_00,
            numa_node: None,
        }
    }

    fn regions(&self) -> Vec<Region> {
        let doorbells = DOORBELLS..0x2000;
        vec![Region { index: 0, size: 0x2000, mappable: vec![doorbells] }]
    }

    fn vectors(&self) -> u16 {
        QUEUES
    }

    fn read(&mut self, _cx: &mut SoftCx, _region: u8, offset: u64, _width: Width) -> u64 {
        match offset {
            0x00 => 0x00c0_ffee,
            0x04 => u64::from(self.run),
            _ => match self.ring_of(offset) {
                Some((ring, 0x00)) => ring.submission,
                Some((ring, 0x08)) => ring.completion,
                Some((ring, 0x10)) => u64::from(ring.entries) | u64::from(ring.enabled) << 31,
                _ => 0,
            },
        }
    }

    fn write(&mut self, cx: &mut SoftCx, _region: u8, offset: u64, _width: Width, value: u64) {
        if offset == 0x04 {
            self.run = value & 1 != 0;
            if !self.run {
                self.rings = Default::default();
            }
            return;
        }
        let bar = cx.doorbells(0).cloned();
        let Some((ring, register)) = self.ring_of(offset) else { return };
        match register {
            0x00 => ring.submission = value,
            0x08 => ring.completion = value,
            0x10 => {
                let (submission, completion) = (ring.submission, ring.completion);
                let entries = value as u16;
                let enabled = value & 1 << 31 != 0 && entries >= 2;
                *ring = Ring {
                    submission,
                    completion,
                    entries,
                    enabled,
                    head: 0,
                    tail: 0,
                    phase: true,
                };
                let id = (offset - QUEUE_BLOCKS) / QUEUE_STRIDE;
                let doorbell = DOORBELLS + id * 2 * DOORBELL_STRIDE;
                // A new queue begins at tail 0, whatever its last owner left in the doorbell.
                let _ = bar.map(|bar| bar.store_u32(doorbell as usize, 0, Ordering::Relaxed));
            }
            _ => {}
        }
    }

    fn poll(&mut self, cx: &mut SoftCx) -> Progress {
        let mut progress = Progress::Idle;
        for id in 1..self.rings.len() {
            if !(self.run && self.rings[id].enabled) {
                continue;
            }
            match self.serve(cx, id) {
                Ok(Progress::Busy) => progress = Progress::Busy,
                Ok(Progress::Idle) => {}
                // The rings themselves are not mapped any more: the queue stops.
                Err(_fault) => self.rings[id].enabled = false,
            }
        }
        progress
    }

    fn reset(&mut self, _cx: &mut SoftCx) {
        *self = Self::new();
    }
}
