//! iommufd and the VFIO cdev.

use std::os::fd::AsRawFd;

use super::types::{
    AttachIommufd, BindIommufd, BindWithToken, IoasAlloc, IoasIovaRanges, IoasMap, IoasMapFile,
    IoasUnmap, IovaRange,
};
use super::{BorrowedFd, SharedMem, call, flag, io};

/// The most IOVA ranges that are believed.
const RANGES: usize = 4096;

/// Puts a device under an iommufd. Until then its descriptor does nothing.
pub(crate) fn bind(device: BorrowedFd<'_>, iommufd: BorrowedFd<'_>) -> io::Result<()> {
    let mut bind = BindIommufd { iommufd: iommufd.as_raw_fd(), ..BindIommufd::default() };
    call::sized(device, call::DEVICE_BIND_IOMMUFD, &mut bind).map(drop)
}

/// As [`bind`], of a virtual function whose physical function VFIO has too (Linux 6.17).
pub(crate) fn bind_with_token(
    device: BorrowedFd<'_>,
    iommufd: BorrowedFd<'_>,
    token: &[u8; 16],
) -> io::Result<()> {
    let iommufd = iommufd.as_raw_fd();
    let bind = BindIommufd { iommufd, flags: flag::BIND_TOKEN, ..BindIommufd::default() };
    call::bind_with_token(device, &mut BindWithToken { bind, token_uuid_ptr: 0 }, token)
}

/// A new I/O address space.
pub(crate) fn ioas_alloc(iommufd: BorrowedFd<'_>) -> io::Result<u32> {
    let mut alloc = IoasAlloc::default();
    call::sized(iommufd, call::IOAS_ALLOC, &mut alloc)?;
    Ok(alloc.out_ioas_id)
}

/// Attaches a bound device to an I/O address space.
pub(crate) fn attach(device: BorrowedFd<'_>, ioas: u32) -> io::Result<()> {
    let mut attach = AttachIommufd { pt_id: ioas, ..AttachIommufd::default() };
    call::sized(device, call::DEVICE_ATTACH_IOMMUFD_PT, &mut attach).map(drop)
}

/// The ranges that can be mapped, both ends included.
pub(crate) fn ranges(iommufd: BorrowedFd<'_>, ioas: u32) -> io::Result<Vec<IovaRange>> {
    let mut room = 64;
    // The number may change between the two calls only if another device is attached meanwhile.
    for _ in 0..3 {
        let mut ranges = vec![IovaRange::default(); room];
        let mut argument = IoasIovaRanges { ioas_id: ioas, ..IoasIovaRanges::default() };
        let done = call::iova_ranges(iommufd, &mut argument, &mut ranges);
        let count = argument.num_iovas as usize;
        match done {
            Ok(()) => {
                ranges.truncate(count);
                return Ok(ranges);
            }
            Err(error) if count <= room || count > RANGES => return Err(error),
            Err(_) => room = count,
        }
    }
    Err(io::ErrorKind::InvalidData.into())
}

/// Maps memory of this process. `flags` are [`flag::IOAS_MAP_READABLE`] and
/// [`flag::IOAS_MAP_WRITEABLE`].
pub(crate) fn map(
    iommufd: BorrowedFd<'_>,
    ioas: u32,
    memory: &SharedMem,
    iova: u64,
    flags: u32,
) -> io::Result<()> {
    let flags = flags | flag::IOAS_MAP_FIXED;
    let mut map = IoasMap { flags, ioas_id: ioas, iova, ..IoasMap::default() };
    call::ioas_map(iommufd, memory, &mut map)
}

/// Maps a part of a memfd, without an address of this process (Linux 6.13; `ENOTTY` before).
pub(crate) fn map_file(
    iommufd: BorrowedFd<'_>,
    ioas: u32,
    file: (BorrowedFd<'_>, u64, u64),
    iova: u64,
    flags: u32,
) -> io::Result<()> {
    let (fd, start, length) = file;
    let mut map = IoasMapFile {
        flags: flags | flag::IOAS_MAP_FIXED,
        ioas_id: ioas,
        fd: fd.as_raw_fd(),
        start,
        length,
        iova,
        ..IoasMapFile::default()
    };
    call::sized(iommufd, call::IOAS_MAP_FILE, &mut map).map(drop)
}

/// Unmaps; returns how many bytes were mapped there. `0` and `u64::MAX` for everything.
pub(crate) fn unmap(iommufd: BorrowedFd<'_>, ioas: u32, iova: u64, length: u64) -> io::Result<u64> {
    let mut unmap = IoasUnmap { ioas_id: ioas, iova, length, ..IoasUnmap::default() };
    call::sized(iommufd, call::IOAS_UNMAP, &mut unmap)?;
    Ok(unmap.length)
}
