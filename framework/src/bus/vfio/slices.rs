//! Slices of BARs for clients: what can be given, how well it isolates, and how it is taken back.
//!
//! Where the kernel exports parts of a BAR as dma-bufs that can be mapped and revoked, every slice is
//! one, at whatever tier: the client holds its pages and nothing else, and they are taken from it when
//! its queue ends. The broker's copy of the descriptor, in its records, is what revokes. Whether such a
//! slice is the client's *own* is for the broker to know: it counts who has which pages.
//!
//! Elsewhere a slice is the device's own descriptor, at tier cooperative: its holder can map every BAR,
//! and more, and nothing takes that back. The broker's policy decides who may have it.
//!
//! Slices are mapped uncached, as doorbells must be: a doorbell is one store that must reach the device
//! at once and alone. Write combining would be for portals, to which whole descriptors are stored; no
//! driver has one, so it is looked for and reported, and used by nobody.

use std::ops::Range;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use rustix::io::Errno;

use crate::bus::{BusError, PeerSlice, Region, Slice, Width};
use crate::dma::map::PAGE;
use crate::dma::{DmaError, Prefault, map_fd};
use crate::pci::layout;
use crate::tier::Tier;

use super::features::Feature;
use super::function::{Function, Place};
use super::open::{Problem, problem};
use super::regions::Bars;
use super::uapi::dmabuf;

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

/// Options of a device, as its name has them.
type Options = Vec<(String, String)>;

/// Feature numbers that the operator names, for a kernel that has these features.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Numbers {
    /// `dmabuf-revoke`: revoking a dma-buf for good.
    revoke: Option<u16>,
    /// `dmabuf-memattr`: the CPU's memory attribute for a dma-buf.
    memattr: Option<u16>,
}

impl Numbers {
    /// The numbers among the options of a device, and the options that are left.
    pub(super) fn of(options: &[(String, String)]) -> Result<(Self, Options), Problem> {
        let (mut numbers, mut rest) = (Self::default(), Vec::new());
        for (key, value) in options {
            if !numbers.take(key, value)? {
                rest.push((key.clone(), value.clone()));
            }
        }
        Ok((numbers, rest))
    }

    /// Takes `KEY=VALUE` if it is one of these; false if it is not.
    fn take(&mut self, key: &str, value: &str) -> Result<bool, Problem> {
        let place = match key {
            "dmabuf-revoke" => &mut self.revoke,
            "dmabuf-memattr" => &mut self.memattr,
            _ => return Ok(false),
        };
        let number = value.parse().ok().filter(|number| *number >= dmabuf::FIRST_FREE);
        let why = || {
            let first = dmabuf::FIRST_FREE;
            let why = format!(
                "{key}={value}: the number of a device feature of this machine's kernel, {first} or more \
                 (linux/vfio.h of that kernel has it)"
            );
            problem("reading its options", why)
        };
        *place = Some(number.ok_or_else(why)?);
        Ok(true)
    }
}

/// The slices of a device.
#[derive(Debug)]
pub(super) struct Slices {
    dma_buf: bool,
    /// The number of the feature that revokes, where it was seen to work; else why slices cannot be
    /// revoked.
    revoke: Result<u16, String>,
    write_combining: bool,
}

impl Slices {
    /// Asks the kernel what it has for this device, and tries it on a page of it.
    pub(super) fn probe(function: &Function, bars: &Bars, numbers: Numbers) -> Self {
        let dma_buf = dmabuf::exports(function.as_fd());
        let mut write_combining = false;
        let revoke = match (dma_buf, numbers.revoke) {
            (false, _) => Err("it exports no dma-bufs of BARs; Linux 6.19 does, with \
                               CONFIG_VFIO_PCI_DMABUF"
                .to_owned()),
            (true, None) => {
                Err("no released kernel can; where yours can, name its feature number, \
                                 as in dmabuf-revoke=14 behind the device's address"
                    .to_owned())
            }
            (true, Some(number)) => try_out(function, bars, number).map(|()| number),
        };
        if let (Err(why), Some(number)) = (&revoke, numbers.revoke) {
            tracing::warn!(device = %function.name(), number, why, "slices cannot be revoked");
        }
        if let (Ok(_), Some(number)) = (&revoke, numbers.memattr) {
            let tried = scratch(function, bars).and_then(|page| {
                dmabuf::settable(function.as_fd(), number)?;
                dmabuf::set_uncached(function.as_fd(), number, page.as_fd())
            });
            write_combining = tried.is_ok();
        }
        Self { dma_buf, revoke, write_combining }
    }

