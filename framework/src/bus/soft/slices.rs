//! Slices of a software device's BARs: for this process, for a client, and taken back.

use std::collections::BTreeMap;
use std::ops::Range;
use std::os::fd::AsFd;
use std::sync::{Mutex, MutexGuard, PoisonError};

use doorbell_queues::SharedMem;

use crate::bus::{BusError, Slice};
use crate::dma::map::PAGE;
use crate::dma::{HugePages, Memfd, Prefault};
use crate::soft::Control;
use crate::soft::control::BarMemory;
use crate::tier::Tier;

/// Pages that were given to one client alone: BAR and first offset, to the memory in their place.
#[derive(Debug, Default)]
pub(super) struct Slices {
    alone: Mutex<BTreeMap<(u8, u64), Memfd>>,
}

fn overlaps(alone: &BTreeMap<(u8, u64), Memfd>, region: u8, pages: &Range<u64>) -> bool {
    // Ranges in the table do not overlap each other: only the last one that begins before can.
    let before = alone.range((region, 0)..(region, pages.end)).next_back();
    before.is_some_and(|((_, start), memfd)| start + memfd.len() > pages.start)
}

impl Slices {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<(u8, u64), Memfd>> {
        self.alone.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Maps a part of a BAR into this process.
    pub(super) fn map(
        &self,
        control: &Control,
        region: u8,
        offset: u64,
        len: u64,
    ) -> Result<SharedMem, BusError> {
        let outside = || BusError::OutOfRegion { device: control.name(), region, offset, len };
        let (bar, pages) = pages(control, region, offset, len).ok_or_else(outside)?;
        if overlaps(&self.lock(), region, &pages) {
            // They are a client's; the BAR's own pages there reach nobody.
            return Err(outside());
        }
        let memory = bar.memfd.map_range(pages.start, pages.end - pages.start, Prefault::Yes);
        let memory = memory.map_err(|source| BusError::Dma { device: control.name(), source })?;
        memory
            .slice((offset - pages.start) as usize, len as usize)
            .map_err(|source| BusError::Bounds { device: control.name(), source })
    }

    /// A slice for a client, of the best tier that the BAR allows if more than `Cooperative` is
    /// asked for.
    pub(super) fn export(
        &self,
        control: &Control,
        region: u8,
        offset: u64,
        len: u64,
        at_least: Tier,
    ) -> Result<Slice, BusError> {
        let outside = || BusError::OutOfRegion { device: control.name(), region, offset, len };
        let (bar, pages) = pages(control, region, offset, len).ok_or_else(outside)?;
        let best = if bar.exclusive_pages { Tier::Paged } else { Tier::Cooperative };
        if at_least > best {
            return Err(BusError::Tier { device: control.name(), wanted: at_least, best });
        }
        let mut alone = self.lock();
        if overlaps(&alone, region, &pages) {
            return Err(BusError::Os {
                device: control.name(),
                what: "giving a client pages of a BAR",
                source: std::io::Error::other("another client has them alone"),
            });
        }
        let len = pages.end - pages.start;
        let slice = |memfd: &Memfd, offset| {
            let fd = memfd.as_fd().try_clone_to_owned().map_err(|source| BusError::Os {
                device: control.name(),
                what: "duplicating a BAR's descriptor",
                source,
            })?;
            let tier = if at_least <= Tier::Cooperative { Tier::Cooperative } else { Tier::Paged };
            Ok(Slice { fd, offset, len, tier, region, region_offset: pages.start })
        };
        if at_least <= Tier::Cooperative {
            return slice(&bar.memfd, pages.start);
        }
        let dma = |source| BusError::Dma { device: control.name(), source };
        let title = format!("{}-bar{region}+{:#x}", control.name(), pages.start);
        let own = Memfd::create(&title, len as usize, HugePages::No).map_err(dma)?;
        let slice = slice(&own, 0)?;
        bar.device_side.exchange(pages.start, &own, 0, len).map_err(dma)?;
        alone.insert((region, pages.start), own);
        Ok(slice)
    }

    /// Takes a slice back. One of tier `Cooperative` stays mapped by its holder: nothing is done.
    pub(super) fn take_back(&self, control: &Control, slice: &Slice) -> Result<(), BusError> {
        if slice.tier < Tier::Paged {
            return Ok(());
        }
        let mut alone = self.lock();
        let key = (slice.region, slice.region_offset);
        let (Some(own), Some(bar)) = (alone.get(&key), control.bar_memory(slice.region)) else {
            return Ok(());
        };
        let dma = |source| BusError::Dma { device: control.name(), source };
        let (offset, len) = (slice.region_offset, own.len());
        // As after a reset: what the pages held before they were given away is no doorbell any more.
        let before = bar.memfd.map_range(offset, len, Prefault::No).map_err(dma)?;
        let zeroed = before.fill(0, before.len(), 0);
        zeroed.map_err(|source| BusError::Bounds { device: control.name(), source })?;
        bar.device_side.exchange(offset, &bar.memfd, offset, len).map_err(dma)?;
        alone.remove(&key);
        Ok(())
    }
}

/// The memory of a BAR, and the whole pages around a range of it; `None` if they are not mappable.
fn pages(control: &Control, region: u8, offset: u64, len: u64) -> Option<(&BarMemory, Range<u64>)> {
    let page = PAGE as u64;
    let start = offset - offset % page;
    let end = offset.checked_add(len)?.checked_next_multiple_of(page)?;
    let found = control.regions().iter().find(|found| found.index == region)?;
    let inside = |range: &Range<u64>| range.start <= start && end <= range.end;
    if len == 0 || !found.mappable.iter().any(inside) {
        return None;
    }
    Some((control.bar_memory(region)?, start..end))
}
