//! Controller registers (base 3.1.3: "controller properties") and doorbells (PCIe 3.1.2).

/// Byte offsets in BAR0 (base figure "Property Definition", PCIe 3.1.1).
pub mod offset {
    /// Controller Capabilities, 64 bits, read-only (base 3.1.3.1).
    pub const CAP: u64 = 0x00;
    /// Version, 32 bits, read-only (base 3.1.3.2).
    pub const VS: u64 = 0x08;
    /// Interrupt Mask Set, 32 bits, for pin and MSI interrupts only (base 3.1.3.3).
    pub const INTMS: u64 = 0x0c;
    /// Interrupt Mask Clear, 32 bits (base 3.1.3.4).
    pub const INTMC: u64 = 0x10;
    /// Controller Configuration, 32 bits (base 3.1.3.5).
    pub const CC: u64 = 0x14;
    /// Controller Status, 32 bits (base 3.1.3.6).
    pub const CSTS: u64 = 0x1c;
    /// NVM Subsystem Reset, 32 bits; present if CAP.NSSRS (base 3.1.3.7).
    pub const NSSR: u64 = 0x20;
    /// Admin Queue Attributes, 32 bits (base 3.1.3.8).
    pub const AQA: u64 = 0x24;
    /// Admin Submission Queue Base Address, 64 bits (base 3.1.3.9).
    pub const ASQ: u64 = 0x28;
    /// Admin Completion Queue Base Address, 64 bits (base 3.1.3.10).
    pub const ACQ: u64 = 0x30;
    /// Controller Memory Buffer Location, 32 bits; 0 where there is no such buffer (base 3.1.3.11).
    pub const CMBLOC: u64 = 0x38;
    /// Controller Memory Buffer Size, 32 bits (base 3.1.3.12).
    pub const CMBSZ: u64 = 0x3c;
    /// Boot Partition Information (base 3.1.3.13); 0 where there is none.
    pub const BPINFO: u64 = 0x40;
    /// Controller Memory Buffer Memory Space Control, 64 bits (base 3.1.3.16).
    pub const CMBMSC: u64 = 0x50;
    /// Controller Memory Buffer Status (base 3.1.3.17).
    pub const CMBSTS: u64 = 0x58;
    /// Controller Ready Timeouts; present if CAP.CRMS is not 0 (base 3.1.3.20).
    pub const CRTO: u64 = 0x68;
    /// Submission Queue 0 Tail Doorbell: the first of the doorbells (PCIe 3.1.2.1).
    pub const DOORBELLS: u64 = 0x1000;
}

