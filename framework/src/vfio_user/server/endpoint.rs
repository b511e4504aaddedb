//! The device that is served: its thread, its config space, its MSI-X table.

use std::sync::Arc;

use super::{ANSWER, ServerError};
use crate::bus::{BusError, Width};
use crate::deadline::Deadline;
use crate::pci::synthetic::{ConfigEvent, Layout, MsixTable, SyntheticConfig};
use crate::soft::signals::PeerEvent;
use crate::soft::{Control, Harness, HarnessOptions, SoftDevice};

/// A device as clients see it, one after the other.
#[derive(Debug)]
pub(super) struct Endpoint {
    harness: Harness,
    pub(super) layout: Layout,
    pub(super) config: SyntheticConfig,
    pub(super) msix: Option<MsixTable>,
    /// It has an interrupt pin.
    pub(super) pin: bool,
    /// Signalled when the device fails.
    pub(super) error: Option<PeerEvent>,
}

impl Endpoint {
    pub(super) fn start(
        device: Box<dyn SoftDevice>,
        options: HarnessOptions,
    ) -> Result<Self, ServerError> {
        let pin = device.has_pin();
        let harness = Harness::start(device, options)?;
        let control = harness.control();
        let layout = Layout::new(control.regions(), control.vectors())
            .map_err(|source| ServerError::Layout { device: control.name(), source })?;
        let config = SyntheticConfig::new(control.identity(), &layout, pin);
        let msix = layout.msix().map(MsixTable::new);
        let mut endpoint = Self { harness, layout, config, msix, pin, error: None };
        endpoint.let_go()?;
        Ok(endpoint)
    }

    pub(super) fn control(&self) -> &Control {
        self.harness.control()
    }

    pub(super) fn name(&self) -> Arc<str> {
        self.control().name()
    }

    /// As after power-on, and nothing of a client is left: neither memory nor descriptors.
    pub(super) fn let_go(&mut self) -> Result<(), BusError> {
        self.config.reset();
        self.error = None;
        if let Some(msix) = &mut self.msix {
            msix.reset();
        }
        self.control().reset(Deadline::after(ANSWER))?;
        self.control().call("letting a client go", Deadline::after(ANSWER), |_, cx| {
            cx.release();
            cx.iommu_mut().set_enabled(false);
        })
    }

    /// Tells the client that the device has failed, if it wants to know.
    pub(super) fn report_error(&self) {
        if let Some(error) = &self.error {
            error.signal();
        }
    }

    /// Makes what the device keeps durable.
    pub(super) fn flush(&self) -> Result<(), BusError> {
        let flushed = self.control().call(
            "making its data durable",
            Deadline::after(FLUSH),
            SoftDevice::flush,
        )?;
        flushed.map_err(|source| BusError::Os {
            device: self.name(),
            what: "making its data durable",
            source,
        })
    }

    /// Resets the device's function. Config space stays as it is, as VFIO has it.
    pub(super) fn reset(&self) -> Result<(), BusError> {
        self.control().reset(Deadline::after(ANSWER))
    }

    /// Writes config space, and does what that asks for. False if there is no such place.
    pub(super) fn write_config(&mut self, offset: u64, data: &[u8]) -> Result<bool, BusError> {
        let before = self.permissions();
        let Some(event) = self.config.write(offset, data) else { return Ok(false) };
        if event == ConfigEvent::FunctionReset {
            tracing::debug!("the client resets the function");
            if let Some(msix) = &mut self.msix {
                msix.reset();
            }
            self.reset()?;
        }
        let now = self.permissions();
        if now != before {
            let (masters, pin) = now;
            self.control().post(
                "a change of permissions",
                Deadline::after(ANSWER),
                move |_, cx| {
                    cx.iommu_mut().set_enabled(masters);
                    cx.pin.allowed = pin;
                },
            )?;
        }
        Ok(true)
    }

    /// Whether the function may do DMA, and may assert its pin.
    fn permissions(&self) -> (bool, bool) {
        (self.config.masters_bus(), self.config.may_assert_pin())
    }

    /// Reads registers of the device, each access as wide as it can be.
    pub(super) fn read_bar(&self, bar: u8, offset: u64, len: usize) -> Result<Vec<u8>, BusError> {
        let plan = self.plan(bar, offset, len);
        self.control().call("a register read", Deadline::after(ANSWER), move |device, cx| {
            let mut data = vec![0; len];
            for Access { at, offset, width, mapped } in plan {
                let value = crate::soft::bar::read(device, cx, bar, offset, width, mapped);
                let bytes = value.to_le_bytes();
                let width = width.bytes() as usize;
                if let (Some(to), Some(from)) = (data.get_mut(at..at + width), bytes.get(..width)) {
                    to.copy_from_slice(from);
                }
            }
            data
        })
    }

    /// Writes registers of the device. Posted: whatever is asked of the device later comes after it.
    pub(super) fn write_bar(&self, bar: u8, offset: u64, data: &[u8]) -> Result<(), BusError> {
        let plan = self.plan(bar, offset, data.len());
        let data = data.to_vec();
        self.control().post("a register write", Deadline::after(ANSWER), move |device, cx| {
            for Access { at, offset, width, mapped } in plan {
                let mut bytes = [0; 8];
                let len = width.bytes() as usize;
                if let (Some(to), Some(from)) = (bytes.get_mut(..len), data.get(at..at + len)) {
                    to.copy_from_slice(from);
                }
                let value = u64::from_le_bytes(bytes);
                crate::soft::bar::write(device, cx, bar, offset, width, mapped, value);
            }
        })
    }

    /// Cuts a range of a BAR into aligned accesses. What lies beyond the device's registers is left
    /// out: it reads zero.
    fn plan(&self, bar: u8, offset: u64, len: usize) -> Vec<Access> {
        let regions = self.control().regions();
        let Some(region) = regions.iter().find(|region| region.index == bar) else {
            return Vec::new();
        };
        let mut plan = Vec::new();
        let (mut at, mut offset, mut left) = (0, offset, len as u64);
        while left > 0 && offset < region.size {
            let fits = |width: &Width| {
                let bytes = width.bytes();
                bytes <= left.min(region.size - offset) && offset.is_multiple_of(bytes)
            };
            let widths = [Width::B8, Width::B4, Width::B2, Width::B1];
            // One byte always fits.
            let width = widths.into_iter().find(fits).unwrap_or(Width::B1);
            let mapped = region.mappable.iter().any(|range| range.contains(&offset));
            plan.push(Access { at, offset, width, mapped });
            at += width.bytes() as usize;
            offset += width.bytes();
            left -= width.bytes();
        }
        plan
    }
}

/// How long a device may take to make its data durable.
const FLUSH: std::time::Duration = std::time::Duration::from_secs(60);

/// One access of a plan: where its bytes are in the data, and where in the BAR.
#[derive(Debug, Clone, Copy)]
struct Access {
    at: usize,
    offset: u64,
    width: Width,
    mapped: bool,
}
