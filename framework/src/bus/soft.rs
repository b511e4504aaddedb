//! The bus `soft`: a software device of this process, behind the same traits as hardware.
//!
//! What it isolates: DMA goes through the soft IOMMU, which really refuses; a doorbell slice is a
//! memfd that its receiver can map whole, so slices are [`Tier::Cooperative`].

use std::collections::HashMap;
use std::ops::Range;
use std::os::fd::AsFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use doorbell_queues::SharedMem;

use super::proof::{PartitionId, PartitionQuiesced, Quiesced, Revoked, Unmapped};
use super::{Bus, BusError, DeviceEvent, Identity, Region, Signals, Slice, Width};
use crate::deadline::Deadline;
use crate::dma::iova::MSI_HOLE;
use crate::dma::map::PAGE;
use crate::dma::{Access, DmaError, DmaSpace, Mapping, Memfd, Prefault};
use crate::soft::control::ANSWER;
use crate::soft::{Control, Harness, HarnessOptions, SoftDevice};
use crate::tier::Tier;

/// A software device as a [`Bus`]. Dropping the last handle stops the device.
#[derive(Debug)]
pub struct SoftBus {
    harness: Harness,
    space: Arc<SoftSpace>,
}

impl SoftBus {
    /// Starts a device and puts it on a bus.
    ///
    /// # Errors
    /// As [`Harness::start`].
    pub fn start(device: Box<dyn SoftDevice>, options: HarnessOptions) -> Result<Self, BusError> {
        Harness::start(device, options).map(Self::new)
    }

    /// A bus over a device that runs.
    #[must_use]
    pub fn new(harness: Harness) -> Self {
        let control = harness.control().clone();
        Self { harness, space: Arc::new(SoftSpace { control, backings: Mutex::default() }) }
    }

    /// How to talk to the device's thread.
    #[must_use]
    pub fn control(&self) -> &Control {
        self.harness.control()
    }

    fn name(&self) -> Arc<str> {
        self.control().name()
    }

    fn outside(&self, region: u8, offset: u64, len: u64) -> BusError {
        BusError::OutOfRegion { device: self.name(), region, offset, len }
    }

    /// The region that holds an access; true if the access lies in a mappable range.
    fn access(&self, region: u8, offset: u64, width: Width) -> Result<bool, BusError> {
        let len = width.bytes();
        let found = self.regions().iter().find(|r| r.index == region);
        let inside = |size| offset.checked_add(len).is_some_and(|end| end <= size);
        match found {
            Some(found) if offset.is_multiple_of(len) && inside(found.size) => {
                Ok(found.mappable.iter().any(|range| range.contains(&offset)))
            }
            _ => Err(self.outside(region, offset, len)),
        }
    }

    /// The memory of a BAR and the whole pages around a range of it, if they are mappable.
    fn pages(&self, region: u8, offset: u64, len: u64) -> Result<(&Memfd, Range<u64>), BusError> {
        let page = PAGE as u64;
        let start = offset - offset % page;
        let end = offset.checked_add(len).and_then(|end| end.checked_next_multiple_of(page));
        let found = self.regions().iter().find(|r| r.index == region);
        let (Some(end), Some(found), Some(bar)) = (end, found, self.control().bar(region)) else {
            return Err(self.outside(region, offset, len));
        };
        let inside = |range: &Range<u64>| range.start <= start && end <= range.end;
        if len == 0 || !found.mappable.iter().any(inside) {
            return Err(self.outside(region, offset, len));
        }
        Ok((bar, start..end))
    }
}

impl Bus for SoftBus {
    fn identity(&self) -> &Identity {
        self.control().identity()
    }

    fn regions(&self) -> &[Region] {
        self.control().regions()
    }

    fn read(&self, region: u8, offset: u64, width: Width) -> Result<u64, BusError> {
        let mapped = self.access(region, offset, width)?;
        self.control().call("a register read", Deadline::after(ANSWER), move |device, cx| match cx
            .doorbells(region)
            .filter(|_| mapped)
        {
            Some(memory) => load(memory, offset as usize, width),
            None => device.read(cx, region, offset, width),
        })
    }