bitfields! {
    /// Controller Capabilities (base 3.1.3.1).
    pub struct Cap(u64) {
        /// Maximum Queue Entries Supported, 0's based, of an I/O queue. At least 1.
        mqes, with_mqes: 0..16 as u16;
        /// Contiguous Queues Required: queues of several fragments (PC=0) are not supported.
        cqr, with_cqr: 16..17 as bool;
        /// Arbitration Mechanism Supported: bit 0 weighted round robin, bit 1 vendor specific.
        ams, with_ams: 17..19 as u8;
        /// Timeout: the worst case for CSTS.RDY to follow CC.EN, in units of 500 ms.
        to, with_to: 24..32 as u8;
        /// Doorbell Stride: doorbells lie `4 << dstrd` bytes apart.
        dstrd, with_dstrd: 32..36 as u8;
        /// NVM Subsystem Reset Supported.
        nssrs, with_nssrs: 36..37 as bool;
        /// Command Sets Supported: bit 0 NVM, bit 6 one or more by CC.CSS 110b, bit 7 admin only.
        css, with_css: 37..45 as u8;
        /// Boot Partition Support.
        bps, with_bps: 45..46 as bool;
        /// Controller Power Scope.
        cps, with_cps: 46..48 as u8;
        /// Memory Page Size Minimum: `4096 << mpsmin` bytes.
        mpsmin, with_mpsmin: 48..52 as u8;
        /// Memory Page Size Maximum: `4096 << mpsmax` bytes.
        mpsmax, with_mpsmax: 52..56 as u8;
        /// Persistent Memory Region Supported.
        pmrs, with_pmrs: 56..57 as bool;
        /// Controller Memory Buffer Supported.
        cmbs, with_cmbs: 57..58 as bool;
        /// NVM Subsystem Shutdown Supported.
        nsss, with_nsss: 58..59 as bool;
        /// Controller Ready Modes Supported.
        crms, with_crms: 59..61 as u8;
    }

    /// Version (base 3.1.3.2).
    pub struct Version(u32) {
        /// Tertiary version number.
        tertiary, with_tertiary: 0..8 as u8;
        /// Minor version number.
        minor, with_minor: 8..16 as u8;
        /// Major version number.
        major, with_major: 16..32 as u16;
    }

    /// Controller Configuration (base 3.1.3.5).
    pub struct Cc(u32) {
        /// Enable. 1 to 0 is a controller reset.
        en, with_en: 0..1 as bool;
        /// I/O Command Set Selected; changed only while disabled. See [`css`].
        css, with_css: 4..7 as u8;
        /// Memory Page Size: `4096 << mps` bytes; changed only while disabled.
        mps, with_mps: 7..11 as u8;
        /// Arbitration Mechanism Selected: 0 is round robin.
        ams, with_ams: 11..14 as u8;
        /// Shutdown Notification. See [`shn`].
        shn, with_shn: 14..16 as u8;
        /// I/O Submission Queue Entry Size, as a power of two: 6.
        iosqes, with_iosqes: 16..20 as u8;
        /// I/O Completion Queue Entry Size, as a power of two: 4.
        iocqes, with_iocqes: 20..24 as u8;
        /// Controller Ready Independent of Media Enable.
        crime, with_crime: 24..25 as bool;
    }

    /// Controller Status (base 3.1.3.6).
    pub struct Csts(u32) {
        /// Ready: commands are processed.
        rdy, with_rdy: 0..1 as bool;
        /// Controller Fatal Status.
        cfs, with_cfs: 1..2 as bool;
        /// Shutdown Status. See [`shst`].
        shst, with_shst: 2..4 as u8;
        /// NVM Subsystem Reset Occurred.
        nssro, with_nssro: 4..5 as bool;
        /// Processing Paused.
        pp, with_pp: 5..6 as bool;
        /// Shutdown Type.
        st, with_st: 6..7 as bool;
    }

    /// Admin Queue Attributes (base 3.1.3.8).
    pub struct Aqa(u32) {
        /// Admin Submission Queue Size, 0's based: 1 to 4095.
        asqs, with_asqs: 0..12 as u16;
        /// Admin Completion Queue Size, 0's based: 1 to 4095.
        acqs, with_acqs: 16..28 as u16;
    }

    /// Controller Ready Timeouts (base 3.1.3.20).
    pub struct Crto(u32) {
        /// Controller Ready With Media Timeout, in units of 500 ms.
        crwmt, with_crwmt: 0..16 as u16;
        /// Controller Ready Independent of Media Timeout, in units of 500 ms.
        crimt, with_crimt: 16..32 as u16;
    }
}

/// Values of [`Cc::css`] (base 3.1.3.5).
pub mod css {
    /// NVM Command Set.
    pub const NVM: u8 = 0b000;
    /// All supported I/O Command Sets.
    pub const ALL: u8 = 0b110;
    /// Admin Command Set only.
    pub const ADMIN_ONLY: u8 = 0b111;
}

/// Values of [`Cc::shn`] (base 3.1.3.5).
pub mod shn {
    /// No notification; no effect.
    pub const NONE: u8 = 0b00;
    /// Normal shutdown notification.
    pub const NORMAL: u8 = 0b01;
    /// Abrupt shutdown notification.
    pub const ABRUPT: u8 = 0b10;
}

