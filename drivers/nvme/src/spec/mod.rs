//! Layouts and numbers of NVM Express, shared by the driver and the software controller.
//!
//! Everything here is plain old data: registers as bit-field newtypes, entries and data structures
//! as `repr(C)` types whose sizes and offsets the tests assert. No behaviour, no OS, no `unsafe`.
//!
//! Clauses are those of *NVM Express Base Specification 2.0* ("base"), *NVM Express NVM Command
//! Set Specification 1.0* ("NVM") and *NVM Express NVMe over PCIe Transport Specification 1.0*
//! ("PCIe"). All fields are little-endian, as the specification lays them out (base 1.3); a
//! big-endian host is refused at compile time.
#![forbid(unsafe_code)]

#[cfg(target_endian = "big")]
compile_error!("NVMe structures are little-endian; this crate reads them in place");

#[macro_use]
mod bits;

pub mod command;
pub mod entry;
pub mod event;
pub mod feature;
pub mod identify;
pub mod identify_ns;
pub mod log;
pub mod opcode;
pub mod regs;
pub mod status;
pub mod status_name;
mod text;
pub mod virtualization;

pub use command::{DsmRange, Prp};
pub use entry::{Cqe, Sqe};
pub use event::AsyncEvent;
pub use feature::{FeatureId, FeatureSelect};
pub use identify::{Cns, IdentifyController};
pub use identify_ns::{IdentifyNamespace, LbaFormat};
pub use log::{ErrorLogEntry, LogId, SmartLog};
pub use opcode::{AdminOpcode, IoOpcode};
pub use regs::{Aqa, Cap, Cc, Crto, Csts, Version};
pub use status::Status;

/// The namespace identifier that means "all namespaces" (base 3.2.1.1).
pub const NSID_ALL: u32 = 0xffff_ffff;

/// Bytes of every Identify data structure (base 5.17.2) and the smallest memory page (base 3.1.3.1).
pub const IDENTIFY_BYTES: usize = 4096;
