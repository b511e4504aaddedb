//! [`BusError`]: what can go wrong on a bus.

use std::sync::Arc;

use doorbell_queues::OutOfBounds;

use crate::deadline::TimedOut;
use crate::dma::DmaError;
use crate::tier::Tier;

/// An operation on a device failed.
#[derive(Debug, thiserror::Error)]
pub enum BusError {
    /// No such region, or the access lies outside of it or across its width.
    #[error("device {device}: BAR{region} offset {offset:#x}: no {len}-byte access there")]
    OutOfRegion {
        /// The device.
        device: Arc<str>,
        /// BAR number.
        region: u8,
        /// Offset asked for.
        offset: u64,
        /// Bytes asked for.
        len: u64,
    },
    /// A slice at this tier cannot be had.
    #[error(
        "device {device}: a BAR slice of tier {wanted} cannot be had here, at best {best}; \
         ask for less, or use a bus that isolates more"
    )]
    Tier {
        /// The device.
        device: Arc<str>,
        /// The tier asked for.
        wanted: Tier,
        /// The best there is.
        best: Tier,
    },
    /// A slice cannot be had in this way, and why.
    #[error("device {device}: a BAR slice of tier {wanted} cannot be had: {why}")]
    NoSlice {
        /// The device.
        device: Arc<str>,
        /// The tier asked for.
        wanted: Tier,
        /// Why not, and what to do.
        why: String,
    },
    /// The device's memory cannot be given to another device.
    #[error("device {device}: peer-to-peer DMA: {why}")]
    Peer {
        /// The device.
        device: Arc<str>,
        /// Why not, and what to do.
        why: String,
    },
    /// No such interrupt vector.
    #[error("device {device}: interrupt vector {vector}: the device has {vectors}")]
    Vector {
        /// The device.
        device: Arc<str>,
        /// The vector asked for.
        vector: u16,
        /// How many there are.
        vectors: u16,
    },
    /// The device did not do it in time.
    #[error("device {device}: {source}")]
    TimedOut {
        /// The device.
        device: Arc<str>,
        /// What was waited for.
        source: TimedOut,
    },
    /// The device is gone.
    #[error("device {device}: it is gone ({how})")]
    Gone {
        /// The device.
        device: Arc<str>,
        /// How that was noticed.
        how: &'static str,
    },
    /// A system call failed.
    #[error("device {device}: {what}: {source}")]
    Os {
        /// The device.
        device: Arc<str>,
        /// What was tried.
        what: &'static str,
        /// The kernel's answer.
        source: std::io::Error,
    },
    /// DMA memory or address space.
    #[error("device {device}: {source}")]
    Dma {
        /// The device.
        device: Arc<str>,
        /// What failed.
        source: DmaError,
    },
    /// Config space that is not there, or says what cannot be.
    #[error("device {device}: config space at {offset:#x}: {problem}")]
    Config {
        /// The device.
        device: Arc<str>,
        /// Offset in config space.
        offset: u16,
        /// What is wrong.
        problem: String,
    },
    /// The device cannot be opened, or not in this way. `problem` says what to do.
    #[error("device {device}: {step}: {problem}")]
    Open {
        /// The device.
        device: Arc<str>,
        /// What was being done.
        step: &'static str,
        /// What was wrong, and what to do.
        problem: String,
    },
    /// A view outside of its memory.
    #[error("device {device}: {source}")]
    Bounds {
        /// The device.
        device: Arc<str>,
        /// What failed.
        source: OutOfBounds,
    },
}
