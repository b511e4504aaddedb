//! The controller's registers as a table (NVM Express base 2.0, 3.1.3; PCIe transport 1.0, 3.1).
//!
//! Offsets, widths and access are here; the fields are those of [`crate::spec::regs`], which the
//! software controller shares. Registers whose reserved bits are zero never read all ones: a bus
//! that returns that has lost its device, and the read is the error `Gone`.

use doorbell::bus::{Bar, BusError};

use crate::spec::regs::{Aqa, Cap, Cc, Crto, Csts, Version};

doorbell::registers! {
    /// Controller registers, at the beginning of BAR0.
    pub(super) block Table;

    /// Controller Capabilities (base 3.1.3.1).
    cap @ 0x00: u64, ro, never_ones => CapBits {}
    /// Version (base 3.1.3.2).
    vs @ 0x08: u32, ro, never_ones => VsBits {}
    /// Controller Configuration (base 3.1.3.5).
    cc @ 0x14: u32, rw, never_ones => CcBits {}
    /// Controller Status (base 3.1.3.6).
    csts @ 0x1c: u32, ro, never_ones => CstsBits {}
    /// Admin Queue Attributes (base 3.1.3.8).
    aqa @ 0x24: u32, rw => AqaBits {}
    /// Admin Submission Queue Base Address (base 3.1.3.9).
    asq @ 0x28: u64, rw => AsqBits {}
    /// Admin Completion Queue Base Address (base 3.1.3.10).
    acq @ 0x30: u64, rw => AcqBits {}
    /// Controller Ready Timeouts, where CAP.CRMS is not 0 (base 3.1.3.20).
    crto @ 0x68: u32, ro, never_ones => CrtoBits {}
}

/// Typed access to the registers.
#[derive(Debug)]
pub(super) struct Registers {
    table: Table,
}

impl Registers {
    pub(super) fn new(bar: Bar) -> Self {
        Self { table: Table::new(bar) }
    }

    /// Bytes of BAR0.
    pub(super) fn size(&self) -> u64 {
        self.table.bar().size()
    }

    pub(super) fn cap(&self) -> Result<Cap, BusError> {
        self.table.cap().read().map(|bits| Cap(bits.bits()))
    }

    pub(super) fn version(&self) -> Result<Version, BusError> {
        self.table.vs().read().map(|bits| Version(bits.bits()))
    }

    pub(super) fn cc(&self) -> Result<Cc, BusError> {
        self.table.cc().read().map(|bits| Cc(bits.bits()))
    }

    pub(super) fn set_cc(&self, cc: Cc) -> Result<(), BusError> {
        self.table.cc().write(CcBits::from_bits(cc.0))
    }

    pub(super) fn csts(&self) -> Result<Csts, BusError> {
        self.table.csts().read().map(|bits| Csts(bits.bits()))
    }

    /// CRTO.CRWMT: the worst case for the controller to become ready with its media, in units of
    /// 500 ms.
    pub(super) fn ready_with_media(&self) -> Result<u16, BusError> {
        self.table.crto().read().map(|bits| Crto(bits.bits()).crwmt())
    }

    /// Tells the controller where its admin queue is. Only while it is disabled.
    pub(super) fn set_admin_queue(
        &self,
        aqa: Aqa,
        submission: u64,
        completion: u64,
    ) -> Result<(), BusError> {
        self.table.aqa().write(AqaBits::from_bits(aqa.0))?;
        self.table.asq().write(AsqBits::from_bits(submission))?;
        self.table.acq().write(AcqBits::from_bits(completion))
    }
}