    /// What was found.
    pub(super) fn features(&self) -> Vec<Feature> {
        let found = [(self.dma_buf, Feature::DmaBuf), (self.revoke.is_ok(), Feature::DmaBufMmap)];
        found.into_iter().filter_map(|(has, feature)| has.then_some(feature)).collect()
    }

    /// For an operator: what a client gets.
    pub(super) fn describe(&self) -> String {
        match &self.revoke {
            Ok(number) => {
                let attribute =
                    if self.write_combining { ", write combining possible" } else { "" };
                format!("slices are dma-bufs, revoked by feature {number}{attribute}")
            }
            Err(why) => format!("slices are the device's descriptor: {}", cannot_revoke(why)),
        }
    }

    /// True if a slice is the device's own descriptor.
    pub(super) fn are_the_device(&self) -> bool {
        self.revoke.is_err()
    }

    /// A slice for a client.
    pub(super) fn export(
        &self,
        function: &Function,
        pages: &Pages,
        at_least: Tier,
    ) -> Result<Slice, BusError> {
        let no_slice = |why: String| {
            let device = Arc::clone(function.name());
            BusError::NoSlice { device, wanted: at_least, why }
        };
        let len = pages.range.end - pages.range.start;
        let (fd, offset, tier) = match &self.revoke {
            Err(why) if at_least > Tier::Cooperative => return Err(no_slice(cannot_revoke(why))),
            Ok(_) if at_least > Tier::Paged => {
                let why = "a slice of a BAR gives at best paged: all clients of this device share its \
                           address space";
                return Err(no_slice(why.to_owned()));
            }
            Err(_) => {
                let fd = function.as_fd().try_clone_to_owned();
                let fd = os(function, "duplicating the device's descriptor", fd)?;
                (fd, pages.place.offset + pages.range.start, Tier::Cooperative)
            }
            Ok(_) => {
                let fd = dmabuf::export(function.as_fd(), pages.region, pages.range.start, len);
                let fd =
                    os(function, "exporting pages of a BAR (VFIO_DEVICE_FEATURE_DMA_BUF)", fd)?;
                (fd, 0, Tier::Paged)
            }
        };
        Ok(Slice { fd, offset, len, tier, region: pages.region, region_offset: pages.range.start })
    }

    /// Takes a slice back. After this no store of its holder reaches the device, and none that was made
    /// before is still on its way. The device's own descriptor cannot be taken back: its holder keeps
    /// what it mapped.
    pub(super) fn revoke(&self, function: &Function, slice: &Slice) -> Result<(), BusError> {
        let Ok(number) = self.revoke else { return Ok(()) };
        let revoked = dmabuf::revoke(function.as_fd(), number, slice.fd.as_fd());
        match revoked.map_err(|error| errno(&error)) {
            // Revoked before: so says the kernel after the device was closed and opened, too.
            Ok(()) | Err(Some(Errno::BADFD)) => {}
            Err(errno) => {
                let error = errno.map_or_else(|| std::io::ErrorKind::Other.into(), Into::into);
                return os(function, "revoking pages of a BAR", Err(error));
            }
        }
        // A store that its holder made just before may still be on its way: a posted write. A read does
        // not overtake it (PCI Express base 6.0, 2.4.1: a non-posted request does not pass a posted one),
        // so once this answer is here, it has landed. Any register will do; this one has no effects. A
        // device that does not answer any more takes no writes either.
        if let Err(error) = function.config_read(layout::REVISION_ID, Width::B4) {
            tracing::debug!(device = %function.name(), %error, "after a slice was revoked");
        }
        Ok(())
    }

