//! The BARs: what can be mapped, and what never is.

use std::ops::Range;
use std::os::fd::AsFd;

use doorbell_queues::SharedMem;

use crate::bus::{BusError, Region, Width};
use crate::dma::map::PAGE;
use crate::dma::{Prefault, map_fd};
use crate::pci::config::Msix;

use super::function::{Function, Place};
use super::uapi::chain;
use super::uapi::types::flag;

/// BARs of a function.
const BARS: u8 = 6;

/// A part of a BAR that is mapped into this process.
#[derive(Debug)]
struct Window {
    region: u8,
    range: Range<u64>,
    memory: SharedMem,
}

/// The BARs of a device.
#[derive(Debug)]
pub(super) struct Bars {
    regions: Vec<Region>,
    places: Vec<Place>,
    windows: Vec<Window>,
}

/// The whole pages of `areas` of a region of `size` bytes, without the pages that `never` touches.
fn mappable(size: u64, areas: &[Range<u64>], never: &[Range<u64>]) -> Vec<Range<u64>> {
    let page = PAGE as u64;
    let mut parts: Vec<Range<u64>> = Vec::new();
    for area in areas {
        let start = area.start.checked_next_multiple_of(page).unwrap_or(u64::MAX);
        let end = area.end.min(size);
        parts.push(start..end - end % page);
    }
    for never in never {
        let first = never.start - never.start % page;
        let last = never.end.checked_next_multiple_of(page).unwrap_or(u64::MAX);
        let cut =
            |part: Range<u64>| [part.start..part.end.min(first), part.start.max(last)..part.end];
        parts = parts.into_iter().flat_map(cut).filter(|part| part.start < part.end).collect();
    }
    parts.retain(|part| part.start < part.end);
    parts.sort_by_key(|part| part.start);
    // Areas that overlap would be mapped twice: the second gives way.
    let mut end = 0;
    parts.retain_mut(|part| {
        part.start = part.start.max(end);
        end = end.max(part.end);
        part.start < part.end
    });
    parts
}

/// The parts of BAR `bar` that hold tables of MSI-X.
fn tables(msix: Option<&Msix>, bar: u8) -> Vec<Range<u64>> {
    let parts = msix.into_iter().flat_map(|msix| [msix.table, msix.pending]);
    parts.filter(|part| part.bar == bar).map(|p| p.offset..p.offset.saturating_add(p.len)).collect()
}

impl Bars {
    /// Looks at the BARs and maps what can be mapped.
    ///
    /// # Errors
    /// [`BusError`] if the kernel does not tell of a BAR.
    pub(super) fn new(function: &Function, msix: Option<&Msix>) -> Result<Self, BusError> {
        let mut bars = Self { regions: Vec::new(), places: Vec::new(), windows: Vec::new() };
        for index in 0..BARS {
            let (info, structure) = super::uapi::region_info(function.as_fd(), index.into())
                .map_err(|source| BusError::Os {
                    device: function.name().clone(),
                    what: "looking at a BAR (VFIO_DEVICE_GET_REGION_INFO)",
                    source,
                })?;
            let both = flag::REGION_READ | flag::REGION_WRITE;
            let end = info.offset.checked_add(info.size);
            if info.size == 0 || info.flags & both != both || end.is_none() {
                continue;
            }
            let chain = if info.flags & flag::REGION_CAPS != 0 { info.cap_offset } else { 0 };
            let whole = std::iter::once(0..info.size).collect();
            let areas = match info.flags & flag::REGION_MMAP {
                0 => Vec::new(),
                _ => chain::sparse_areas(&structure, chain).unwrap_or(whole),
            };
            let place = Place { offset: info.offset, size: info.size };
            let mut region = Region { index, size: info.size, mappable: Vec::new() };
            for range in mappable(info.size, &areas, &tables(msix, index)) {
                if let Some(window) = bars.window(function, index, place, range.clone()) {
                    bars.windows.push(window);
                    region.mappable.push(range);
                }
            }
            bars.regions.push(region);
            bars.places.push(place);
        }
        Ok(bars)
    }

    /// Maps a part; what cannot be mapped is reached by system calls.
    fn window(
        &self,
        function: &Function,
        region: u8,
        place: Place,
        range: Range<u64>,
    ) -> Option<Window> {
        let len = usize::try_from(range.end - range.start).ok()?;
        let offset = place.offset.checked_add(range.start)?;
        match map_fd(function.as_fd(), offset, len, Prefault::No) {
            Ok(memory) => Some(Window { region, range, memory }),
            Err(error) => {
                let device = function.name();
                tracing::warn!(%device, region, ?range, %error, "a BAR cannot be mapped");
                None
            }
        }
    }

    pub(super) fn regions(&self) -> &[Region] {
        &self.regions
    }

    /// Where a BAR lies in the device's file.
    pub(super) fn place(&self, region: u8) -> Option<Place> {
        let index = self.regions.iter().position(|found| found.index == region)?;
        self.places.get(index).copied()
    }

    /// The mapping that holds the whole of `offset .. offset + len`, and the offset in it.
    fn mapped(&self, region: u8, offset: u64, len: u64) -> Option<(&SharedMem, usize)> {
        let end = offset.checked_add(len)?;
        let holds = |window: &&Window| {
            window.region == region && window.range.start <= offset && end <= window.range.end
        };
        let window = self.windows.iter().find(holds)?;
        Some((&window.memory, (offset - window.range.start) as usize))
    }

