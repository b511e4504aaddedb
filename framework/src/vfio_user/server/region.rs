//! Regions: what they are, reads and writes.

use std::os::fd::{AsFd, OwnedFd};

use rustix::io::Errno;

use super::endpoint::Endpoint;
use crate::bus::BusError;
use crate::vfio_user::message::{RegionCapability, RegionInfo, RegionInfoReply, SparseArea};
use crate::vfio_user::pci;

/// Bytes of one data transfer (`max_data_xfer_size`).
pub(super) const MOST_DATA: u32 = 1 << 20;

/// What a region is.
enum Kind {
    Config,
    Bar(u8),
}

/// The region of an index, and its size. EINVAL if PCI devices have none of this index.
fn find(endpoint: &Endpoint, index: u32) -> Result<Option<(Kind, u64)>, Errno> {
    match index {
        pci::CONFIG => Ok(Some((Kind::Config, endpoint.config.len() as u64))),
        pci::BAR0..=pci::BAR5 => {
            let bar = endpoint.layout.bar(index as u8);
            Ok(bar.map(|bar| (Kind::Bar(bar.index), bar.size)))
        }
        _ if index < pci::REGIONS => Ok(None),
        _ => Err(Errno::INVAL),
    }
}

/// Answers DEVICE_GET_REGION_INFO. A region that can be mapped comes with one descriptor, for all of
/// its areas.
///
/// # Errors
/// EINVAL for an index that no PCI device has; EMFILE if there is no descriptor left.
pub(super) fn info(
    endpoint: &Endpoint,
    index: u32,
) -> Result<(RegionInfoReply, Option<OwnedFd>), Errno> {
    let mut info = RegionInfo { index, ..RegionInfo::default() };
    let Some((kind, size)) = find(endpoint, index)? else {
        return Ok((RegionInfoReply::new(info, Vec::new()), None));
    };
    info.size = size;
    info.flags = RegionInfo::READ | RegionInfo::WRITE;
    let control = endpoint.control();
    let (areas, fd) = match kind {
        Kind::Config => (Vec::new(), None),
        Kind::Bar(bar) => {
            let region = control.regions().iter().find(|region| region.index == bar);
            let ranges = region.map(|region| region.mappable.as_slice()).unwrap_or_default();
            let area = |range: &std::ops::Range<u64>| SparseArea {
                offset: range.start,
                size: range.end - range.start,
            };
            (ranges.iter().map(area).collect(), control.bar(bar))
        }
    };
    let Some(memfd) = fd.filter(|_| !areas.is_empty()) else {
        return Ok((RegionInfoReply::new(info, Vec::new()), None));
    };
    let fd = memfd.as_fd().try_clone_to_owned().map_err(|_| Errno::MFILE)?;
    info.flags |= RegionInfo::MMAP;
    let sparse = RegionCapability::SparseMmap(areas);
    Ok((RegionInfoReply::new(info, vec![sparse]), Some(fd)))
}

/// The region of an access that lies inside of it.
fn access(endpoint: &Endpoint, index: u32, offset: u64, len: u64) -> Result<Kind, Errno> {
    let (kind, size) = find(endpoint, index)?.ok_or(Errno::INVAL)?;
    let inside = offset.checked_add(len).is_some_and(|end| end <= size);
    if len == 0 || len > MOST_DATA.into() || !inside { Err(Errno::INVAL) } else { Ok(kind) }
}

/// Answers REGION_READ.
///
/// # Errors
/// EINVAL outside of a region, or for more than can be transferred at once; EIO if the device does
/// not answer.
pub(super) fn read(
    endpoint: &Endpoint,
    index: u32,
    offset: u64,
    len: u32,
) -> Result<Vec<u8>, Errno> {
    let count = len as usize;
    let bar = match access(endpoint, index, offset, len.into())? {
        Kind::Config => {
            return endpoint.config.read(offset, count).map(<[u8]>::to_vec).ok_or(Errno::INVAL);
        }
        Kind::Bar(bar) => bar,
    };
    if !endpoint.config.is_on() {
        // In D3hot nobody answers.
        return Ok(vec![0xff; count]);
    }
    if let Some(msix) = endpoint.msix.as_ref().filter(|msix| msix.holds(bar, offset)) {
        let mut data = vec![0; count];
        msix.read(offset, &mut data);
        return Ok(data);
    }
    endpoint.read_bar(bar, offset, count).map_err(|error| failed(&error))
}

/// Does a REGION_WRITE, or a part of a REGION_WRITE_MULTI.
///
/// # Errors
/// As [`read`].
pub(super) fn write(
    endpoint: &mut Endpoint,
    index: u32,
    offset: u64,
    data: &[u8],
) -> Result<(), Errno> {
    let bar = match access(endpoint, index, offset, data.len() as u64)? {
        Kind::Config => {
            let written = endpoint.write_config(offset, data).map_err(|error| failed(&error))?;
            return if written { Ok(()) } else { Err(Errno::INVAL) };
        }
        Kind::Bar(bar) => bar,
    };
    if !endpoint.config.is_on() {
        return Ok(());
    }
    if let Some(msix) = endpoint.msix.as_mut().filter(|msix| msix.holds(bar, offset)) {
        msix.write(offset, data);
        return Ok(());
    }
    endpoint.write_bar(bar, offset, data).map_err(|error| failed(&error))
}

/// What the client is told of a device that fails.
fn failed(error: &BusError) -> Errno {
    tracing::warn!(%error, "a register access failed");
    match error {
        BusError::TimedOut { .. } => Errno::TIMEDOUT,
        _ => Errno::IO,
    }
}
