//! Identify (base 5.17): the controller's data structure, lists, and which structure is which.

use bytemuck::{Pod, Zeroable};

pub use super::text::{set_text, text};

codes! {
    /// Controller or Namespace Structure (base 5.17.1).
    pub struct Cns {
        /// Identify Namespace of the NVM command set (NVM 4.1.5.1).
        NAMESPACE = 0x00;
        /// Identify Controller (base 5.17.2.1).
        CONTROLLER = 0x01;
        /// Active Namespace ID list (base 5.17.2.2).
        ACTIVE_NAMESPACES = 0x02;
        /// Namespace Identification Descriptor list (base 5.17.2.3).
        NAMESPACE_DESCRIPTORS = 0x03;
        /// NVM Set list (base 5.17.2.4).
        NVM_SETS = 0x04;
        /// Identify Namespace of the command set in CSI (base 5.17.2.5, NVM 4.1.5.3).
        NAMESPACE_CSI = 0x05;
        /// Identify Controller of the command set in CSI (base 5.17.2.6, NVM 4.1.5.4).
        CONTROLLER_CSI = 0x06;
        /// Active Namespace ID list of the command set in CSI (base 5.17.2.7).
        ACTIVE_NAMESPACES_CSI = 0x07;
        /// I/O Command Set Independent Identify Namespace (base 5.17.2.8).
        NAMESPACE_INDEPENDENT = 0x08;
        /// Allocated Namespace ID list (base 5.17.2.9).
        ALLOCATED_NAMESPACES = 0x10;
        /// Identify Namespace of an allocated namespace (base 5.17.2.10).
        ALLOCATED_NAMESPACE = 0x11;
        /// Controllers that a namespace is attached to (base 5.17.2.11).
        ATTACHED_CONTROLLERS = 0x12;
        /// Controllers of the subsystem (base 5.17.2.12).
        CONTROLLERS = 0x13;
        /// Primary Controller Capabilities (base 5.17.2.13).
        PRIMARY_CAPABILITIES = 0x14;
        /// Secondary Controller list (base 5.17.2.14).
        SECONDARY_CONTROLLERS = 0x15;
        /// I/O Command Set data structure (base 5.17.2.19).
        IO_COMMAND_SETS = 0x1c;
    }
}

/// Namespace or controller identifiers in a 4096-byte list of namespaces (base 5.17.2.2).
pub const NAMESPACE_LIST_LEN: usize = 1024;

/// A power state descriptor (base 5.17.2.1, figure "Power State Descriptor Data Structure").
#[derive(Debug, Clone, Copy, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct PowerState {
    /// Maximum power, in centiwatts unless MXPS is set.
    pub mp: u16,
    /// Reserved.
    pub reserved2: u8,
    /// Bit 0 MXPS: power in 0.1 mW; bit 1 NOPS: non-operational state.
    pub flags: u8,
    /// Entry latency, in microseconds.
    pub enlat: u32,
    /// Exit latency, in microseconds.
    pub exlat: u32,
    /// Relative read throughput.
    pub rrt: u8,
    /// Relative read latency.
    pub rrl: u8,
    /// Relative write throughput.
    pub rwt: u8,
    /// Relative write latency.
    pub rwl: u8,
    /// Idle power.
    pub idlp: u16,
    /// Idle power scale, in bits 6 and 7.
    pub ips: u8,
    /// Reserved.
    pub reserved19: u8,
    /// Active power.
    pub actp: u16,
    /// Active power workload and scale.
    pub apws: u8,
    /// Reserved.
    pub reserved23: [u8; 9],
}

