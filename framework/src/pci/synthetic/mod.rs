//! The config space of a software device: made up from what the device says about itself.
//!
//! [`Layout`] decides where things lie: the width of each BAR, and the MSI-X table and PBA. Both
//! have pages of their own, so that the pages with doorbells stay mappable; they lie in a BAR of
//! their own if one is free, else behind the registers of the last BAR. [`SyntheticConfig`] is 4096
//! bytes with a write mask for every bit; a write reports what it asks of the device.
//!
//! | offset | |
//! |---|---|
//! | 0x00 | type 0 header (PCI local bus 3.0, 6.1) |
//! | 0x40 | power management (PCI power management 1.2, 3.2): D0 and D3hot, state is kept |
//! | 0x48 | PCI Express endpoint (PCIe base 5.0, 7.5.3) with function-level reset |
//! | 0x84 | MSI-X (PCIe base 5.0, 7.7.2), if the device has vectors |
//! | 0x100 | no extended capabilities |
//!
//! What it does not do: no expansion ROM, no I/O BARs, no MSI, no vital product data. The link and
//! the payload sizes are registers that keep what is written; nothing depends on them.

mod fields;
mod layout;
mod msix;
#[cfg(test)]
mod tests;

use self::fields::Fields;
pub use self::layout::{BadLayout, BarLayout, Layout, MsixLayout};
pub use self::msix::MsixTable;
use super::layout::{
    BAR0, CAP_EXPRESS, CAP_MSIX, CAP_POWER_MANAGEMENT, CAPABILITIES_POINTER, COMMAND,
    COMMAND_BUS_MASTER, COMMAND_INTX_DISABLE, COMMAND_MEMORY, DEVICE_ID, EXTENDED_CONFIG_SIZE,
    INTERRUPT_LINE, INTERRUPT_PIN, REVISION_ID, STATUS, STATUS_CAPABILITIES, SUBSYSTEM_ID,
    SUBSYSTEM_VENDOR_ID, VENDOR_ID,
};
use crate::bus::Identity;

/// Power management.
const PM: u16 = 0x40;
/// Power management: control and status.
const PMCSR: u16 = PM + 4;
/// PCI Express.
const EXPRESS: u16 = 0x48;
/// PCI Express: device control.
const DEVICE_CONTROL: u16 = EXPRESS + 8;
/// MSI-X.
const MSIX: u16 = 0x84;
/// MSI-X: message control.
const MSIX_CONTROL: u16 = MSIX + 2;

/// [`COMMAND`]: memory, bus master, parity error response, SERR# enable, INTx disable.
const COMMAND_WRITABLE: u16 = 0x0546;
/// [`STATUS`]: the function asserts its interrupt pin.
const STATUS_INTERRUPT: u16 = 1 << 3;
/// [`PMCSR`]: the power state; 0 is D0, 3 is D3hot.
const POWER_STATE: u16 = 3;
/// [`DEVICE_CONTROL`], high byte: initiate function-level reset.
const INITIATE_FLR: u8 = 1 << 7;
/// [`MSIX_CONTROL`]: enable.
const MSIX_ENABLE: u16 = 1 << 15;

/// What a write to config space asks of the device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConfigEvent {
    /// Nothing besides what the registers now say.
    None,
    /// A function-level reset. Config space is as after power-on already.
    FunctionReset,
}

/// A software device's config space.
#[derive(Debug, Clone)]
pub struct SyntheticConfig {
    now: Fields,
    power_on: Fields,
    msix: bool,
}

impl SyntheticConfig {
    /// Config space as after power-on. `pin` says whether the device can interrupt by its pin
    /// (INTA#).
    #[must_use]
    pub fn new(identity: &Identity, layout: &Layout, pin: bool) -> Self {
        let mut fields = Fields::default();
        header(&mut fields, identity, layout, pin);
        power_management(&mut fields);
        let msix = layout.msix();
        express(&mut fields, if msix.is_some() { MSIX as u8 } else { 0 });
        if let Some(msix) = msix {
            message_signalled(&mut fields, msix);
        }
        Self { power_on: fields.clone(), now: fields, msix: msix.is_some() }
    }

    /// Bytes of config space.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "config space is never empty")]
    pub fn len(&self) -> usize {
        EXTENDED_CONFIG_SIZE
    }

    /// Reads any bytes; `None` if they are not all inside.
    #[must_use]
    pub fn read(&self, offset: u64, len: usize) -> Option<&[u8]> {
        self.now.bytes(offset, len)
    }

    /// Writes any bytes: the bits that can be written change, the others keep their value. `None` if
    /// they are not all inside, and then nothing is written.
    pub fn write(&mut self, offset: u64, data: &[u8]) -> Option<ConfigEvent> {
        let before = self.now.u16(PMCSR) & POWER_STATE;
        self.now.write(offset, data)?;
        let state = self.now.u16(PMCSR) & POWER_STATE;
        if state == 1 || state == 2 {
            // D1 and D2 are not offered: the write is discarded (PM 1.2, 3.2.4).
            self.now.set_u16(PMCSR, self.now.u16(PMCSR) & !POWER_STATE | before);
        }
        let high = u64::from(DEVICE_CONTROL) + 1;
        let flr = high.checked_sub(offset).and_then(|at| data.get(usize::try_from(at).ok()?));
        if flr.is_some_and(|byte| byte & INITIATE_FLR != 0) {
            self.reset();
            return Some(ConfigEvent::FunctionReset);
        }
        Some(ConfigEvent::None)
    }

