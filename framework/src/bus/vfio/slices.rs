//! Slices of BARs for clients: what can be given, how well it isolates, and how it is taken back.

use std::ops::Range;
use std::os::fd::AsFd;
use std::sync::Arc;

use crate::bus::{BusError, Slice};
use crate::tier::Tier;

use super::features::Feature;
use super::function::{Function, Place};
use super::uapi;
use super::uapi::types::flag;

/// Pages of a BAR that a client is to have.
#[derive(Debug, Clone)]
pub(super) struct Pages {
    /// BAR number.
    pub(super) region: u8,
    /// Where the BAR lies in the device's file.
    pub(super) place: Place,
    /// The pages, as a range of the BAR; all of them are mappable.
    pub(super) range: Range<u64>,
}

/// The slices of a device.
#[derive(Debug)]
pub(super) struct Slices {
    dma_buf: bool,
}

impl Slices {
    /// Asks the kernel what it has for this device.
    pub(super) fn probe(function: &Function) -> Self {
        let ask = flag::FEATURE_PROBE | flag::FEATURE_GET;
        let asked = uapi::feature(function.as_fd(), flag::FEATURE_DMA_BUF, ask, &mut []);
        Self { dma_buf: asked.is_ok() }
    }

    /// What was found.
    pub(super) fn features(&self) -> Vec<Feature> {
        self.dma_buf.then_some(Feature::DmaBuf).into_iter().collect()
    }

    /// The best tier that a slice of this device can have.
    fn best(&self) -> Tier {
        Tier::Cooperative
    }

    /// A slice for a client.
    ///
    /// At tier `Cooperative` it is the device's own descriptor: its holder can map every BAR and
    /// more. The broker's policy decides who may have that.
    pub(super) fn export(
        &self,
        function: &Function,
        pages: &Pages,
        at_least: Tier,
    ) -> Result<Slice, BusError> {
        let device = || Arc::clone(function.name());
        if at_least > self.best() {
            return Err(BusError::Tier { device: device(), wanted: at_least, best: self.best() });
        }
        let fd = function.as_fd().try_clone_to_owned().map_err(|source| BusError::Os {
            device: device(),
            what: "duplicating the device's descriptor",
            source,
        })?;
        Ok(Slice {
            fd,
            offset: pages.place.offset + pages.range.start,
            len: pages.range.end - pages.range.start,
            tier: Tier::Cooperative,
            region: pages.region,
            region_offset: pages.range.start,
        })
    }

    /// Takes a slice back. The device's descriptor cannot be: its holder keeps what it mapped.
    pub(super) fn revoke(&self, _function: &Function, slice: &Slice) -> Result<(), BusError> {
        debug_assert!(slice.tier <= self.best());
        Ok(())
    }

    /// The device is about to be given back: nothing that was exported works any more.
    pub(super) fn close(&self, _function: &Function) {}
}