/// Identify Controller (base 5.17.2.1, figure "Identify Controller Data Structure").
#[derive(Debug, Clone, Copy, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct IdentifyController {
    /// PCI vendor id.
    pub vid: u16,
    /// PCI subsystem vendor id.
    pub ssvid: u16,
    /// Serial number, ASCII, padded with spaces.
    pub sn: [u8; 20],
    /// Model number, ASCII, padded with spaces.
    pub mn: [u8; 40],
    /// Firmware revision, ASCII, padded with spaces.
    pub fr: [u8; 8],
    /// Recommended arbitration burst, as a power of two.
    pub rab: u8,
    /// IEEE OUI, least significant byte first.
    pub ieee: [u8; 3],
    /// Multi-path and sharing capabilities.
    pub cmic: u8,
    /// Maximum data transfer size: `1 << mdts` pages of CAP.MPSMIN; 0 is no limit.
    pub mdts: u8,
    /// Controller identifier.
    pub cntlid: u16,
    /// Version, as register VS.
    pub ver: u32,
    /// RTD3 resume latency, in microseconds.
    pub rtd3r: u32,
    /// RTD3 entry latency, in microseconds: how long a shutdown may take.
    pub rtd3e: u32,
    /// Optional asynchronous events supported: see [`oaes`].
    pub oaes: u32,
    /// Controller attributes.
    pub ctratt: u32,
    /// Read recovery levels supported.
    pub rrls: u16,
    /// Reserved.
    pub reserved102: [u8; 9],
    /// Controller type: 1 is an I/O controller.
    pub cntrltype: u8,
    /// FRU globally unique identifier.
    pub fguid: [u8; 16],
    /// Command retry delay times 1 to 3, in units of 100 ms.
    pub crdt: [u16; 3],
    /// Reserved.
    pub reserved134: [u8; 119],
    /// NVM subsystem report.
    pub nvmsr: u8,
    /// VPD write cycle information.
    pub vwci: u8,
    /// Management endpoint capabilities.
    pub mec: u8,
    /// Optional admin command support: see [`oacs`].
    pub oacs: u16,
    /// Abort command limit, 0's based.
    pub acl: u8,
    /// Asynchronous event request limit, 0's based.
    pub aerl: u8,
    /// Firmware updates: bit 0 slot 1 read-only, bits 1 to 3 number of slots.
    pub frmw: u8,
    /// Log page attributes: see [`lpa`].
    pub lpa: u8,
    /// Error log page entries, 0's based.
    pub elpe: u8,
    /// Number of power states supported, 0's based.
    pub npss: u8,
    /// Admin vendor specific command configuration.
    pub avscc: u8,
    /// Autonomous power state transition attributes.
    pub apsta: u8,
    /// Warning composite temperature threshold, in kelvin.
    pub wctemp: u16,
    /// Critical composite temperature threshold, in kelvin.
    pub cctemp: u16,
    /// Maximum time for firmware activation, in units of 100 ms.
    pub mtfa: u16,
    /// Host memory buffer preferred size.
    pub hmpre: u32,
    /// Host memory buffer minimum size.
    pub hmmin: u32,
    /// Total NVM capacity, in bytes, a 128-bit number.
    pub tnvmcap: [u8; 16],
    /// Unallocated NVM capacity, in bytes, a 128-bit number.
    pub unvmcap: [u8; 16],
    /// Replay protected memory block support.
    pub rpmbs: u32,
    /// Extended device self-test time, in minutes.
    pub edstt: u16,
    /// Device self-test options.
    pub dsto: u8,
    /// Firmware update granularity.
    pub fwug: u8,
    /// Keep alive support: granularity in units of 100 ms; 0 is not supported.
    pub kas: u16,
    /// Host controlled thermal management attributes.
    pub hctma: u16,
    /// Minimum thermal management temperature.
    pub mntmt: u16,
    /// Maximum thermal management temperature.
    pub mxtmt: u16,
    /// Sanitize capabilities.
    pub sanicap: u32,
    /// Host memory buffer minimum descriptor entry size.
    pub hmminds: u32,
    /// Host memory maximum descriptors entries.
    pub hmmaxd: u16,
    /// NVM set identifier maximum.
    pub nsetidmax: u16,
    /// Endurance group identifier maximum.
    pub endgidmax: u16,
    /// ANA transition time.
    pub anatt: u8,
    /// Asymmetric namespace access capabilities.
    pub anacap: u8,
    /// ANA group identifier maximum.
    pub anagrpmax: u32,
    /// Number of ANA group identifiers.
    pub nanagrpid: u32,
    /// Persistent event log size.
    pub pels: u32,
    /// Domain identifier.
    pub domain: u16,
    /// Reserved.
    pub reserved358: [u8; 10],
    /// Maximum endurance group capacity.
    pub megcap: [u8; 16],
    /// Reserved.
    pub reserved384: [u8; 128],
    /// Submission queue entry size: bits 0 to 3 required, 4 to 7 maximum, as powers of two.
    pub sqes: u8,
    /// Completion queue entry size: bits 0 to 3 required, 4 to 7 maximum, as powers of two.
    pub cqes: u8,
    /// Maximum outstanding commands; 0 is not reported.
    pub maxcmd: u16,
    /// Number of namespaces: the highest namespace identifier.
    pub nn: u32,
    /// Optional NVM command support: see [`oncs`].
    pub oncs: u16,
    /// Fused operation support. Bit 0: compare and write.
    pub fuses: u16,
    /// Format NVM attributes: bit 0 format is for all namespaces, bit 1 secure erase is, bit 2
    /// cryptographic erase supported, bit 3 NSID FFFFFFFFh not supported.
    pub fna: u8,
    /// Volatile write cache: bit 0 present, bits 1 and 2 flush with NSID FFFFFFFFh (see [`vwc`]).
    pub vwc: u8,
    /// Atomic write unit normal, in logical blocks, 0's based.
    pub awun: u16,
    /// Atomic write unit power fail, in logical blocks, 0's based.
    pub awupf: u16,
    /// I/O command set vendor specific command configuration.
    pub icsvscc: u8,
    /// Namespace write protection capabilities.
    pub nwpc: u8,
    /// Atomic compare and write unit, in logical blocks, 0's based.
    pub acwu: u16,
    /// Copy descriptor formats supported.
    pub cdfs: u16,
    /// SGL support; 0 is none.
    pub sgls: u32,
    /// Maximum number of allowed namespaces.
    pub mnan: u32,
    /// Maximum domain namespace attachments.
    pub maxdna: [u8; 16],
    /// Maximum I/O controller namespace attachments.
    pub maxcna: u32,
    /// Reserved.
    pub reserved564: [u8; 204],
    /// NVM subsystem NVMe qualified name, UTF-8, ended by zeros.
    pub subnqn: [u8; 256],
    /// Reserved; I/O command set and fabrics attributes.
    pub reserved1024: [u8; 1024],
    /// Power state descriptors.
    pub psd: [PowerState; 32],
    /// Vendor specific.
    pub vendor: [u8; 1024],
}

