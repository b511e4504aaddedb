//! The bus `soft`: a software device of this process, behind the same traits as hardware.
//!
//! What it isolates: DMA goes through the soft IOMMU, which really refuses, but all clients share
//! its address space. A doorbell slice is the BAR's memfd, which its receiver can map whole:
//! [`Tier::Cooperative`]. Where each page belongs to one queue at most, a slice can be a memfd of its
//! own pages, put in the place of the BAR's: [`Tier::Paged`]; revoking it puts other pages there, and
//! the former holder's mapping reaches nobody.

use std::sync::Arc;

use doorbell_queues::SharedMem;

use self::slices::Slices;
use self::space::SoftSpace;
use super::proof::{Quiesced, Revoked};
use super::{Bus, BusError, DeviceEvent, Identity, Region, Signals, Slice, Width};
use crate::deadline::Deadline;
use crate::dma::DmaSpace;
use crate::soft::control::ANSWER;
use crate::soft::{Control, Harness, HarnessOptions, SoftDevice};
use crate::tier::Tier;

mod slices;
mod space;

/// A software device as a [`Bus`]. Dropping the last handle stops the device.
#[derive(Debug)]
pub struct SoftBus {
    harness: Harness,
    space: Arc<SoftSpace>,
    slices: Slices,
}

impl SoftBus {
    /// Starts a device and puts it on a bus.
    ///
    /// # Errors
    /// As [`Harness::start`].
    pub fn start(device: Box<dyn SoftDevice>, options: HarnessOptions) -> Result<Self, BusError> {
        Harness::start(device, options).map(Self::new)
    }

    /// A bus over a device that runs.
    #[must_use]
    pub fn new(harness: Harness) -> Self {
        let control = harness.control().clone();
        Self { harness, space: Arc::new(SoftSpace::new(control)), slices: Slices::default() }
    }

    /// How to talk to the device's thread.
    #[must_use]
    pub fn control(&self) -> &Control {
        self.harness.control()
    }

    fn name(&self) -> Arc<str> {
        self.control().name()
    }

    fn outside(&self, region: u8, offset: u64, len: u64) -> BusError {
        BusError::OutOfRegion { device: self.name(), region, offset, len }
    }

    /// The region that holds an access; true if the access lies in a mappable range.
    fn access(&self, region: u8, offset: u64, width: Width) -> Result<bool, BusError> {
        let len = width.bytes();
        let found = self.regions().iter().find(|r| r.index == region);
        let inside = |size| offset.checked_add(len).is_some_and(|end| end <= size);
        match found {
            Some(found) if offset.is_multiple_of(len) && inside(found.size) => {
                Ok(found.mappable.iter().any(|range| range.contains(&offset)))
            }
            _ => Err(self.outside(region, offset, len)),
        }
    }
}

impl Bus for SoftBus {
    fn identity(&self) -> &Identity {
        self.control().identity()
    }

    fn regions(&self) -> &[Region] {
        self.control().regions()
    }

    fn read(&self, region: u8, offset: u64, width: Width) -> Result<u64, BusError> {
        let mapped = self.access(region, offset, width)?;
        self.control().call("a register read", Deadline::after(ANSWER), move |device, cx| match cx
            .doorbells(region)
            .filter(|_| mapped)
        {
            Some(memory) => load(memory, offset as usize, width),
            None => device.read(cx, region, offset, width),
        })
    }

    fn write(&self, region: u8, offset: u64, width: Width, value: u64) -> Result<(), BusError> {
        let mapped = self.access(region, offset, width)?;
        self.control().call("a register write", Deadline::after(ANSWER), move |device, cx| match cx
            .doorbells(region)
            .filter(|_| mapped)
        {
            Some(memory) => store(memory, offset as usize, width, value),
            None => device.write(cx, region, offset, width, value),
        })
    }

    fn map(&self, region: u8, offset: u64, len: u64) -> Result<SharedMem, BusError> {
        self.slices.map(self.control(), region, offset, len)
    }

    fn export(&self, region: u8, offset: u64, len: u64, at_least: Tier) -> Result<Slice, BusError> {
        self.slices.export(self.control(), region, offset, len, at_least)
    }

    fn revoke(&self, slice: Slice, proof: Quiesced) -> Result<Revoked, BusError> {
        self.slices.take_back(self.control(), &slice)?;
        drop(slice);
        Ok(proof.revoked())
    }

    fn vectors(&self) -> u16 {
        self.control().vectors()
    }

    fn signals(&self, vector: u16) -> Result<Signals, BusError> {
        self.control().signals(vector)
    }

    fn retire_signals(&self, vector: u16) {
        self.control().retire_signals(vector);
    }

    fn reset(&self, deadline: Deadline) -> Result<(), BusError> {
        self.control().reset(deadline)
    }

    fn dma(&self) -> Arc<dyn DmaSpace> {
        Arc::clone(&self.space) as Arc<dyn DmaSpace>
    }

    fn events(&self) -> Vec<DeviceEvent> {
        let faults = self.control().take_faults().into_iter().map(DeviceEvent::Fault);
        let removed = self.control().take_removal().then_some(DeviceEvent::Removed);
        let how = "the model reports an error";
        let failed = self.control().take_failure().then_some(DeviceEvent::Failed { how });
        faults.chain(failed).chain(removed).collect()
    }

    fn kind(&self) -> &'static str {
        "soft"
    }
}

/// One read of memory in a BAR, of its width.
fn load(memory: &SharedMem, offset: usize, width: Width) -> u64 {
    use std::sync::atomic::Ordering::Acquire;
    // In bounds and aligned: checked by `SoftBus::access`.
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
    use std::sync::atomic::Ordering::Release;
    // In bounds and aligned: checked by `SoftBus::access`. The width cuts the value on purpose.
    let _ = match width {
        Width::B1 => memory.write(offset, &(value as u8)),
        Width::B2 => memory.write(offset, &(value as u16)),
        Width::B4 => memory.store_u32(offset, value as u32, Release),
        Width::B8 => memory.write(offset, &value),
    };
}
