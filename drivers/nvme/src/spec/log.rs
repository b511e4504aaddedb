//! Log pages (base 5.16.1).

use bytemuck::{Pod, Zeroable};

codes! {
    /// Log page identifiers (base 5.16.1).
    pub struct LogId {
        /// Supported Log Pages (base 5.16.1.1).
        SUPPORTED = 0x00;
        /// Error Information (base 5.16.1.2).
        ERROR = 0x01;
        /// SMART / Health Information (base 5.16.1.3).
        SMART = 0x02;
        /// Firmware Slot Information (base 5.16.1.4).
        FIRMWARE_SLOT = 0x03;
        /// Changed Namespace List (base 5.16.1.5).
        CHANGED_NAMESPACES = 0x04;
        /// Commands Supported and Effects (base 5.16.1.6).
        EFFECTS = 0x05;
        /// Device Self-test (base 5.16.1.7).
        SELF_TEST = 0x06;
        /// Feature Identifiers Supported and Effects (base 5.16.1.17).
        FEATURE_EFFECTS = 0x12;
        /// NVMe-MI Commands Supported and Effects (base 5.16.1.18).
        MI_EFFECTS = 0x13;
    }
}

/// An entry of the error log (base 5.16.1.2); the newest comes first.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct ErrorLogEntry {
    /// Unique number of this error, from 1; 0 is an unused entry.
    pub error_count: u64,
    /// Submission queue of the command; FFFFh if no command is to blame.
    pub sqid: u16,
    /// Command identifier; FFFFh if no command is to blame.
    pub cid: u16,
    /// Phase and status field, as in completion dword 3's upper half.
    pub status_phase: u16,
    /// Where the error lies in the command: bits 0 to 7 byte, bits 8 to 10 bit; FFFFh if nowhere.
    pub location: u16,
    /// First LBA with the error.
    pub lba: u64,
    /// Namespace.
    pub nsid: u32,
    /// Vendor specific log page with more, if any.
    pub vendor: u8,
    /// Transport type: 0 where no transport is to blame.
    pub trtype: u8,
    /// Reserved.
    pub reserved30: u16,
    /// Command specific information.
    pub command_specific: u64,
    /// Transport type specific information.
    pub transport_specific: u16,
    /// Reserved.
    pub reserved42: [u8; 22],
}

/// SMART / Health Information (base 5.16.1.3). The 16-byte numbers are 128-bit, little-endian.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct SmartLog {
    /// Critical warnings: bit 0 spare, 1 temperature, 2 reliability, 3 read-only, 4 backup failed.
    pub critical_warning: u8,
    /// Composite temperature, in kelvin, little-endian.
    pub temperature: [u8; 2],
    /// Available spare, in percent.
    pub available_spare: u8,
    /// Threshold of it, in percent.
    pub spare_threshold: u8,
    /// Percentage used; may exceed 100.
    pub percentage_used: u8,
    /// Endurance group critical warning summary.
    pub endurance_warning: u8,
    /// Reserved.
    pub reserved7: [u8; 25],
    /// Data read, in units of 1000 times 512 bytes, rounded up.
    pub data_units_read: [u8; 16],
    /// Data written, in the same unit.
    pub data_units_written: [u8; 16],
    /// Read and Compare commands.
    pub host_reads: [u8; 16],
    /// Write commands.
    pub host_writes: [u8; 16],
    /// Minutes in which commands were outstanding.
    pub busy_minutes: [u8; 16],
    /// Power cycles.
    pub power_cycles: [u8; 16],
    /// Power on hours.
    pub power_on_hours: [u8; 16],
    /// Shutdowns without notification.
    pub unsafe_shutdowns: [u8; 16],
    /// Media and data integrity errors.
    pub media_errors: [u8; 16],
    /// Error log entries over the controller's life.
    pub error_entries: [u8; 16],
    /// Minutes above the warning temperature.
    pub warning_minutes: u32,
    /// Minutes above the critical temperature.
    pub critical_minutes: u32,
    /// Temperature sensors 1 to 8, in kelvin; 0 where there is none.
    pub sensors: [u16; 8],
    /// Thermal management transitions and times.
    pub thermal: [u32; 4],
    /// Reserved.
    pub reserved232: [u8; 280],
}