/// Bits of [`IdentifyController::oaes`], the same as in Asynchronous Event Configuration (base
/// 5.17.2.1 and 5.27.1.8).
pub mod oaes {
    /// Namespace Attribute Notices.
    pub const NAMESPACE_ATTRIBUTE: u32 = 1 << 8;
    /// Firmware Activation Notices.
    pub const FIRMWARE_ACTIVATION: u32 = 1 << 9;
}

/// Bits of [`IdentifyController::lpa`] (base 5.17.2.1).
pub mod lpa {
    /// A SMART log per namespace.
    pub const SMART_PER_NAMESPACE: u8 = 1 << 0;
    /// Commands Supported and Effects.
    pub const EFFECTS: u8 = 1 << 1;
    /// Offsets and 32-bit lengths in Get Log Page.
    pub const EXTENDED: u8 = 1 << 2;
    /// Supported Log Pages and the effects logs' scopes.
    pub const SUPPORTED_PAGES: u8 = 1 << 5;
}

/// Bits of [`IdentifyController::oacs`] (base 5.17.2.1).
pub mod oacs {
    /// Format NVM.
    pub const FORMAT: u16 = 1 << 1;
    /// Firmware Commit and Download.
    pub const FIRMWARE: u16 = 1 << 2;
    /// Namespace Management and Attachment.
    pub const NAMESPACE_MANAGEMENT: u16 = 1 << 3;
    /// Virtualization Management.
    pub const VIRTUALIZATION: u16 = 1 << 7;
    /// Doorbell Buffer Config.
    pub const DOORBELL_BUFFER: u16 = 1 << 8;
}

