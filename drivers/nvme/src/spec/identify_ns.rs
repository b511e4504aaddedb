//! Identify data structures of a namespace (base 5.17.2; NVM 4.1.5).

use bytemuck::{Pod, Zeroable};

/// An LBA format (NVM 4.1.5.1, figure "LBA Format Data Structure").
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct LbaFormat {
    /// Metadata bytes per logical block.
    pub ms: u16,
    /// LBA data size, as a power of two; below 9 the format is not usable.
    pub lbads: u8,
    /// Relative performance, bits 0 and 1: 0 is best.
    pub rp: u8,
}

/// Identify Namespace of the NVM command set (NVM 4.1.5.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct IdentifyNamespace {
    /// Namespace size, in logical blocks.
    pub nsze: u64,
    /// Namespace capacity, in logical blocks.
    pub ncap: u64,
    /// Namespace utilization, in logical blocks.
    pub nuse: u64,
    /// Features. Bit 0: thin provisioning; bit 2: deallocated blocks may report errors; bit 4: NPWG
    /// and friends are valid.
    pub nsfeat: u8,
    /// Number of LBA formats, 0's based.
    pub nlbaf: u8,
    /// Formatted LBA size: bits 0 to 3 and 5 to 6 the format's index, bit 4 extended LBAs.
    pub flbas: u8,
    /// Metadata capabilities.
    pub mc: u8,
    /// End-to-end data protection capabilities.
    pub dpc: u8,
    /// End-to-end data protection settings.
    pub dps: u8,
    /// Multi-path and sharing capabilities.
    pub nmic: u8,
    /// Reservation capabilities.
    pub rescap: u8,
    /// Format progress indicator: bit 7 supported, bits 0 to 6 percent that remains.
    pub fpi: u8,
    /// Deallocate logical block features: bits 0 to 2 what a read returns (1 zeros), bit 3 Write
    /// Zeroes supports Deallocate.
    pub dlfeat: u8,
    /// Atomic write unit normal.
    pub nawun: u16,
    /// Atomic write unit power fail.
    pub nawupf: u16,
    /// Atomic compare and write unit.
    pub nacwu: u16,
    /// Atomic boundary size normal.
    pub nabsn: u16,
    /// Atomic boundary offset.
    pub nabo: u16,
    /// Atomic boundary size power fail.
    pub nabspf: u16,
    /// Optimal I/O boundary, in logical blocks.
    pub noiob: u16,
    /// NVM capacity, in bytes, a 128-bit number.
    pub nvmcap: [u8; 16],
    /// Preferred write granularity, 0's based.
    pub npwg: u16,
    /// Preferred write alignment, 0's based.
    pub npwa: u16,
    /// Preferred deallocate granularity, 0's based.
    pub npdg: u16,
    /// Preferred deallocate alignment, 0's based.
    pub npda: u16,
    /// Optimal write size, 0's based.
    pub nows: u16,
    /// Maximum single source range length, of Copy.
    pub mssrl: u16,
    /// Maximum copy length.
    pub mcl: u32,
    /// Maximum source range count, 0's based.
    pub msrc: u8,
    /// Reserved.
    pub reserved81: [u8; 11],
    /// ANA group identifier.
    pub anagrpid: u32,
    /// Reserved.
    pub reserved96: [u8; 3],
    /// Attributes. Bit 0: write protected.
    pub nsattr: u8,
    /// NVM set identifier.
    pub nvmsetid: u16,
    /// Endurance group identifier.
    pub endgid: u16,
    /// Namespace globally unique identifier, big-endian.
    pub nguid: [u8; 16],
    /// IEEE extended unique identifier, big-endian.
    pub eui64: [u8; 8],
    /// LBA formats.
    pub lbaf: [LbaFormat; 64],
    /// Vendor specific.
    pub vendor: [u8; 3712],
}

impl IdentifyNamespace {
    /// Index of the format in use (FLBAS).
    #[must_use]
    pub const fn format_index(&self) -> usize {
        (self.flbas & 0xf | (self.flbas >> 1) & 0x30) as usize
    }

    /// The format in use.
    #[must_use]
    pub const fn format(&self) -> LbaFormat {
        self.lbaf[self.format_index()]
    }
}

