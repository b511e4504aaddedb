//! Config space, and what has to be set there before the device may do DMA and interrupt.

use std::sync::Arc;

use super::access;
use super::link::Link;
use super::regions::ServerRegion;
use crate::bus::{BusError, Identity, Width};
use crate::pci::layout::{
    CAP_MSI, CAP_MSIX, CAP_POWER_MANAGEMENT, CAPABILITIES_POINTER, COMMAND, COMMAND_BUS_MASTER,
    COMMAND_INTX_DISABLE, COMMAND_MEMORY, DEVICE_ID, EXTENDED_CONFIG_SIZE, REVISION_ID, STATUS,
    STATUS_CAPABILITIES, VENDOR_ID,
};
use crate::vfio_user::pci;

/// Capabilities in 256 bytes: each takes 4 or more, and none lies in the header's 64.
const MAX_CAPABILITIES: usize = 48;

/// MSI-X, message control (PCI local bus 3.0, 6.8.2.3): offset in the capability, and bits.
const MSIX_CONTROL: u16 = 2;
const MSIX_ENABLE: u32 = 1 << 15;
const MSIX_MASK_ALL: u32 = 1 << 14;
/// MSI, message control (6.8.1.3).
const MSI_CONTROL: u16 = 2;
const MSI_ENABLE: u32 = 1;
/// Power management, control and status: the power state (PCI power management 1.2, 3.2.4).
const PM_CONTROL: u16 = 4;
const PM_STATE: u32 = 3;

/// How interrupts come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Messages {
    MsiX,
    Msi,
}

/// Config space by messages.
#[derive(Debug)]
pub(super) struct Config<'a> {
    link: &'a Link,
    size: u64,
}

impl<'a> Config<'a> {
    pub(super) fn new(link: &'a Link, regions: &[ServerRegion]) -> Self {
        let found = regions.iter().find(|region| region.index == pci::CONFIG);
        let size = found.map_or(0, |region| region.size.min(EXTENDED_CONFIG_SIZE as u64));
        Self { link, size }
    }

    fn device(&self) -> Arc<str> {
        Arc::clone(&self.link.shared.name)
    }

    fn check(&self, offset: u16, width: Width) -> Result<(), BusError> {
        let bytes = width.bytes();
        let bad = |problem: String| BusError::Config { device: self.device(), offset, problem };
        if bytes > 4 || !u64::from(offset).is_multiple_of(bytes) {
            return Err(bad(format!("no access of {bytes} bytes is possible there")));
        }
        if u64::from(offset) + bytes > self.size {
            return Err(bad(format!("config space has {} bytes", self.size)));
        }
        Ok(())
    }

    pub(super) fn read(&self, offset: u16, width: Width) -> Result<u32, BusError> {
        self.check(offset, width)?;
        let value = access::read(self.link, pci::CONFIG, offset.into(), width);
        // At most 4 bytes were read.
        value.map(|value| value as u32).map_err(|error| error.on(&self.link.shared.name))
    }

    pub(super) fn write(&self, offset: u16, width: Width, value: u32) -> Result<(), BusError> {
        self.check(offset, width)?;
        let written = access::write(self.link, pci::CONFIG, offset.into(), width, value.into());
        written.map_err(|error| error.on(&self.link.shared.name))
    }

    fn modify(&self, offset: u16, change: impl Fn(u32) -> u32) -> Result<(), BusError> {
        let old = self.read(offset, Width::B2)?;
        let new = change(old);
        if old == new { Ok(()) } else { self.write(offset, Width::B2, new) }
    }

    /// Who it is.
    pub(super) fn identity(&self) -> Result<Identity, BusError> {
        let half = |offset| self.read(offset, Width::B2).map(|value| value as u16);
        let (vendor, device) = (half(VENDOR_ID)?, half(DEVICE_ID)?);
        if vendor == u16::MAX {
            let problem = "all ones: nobody is there".to_owned();
            return Err(BusError::Config { device: self.device(), offset: VENDOR_ID, problem });
        }
        let class = self.read(REVISION_ID, Width::B4)? >> 8;
        Ok(Identity { name: self.device(), vendor, device, class, numa_node: None })
    }

    /// Offset of a capability.
    fn capability(&self, wanted: u8) -> Result<Option<u16>, BusError> {
        if self.read(STATUS, Width::B2)? & u32::from(STATUS_CAPABILITIES) == 0 {
            return Ok(None);
        }
        // The low two bits are reserved (PCI local bus 3.0, 6.7).
        let mut at = self.read(CAPABILITIES_POINTER, Width::B1)? as u16 & !3;
        for _ in 0..MAX_CAPABILITIES {
            if at == 0 {
                return Ok(None);
            }
            if at < 0x40 {
                let problem = "a capability lies in the header".to_owned();
                return Err(BusError::Config { device: self.device(), offset: at, problem });
            }
            let head = self.read(at, Width::B2)?;
            if head & 0xff == u32::from(wanted) {
                return Ok(Some(at));
            }
            at = (head >> 8) as u16 & !3;
        }
        let problem = "the list of capabilities does not end".to_owned();
        Err(BusError::Config { device: self.device(), offset: CAPABILITIES_POINTER, problem })
    }

    /// Power on, memory, DMA and the interrupts in use. What is so already is not written.
    pub(super) fn enable(&self, messages: Option<Messages>) -> Result<(), BusError> {
        if let Some(at) = self.capability(CAP_POWER_MANAGEMENT)? {
            self.modify(at + PM_CONTROL, |control| control & !PM_STATE)?;
        }
        let on = COMMAND_MEMORY | COMMAND_BUS_MASTER | COMMAND_INTX_DISABLE;
        self.modify(COMMAND, |command| command | u32::from(on))?;
        match messages {
            Some(Messages::MsiX) => {
                if let Some(at) = self.capability(CAP_MSIX)? {
                    self.modify(at + MSIX_CONTROL, |c| (c | MSIX_ENABLE) & !MSIX_MASK_ALL)?;
                }
            }
            Some(Messages::Msi) => {
                if let Some(at) = self.capability(CAP_MSI)? {
                    self.modify(at + MSI_CONTROL, |control| control | MSI_ENABLE)?;
                }
            }
            None => {}
        }
        Ok(())
    }
}