    /// Pages of a BAR for another device's DMA.
    pub(super) fn export_peer(
        &self,
        function: &Function,
        region: u8,
        range: &Range<u64>,
    ) -> Result<PeerSlice, BusError> {
        let device = || Arc::clone(function.name());
        if !self.dma_buf {
            let why = "this kernel exports no dma-bufs of BARs; Linux 6.19 does, with \
                       CONFIG_VFIO_PCI_DMABUF"
                .to_owned();
            return Err(BusError::Peer { device: device(), why });
        }
        let len = range.end - range.start;
        let fd = dmabuf::export(function.as_fd(), region, range.start, len).map_err(|error| {
            let why =
                format!("exporting pages of BAR{region} (VFIO_DEVICE_FEATURE_DMA_BUF): {error}");
            BusError::Peer { device: device(), why }
        })?;
        Ok(PeerSlice { fd, len, device: device() })
    }
}

fn cannot_revoke(why: &str) -> String {
    format!("this kernel cannot revoke BAR slices: {why}")
}

fn errno(error: &std::io::Error) -> Option<Errno> {
    error.raw_os_error().map(Errno::from_raw_os_error)
}

fn os<T>(
    function: &Function,
    what: &'static str,
    result: std::io::Result<T>,
) -> Result<T, BusError> {
    let device = || Arc::clone(function.name());
    result.map_err(|source| BusError::Os { device: device(), what, source })
}

/// The first page that can be mapped: its BAR, and where in it.
pub(super) fn first_page(bars: &Bars) -> Option<(u8, u64)> {
    let first = |region: &Region| Some((region.index, region.mappable.first()?.start));
    bars.regions().iter().find_map(first)
}

/// A dma-buf of the first page that can be mapped.
fn scratch(function: &Function, bars: &Bars) -> std::io::Result<OwnedFd> {
    let no = || std::io::Error::other("it has no BAR that can be mapped");
    let (region, start) = first_page(bars).ok_or_else(no)?;
    dmabuf::export(function.as_fd(), region, start, PAGE as u64)
}

/// Tries a feature number on a dma-buf that nobody else has: that it can be mapped, is revoked once, and
/// is dead then. Nothing else behaves so.
fn try_out(function: &Function, bars: &Bars, number: u16) -> Result<(), String> {
    let device = function.as_fd();
    let failed = |what: &str, error: &std::io::Error| format!("feature {number}: {what}: {error}");
    dmabuf::settable(device, number).map_err(|error| match errno(&error) {
        Some(Errno::NOTTY) => format!("it knows no feature {number}"),
        _ => failed("asking for it", &error),
    })?;
    let page = scratch(function, bars).map_err(|error| failed("exporting a page", &error))?;
    let map = || map_fd(page.as_fd(), 0, PAGE, Prefault::No);
    map().map_err(|error| format!("a dma-buf of a BAR cannot be mapped ({error})"))?;
    dmabuf::revoke(device, number, page.as_fd())
        .map_err(|error| failed("revoking a page", &error))?;
    match dmabuf::revoke(device, number, page.as_fd()).map_err(|error| errno(&error)) {
        Err(Some(Errno::BADFD)) => {}
        _ => return Err(format!("feature {number} is not what revokes a dma-buf: it works twice")),
    }
    match map() {
        Err(DmaError::Os { source, .. }) if errno(&source) == Some(Errno::NODEV) => Ok(()),
        _ => Err(format!("feature {number} does not revoke: the page can still be mapped")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_those_that_no_released_kernel_uses() {
        let mut numbers = Numbers::default();
        assert_eq!(numbers.take("bus", "cdev"), Ok(false));
        assert_eq!(numbers.take("dmabuf-revoke", "14"), Ok(true));
        assert_eq!(numbers.take("dmabuf-memattr", "15"), Ok(true));
        assert_eq!(numbers, Numbers { revoke: Some(14), memattr: Some(15) });
        // 3 would put the device to sleep; 11 is the export itself.
        for value in ["3", "11", "13", "", "-1", "70000", "yes"] {
            let why = numbers.take("dmabuf-revoke", value).unwrap_err().problem;
            assert!(why.starts_with(&format!("dmabuf-revoke={value}: ")), "{why}");
        }
    }
}