/// Bits of [`IdentifyController::oncs`] (base 5.17.2.1).
pub mod oncs {
    /// Compare.
    pub const COMPARE: u16 = 1 << 0;
    /// Write Uncorrectable.
    pub const WRITE_UNCORRECTABLE: u16 = 1 << 1;
    /// Dataset Management.
    pub const DATASET_MANAGEMENT: u16 = 1 << 2;
    /// Write Zeroes.
    pub const WRITE_ZEROES: u16 = 1 << 3;
    /// The Save field of Set Features and the Select field of Get Features.
    pub const SAVE_SELECT: u16 = 1 << 4;
    /// Verify.
    pub const VERIFY: u16 = 1 << 7;
}

/// Values of [`IdentifyController::vwc`] (base 5.17.2.1).
pub mod vwc {
    /// A volatile write cache is present.
    pub const PRESENT: u8 = 1 << 0;
    /// Flush does not support NSID FFFFFFFFh.
    pub const FLUSH_ALL_NO: u8 = 0b10 << 1;
    /// Flush supports NSID FFFFFFFFh.
    pub const FLUSH_ALL_YES: u8 = 0b11 << 1;
}

impl IdentifyController {
    /// Most bytes of one data transfer, given CAP.MPSMIN; `None` is no limit.
    #[must_use]
    pub const fn max_transfer(&self, mpsmin: u8) -> Option<u64> {
        if self.mdts == 0 {
            return None;
        }
        4096u64.checked_shl(mpsmin as u32 + self.mdts as u32)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::mem::offset_of;

    #[test]
    fn layouts_are_those_of_the_specification() {
        assert_eq!(size_of::<IdentifyController>(), super::super::IDENTIFY_BYTES);
        assert_eq!(size_of::<PowerState>(), 32);
        assert_eq!(offset_of!(PowerState, actp), 20);
        let offsets = [
            (offset_of!(IdentifyController, sn), 4),
            (offset_of!(IdentifyController, mn), 24),
            (offset_of!(IdentifyController, fr), 64),
            (offset_of!(IdentifyController, rab), 72),
            (offset_of!(IdentifyController, mdts), 77),
            (offset_of!(IdentifyController, cntlid), 78),
            (offset_of!(IdentifyController, ver), 80),
            (offset_of!(IdentifyController, oaes), 92),
            (offset_of!(IdentifyController, cntrltype), 111),
            (offset_of!(IdentifyController, crdt), 128),
            (offset_of!(IdentifyController, nvmsr), 253),
            (offset_of!(IdentifyController, oacs), 256),
            (offset_of!(IdentifyController, elpe), 262),
            (offset_of!(IdentifyController, wctemp), 266),
            (offset_of!(IdentifyController, tnvmcap), 280),
            (offset_of!(IdentifyController, kas), 320),
            (offset_of!(IdentifyController, sanicap), 328),
            (offset_of!(IdentifyController, anatt), 342),
            (offset_of!(IdentifyController, domain), 356),
            (offset_of!(IdentifyController, sqes), 512),
            (offset_of!(IdentifyController, nn), 516),
            (offset_of!(IdentifyController, oncs), 520),
            (offset_of!(IdentifyController, fna), 524),
            (offset_of!(IdentifyController, vwc), 525),
            (offset_of!(IdentifyController, acwu), 532),
            (offset_of!(IdentifyController, sgls), 536),
            (offset_of!(IdentifyController, maxdna), 544),
            (offset_of!(IdentifyController, subnqn), 768),
            (offset_of!(IdentifyController, psd), 2048),
            (offset_of!(IdentifyController, vendor), 3072),
        ];
        offsets.iter().for_each(|(is, must)| assert_eq!(is, must));
    }

    #[test]
    fn the_transfer_limit_counts_in_smallest_pages() {
        let mut id = IdentifyController::zeroed();
        assert_eq!(id.max_transfer(0), None);
        id.mdts = 5;
        assert_eq!(id.max_transfer(0), Some(128 * 1024));
        id.mdts = 255;
        assert_eq!(id.max_transfer(0), None);
    }
}
