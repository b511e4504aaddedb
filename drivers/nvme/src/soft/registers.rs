//! The controller's registers (base 3.1.3): values, access widths, and what a write asks for.
//!
//! This file keeps no queue and does no work: [`Registers::write`] tells the controller what the
//! host asked for, and the controller reports what it did by the setters.

use doorbell::bus::Width;

use super::inject::{InjectKind, Injection};
use super::options::Config;
use crate::spec::regs::{IOCQES, IOSQES, css, offset, shn, shst};
use crate::spec::{Aqa, Cap, Cc, Crto, Csts, Version};

/// CAP.TO and CRTO.CRWMT: how long a bring-up may take, in units of 500 ms.
const READY_TIMEOUT: u8 = 20;
/// CAP.MPSMAX: pages of up to 64 KiB.
const MPSMAX: u8 = 4;

/// CAP.TO of this controller. One that is meant never to become ready does not make its host wait
/// for long.
fn ready_timeout(config: &Config) -> u8 {
    let never = |injection: &Injection| injection.kind == InjectKind::NeverReady;
    if config.injections.iter().any(never) { 1 } else { READY_TIMEOUT }
}

/// What a register write asks of the controller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Request {
    /// Nothing.
    None,
    /// CC.EN went from 0 to 1.
    Enable,
    /// CC.EN went from 1 to 0.
    Disable,
    /// CC.SHN asks for a shutdown.
    Shutdown,
}

/// Where the admin queues are, and how they are read; fixed while the controller is enabled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct AdminQueues {
    pub(crate) asq: u64,
    pub(crate) asq_size: u32,
    pub(crate) acq: u64,
    pub(crate) acq_size: u32,
}

/// The register file.
#[derive(Debug)]
pub(crate) struct Registers {
    pub(crate) cap: Cap,
    cc: Cc,
    pub(crate) csts: Csts,
    /// CC as it was when EN was set: the fields that only count then.
    latched: Cc,
    intm: u32,
    aqa: Aqa,
    asq: u64,
    acq: u64,
    /// Every read is all ones: the device looks gone (fault injection).
    pub(crate) gone: bool,
    /// A secondary controller that is offline: CSTS.CFS is set, and nothing else means anything
    /// (base 8.26.3).
    pub(crate) offline: bool,
}

impl Registers {
    pub(crate) fn new(config: &Config) -> Self {
        let cap = Cap(0)
            .with_mqes((config.depth - 1) as u16)
            .with_cqr(true)
            .with_to(ready_timeout(config))
            .with_dstrd(config.dstrd)
            .with_css(1)
            .with_mpsmin(0)
            .with_mpsmax(MPSMAX)
            .with_crms(1);
        Self {
            cap,
            cc: Cc(0),
            csts: Csts(0),
            latched: Cc(0),
            intm: 0,
            aqa: Aqa(0),
            asq: 0,
            acq: 0,
            gone: false,
            offline: false,
        }
    }

    /// As after power-on.
    pub(crate) fn power_on(&mut self) {
        (self.cc, self.csts, self.latched) = (Cc(0), Csts(0), Cc(0));
        (self.intm, self.aqa, self.asq, self.acq) = (0, Aqa(0), 0, 0);
    }

    /// What a controller reset by CC.EN leaves: the admin queue registers stay (base 3.7.2).
    pub(crate) fn disabled(&mut self) {
        self.csts = Csts(0);
        self.intm = 0;
    }

    /// INTMS: a bit for each of the first 32 vectors that is masked. For pin interrupts.
    pub(crate) fn interrupt_masks(&self) -> u32 {
        self.intm
    }

    /// Memory page size in bytes (CC.MPS).
    #[inline]
    pub(crate) fn page_size(&self) -> u64 {
        4096 << self.latched.mps()
    }

    /// True if CC.IOSQES and CC.IOCQES hold the entry sizes of the NVM command set.
    pub(crate) fn entry_sizes_set(&self) -> (bool, bool) {
        (self.cc.iosqes() == IOSQES, self.cc.iocqes() == IOCQES)
    }

    /// Checks and latches what CC, AQA, ASQ and ACQ say at CC.EN. `None` is a configuration that
    /// cannot be run: a fatal status (base 3.1.3.5 and 3.5.1).
    pub(crate) fn latch(&mut self) -> Option<AdminQueues> {
        let cc = self.cc;
        let page = 4096u64.checked_shl(u32::from(cc.mps()))?;
        let sizes = (u32::from(self.aqa.asqs()) + 1, u32::from(self.aqa.acqs()) + 1);
        let fits = cc.mps() <= MPSMAX && cc.css() == css::NVM && cc.ams() == 0;
        // A queue has at least two entries (base 3.3.1.2), and begins at a page.
        let queues = sizes.0 >= 2 && sizes.1 >= 2 && (self.asq | self.acq).is_multiple_of(page);
        if !fits || !queues {
            return None;
        }
        self.latched = cc;
        Some(AdminQueues { asq: self.asq, asq_size: sizes.0, acq: self.acq, acq_size: sizes.1 })
    }

