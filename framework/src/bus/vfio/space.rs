//! [`VfioSpace`]: a device's address space behind the kernel's IOMMU, over a container or an IOAS.

use std::collections::BTreeMap;
use std::ops::Range;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use doorbell_queues::SharedMem;
use rustix::io::Errno;

use crate::bus::PeerSlice;
use crate::bus::proof::{PartitionId, PartitionQuiesced, Unmapped};
use crate::dma::iova::within;
use crate::dma::map::PAGE;
use crate::dma::{Access, DmaError, DmaSpace, Mapping, Memfd, Prefault};

use super::uapi::types::flag;
use super::uapi::{container, iommufd};
use super::{limits, peer};

/// How mappings are made.
#[derive(Debug)]
pub(super) enum Iommu {
    /// A container of `type1v2` with the device's group.
    Container { container: OwnedFd, _group: OwnedFd, unmaps_all: bool },
    /// An I/O address space of an iommufd, for this device alone.
    Ioas { iommufd: OwnedFd, ioas: u32, map_file: bool },
}

/// A live mapping.
#[derive(Debug)]
struct Mapped {
    len: u64,
    partition: PartitionId,
    /// The memory in this process, where the kernel took its address: it stays where it is for as
    /// long as the kernel may look there.
    _memory: Option<SharedMem>,
}

#[derive(Debug)]
struct State {
    /// `None` once the space is closed: then nothing is mapped.
    iommu: Option<Iommu>,
    mapped: BTreeMap<u64, Mapped>,
}

/// The address space of a device.
#[derive(Debug)]
pub(super) struct VfioSpace {
    name: Arc<str>,
    ranges: Vec<Range<u64>>,
    state: Mutex<State>,
}

impl VfioSpace {
    /// Over an IOMMU that the device is attached to. `ranges` are what it can translate.
    pub(super) fn new(name: Arc<str>, iommu: Iommu, ranges: Vec<Range<u64>>) -> Self {
        let state = State { iommu: Some(iommu), mapped: BTreeMap::new() };
        Self { name, ranges, state: Mutex::new(state) }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs `f` with the iommufd and the IOAS, on the bus cdev.
    pub(super) fn with_ioas<T>(&self, f: impl FnOnce(&OwnedFd, u32) -> T) -> Option<T> {
        match &self.lock().iommu {
            Some(Iommu::Ioas { iommufd, ioas, .. }) => Some(f(iommufd, *ioas)),
            _ => None,
        }
    }

    /// The first address that the IOMMU translates.
    pub(super) fn first_address(&self) -> Option<u64> {
        self.ranges.first().map(|range| range.start)
    }

    /// Unmaps everything and lets go of the IOMMU. For when the device does no DMA any more.
    pub(super) fn close(&self) {
        let state = &mut *self.lock();
        let Some(iommu) = state.iommu.take() else { return };
        let left = std::mem::take(&mut state.mapped);
        if let Err(error) = iommu.unmap_all(&left) {
            // Closing the descriptors drops the mappings as well, once nobody holds the device.
            tracing::warn!(device = %self.name, %error, "mappings are left in the end");
        }
    }

    fn check(
        &self,
        state: &State,
        iova: u64,
        memory: u64,
        offset: u64,
        len: u64,
    ) -> Result<(), DmaError> {
        let bad = |why| DmaError::BadRange { iova, len, why };
        let page = PAGE as u64;
        let whole = [iova, offset, len].iter().all(|n| n.is_multiple_of(page));
        if !whole || len == 0 {
            return Err(bad("not whole pages"));
        }
        if offset.checked_add(len).is_none_or(|end| end > memory) {
            return Err(bad("longer than its memory"));
        }
        let Some(end) = iova.checked_add(len) else { return Err(bad("it wraps")) };
        if !within(&self.ranges, iova, len) {
            return Err(bad("outside of what the IOMMU can translate"));
        }
        let before = state.mapped.range(..end).next_back();
        if before.is_some_and(|(start, mapped)| start + mapped.len > iova) {
            return Err(bad("it overlaps a mapping"));
        }
        Ok(())
    }
}

impl DmaSpace for VfioSpace {
    fn ranges(&self) -> Vec<Range<u64>> {
        self.ranges.clone()
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
        let state = &mut *self.lock();
        self.check(state, iova, memory.len(), offset, len)?;
        let Some(iommu) = &state.iommu else {
            return Err(DmaError::Unreachable("the device is closed".to_owned()));
        };
        let memory = iommu.map(iova, memory, offset, len, access)?;
        state.mapped.insert(iova, Mapped { len, partition, _memory: memory });
        Ok(Mapping { iova, len, partition })
    }