/// Firmware Slot Information (base 5.16.1.4).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct FirmwareSlotLog {
    /// Active firmware: bits 0 to 2 slot in use, bits 4 to 6 slot after the next reset.
    pub afi: u8,
    /// Reserved.
    pub reserved1: [u8; 7],
    /// Revision in slots 1 to 7, ASCII; zeros where there is none.
    pub revisions: [[u8; 8]; 7],
    /// Reserved.
    pub reserved64: [u8; 448],
}

/// Changed Namespace List (base 5.16.1.5): identifiers in ascending order, ended by 0; a first
/// entry of FFFFFFFFh if there are more than fit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct ChangedNamespaces {
    /// Namespace identifiers.
    pub nsid: [u32; 1024],
}

/// Commands Supported and Effects (base 5.16.1.6).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct EffectsLog {
    /// Admin commands, by opcode.
    pub admin: [CommandEffects; 256],
    /// I/O commands, by opcode.
    pub io: [CommandEffects; 256],
    /// Reserved.
    pub reserved2048: [u8; 2048],
}

bitfields! {
    /// What a command does (base 5.16.1.6, figure "Commands Supported and Effects Data Structure").
    pub struct CommandEffects(u32) {
        /// Command supported.
        csupp, with_csupp: 0..1 as bool;
        /// Logical block content change.
        lbcc, with_lbcc: 1..2 as bool;
        /// Namespace capability change.
        ncc, with_ncc: 2..3 as bool;
        /// Namespace inventory change.
        nic, with_nic: 3..4 as bool;
        /// Controller capability change.
        ccc, with_ccc: 4..5 as bool;
        /// Command submission and execution: 1 no other command to the same namespace, 2 to any.
        cse, with_cse: 16..19 as u8;
        /// Scope: see [`scope`].
        csp, with_csp: 20..32 as u16;
    }

    /// An entry of the Supported Log Pages log (base 5.16.1.1), one per log page identifier.
    pub struct LogSupport(u32) {
        /// Log page supported.
        lsupp, with_lsupp: 0..1 as bool;
        /// Index offset supported.
        ios, with_ios: 1..2 as bool;
    }

    /// An entry of the Feature Identifiers Supported and Effects log (base 5.16.1.17), one per
    /// feature identifier.
    pub struct FeatureEffects(u32) {
        /// Feature supported.
        fsupp, with_fsupp: 0..1 as bool;
        /// User data content change.
        udcc, with_udcc: 1..2 as bool;
        /// Scope: see [`scope`].
        fsp, with_fsp: 20..32 as u16;
    }
}

/// Bits of the scope fields in the effects logs (base 5.16.1.6 and 5.16.1.17).
pub mod scope {
    /// A namespace.
    pub const NAMESPACE: u16 = 1 << 0;
    /// The controller.
    pub const CONTROLLER: u16 = 1 << 1;
}

/// A 128-bit number of the logs.
#[must_use]
pub const fn wide(value: u128) -> [u8; 16] {
    value.to_le_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::mem::offset_of;

    #[test]
    fn layouts_are_those_of_the_specification() {
        assert_eq!(size_of::<ErrorLogEntry>(), 64);
        assert_eq!(offset_of!(ErrorLogEntry, location), 14);
        assert_eq!(offset_of!(ErrorLogEntry, nsid), 24);
        assert_eq!(offset_of!(ErrorLogEntry, command_specific), 32);
        assert_eq!(size_of::<SmartLog>(), 512);
        assert_eq!(offset_of!(SmartLog, data_units_read), 32);
        assert_eq!(offset_of!(SmartLog, media_errors), 160);
        assert_eq!(offset_of!(SmartLog, warning_minutes), 192);
        assert_eq!(offset_of!(SmartLog, sensors), 200);
        assert_eq!(offset_of!(SmartLog, reserved232), 232);
        assert_eq!(size_of::<FirmwareSlotLog>(), 512);
        assert_eq!(offset_of!(FirmwareSlotLog, revisions), 8);
        assert_eq!(size_of::<ChangedNamespaces>(), 4096);
        assert_eq!(size_of::<EffectsLog>(), 4096);
        assert_eq!(offset_of!(EffectsLog, io), 1024);
    }
}