    fn write(&self, region: u8, offset: u64, width: Width, value: u64) -> Result<(), BusError> {
        let mapped = self.access(region, offset, width)?;
        self.control().call("a register write", Deadline::after(ANSWER), move |device, cx| match cx
            .doorbells(region)
            .filter(|_| mapped)
        {
            Some(memory) => store(memory, offset as usize, width, value),
            None => device.write(cx, region, offset, width, value),
        })
    }

    fn map(&self, region: u8, offset: u64, len: u64) -> Result<SharedMem, BusError> {
        let (bar, pages) = self.pages(region, offset, len)?;
        let dma = |source| BusError::Dma { device: self.name(), source };
        let size = pages.end - pages.start;
        let memory = bar.map_range(pages.start, size, Prefault::Yes).map_err(dma)?;
        memory
            .slice((offset - pages.start) as usize, len as usize)
            .map_err(|source| BusError::Bounds { device: self.name(), source })
    }

    fn export(&self, region: u8, offset: u64, len: u64, at_least: Tier) -> Result<Slice, BusError> {
        let (bar, pages) = self.pages(region, offset, len)?;
        let tier = Tier::Cooperative;
        if at_least > tier {
            return Err(BusError::Tier { device: self.name(), wanted: at_least, best: tier });
        }
        let fd = bar.as_fd().try_clone_to_owned().map_err(|source| BusError::Os {
            device: self.name(),
            what: "duplicating a BAR's descriptor",
            source,
        })?;
        let (offset, len) = (pages.start, pages.end - pages.start);
        Ok(Slice { fd, offset, len, tier, region, region_offset: offset })
    }

    fn revoke(&self, slice: Slice, proof: Quiesced) -> Result<Revoked, BusError> {
        drop(slice);
        Ok(proof.revoked())
    }

    fn vectors(&self) -> u16 {
        self.control().vectors()
    }

    fn signals(&self, vector: u16) -> Result<Signals, BusError> {
        self.control().signals(vector)
    }

    fn retire_signals(&self, vector: u16) {
        self.control().retire_signals(vector);
    }

    fn reset(&self, deadline: Deadline) -> Result<(), BusError> {
        self.control().reset(deadline)
    }

    fn dma(&self) -> Arc<dyn DmaSpace> {
        Arc::clone(&self.space) as Arc<dyn DmaSpace>
    }

    fn events(&self) -> Vec<DeviceEvent> {
        let faults = self.control().take_faults().into_iter().map(DeviceEvent::Fault);
        let removed = self.control().take_removal().then_some(DeviceEvent::Removed);
        faults.chain(removed).collect()
    }
}

/// One read of memory in a BAR, of its width.
fn load(memory: &SharedMem, offset: usize, width: Width) -> u64 {
    use std::sync::atomic::Ordering::Acquire;
    // In bounds and aligned: checked by `SoftBus::access`.
    match width {
        Width::B1 => memory.read::<u8>(offset).map(u64::from),
        Width::B2 => memory.read::<u16>(offset).map(u64::from),
        Width::B4 => memory.load_u32(offset, Acquire).map(u64::from),
        Width::B8 => memory.read::<u64>(offset),
    }
    .unwrap_or(u64::MAX)
}

/// One write of memory in a BAR, of its width.
fn store(memory: &SharedMem, offset: usize, width: Width, value: u64) {
    use std::sync::atomic::Ordering::Release;
    // In bounds and aligned: checked by `SoftBus::access`. The width cuts the value on purpose.
    let _ = match width {
        Width::B1 => memory.write(offset, &(value as u8)),
        Width::B2 => memory.write(offset, &(value as u16)),
        Width::B4 => memory.store_u32(offset, value as u32, Release),
        Width::B8 => memory.write(offset, &value),
    };
}

/// A memfd that is mapped into this process once, however many pieces of it the device sees.
#[derive(Debug)]
struct Backing {
    memory: SharedMem,
    users: usize,
}

/// Device and inode.
type Identifier = (u64, u64);

