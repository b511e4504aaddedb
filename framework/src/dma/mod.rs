//! DMA memory: sealed memfds, IOVA partitions, and buffers that the CPU or the device owns.
//!
//! * [`memfd`]: sealed memfds, created or checked when received.
//! * [`map`]: mapping a descriptor into this process (`unsafe` lives there).
//! * [`guard`]: mapping a descriptor whose pages can be taken away, and surviving that.
//! * [`iova`]: which IOVA ranges may be given out, and to whom.
//! * [`space`]: the trait of a device's address space.
//! * [`arena`]: one sealed memfd, mapped here and for the device, cut into buffers.
//! * [`buffer`]: [`DmaBox`] (CPU-owned, no address) and [`DmaShared`] (device-shared, no slice).

use std::fmt;

use serde::{Deserialize, Serialize};

pub mod arena;
#[allow(
    unsafe_code,
    reason = "references to CPU-owned DMA memory: each site lists its obligations"
)]
pub mod buffer;
#[allow(unsafe_code, reason = "the SIGBUS handler: each site lists its obligations")]
pub mod guard;
pub mod iova;
#[allow(unsafe_code, reason = "mmap and the views over it: each site lists its obligations")]
pub mod map;
pub mod memfd;
pub mod space;
#[cfg(test)]
mod tests;
#[cfg(feature = "tokio-uring")]
#[allow(unsafe_code, reason = "the kernel reads and writes CPU-owned buffers: obligations listed")]
mod uring;

pub use arena::{Arena, Dma, DmaStats};
pub use buffer::{DmaBox, DmaKeep, DmaShared};
pub use guard::{Watch, map_revocable};
pub use iova::{IovaAllocator, Partition};
pub use map::{Prefault, map_fd};
pub use memfd::{HugePages, Memfd};
pub use space::{DmaSpace, Mapping};

/// What a device may do with mapped memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Access {
    /// The device may read.
    Read,
    /// The device may write.
    Write,
    /// Both.
    ReadWrite,
}

/// A device access that the IOMMU refused. It did not happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fault {
    /// The address that was accessed.
    pub iova: u64,
    /// Bytes accessed.
    pub len: u64,
    /// Read or write.
    pub access: Access,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verb = match self.access {
            Access::Read => "read",
            Access::Write => "write",
            Access::ReadWrite => "access",
        };
        write!(f, "DMA {verb} of {} bytes at IOVA {:#x}: not mapped for it", self.len, self.iova)
    }
}

impl std::error::Error for Fault {}

/// DMA memory or address space could not be had.
#[derive(Debug, thiserror::Error)]
pub enum DmaError {
    /// A received descriptor is not what an arena must be.
    #[error("not a usable arena: {why}; pass a memfd sealed with F_SEAL_SHRINK and F_SEAL_SEAL")]
    BadArena {
        /// Which rule it breaks.
        why: String,
    },
    /// The arena (or the arenas) of this client have no room.
    #[error(
        "no room for {wanted} bytes in {arenas} arena(s) of {total} bytes; grow the arena or drop buffers"
    )]
    Exhausted {
        /// Bytes asked for.
        wanted: usize,
        /// How many arenas there are.
        arenas: usize,
        /// Their bytes.
        total: usize,
    },
    /// A length that cannot be allocated.
    #[error("a buffer of {len} bytes cannot be had; 1 to {max} bytes are possible")]
    BadLength {
        /// Bytes asked for.
        len: usize,
        /// The most there can be.
        max: usize,
    },
    /// No IOVA range of this length is free.
    #[error("no free IOVA range of {len:#x} bytes is left")]
    NoIova {
        /// Bytes asked for.
        len: u64,
    },
    /// A range overlaps a mapping, or lies outside of what the IOMMU can translate.
    #[error("IOVA {iova:#x}+{len:#x}: {why}")]
    BadRange {
        /// First address.
        iova: u64,
        /// Bytes.
        len: u64,
        /// What is wrong with it.
        why: &'static str,
    },
    /// A limit of the kernel: on memory that is pinned, or on the number of mappings. `problem` says
    /// what to do.
    #[error("{len:#x} bytes cannot be mapped for the device: {problem}")]
    Limit {
        /// Bytes asked for.
        len: u64,
        /// Which limit, with its numbers.
        problem: String,
    },
    /// Another device's memory cannot be mapped.
    #[error("mapping a region of device {device} for peer-to-peer DMA: {why}")]
    Peer {
        /// The device whose memory it is.
        device: String,
        /// Why not, and what to do.
        why: String,
    },
    /// A system call failed.
    #[error("{what}: {source}")]
    Os {
        /// What was tried.
        what: &'static str,
        /// The kernel's answer.
        source: std::io::Error,
    },
    /// The device that owns the address space did not answer.
    #[error("the device's address space: {0}")]
    Unreachable(String),
}
