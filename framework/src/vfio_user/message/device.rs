//! DEVICE_GET_INFO and DEVICE_GET_IRQ_INFO, both ways.

use crate::vfio_user::ProtocolError;
use crate::vfio_user::fields::{Fields, Put};

/// What a device has. In a command only `argsz` is set.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DeviceInfo {
    /// In a command the largest reply that is taken; in a reply its size.
    pub argsz: u32,
    /// [`DeviceInfo::RESET`], [`DeviceInfo::PCI`].
    pub flags: u32,
    /// How many regions.
    pub regions: u32,
    /// How many interrupt indexes.
    pub irqs: u32,
}

impl DeviceInfo {
    /// DEVICE_RESET works.
    pub const RESET: u32 = 1;
    /// It is a PCI device.
    pub const PCI: u32 = 1 << 1;
    /// Bytes of the structure.
    pub const ARGSZ: u32 = 16;

    /// Reads it. Bytes beyond the structure, of a later version, are ignored.
    ///
    /// # Errors
    /// [`ProtocolError::Short`].
    pub fn decode(payload: &[u8]) -> Result<Self, ProtocolError> {
        let mut fields = Fields::new("DEVICE_GET_INFO", payload);
        Ok(Self {
            argsz: fields.u32()?,
            flags: fields.u32()?,
            regions: fields.u32()?,
            irqs: fields.u32()?,
        })
    }

    /// Its bytes.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.put_u32(self.argsz).put_u32(self.flags).put_u32(self.regions).put_u32(self.irqs);
    }
}

/// What an interrupt index has. In a command only `argsz` and `index` are set.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct IrqInfo {
    /// In a command the largest reply that is taken; in a reply its size.
    pub argsz: u32,
    /// [`IrqInfo::EVENTFD`] and the others.
    pub flags: u32,
    /// Which index ([`crate::vfio_user::pci::MSIX_IRQ`] and the others).
    pub index: u32,
    /// How many interrupts it has.
    pub count: u32,
}

impl IrqInfo {
    /// Eventfds can be signalled.
    pub const EVENTFD: u32 = 1;
    /// Mask and unmask work.
    pub const MASKABLE: u32 = 1 << 1;
    /// It masks itself when it fires.
    pub const AUTOMASKED: u32 = 1 << 2;
    /// Its interrupts are set up all at once.
    pub const NORESIZE: u32 = 1 << 3;
    /// Bytes of the structure.
    pub const ARGSZ: u32 = 16;

    /// Reads it. Bytes beyond the structure, of a later version, are ignored.
    ///
    /// # Errors
    /// [`ProtocolError::Short`].
    pub fn decode(payload: &[u8]) -> Result<Self, ProtocolError> {
        let mut fields = Fields::new("DEVICE_GET_IRQ_INFO", payload);
        Ok(Self {
            argsz: fields.u32()?,
            flags: fields.u32()?,
            index: fields.u32()?,
            count: fields.u32()?,
        })
    }

    /// Its bytes.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.put_u32(self.argsz).put_u32(self.flags).put_u32(self.index).put_u32(self.count);
    }
}