#[derive(Debug, Default)]
struct Backings {
    memory: HashMap<Identifier, Backing>,
    /// First IOVA of a mapping to the memory behind it.
    mapped: HashMap<u64, Identifier>,
}

impl Backings {
    fn release(&mut self, id: Identifier) {
        if let Some(backing) = self.memory.get_mut(&id) {
            backing.users -= 1;
            if backing.users == 0 {
                self.memory.remove(&id);
            }
        }
    }
}

/// The soft IOMMU as a [`DmaSpace`].
#[derive(Debug)]
struct SoftSpace {
    control: Control,
    backings: Mutex<Backings>,
}

impl SoftSpace {
    fn lock(&self) -> MutexGuard<'_, Backings> {
        self.backings.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The memory of `memfd`, mapped into this process, with one more user.
    fn back(&self, memfd: &Memfd) -> Result<(Identifier, SharedMem), DmaError> {
        let id = memfd.identity()?;
        let mut backings = self.lock();
        if let Some(backing) = backings.memory.get_mut(&id) {
            backing.users += 1;
            return Ok((id, backing.memory.clone()));
        }
        let memory = memfd.map(Prefault::No)?;
        backings.memory.insert(id, Backing { memory: memory.clone(), users: 1 });
        Ok((id, memory))
    }
}

impl DmaSpace for SoftSpace {
    fn ranges(&self) -> Vec<Range<u64>> {
        // What an x86 IOMMU with 48-bit addresses reports.
        vec![0..MSI_HOLE.start, MSI_HOLE.end..1 << 48]
    }

    fn map(
        &self,
        partition: PartitionId,
        iova: u64,
        memory: &Memfd,
        offset: u64,
        len: u64,
        access: Access,
    ) -> Result<Mapping, DmaError> {
        let bad = |why| DmaError::BadRange { iova, len, why };
        let page = PAGE as u64;
        if !offset.is_multiple_of(page) || !len.is_multiple_of(page) || len == 0 {
            return Err(bad("not whole pages of its memory"));
        }
        if offset.checked_add(len).is_none_or(|end| end > memory.len()) {
            return Err(bad("longer than its memory"));
        }
        let inside = |range: Range<u64>| {
            range.start <= iova && iova.checked_add(len).is_some_and(|end| end <= range.end)
        };
        if !self.ranges().into_iter().any(inside) {
            return Err(bad("outside of what the IOMMU can translate"));
        }
        let (id, whole) = self.back(memory)?;
        let part = whole.slice(offset as usize, len as usize);
        let part = part.map_err(|_| bad("longer than its memory"));
        let mapped = part.and_then(|part| {
            let map = self.control.call("map", Deadline::after(ANSWER), move |_, cx| {
                cx.iommu_mut().map(partition, iova, part, access)
            });
            map.unwrap_or_else(|error| Err(DmaError::Unreachable(error.to_string())))
        });
        let mut backings = self.lock();
        if let Err(error) = mapped {
            backings.release(id);
            return Err(error);
        }
        backings.mapped.insert(iova, id);
        Ok(Mapping { iova, len, partition })
    }

    fn unmap(
        &self,
        mapping: Mapping,
        proof: &PartitionQuiesced,
    ) -> Result<Unmapped, (Mapping, DmaError)> {
        let Mapping { iova, len, partition } = mapping;
        if proof.partition() != partition {
            let why = "the proof is for another partition";
            return Err((mapping, DmaError::BadRange { iova, len, why }));
        }
        let unmapped = self.control.call("unmap", Deadline::after(ANSWER), move |_, cx| {
            cx.iommu_mut().unmap(partition, iova, len)
        });
        match unmapped {
            Ok(Ok(())) => {}
            Ok(Err(error)) => return Err((mapping, error)),
            // A thread that has ended accesses nothing any more: its mappings went with it.
            Err(_) if !self.control.alive() => {}
            Err(error) => return Err((mapping, DmaError::Unreachable(error.to_string()))),
        }
        let mut backings = self.lock();
        if let Some(id) = backings.mapped.remove(&iova) {
            backings.release(id);
        }
        Ok(Unmapped::new(iova, len))
    }
}
