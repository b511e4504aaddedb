//! What a client may ask of the driver, and the answers: the messages of
//! `Driver::admin`, shared by the driver and the client.
//!
//! Everyone who may use the device may ask for what only reads. What changes the device for all of
//! its users is for operators, and each operation says so.
#![forbid(unsafe_code)]

use std::fmt;

use serde::{Deserialize, Serialize};

/// An operation on the controller.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum NvmeAdmin {
    /// The controller's limits and a page of its namespaces, in ascending order.
    Info {
        /// Namespaces with a greater identifier than this; 0 is from the first.
        after: u32,
    },
    /// An Identify data structure as the controller returns it (base 2.0, 5.17).
    Identify {
        /// Controller or Namespace Structure.
        cns: u8,
        /// Namespace identifier; 0 where the structure is not of a namespace.
        nsid: u32,
    },
    /// The SMART / Health Information log of the controller (base 2.0, 5.16.1.3).
    Smart,
    /// The newest entries of the error log (base 2.0, 5.16.1.2).
    ErrorLog {
        /// How many at most; 0 to 64.
        entries: u16,
    },
    /// Bytes of a log page (base 2.0, 5.16). Clients may read the pages that describe the
    /// controller; others are for operators. Events are retained (RAE), for they are the driver's.
    LogPage {
        /// Log page identifier.
        lid: u8,
        /// Namespace identifier; FFFFFFFFh is the controller.
        nsid: u32,
        /// First byte, a multiple of 4.
        offset: u64,
        /// Bytes, a multiple of 4, at most 4096.
        len: u32,
    },
    /// A feature's value (base 2.0, 5.15).
    GetFeature {
        /// Feature identifier.
        fid: u8,
        /// 0 current, 1 default, 2 saved, 3 supported capabilities.
        select: u8,
        /// Namespace identifier, of features that have one.
        nsid: u32,
        /// Command dword 11, of features that take one.
        cdw11: u32,
    },
    /// Formats a namespace: all data in it is lost (base 2.0, 5.14). For operators, and only while
    /// no I/O queue exists: queues in use would go on with the old block size.
    Format {
        /// Namespace identifier.
        nsid: u32,
        /// Index of the LBA format.
        lbaf: u8,
    },
}

/// An answer to a [`NvmeAdmin`] operation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum NvmeReply {
    /// To [`NvmeAdmin::Info`].
    Info {
        /// The controller.
        controller: Box<ControllerInfo>,
        /// Namespaces of this page.
        namespaces: Vec<NamespaceInfo>,
        /// True if there are more namespaces: ask again after the last one.
        more: bool,
    },
    /// To [`NvmeAdmin::Identify`] and [`NvmeAdmin::LogPage`].
    Bytes(Vec<u8>),
    /// To [`NvmeAdmin::Smart`].
    Smart(Box<Smart>),
    /// To [`NvmeAdmin::ErrorLog`], the newest first.
    Errors(Vec<ErrorEntry>),
    /// To [`NvmeAdmin::GetFeature`].
    Feature {
        /// Dword 0 of the completion.
        value: u32,
        /// The feature's data structure, 4096 bytes; zeros where it has none.
        data: Vec<u8>,
    },
    /// It is done.
    Done,
}

/// Namespaces in one [`NvmeReply::Info`], so that a reply stays well below the control socket's
/// limit.
pub const NAMESPACES_PER_REPLY: usize = 16;

/// The controller: who it is and what it can do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ControllerInfo {
    /// PCI vendor id.
    pub vendor: u16,
    /// PCI subsystem vendor id.
    pub subsystem_vendor: u16,
    /// Serial number.
    pub serial: String,
    /// Model number.
    pub model: String,
    /// Firmware revision.
    pub firmware: String,
    /// NVMe qualified name of the subsystem.
    pub subnqn: String,
    /// Register VS: major in the upper half, minor in bits 8 to 15, tertiary in bits 0 to 7.
    pub version: u32,
    /// Controller identifier (CNTLID).
    pub controller_id: u16,
    /// Memory page size in bytes (CC.MPS): what PRPs are made of.
    pub page_size: u32,
    /// Most bytes of one command's data (MDTS); `None` is no limit.
    pub max_transfer: Option<u64>,
    /// Most logical blocks of one Write Zeroes, where the controller limits it in bytes (WZSL).
    pub max_zeroes: Option<u64>,
    /// Most ranges of one Dataset Management command, 1 to 256 (DMRL).
    pub max_ranges: u16,
    /// Most blocks of one such range (DMRSL); `None` is no limit.
    pub max_range_blocks: Option<u32>,
    /// Bytes between two doorbells (CAP.DSTRD).
    pub doorbell_stride: u32,
    /// Queues have shadow doorbells (Doorbell Buffer Config).
    pub shadow_doorbells: bool,
    /// Optional commands that it has.
    pub commands: OptionalCommands,
    /// A volatile write cache is present: data is durable only after a flush (VWC).
    pub volatile_write_cache: bool,
    /// I/O queue pairs that can exist at once.
    pub queues: u16,
    /// Most entries of an I/O queue (CAP.MQES).
    pub max_entries: u32,
}

