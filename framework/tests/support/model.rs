//! The software model of the test device.
//!
//! | BAR 0 | |
//! |---|---|
//! | 0x00 | a queue's number: the registers below are about it |
//! | 0x08, 0x10 | IOVA of its submission and completion ring |
//! | 0x18 | entries of both |
//! | 0x20 | 1 creates it, 2 deletes it; reads 1 while it exists |
//! | 0x28 | aborts a tag of it; reads 1 if that was possible |
//! | 0x30 | completes everything that is held |
//! | 0x38 | 1: from now on a reset is ignored; reads resets done |
//! | 0x40 | the model panics |
//! | 0x48 | touches an address that is not mapped |
//! | 0x58 | reports an error that only a reset mends |
//! | 0x50 | bytes between the doorbells of two queues |
//! | 0x1000 | doorbells: tail and head of each queue |

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;

use doorbell::bus::{Identity, Region, Width};
use doorbell::soft::{Progress, SoftCx, SoftDevice};

use super::protocol::{ABORTED, Completion, Entry, FAULTED, OK, UNKNOWN};

pub const QUEUES: u16 = 8;
pub const MAX_ENTRIES: u32 = 256;
const END: u64 = 0x1000 * (QUEUES as u64 + 2);
pub const VENDOR: u16 = 0x1d0b;

#[derive(Default)]
pub struct LoopModel {
    queues: BTreeMap<u16, Queue>,
    selected: u16,
    rings: [u64; 3],
    aborted: bool,
    resets: u64,
    deaf: bool,
    limit: u16,
    stride: u64,
}

struct Queue {
    submission: u64,
    completion: u64,
    entries: u32,
    head: u32,
    tail: u32,
    phase: bool,
    held: Vec<u16>,
    hung: Vec<u16>,
    stubborn: bool,
}

/// `soft:loop[,queues=N][,stride=BYTES]`.
pub fn make(options: &[(String, String)]) -> Result<Box<dyn SoftDevice>, String> {
    let mut model = LoopModel { limit: QUEUES, stride: 8, ..LoopModel::default() };
    for (key, value) in options {
        match key.as_str() {
            "queues" => model.limit = value.parse().map_err(|_| format!("queues={value}"))?,
            "stride" => model.stride = value.parse().map_err(|_| format!("stride={value}"))?,
            _ => return Err(format!("the model 'loop' has no option '{key}'; it has queues=N")),
        }
    }
    Ok(Box::new(model))
}

impl Queue {
    fn complete(&mut self, cx: &mut SoftCx, tag: u16, status: u32) {
        let word = status << 1 | u32::from(self.phase);
        let completion = Completion { reserved: 0, head: self.head as u16, tag, status: word };
        let at = self.completion + u64::from(self.tail) * size_of::<Completion>() as u64;
        let _ = cx.store_entry(at, &completion, 12);
        self.tail += 1;
        if self.tail == self.entries {
            self.tail = 0;
            self.phase = !self.phase;
        }
    }

    fn execute(&mut self, cx: &mut SoftCx, entry: Entry) {
        match entry.op {
            0 => self.complete(cx, entry.tag, OK),
            1 => {
                let filled = cx.fill(entry.iova, entry.len as usize, entry.byte as u8);
                self.complete(cx, entry.tag, if filled.is_ok() { OK } else { FAULTED });
            }
            2 => self.hung.push(entry.tag),
            3 => {}
            4 => self.held.push(entry.tag),
            5 => {
                self.stubborn = true;
                self.complete(cx, entry.tag, OK);
            }
            _ => self.complete(cx, entry.tag, UNKNOWN),
        }
    }
}

impl SoftDevice for LoopModel {
    fn identity(&self) -> Identity {
        let name = "".into();
        Identity { name, vendor: VENDOR, device: 1, class: 0xff_0000, numa_node: None }
    }

    fn regions(&self) -> Vec<Region> {
        vec![Region { index: 0, size: END, mappable: std::iter::once(0x1000..END).collect() }]
    }

    fn exclusive_pages(&self, _region: u8) -> bool {
        self.stride >= 4096
    }

    fn vectors(&self) -> u16 {
        QUEUES + 1
    }

    fn read(&mut self, _cx: &mut SoftCx, _region: u8, offset: u64, _width: Width) -> u64 {
        match offset {
            0x20 => self.queues.contains_key(&self.selected).into(),
            0x28 => self.aborted.into(),
            0x38 => self.resets,
            0x40 => self.limit.into(),
            0x50 => self.stride,
            _ => 0,
        }
    }

    fn write(&mut self, cx: &mut SoftCx, _region: u8, offset: u64, _width: Width, value: u64) {
        match offset {
            0x00 => self.selected = value as u16,
            0x08 => self.rings[0] = value,
            0x10 => self.rings[1] = value,
            0x18 => self.rings[2] = value,
            0x20 if value == 1 => {
                let [submission, completion, entries] = self.rings;
                let at = 0x1000 + usize::from(self.selected) * self.stride as usize;
                for offset in [at, at + 4] {
                    cx.doorbells(0).unwrap().store_u32(offset, 0, Ordering::Relaxed).unwrap();
                }
                let queue = Queue {
                    submission,
                    completion,
                    entries: entries as u32,
                    head: 0,
                    tail: 0,
                    phase: true,
                    held: Vec::new(),
                    hung: Vec::new(),
                    stubborn: false,
                };
                self.queues.insert(self.selected, queue);
            }
            0x20 if self.queues.get(&self.selected).is_some_and(|queue| !queue.stubborn) => {
                self.queues.remove(&self.selected);
            }
            0x28 => {
                let tag = value as u16;
                self.aborted = false;
                if let Some(queue) = self.queues.get_mut(&self.selected)
                    && let Some(at) = queue.hung.iter().position(|hung| *hung == tag)
                {
                    queue.hung.swap_remove(at);
                    queue.complete(cx, tag, ABORTED);
                    self.aborted = true;
                    cx.interrupt(self.selected);
                }
            }
            0x30 => {
                for (id, queue) in &mut self.queues {
                    for tag in std::mem::take(&mut queue.held) {
                        queue.complete(cx, tag, OK);
                    }
                    cx.interrupt(*id);
                }
            }
            0x38 => self.deaf = value == 1,
            0x40 => panic!("asked to"),
            0x48 => drop(cx.fill(value, 64, 0)),
            0x58 => cx.fail(),
            _ => {}
        }
    }

    fn poll(&mut self, cx: &mut SoftCx) -> Progress {
        let mut progress = Progress::Idle;
        for (id, queue) in &mut self.queues {
            let at = 0x1000 + usize::from(*id) * self.stride as usize;
            let tail = cx.doorbells(0).unwrap().load_u32(at, Ordering::Acquire).unwrap();
            if tail >= queue.entries {
                continue;
            }
            let mut worked = false;
            while queue.head != tail {
                let at = queue.submission + u64::from(queue.head) * size_of::<Entry>() as u64;
                queue.head = (queue.head + 1) % queue.entries;
                if let Ok(entry) = cx.read::<Entry>(at) {
                    queue.execute(cx, entry);
                }
                worked = true;
            }
            if worked {
                cx.interrupt(*id);
                progress = Progress::Busy;
            }
        }
        progress
    }

    fn reset(&mut self, _cx: &mut SoftCx) {
        if !self.deaf {
            self.queues.clear();
            self.resets += 1;
        }
    }
}
