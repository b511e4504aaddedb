//! One register access by message, on the device's thread: to the model, or to the memory of a BAR.

use std::sync::atomic::Ordering::{Acquire, Release};

use doorbell_queues::SharedMem;

use super::{SoftCx, SoftDevice};
use crate::bus::Width;

/// A read. `mapped` says that the offset lies in a mappable range; it was checked to be aligned and
/// inside.
pub(crate) fn read(
    device: &mut dyn SoftDevice,
    cx: &mut SoftCx,
    region: u8,
    offset: u64,
    width: Width,
    mapped: bool,
) -> u64 {
    match cx.doorbells(region).filter(|_| mapped) {
        Some(memory) => load(memory, offset as usize, width),
        None => device.read(cx, region, offset, width),
    }
}

/// A write; as [`read`].
pub(crate) fn write(
    device: &mut dyn SoftDevice,
    cx: &mut SoftCx,
    region: u8,
    offset: u64,
    width: Width,
    mapped: bool,
    value: u64,
) {
    match cx.doorbells(region).filter(|_| mapped) {
        Some(memory) => store(memory, offset as usize, width, value),
        None => device.write(cx, region, offset, width, value),
    }
}

/// One read of memory in a BAR, of its width.
fn load(memory: &SharedMem, offset: usize, width: Width) -> u64 {
    match width {
        Width::B1 => memory.read::<u8>(offset).map(u64::from),
        Width::B2 => memory.read::<u16>(offset).map(u64::from),
        Width::B4 => memory.load_u32(offset, Acquire).map(u64::from),
        Width::B8 => memory.read::<u64>(offset),
    }
    .unwrap_or(u64::MAX)
}

/// One write of memory in a BAR, of its width.
fn store(memory: &SharedMem, offset: usize, width: Width, value: u64) {
    // The width cuts the value on purpose.
    let _ = match width {
        Width::B1 => memory.write(offset, &(value as u8)),
        Width::B2 => memory.write(offset, &(value as u16)),
        Width::B4 => memory.store_u32(offset, value as u32, Release),
        Width::B8 => memory.write(offset, &value),
    };
}