/// I/O Command Set Independent Identify Namespace (base 5.17.2.8).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct IdentifyNamespaceIndependent {
    /// Features.
    pub nsfeat: u8,
    /// Multi-path and sharing capabilities.
    pub nmic: u8,
    /// Reservation capabilities.
    pub rescap: u8,
    /// Format progress indicator, as [`IdentifyNamespace::fpi`].
    pub fpi: u8,
    /// ANA group identifier.
    pub anagrpid: u32,
    /// Attributes. Bit 0: write protected.
    pub nsattr: u8,
    /// Reserved.
    pub reserved9: u8,
    /// NVM set identifier.
    pub nvmsetid: u16,
    /// Endurance group identifier.
    pub endgid: u16,
    /// Status. Bit 0: ready.
    pub nstat: u8,
    /// Reserved.
    pub reserved15: [u8; 4081],
}

/// I/O command set specific Identify Controller of the NVM command set (NVM 4.1.5.4).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct IdentifyControllerNvm {
    /// Verify size limit, as MDTS.
    pub vsl: u8,
    /// Write zeroes size limit, as MDTS.
    pub wzsl: u8,
    /// Write uncorrectable size limit, as MDTS.
    pub wusl: u8,
    /// Dataset management ranges limit.
    pub dmrl: u8,
    /// Dataset management range size limit, in logical blocks.
    pub dmrsl: u32,
    /// Dataset management size limit, in logical blocks.
    pub dmsl: u64,
    /// Reserved.
    pub reserved16: [u8; 4080],
}

/// Header of a namespace identification descriptor (base 5.17.2.3); `nidl` bytes follow.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct DescriptorHeader {
    /// Identifier type: see [`nidt`]; 0 ends the list.
    pub nidt: u8,
    /// Bytes of the identifier that follows.
    pub nidl: u8,
    /// Reserved.
    pub reserved2: u16,
}

/// Values of [`DescriptorHeader::nidt`] (base 5.17.2.3).
pub mod nidt {
    /// EUI-64, 8 bytes.
    pub const EUI64: u8 = 1;
    /// NGUID, 16 bytes.
    pub const NGUID: u8 = 2;
    /// UUID, 16 bytes.
    pub const UUID: u8 = 3;
    /// Command set identifier, 1 byte.
    pub const CSI: u8 = 4;
}

/// Command set identifiers (base 5.17.1: CSI).
pub mod csi {
    /// NVM command set.
    pub const NVM: u8 = 0;
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::mem::offset_of;

    #[test]
    fn layouts_are_those_of_the_specification() {
        assert_eq!(size_of::<LbaFormat>(), 4);
        assert_eq!(size_of::<IdentifyNamespace>(), super::super::IDENTIFY_BYTES);
        assert_eq!(size_of::<IdentifyNamespaceIndependent>(), super::super::IDENTIFY_BYTES);
        assert_eq!(size_of::<IdentifyControllerNvm>(), super::super::IDENTIFY_BYTES);
        assert_eq!(size_of::<DescriptorHeader>(), 4);
        let offsets = [
            (offset_of!(IdentifyNamespace, nsfeat), 24),
            (offset_of!(IdentifyNamespace, fpi), 32),
            (offset_of!(IdentifyNamespace, noiob), 46),
            (offset_of!(IdentifyNamespace, nvmcap), 48),
            (offset_of!(IdentifyNamespace, npwg), 64),
            (offset_of!(IdentifyNamespace, mcl), 76),
            (offset_of!(IdentifyNamespace, anagrpid), 92),
            (offset_of!(IdentifyNamespace, nsattr), 99),
            (offset_of!(IdentifyNamespace, nguid), 104),
            (offset_of!(IdentifyNamespace, eui64), 120),
            (offset_of!(IdentifyNamespace, lbaf), 128),
            (offset_of!(IdentifyNamespace, vendor), 384),
            (offset_of!(IdentifyNamespaceIndependent, nstat), 14),
            (offset_of!(IdentifyControllerNvm, dmsl), 8),
        ];
        offsets.iter().for_each(|(is, must)| assert_eq!(is, must));
    }

    #[test]
    fn the_format_index_has_six_bits() {
        let mut id = IdentifyNamespace::zeroed();
        id.flbas = 0b0010_0011;
        assert_eq!(id.format_index(), 0b01_0011);
    }
}
