//! dma-bufs of parts of a BAR: exporting them, revoking them, and how the CPU sees them.
//!
//! Exporting is feature 11 since Linux 6.19. Revoking and the CPU's memory attribute are in no released
//! kernel; the numbers under which they were proposed have changed more than once, so whoever asks for
//! them names the number.

use super::types::{DmaBufExport, DmaBufMemoryAttribute, flag};
use super::{AsRawFd, BorrowedFd, OwnedFd, bytes_of, call, feature, io};

/// The first feature number that no released kernel has given a meaning.
pub(crate) const FIRST_FREE: u16 = 14;

/// True if the kernel exports dma-bufs of this device.
pub(crate) fn exports(device: BorrowedFd<'_>) -> bool {
    let ask = flag::FEATURE_PROBE | flag::FEATURE_GET;
    feature(device, flag::FEATURE_DMA_BUF, ask, &mut []).is_ok()
}

/// True if the kernel knows feature `number`, and that it can be set.
pub(crate) fn settable(device: BorrowedFd<'_>, number: u16) -> io::Result<()> {
    feature(device, number, flag::FEATURE_PROBE | flag::FEATURE_SET, &mut []).map(drop)
}

/// Whole pages of a region as a dma-buf of one range.
pub(crate) fn export(
    device: BorrowedFd<'_>,
    region: u8,
    offset: u64,
    length: u64,
) -> io::Result<OwnedFd> {
    let mut export = DmaBufExport {
        region_index: region.into(),
        open_flags: (rustix::fs::OFlags::RDWR | rustix::fs::OFlags::CLOEXEC).bits(),
        nr_ranges: 1,
        offset,
        length,
        ..DmaBufExport::default()
    };
    call::export_dma_buf(device, &mut export)
}

/// Revokes a dma-buf of this device for good: no access through a mapping of it reaches the device once
/// this has returned. `EBADFD` if it was revoked before.
pub(crate) fn revoke(
    device: BorrowedFd<'_>,
    number: u16,
    dma_buf: BorrowedFd<'_>,
) -> io::Result<()> {
    let mut fd = dma_buf.as_raw_fd().to_ne_bytes();
    feature(device, number, flag::FEATURE_SET, &mut fd).map(drop)
}

/// Asks that mappings of a dma-buf that are made from now on be uncached, as they are anyway: tells
/// whether feature `number` is the memory attribute.
pub(crate) fn set_uncached(
    device: BorrowedFd<'_>,
    number: u16,
    dma_buf: BorrowedFd<'_>,
) -> io::Result<()> {
    let data = DmaBufMemoryAttribute { dmabuf_fd: dma_buf.as_raw_fd(), memattr: 0 };
    let mut bytes = bytes_of(&data).to_vec();
    feature(device, number, flag::FEATURE_SET, &mut bytes).map(drop)
}