    fn outside(&self, function: &Function, region: u8, offset: u64, len: u64) -> BusError {
        BusError::OutOfRegion { device: function.name().clone(), region, offset, len }
    }

    /// Where an access lies in the device's file, if it lies in the BAR and is aligned.
    fn access(
        &self,
        function: &Function,
        region: u8,
        offset: u64,
        width: Width,
    ) -> Result<u64, BusError> {
        let len = width.bytes();
        let place = self.place(region).filter(|place| {
            let inside = offset.checked_add(len).is_some_and(|end| end <= place.size);
            inside && offset.is_multiple_of(len)
        });
        let place = place.ok_or_else(|| self.outside(function, region, offset, len))?;
        // No overflow: the end of the region was checked when it was looked at.
        Ok(place.offset + offset)
    }

    /// One register read.
    pub(super) fn read(
        &self,
        function: &Function,
        region: u8,
        offset: u64,
        width: Width,
    ) -> Result<u64, BusError> {
        let at = self.access(function, region, offset, width)?;
        let len = width.bytes() as usize;
        if let Some((memory, offset)) = self.mapped(region, offset, len as u64) {
            let device = function.name().clone();
            let read = memory.load_register(offset, len);
            return read.map_err(|source| BusError::Bounds { device, source });
        }
        let mut bytes = [0; 8];
        function.read_at(at, &mut bytes[..len])?;
        Ok(u64::from_le_bytes(bytes))
    }

    /// One register write.
    pub(super) fn write(
        &self,
        function: &Function,
        region: u8,
        offset: u64,
        width: Width,
        value: u64,
    ) -> Result<(), BusError> {
        let at = self.access(function, region, offset, width)?;
        let len = width.bytes() as usize;
        if let Some((memory, offset)) = self.mapped(region, offset, len as u64) {
            let device = function.name().clone();
            let written = memory.store_register(offset, len, value);
            return written.map_err(|source| BusError::Bounds { device, source });
        }
        function.write_at(at, &value.to_le_bytes()[..len])
    }

    /// A mapped part of a BAR.
    pub(super) fn map(
        &self,
        function: &Function,
        region: u8,
        offset: u64,
        len: u64,
    ) -> Result<SharedMem, BusError> {
        let found = self.mapped(region, offset, len).filter(|_| len > 0);
        let (memory, at) = found.ok_or_else(|| self.outside(function, region, offset, len))?;
        let device = function.name().clone();
        let slice = memory.slice(at, len as usize);
        slice.map_err(|source| BusError::Bounds { device, source })
    }

    /// The whole pages around a part of a BAR, if all of them can be mapped.
    pub(super) fn pages(
        &self,
        function: &Function,
        region: u8,
        offset: u64,
        len: u64,
    ) -> Result<Range<u64>, BusError> {
        let page = PAGE as u64;
        let start = offset - offset % page;
        let end = offset.checked_add(len).and_then(|end| end.checked_next_multiple_of(page));
        let end = end.filter(|end| len > 0 && self.mapped(region, start, end - start).is_some());
        let end = end.ok_or_else(|| self.outside(function, region, offset, len))?;
        Ok(start..end)
    }
}

#[cfg(test)]
#[allow(clippy::single_range_in_vec_init, reason = "lists of one range are meant")]
mod tests {
    use super::*;
    use crate::pci::config::MsixPart;

    #[test]
    fn the_pages_of_the_msix_tables_are_never_mappable() {
        let table = MsixPart { bar: 0, offset: 0x2000, len: 65 * 16 };
        let pending = MsixPart { bar: 0, offset: 0x3000, len: 16 };
        let msix = Msix { vectors: 65, table, pending };
        let whole = &[0..0x4000];
        let never = tables(Some(&msix), 0);
        assert_eq!(mappable(0x4000, whole, &never), [0..0x2000]);
        assert_eq!(mappable(0x4000, whole, &tables(Some(&msix), 1)), [0..0x4000]);
        assert_eq!(mappable(0x4000, whole, &tables(None, 0)), [0..0x4000]);
        // In the middle, and over the edge of a page.
        let table = MsixPart { bar: 0, offset: 0x1ff8, len: 16 };
        let msix = Msix { vectors: 1, table, pending: table };
        assert_eq!(
            mappable(0x6000, &[0..0x6000], &tables(Some(&msix), 0)),
            [0..0x1000, 0x3000..0x6000]
        );
    }

    #[test]
    fn areas_are_cut_to_whole_pages_of_the_region() {
        let areas = [0x3000..0x9000, 0x800..0x2800, 0x4000..0x5000, 0x7000..0x7000];
        assert_eq!(mappable(0x8000, &areas, &[]), [0x1000..0x2000, 0x3000..0x8000]);
        assert_eq!(mappable(0x800, &[0..0x800], &[]), []);
        let lying = [u64::MAX - 10..u64::MAX, 0x9000..0x10000];
        assert_eq!(mappable(0x8000, &lying, &[]), []);
        let end = u64::MAX - 1;
        assert_eq!(mappable(0x2000, &[0..0x2000], &[0x1000..end]), [0..0x1000]);
    }
}