    fn map_peer(
        &self,
        partition: PartitionId,
        iova: u64,
        slice: &PeerSlice,
        access: Access,
    ) -> Result<Mapping, DmaError> {
        let state = &mut *self.lock();
        let len = slice.len;
        self.check(state, iova, len, 0, len)?;
        let (iommufd, ioas) = match &state.iommu {
            None => return Err(DmaError::Unreachable("the device is closed".to_owned())),
            Some(Iommu::Ioas { iommufd, ioas, .. }) => (iommufd, *ioas),
            Some(Iommu::Container { .. }) => {
                let why = "a container maps memory only; use bus=cdev".to_owned();
                return Err(DmaError::Peer { device: slice.device.to_string(), why });
            }
        };
        let flags = flags(access, flag::IOAS_MAP_READABLE, flag::IOAS_MAP_WRITEABLE);
        iommufd::map_file(iommufd.as_fd(), ioas, (slice.fd.as_fd(), 0, len), iova, flags)
            .map_err(|error| peer::explain(slice, &error))?;
        state.mapped.insert(iova, Mapped { len, partition, _memory: None });
        Ok(Mapping { iova, len, partition })
    }

    fn unmap(
        &self,
        mapping: Mapping,
        proof: &PartitionQuiesced,
    ) -> Result<Unmapped, (Mapping, DmaError)> {
        if let Err(error) = mapping.check(proof) {
            return Err((mapping, error));
        }
        let Mapping { iova, len, partition } = mapping;
        let bad = |why| DmaError::BadRange { iova, len, why };
        let state = &mut *self.lock();
        let Some(iommu) = &state.iommu else {
            // A space that is closed maps nothing.
            return Ok(Unmapped::new(iova, len));
        };
        let ours = |mapped: &Mapped| mapped.len == len && mapped.partition == partition;
        if !state.mapped.get(&iova).is_some_and(ours) {
            return Err((mapping, bad("it is no mapping of this device")));
        }
        match iommu.unmap(iova, len) {
            Ok(all) if all == len => {
                state.mapped.remove(&iova);
                Ok(Unmapped::new(iova, len))
            }
            Ok(_) => Err((mapping, bad("the kernel unmapped less than that"))),
            Err(source) => {
                let what = "unmapping memory from the device";
                Err((mapping, DmaError::Os { what, source }))
            }
        }
    }
}

impl Iommu {
    /// Maps memory; returns the mapping in this process that the kernel took it from, if it did.
    fn map(
        &self,
        iova: u64,
        memory: &Memfd,
        offset: u64,
        len: u64,
        access: Access,
    ) -> Result<Option<SharedMem>, DmaError> {
        let failed = |error: std::io::Error| self.explain(error, len);
        match self {
            Self::Container { container, .. } => {
                let memory = memory.map_range(offset, len, Prefault::No)?;
                let flags = flags(access, flag::DMA_MAP_READ, flag::DMA_MAP_WRITE);
                container::map(container, &memory, iova, flags).map_err(failed)?;
                Ok(Some(memory))
            }
            Self::Ioas { iommufd, ioas, map_file } => {
                let fd = iommufd.as_fd();
                let flags = flags(access, flag::IOAS_MAP_READABLE, flag::IOAS_MAP_WRITEABLE);
                if *map_file {
                    let file = (memory.as_fd(), offset, len);
                    iommufd::map_file(fd, *ioas, file, iova, flags).map_err(failed)?;
                    return Ok(None);
                }
                let memory = memory.map_range(offset, len, Prefault::No)?;
                iommufd::map(fd, *ioas, &memory, iova, flags).map_err(failed)?;
                Ok(Some(memory))
            }
        }
    }

    fn unmap(&self, iova: u64, len: u64) -> std::io::Result<u64> {
        match self {
            Self::Container { container, .. } => container::unmap(container.as_fd(), iova, len),
            Self::Ioas { iommufd, ioas, .. } => iommufd::unmap(iommufd.as_fd(), *ioas, iova, len),
        }
    }

    fn unmap_all(&self, mapped: &BTreeMap<u64, Mapped>) -> std::io::Result<()> {
        if mapped.is_empty() {
            return Ok(());
        }
        match self {
            Self::Container { container, unmaps_all: true, .. } => {
                container::unmap_all(container.as_fd())
            }
            Self::Container { .. } | Self::Ioas { .. } => {
                mapped.iter().try_for_each(|(iova, m)| self.unmap(*iova, m.len).map(drop))
            }
        }
    }

    /// Says what a refusal of the kernel means here.
    fn explain(&self, error: std::io::Error, len: u64) -> DmaError {
        let errno = error.raw_os_error().map(Errno::from_raw_os_error);
        match (errno, self) {
            (Some(Errno::NOSPC), Self::Container { container, .. }) => {
                DmaError::Limit { len, problem: limits::mappings(container.as_fd()) }
            }
            (Some(Errno::NOMEM), _) => DmaError::Limit { len, problem: limits::memlock(len) },
            (_, Self::Container { .. }) => DmaError::Os {
                what: "mapping memory for the device (VFIO_IOMMU_MAP_DMA)",
                source: error,
            },
            (_, Self::Ioas { map_file: true, .. }) => {
                let what = "mapping memory for the device (IOMMU_IOAS_MAP_FILE)";
                DmaError::Os { what, source: error }
            }
            (_, Self::Ioas { .. }) => DmaError::Os {
                what: "mapping memory for the device (IOMMU_IOAS_MAP)",
                source: error,
            },
        }
    }
}

fn flags(access: Access, read: u32, write: u32) -> u32 {
    match access {
        Access::Read => read,
        Access::Write => write,
        Access::ReadWrite => read | write,
    }
}
