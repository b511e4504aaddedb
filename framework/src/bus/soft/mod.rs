//! The bus `soft`: a software device of this process, behind the same traits as hardware.
//!
//! What it isolates: DMA goes through the soft IOMMU, which really refuses, but all clients share
//! its address space. A doorbell slice is the BAR's memfd, which its receiver can map whole:
//! [`Tier::Cooperative`]. Where each page belongs to one queue at most, a slice can be a memfd of its
//! own pages, put in the place of the BAR's: [`Tier::Paged`]; revoking it puts other pages there, and
//! the former holder's mapping reaches nobody. A virtual function of a model runs on a thread of its own
//! with an IOMMU of its own: what [`Tier::Isolated`] is made of.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use doorbell_queues::SharedMem;

use self::slices::Slices;
use self::space::SoftSpace;
use super::proof::{Quiesced, Revoked};
use super::{Bus, BusError, DeviceEvent, Identity, Region, Signals, Slice, Width};
use crate::deadline::Deadline;
use crate::dma::DmaSpace;
use crate::pci::synthetic::{ConfigEvent, Layout, SyntheticConfig};
use crate::soft::bar;
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
    /// Virtual functions that were opened.
    opened: Mutex<BTreeMap<u16, Weak<SoftBus>>>,
    /// `None` if its BARs do not fit into one.
    config: Option<Mutex<SyntheticConfig>>,
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
        // No MSI-X: on this bus interrupts are the vectors' signals, and there is no table.
        let layout = Layout::new(control.regions(), 0).ok();
        let config = layout.map(|layout| SyntheticConfig::new(control.identity(), &layout, false));
        Self {
            harness,
            space: Arc::new(SoftSpace::new(control)),
            slices: Slices::default(),
            opened: Mutex::default(),
            config: config.map(Mutex::new),
        }
    }

    /// Config space, for an aligned access of 1, 2 or 4 bytes.
    fn config(
        &self,
        offset: u16,
        width: Width,
    ) -> Result<MutexGuard<'_, SyntheticConfig>, BusError> {
        let aligned = u64::from(offset).is_multiple_of(width.bytes()) && width != Width::B8;
        match &self.config {
            Some(config) if aligned => Ok(config.lock().unwrap_or_else(PoisonError::into_inner)),
            Some(_) => Err(self.no_config(offset, "accesses are 1, 2 or 4 bytes wide and aligned")),
            None => Err(self.no_config(offset, "its BARs do not fit into PCI config space")),
        }
    }

    fn no_config(&self, offset: u16, problem: &str) -> BusError {
        BusError::Config { device: self.name(), offset, problem: problem.to_owned() }
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
        self.control().call("a register read", Deadline::after(ANSWER), move |device, cx| {
            bar::read(device, cx, region, offset, width, mapped)
        })
    }

    fn write(&self, region: u8, offset: u64, width: Width, value: u64) -> Result<(), BusError> {
        let mapped = self.access(region, offset, width)?;
        self.control().call("a register write", Deadline::after(ANSWER), move |device, cx| {
            bar::write(device, cx, region, offset, width, mapped, value);
        })
    }

    fn config_read(&self, offset: u16, width: Width) -> Result<u32, BusError> {
        let config = self.config(offset, width)?;
        let bytes = config.read(offset.into(), width.bytes() as usize);
        let bytes = bytes.ok_or_else(|| self.no_config(offset, "it ends at 0x1000"))?;
        Ok(bytes.iter().rev().fold(0, |value, byte| value << 8 | u32::from(*byte)))
    }

    fn config_write(&self, offset: u16, width: Width, value: u32) -> Result<(), BusError> {
        let mut config = self.config(offset, width)?;
        let bytes = value.to_le_bytes();
        let data = bytes.get(..width.bytes() as usize).unwrap_or_default();
        let event = config.write(offset.into(), data);
        match event.ok_or_else(|| self.no_config(offset, "it ends at 0x1000"))? {
            ConfigEvent::None => Ok(()),
            ConfigEvent::FunctionReset => self.control().reset(Deadline::after(ANSWER)),
        }
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

    fn virtual_functions(&self) -> u16 {
        self.control().virtual_functions()
    }

    fn open_virtual_function(&self, index: u16) -> Result<Arc<dyn Bus>, BusError> {
        let mut opened = self.opened.lock().unwrap_or_else(PoisonError::into_inner);
        if opened.get(&index).and_then(Weak::upgrade).is_some() {
            return Err(BusError::Open {
                device: self.name(),
                step: "opening a virtual function",
                problem: format!("function {index} is open already; close it first"),
            });
        }
        let device = self.control().virtual_function(index)?;
        let name = format!("{}/vf{index}", self.name()).into();
        let bus = Self::start(device, HarnessOptions { name, ..HarnessOptions::default() })?;
        let bus = Arc::new(bus);
        opened.insert(index, Arc::downgrade(&bus));
        Ok(bus)
    }

    fn kind(&self) -> &'static str {
        "soft"
    }
}