/// Values of [`Csts::shst`] (base 3.1.3.6).
pub mod shst {
    /// Normal operation: no shutdown has been requested.
    pub const NORMAL: u8 = 0b00;
    /// Shutdown processing occurring.
    pub const OCCURRING: u8 = 0b01;
    /// Shutdown processing complete.
    pub const COMPLETE: u8 = 0b10;
}

/// I/O submission queue entry size of the NVM command set, as a power of two: 64 bytes.
pub const IOSQES: u8 = 6;
/// I/O completion queue entry size of the NVM command set, as a power of two: 16 bytes.
pub const IOCQES: u8 = 4;
/// Most entries of an admin queue (base 3.3.3 and 3.1.3.8: 12 bits, 0's based).
pub const ADMIN_ENTRIES_MAX: u32 = 4096;

impl Version {
    /// NVM Express 2.0.
    pub const V2_0: Self = Self(0x0002_0000);
}

impl Cap {
    /// What a controller is allowed to take for CSTS.RDY to follow CC.EN, in milliseconds.
    #[must_use]
    pub const fn timeout_ms(self) -> u32 {
        self.to() as u32 * 500
    }

    /// Entries that an I/O queue may have at most.
    #[must_use]
    pub const fn max_entries(self) -> u32 {
        self.mqes() as u32 + 1
    }

    /// Offset of a submission queue's tail doorbell in BAR0 (PCIe 3.1.2.1).
    #[must_use]
    pub const fn sq_doorbell(self, qid: u16) -> u64 {
        offset::DOORBELLS + ((2 * qid as u64) << (2 + self.dstrd()))
    }

    /// Offset of a completion queue's head doorbell in BAR0 (PCIe 3.1.2.2).
    #[must_use]
    pub const fn cq_doorbell(self, qid: u16) -> u64 {
        offset::DOORBELLS + ((2 * qid as u64 + 1) << (2 + self.dstrd()))
    }
}

impl core::fmt::Display for Version {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "{}.{}.{}", self.major(), self.minor(), self.tertiary())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_lie_where_the_specification_puts_them() {
        let cap = Cap(0)
            .with_mqes(1023)
            .with_cqr(true)
            .with_to(20)
            .with_dstrd(4)
            .with_css(1)
            .with_mpsmax(4);
        assert_eq!(cap.0, 1023 | 1 << 16 | 20 << 24 | 4 << 32 | 1 << 37 | 4 << 52);
        assert_eq!((cap.max_entries(), cap.timeout_ms()), (1024, 10_000));
        let cc = Cc(0).with_en(true).with_mps(0).with_iosqes(6).with_iocqes(4);
        assert_eq!(cc.0, 0x0046_0001);
        assert_eq!(Cc(0x0046_4001).shn(), shn::NORMAL);
        assert_eq!(Csts(0b1001).shst(), shst::COMPLETE);
        assert_eq!(Aqa(0).with_asqs(31).with_acqs(63).0, 0x003f_001f);
        assert_eq!(Version::V2_0.to_string(), "2.0.0");
    }

    #[test]
    fn a_setter_does_not_spill() {
        assert_eq!(Cap(0).with_dstrd(0xff).0, 0xf << 32);
        assert_eq!(Cc(u32::MAX).with_mps(0).mps(), 0);
    }

    #[test]
    fn doorbells_follow_the_stride() {
        let cap = Cap(0);
        assert_eq!((cap.sq_doorbell(0), cap.cq_doorbell(0)), (0x1000, 0x1004));
        assert_eq!((cap.sq_doorbell(3), cap.cq_doorbell(3)), (0x1018, 0x101c));
        let cap = cap.with_dstrd(4);
        assert_eq!((cap.sq_doorbell(1), cap.cq_doorbell(1)), (0x1080, 0x10c0));
    }
}