/// Optional I/O commands (ONCS, base 2.0, 5.17.2.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct OptionalCommands {
    /// Compare.
    pub compare: bool,
    /// Write Zeroes.
    pub write_zeroes: bool,
    /// Dataset Management.
    pub dataset_management: bool,
    /// Format NVM (an admin command, OACS).
    pub format: bool,
}

/// A namespace: its shape.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NamespaceInfo {
    /// Namespace identifier, from 1.
    pub nsid: u32,
    /// Size in logical blocks (NSZE).
    pub blocks: u64,
    /// Bytes of data of a logical block, as a power of two (LBADS).
    pub block_shift: u8,
    /// Bytes of metadata of a logical block. The client refuses namespaces that have any.
    pub metadata: u16,
    /// Protection information is enabled (DPS).
    pub protected: bool,
    /// Writes are refused by the device (NSATTR).
    pub write_protected: bool,
    /// Deallocated blocks read as zeros (DLFEAT).
    pub deallocated_reads_zero: bool,
    /// Index of the format in use (FLBAS).
    pub format: u8,
    /// The formats that it can be given, by index.
    pub formats: Vec<FormatInfo>,
}

/// An LBA format.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct FormatInfo {
    /// Bytes of data of a block, as a power of two; 0 is unused.
    pub block_shift: u8,
    /// Bytes of metadata of a block.
    pub metadata: u16,
    /// Relative performance: 0 best, 3 degraded.
    pub performance: u8,
}

/// The SMART / Health Information log in plain numbers (base 2.0, 5.16.1.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Smart {
    /// Bits: 0 spare, 1 temperature, 2 reliability, 3 read-only, 4 backup failed.
    pub critical_warning: u8,
    /// In kelvin.
    pub temperature: u16,
    /// In percent.
    pub available_spare: u8,
    /// In percent.
    pub spare_threshold: u8,
    /// In percent; may exceed 100.
    pub percentage_used: u8,
    /// In units of 512,000 bytes.
    pub data_units_read: u128,
    /// In units of 512,000 bytes.
    pub data_units_written: u128,
    /// Read and Compare commands.
    pub host_reads: u128,
    /// Write commands.
    pub host_writes: u128,
    /// Minutes with commands outstanding.
    pub busy_minutes: u128,
    /// Power cycles.
    pub power_cycles: u128,
    /// Hours.
    pub power_on_hours: u128,
    /// Shutdowns without notification.
    pub unsafe_shutdowns: u128,
    /// Media and data integrity errors.
    pub media_errors: u128,
    /// Error log entries over the controller's life.
    pub error_entries: u128,
}

/// An entry of the error log (base 2.0, 5.16.1.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorEntry {
    /// Number of this error, from 1.
    pub count: u64,
    /// Queue of the command; `None` if no command is to blame.
    pub queue: Option<u16>,
    /// Command identifier; `None` if no command is to blame.
    pub tag: Option<u16>,
    /// Status field without the phase.
    pub status: u16,
    /// First LBA with the error.
    pub lba: u64,
    /// Namespace.
    pub nsid: u32,
}

impl NvmeAdmin {
    /// What it is called in errors and logs.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Info { .. } => "info",
            Self::Identify { .. } => "identify",
            Self::Smart => "smart",
            Self::ErrorLog { .. } => "error-log",
            Self::LogPage { .. } => "log-page",
            Self::GetFeature { .. } => "get-feature",
            Self::Format { .. } => "format",
        }
    }
}

impl fmt::Display for NvmeAdmin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
