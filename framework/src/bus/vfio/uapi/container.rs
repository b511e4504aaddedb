//! Groups and containers: the legacy way to an IOMMU (`type1v2`).

use super::types::{DmaMap, DmaUnmap, GroupStatus, Type1Info};
use super::{AsFd, BorrowedFd, CStr, OwnedFd, SharedMem, call, flag, io, variable};

/// True if `/dev/vfio/vfio` speaks the version that we know and has the IOMMU type `type1v2`.
pub(crate) fn usable(container: BorrowedFd<'_>) -> io::Result<bool> {
    let version = call::plain(container, call::GET_API_VERSION, 0)?;
    let type1 = call::plain(container, call::CHECK_EXTENSION, flag::TYPE1V2_IOMMU)?;
    Ok(version == flag::API_VERSION && type1 > 0)
}

/// True if everything can be unmapped in one call.
pub(crate) fn unmaps_all(container: BorrowedFd<'_>) -> bool {
    let has = call::plain(container, call::CHECK_EXTENSION, flag::UNMAP_ALL_EXTENSION);
    has.is_ok_and(|has| has > 0)
}

/// The group's flags.
pub(crate) fn group_flags(group: BorrowedFd<'_>) -> io::Result<u32> {
    let mut status = GroupStatus::default();
    call::sized(group, call::GROUP_GET_STATUS, &mut status)?;
    Ok(status.flags)
}

/// Puts a group into a container.
pub(crate) fn join(group: BorrowedFd<'_>, container: BorrowedFd<'_>) -> io::Result<()> {
    call::set_container(group, container)
}

/// Chooses `type1v2` for a container that has a group.
pub(crate) fn set_iommu(container: BorrowedFd<'_>) -> io::Result<()> {
    call::plain(container, call::SET_IOMMU, flag::TYPE1V2_IOMMU).map(drop)
}

/// The device's descriptor.
pub(crate) fn device(group: BorrowedFd<'_>, name: &CStr) -> io::Result<OwnedFd> {
    call::device_fd(group, name)
}

/// What the IOMMU can do, with its capabilities ([`super::chain`]).
pub(crate) fn info(container: BorrowedFd<'_>) -> io::Result<(Type1Info, Vec<u8>)> {
    variable(container, call::IOMMU_GET_INFO, &Type1Info::default())
}

/// Maps memory; `flags` are [`flag::DMA_MAP_READ`] and [`flag::DMA_MAP_WRITE`].
pub(crate) fn map(
    container: impl AsFd,
    memory: &SharedMem,
    iova: u64,
    flags: u32,
) -> io::Result<()> {
    let mut map = DmaMap { flags, iova, ..DmaMap::default() };
    call::map_dma(container.as_fd(), memory, &mut map)
}

/// Unmaps; returns how many bytes were mapped there.
pub(crate) fn unmap(container: BorrowedFd<'_>, iova: u64, size: u64) -> io::Result<u64> {
    let mut unmap = DmaUnmap { iova, size, ..DmaUnmap::default() };
    call::sized(container, call::IOMMU_UNMAP_DMA, &mut unmap)?;
    Ok(unmap.size)
}

/// Unmaps everything; only if [`unmaps_all`].
pub(crate) fn unmap_all(container: BorrowedFd<'_>) -> io::Result<()> {
    let mut unmap = DmaUnmap { flags: flag::DMA_UNMAP_ALL, ..DmaUnmap::default() };
    call::sized(container, call::IOMMU_UNMAP_DMA, &mut unmap).map(drop)
}