    /// As after power-on.
    pub fn reset(&mut self) {
        self.now = self.power_on.clone();
    }

    /// Sets or clears the status bit of the interrupt pin.
    pub fn set_interrupt_status(&mut self, asserted: bool) {
        let others = self.now.u16(STATUS) & !STATUS_INTERRUPT;
        self.now.set_u16(STATUS, others | if asserted { STATUS_INTERRUPT } else { 0 });
    }

    /// The function is in D0 (not in D3hot, where it answers to config space only).
    #[must_use]
    pub fn is_on(&self) -> bool {
        self.now.u16(PMCSR) & POWER_STATE == 0
    }

    /// The function answers to its BARs: in D0, and memory decode is on.
    #[must_use]
    pub fn decodes_memory(&self) -> bool {
        self.is_on() && self.command() & COMMAND_MEMORY != 0
    }

    /// The function may do DMA: in D0, and a bus master.
    #[must_use]
    pub fn masters_bus(&self) -> bool {
        self.is_on() && self.command() & COMMAND_BUS_MASTER != 0
    }

    /// The function may assert its interrupt pin: neither forbidden nor replaced by MSI-X.
    #[must_use]
    pub fn may_assert_pin(&self) -> bool {
        self.command() & COMMAND_INTX_DISABLE == 0 && !self.msix_enabled()
    }

    /// MSI-X is enabled.
    #[must_use]
    pub fn msix_enabled(&self) -> bool {
        self.msix && self.now.u16(MSIX_CONTROL) & MSIX_ENABLE != 0
    }

    fn command(&self) -> u16 {
        self.now.u16(COMMAND)
    }
}

fn header(fields: &mut Fields, identity: &Identity, layout: &Layout, pin: bool) {
    fields.set_u16(VENDOR_ID, identity.vendor);
    fields.set_u16(DEVICE_ID, identity.device);
    fields.writable_u16(COMMAND, COMMAND_WRITABLE);
    fields.set_u16(STATUS, STATUS_CAPABILITIES);
    // Revision 0 in the low byte.
    fields.set_u32(REVISION_ID, identity.class << 8);
    // Cache line size: kept for software that looks at it; PCI Express ignores it.
    fields.writable_u8(0x0c, 0xff);
    for bar in layout.bars() {
        let at = BAR0 + 4 * u16::from(bar.index);
        let mask = !(bar.size - 1);
        // Memory, not prefetchable: bit 2 says 64 bits wide.
        fields.set_u32(at, if bar.wide { 4 } else { 0 });
        fields.writable_u32(at, mask as u32);
        if bar.wide {
            fields.writable_u32(at + 4, (mask >> 32) as u32);
        }
    }
    fields.set_u16(SUBSYSTEM_VENDOR_ID, identity.vendor);
    fields.set_u16(SUBSYSTEM_ID, identity.device);
    fields.set_u8(CAPABILITIES_POINTER, PM as u8);
    fields.writable_u8(INTERRUPT_LINE, 0xff);
    fields.set_u8(INTERRUPT_PIN, pin.into());
}

fn power_management(fields: &mut Fields) {
    fields.set_u8(PM, CAP_POWER_MANAGEMENT);
    fields.set_u8(PM + 1, EXPRESS as u8);
    // Version 3 (PM 1.2): neither D1 nor D2, no power management events.
    fields.set_u16(PM + 2, 3);
    // No_Soft_Reset: going from D3hot to D0 keeps the state.
    fields.set_u16(PMCSR, 1 << 3);
    fields.writable_u16(PMCSR, POWER_STATE);
}

fn express(fields: &mut Fields, next: u8) {
    fields.set_u8(EXPRESS, CAP_EXPRESS);
    fields.set_u8(EXPRESS + 1, next);
    // Version 2, type 0: PCI Express endpoint.
    fields.set_u16(EXPRESS + 2, 2);
    // Device capabilities: role-based error reporting, function-level reset.
    fields.set_u32(EXPRESS + 4, 1 << 15 | 1 << 28);
    // Device control: relaxed ordering, no snoop, read requests of 512 bytes; as PCIe says it is
    // after a reset.
    fields.set_u16(DEVICE_CONTROL, 0x2810);
    fields.writable_u16(DEVICE_CONTROL, 0x78ff);
    // Link capabilities and status: one lane of 2.5 GT/s.
    fields.set_u32(EXPRESS + 0xc, 0x11);
    fields.writable_u16(EXPRESS + 0x10, 0x01cb);
    fields.set_u16(EXPRESS + 0x12, 0x11);
    // Device capabilities 2: completion timeout can be disabled.
    fields.set_u32(EXPRESS + 0x24, 1 << 4);
    fields.writable_u16(EXPRESS + 0x28, 1 << 4);
    // Link capabilities and control 2: 2.5 GT/s.
    fields.set_u32(EXPRESS + 0x2c, 1 << 1);
    fields.set_u16(EXPRESS + 0x30, 1);
    fields.writable_u16(EXPRESS + 0x30, 0xf);
}

fn message_signalled(fields: &mut Fields, msix: &MsixLayout) {
    fields.set_u8(MSIX, CAP_MSIX);
    fields.set_u16(MSIX_CONTROL, msix.vectors - 1);
    // Enable and function mask.
    fields.writable_u16(MSIX_CONTROL, 0xc000);
    fields.set_u32(MSIX + 4, msix.table as u32 | u32::from(msix.bar));
    fields.set_u32(MSIX + 8, msix.pba as u32 | u32::from(msix.bar));
}