    /// Commands are processed: ready, no fatal status, no shutdown done.
    #[inline]
    pub(crate) fn runs(&self) -> bool {
        // RDY is bit 0; CFS bit 1, and SHST complete is bit 3.
        self.csts.0 & 0b1011 == 0b0001
    }

    pub(crate) fn set_ready(&mut self) {
        self.csts = self.csts.with_rdy(true);
    }

    pub(crate) fn set_fatal(&mut self) {
        self.csts = self.csts.with_cfs(true);
    }

    pub(crate) fn set_shutdown(&mut self, complete: bool) {
        let status = if complete { shst::COMPLETE } else { shst::OCCURRING };
        self.csts = self.csts.with_shst(status);
    }

    /// A register read. Reads of any width and alignment inside an aligned 8 bytes give those bytes.
    pub(crate) fn read(&self, at: u64, width: Width) -> u64 {
        let mask = u64::MAX >> (64 - 8 * width.bytes());
        if self.gone {
            return mask;
        }
        let low = u64::from(self.dword(at & !7));
        let high = u64::from(self.dword(at & !7 | 4));
        ((high << 32 | low) >> (8 * (at & 7))) & mask
    }

    fn dword(&self, at: u64) -> u32 {
        match at {
            offset::CSTS if self.offline => Csts(0).with_cfs(true).0,
            _ if self.offline => 0,
            offset::CAP => self.cap.0 as u32,
            0x04 => (self.cap.0 >> 32) as u32,
            offset::VS => Version::V2_0.0,
            offset::INTMS | offset::INTMC => self.intm,
            offset::CC => self.cc.0,
            offset::CSTS => self.csts.0,
            offset::AQA => self.aqa.0,
            offset::ASQ => self.asq as u32,
            0x2c => (self.asq >> 32) as u32,
            offset::ACQ => self.acq as u32,
            0x34 => (self.acq >> 32) as u32,
            offset::CRTO => Crto(0).with_crwmt(self.cap.to().into()).0,
            // NSSR (CAP.NSSRS is 0), CMBLOC and CMBSZ (CAP.CMBS is 0) and the rest are absent.
            _ => 0,
        }
    }

    /// A register write. Eight bytes are two dwords, lower first. Narrower or misaligned writes are
    /// ignored: base 3.1.3 allows native widths and aligned dwords only.
    pub(crate) fn write(&mut self, at: u64, width: Width, value: u64) -> Request {
        match width {
            Width::B4 if at.is_multiple_of(4) => self.write_dword(at, value as u32),
            Width::B8 if at.is_multiple_of(8) => {
                let low = self.write_dword(at, value as u32);
                let high = self.write_dword(at + 4, (value >> 32) as u32);
                if high == Request::None { low } else { high }
            }
            _ => {
                tracing::debug!(at, ?width, "a register write of a width that is not allowed");
                Request::None
            }
        }
    }

    fn write_dword(&mut self, at: u64, value: u32) -> Request {
        let (low, high) = (u64::from(value), u64::from(value) << 32);
        match at {
            offset::INTMS => self.intm |= value,
            offset::INTMC => self.intm &= !value,
            offset::CC => return self.write_cc(Cc(value & CC_WRITABLE)),
            offset::AQA => self.aqa = Aqa(value & AQA_WRITABLE),
            offset::ASQ => self.asq = self.asq & !LOW | low,
            0x2c => self.asq = self.asq & LOW | high,
            offset::ACQ => self.acq = self.acq & !LOW | low,
            0x34 => self.acq = self.acq & LOW | high,
            // Read-only, reserved, or absent.
            _ => {}
        }
        Request::None
    }

    fn write_cc(&mut self, cc: Cc) -> Request {
        let before = self.cc;
        self.cc = cc;
        if before.en() && cc.en() {
            // May change only while disabled (base 3.1.3.5).
            self.cc = cc.with_css(before.css()).with_mps(before.mps()).with_ams(before.ams());
        }
        match (before.en(), cc.en()) {
            (false, true) => Request::Enable,
            (true, false) => Request::Disable,
            _ if cc.shn() != before.shn() && matches!(cc.shn(), shn::NORMAL | shn::ABRUPT) => {
                Request::Shutdown
            }
            _ => Request::None,
        }
    }
}

const LOW: u64 = 0xffff_ffff;
/// Bits of CC that are not reserved. CRIME is read-only: CAP.CRMS offers no choice.
const CC_WRITABLE: u32 = 0x00ff_fff1;
/// Bits of AQA that are not reserved.
const AQA_WRITABLE: u32 = 0x0fff_0fff;
