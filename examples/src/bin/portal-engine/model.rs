//! The engine in software: it polls the cells of its portals, which are memory that clients map.
//!
//! Hardware would have each descriptor arrive as one 64-byte transaction and keep it in a queue of its
//! own. This model has no such queue: a descriptor stays in its cell until its turn.

use std::sync::atomic::Ordering;

use doorbell::bus::{Identity, Region, Width};
use doorbell::dma::Fault;
use doorbell::queues::{PortalIntake, SharedMem};
use doorbell::soft::{Progress, SoftCx, SoftDevice};

use crate::driver::{
    CELLS, DEVICE, HEAD_DOORBELL, IDENTIFICATION, PORTAL_STRIDE, PORTALS, QUEUE_BLOCKS,
    QUEUE_STRIDE, QUEUES, VENDOR,
};
use crate::protocol::{
    BAD_LENGTH, BAD_OPERATION, COPY, Completion, DMA_FAULT, DONE, Descriptor, FILL, MAX_LEN,
    PortalProtocol,
};

/// Most descriptors of one queue that one poll executes, so that queues take turns.
const BATCH: usize = 16;
/// Bytes of the BAR: registers, then the queues' pages.
const BAR: u64 = PORTALS + QUEUES as u64 * PORTAL_STRIDE;

#[derive(Debug, Default)]
struct Queue {
    completion: u64,
    entries: u16,
    /// Where descriptors are taken from, while the queue is enabled.
    portal: Option<PortalIntake<PortalProtocol>>,
    tail: u16,
    phase: bool,
}

/// The model's state.
#[derive(Debug)]
pub struct PortalModel {
    run: bool,
    queues: [Queue; QUEUES as usize],
    scratch: SharedMem,
}

impl PortalModel {
    /// An engine after power-on.
    pub fn new() -> Self {
        let scratch = SharedMem::zeroed(MAX_LEN as usize);
        Self { run: false, queues: Default::default(), scratch }
    }

    fn queue_of(&mut self, offset: u64) -> Option<(&mut Queue, u64, u64)> {
        let from_first = offset.checked_sub(QUEUE_BLOCKS)?;
        let (id, register) = (from_first / QUEUE_STRIDE, from_first % QUEUE_STRIDE);
        Some((self.queues.get_mut(usize::try_from(id).ok()?)?, id, register))
    }

    /// Executes what is new on one queue.
    fn serve(&mut self, cx: &mut SoftCx, id: usize) -> Result<Progress, Fault> {
        let Some(queue) = self.queues.get_mut(id) else { return Ok(Progress::Idle) };
        let Some(portal) = &mut queue.portal else { return Ok(Progress::Idle) };
        let mut done = 0;
        // Without room for its completion a descriptor stays where it is.
        while done < BATCH && has_room(cx, id, queue.tail, queue.entries) {
            let Some(descriptor) = portal.take() else { break };
            let status = execute(cx, &self.scratch, &descriptor);
            let status_and_phase = status << 1 | u32::from(queue.phase);
            let completion = Completion { tag: descriptor.tag, reserved: 0, status_and_phase };
            let at = queue.completion + u64::from(queue.tail) * size_of::<Completion>() as u64;
            cx.store_entry(at, &completion, 4)?;
            queue.tail = (queue.tail + 1) % queue.entries;
            queue.phase ^= queue.tail == 0;
            done += 1;
        }
        if done == 0 {
            return Ok(Progress::Idle);
        }
        cx.interrupt(id as u16);
        Ok(Progress::Busy)
    }

    fn enable(&mut self, cx: &SoftCx, id: u64, state: u32) {
        let bar = cx.doorbells(0);
        let Some(queue) = self.queues.get_mut(id as usize) else { return };
        queue.portal = None;
        let entries = state & 0xffff;
        if state >> 31 == 0 || !(2..=CELLS).contains(&entries) {
            return;
        }
        (queue.entries, queue.tail, queue.phase) = (entries as u16, 0, true);
        let offset = PORTALS + id * PORTAL_STRIDE;
        let Some(bar) = bar else { return };
        // What the last owner left is nobody's: neither its head nor its descriptors.
        let _ = bar.store_u32((offset + HEAD_DOORBELL) as usize, 0, Ordering::Relaxed);
        queue.portal = PortalIntake::new(bar, offset as usize, entries as usize).ok();
    }
}

/// Whether one more completion fits, by the head that the host told. One that is no index of the ring
/// is no room.
fn has_room(cx: &SoftCx, id: usize, tail: u16, entries: u16) -> bool {
    let doorbell = PORTALS + id as u64 * PORTAL_STRIDE + HEAD_DOORBELL;
    // Acquire: the host has read the entries that it says are free.
    let head = cx.doorbells(0).and_then(|b| b.load_u32(doorbell as usize, Ordering::Acquire).ok());
    head.is_some_and(|head| head < entries.into() && u32::from((tail + 1) % entries) != head)
}

fn execute(cx: &mut SoftCx, scratch: &SharedMem, descriptor: &Descriptor) -> u32 {
    let len = descriptor.len as usize;
    if descriptor.len == 0 || descriptor.len > MAX_LEN {
        return BAD_LENGTH;
    }
    let read = match descriptor.operation {
        COPY => cx.read_into(descriptor.source, scratch, 0, len).is_ok(),
        FILL => scratch.fill(0, len, descriptor.pattern as u8).is_ok(),
        _ => return BAD_OPERATION,
    };
    let done = read && cx.write_from(descriptor.target, scratch, 0, len).is_ok();
    if done { DONE } else { DMA_FAULT }
}

impl SoftDevice for PortalModel {
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
        let portals = PORTALS..BAR;
        vec![Region { index: 0, size: BAR, mappable: vec![portals] }]
    }

    fn exclusive_pages(&self, _region: u8) -> bool {
        true
    }

    fn vectors(&self) -> u16 {
        QUEUES
    }

    fn read(&mut self, _cx: &mut SoftCx, _region: u8, offset: u64, _width: Width) -> u64 {
        match offset {
            0x00 => IDENTIFICATION.into(),
            0x04 => u64::from(self.run),
            _ => match self.queue_of(offset) {
                Some((queue, _, 0x00)) => queue.completion,
                Some((queue, _, 0x08)) => {
                    u64::from(queue.entries) | u64::from(queue.portal.is_some()) << 31
                }
                _ => 0,
            },
        }
    }

    fn write(&mut self, cx: &mut SoftCx, _region: u8, offset: u64, _width: Width, value: u64) {
        if offset == 0x04 {
            self.run = value & 1 != 0;
            if !self.run {
                self.queues = Default::default();
            }
            return;
        }
        match self.queue_of(offset) {
            Some((queue, _, 0x00)) => queue.completion = value,
            Some((_, id, 0x08)) => self.enable(cx, id, value as u32),
            _ => {}
        }
    }

    fn poll(&mut self, cx: &mut SoftCx) -> Progress {
        let mut progress = Progress::Idle;
        for id in 1..self.queues.len() {
            if !self.run {
                break;
            }
            match self.serve(cx, id) {
                Ok(Progress::Busy) => progress = Progress::Busy,
                Ok(Progress::Idle) => {}
                // The completion ring is not mapped any more: the queue stops.
                Err(_fault) => self.queues[id].portal = None,
            }
        }
        progress
    }

    fn reset(&mut self, _cx: &mut SoftCx) {
        *self = Self::new();
    }
}
