//! The ioctls themselves: the only `unsafe` code of the kernel buses.
//!
//! A request is a constant of a type that says what its argument is, so a call with the wrong kind
//! of argument does not compile.

use std::ffi::c_void;
use std::io;
use std::marker::PhantomData;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use bytemuck::Pod;
use doorbell_queues::SharedMem;
use rustix::ioctl::{Ioctl, IoctlOutput, Opcode, ioctl, opcode};

use super::types::{DmaBufExport, DmaMap, IoasIovaRanges, IoasMap, IovaRange, flag};

/// Type and first number of VFIO's requests (`linux/vfio.h`).
const VFIO: (u8, u8) = (b';', 100);
/// Type and first number of iommufd's requests (`linux/iommufd.h`).
const IOMMUFD: (u8, u8) = (b';', 0x80);

/// A request whose argument is a number, or none at all.
#[derive(Debug, Clone, Copy)]
pub(super) struct Plain(Opcode);

/// A request whose argument is a structure that begins with its own size in bytes, and holds no
/// address that the kernel would write to. The kernel touches no more than that size.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sized(Opcode);

const fn request(base: (u8, u8), number: u8) -> Opcode {
    opcode::none(base.0, base.1 + number)
}

pub(super) const GET_API_VERSION: Plain = Plain(request(VFIO, 0));
pub(super) const CHECK_EXTENSION: Plain = Plain(request(VFIO, 1));
pub(super) const SET_IOMMU: Plain = Plain(request(VFIO, 2));
pub(super) const DEVICE_RESET: Plain = Plain(request(VFIO, 11));

pub(super) const GROUP_GET_STATUS: Sized = Sized(request(VFIO, 3));
pub(super) const DEVICE_GET_INFO: Sized = Sized(request(VFIO, 7));
pub(super) const DEVICE_GET_REGION_INFO: Sized = Sized(request(VFIO, 8));
pub(super) const DEVICE_GET_IRQ_INFO: Sized = Sized(request(VFIO, 9));
pub(super) const DEVICE_SET_IRQS: Sized = Sized(request(VFIO, 10));
pub(super) const IOMMU_GET_INFO: Sized = Sized(request(VFIO, 12));
pub(super) const IOMMU_UNMAP_DMA: Sized = Sized(request(VFIO, 14));
pub(super) const DEVICE_FEATURE: Sized = Sized(request(VFIO, 17));
pub(super) const DEVICE_BIND_IOMMUFD: Sized = Sized(request(VFIO, 18));
pub(super) const DEVICE_ATTACH_IOMMUFD_PT: Sized = Sized(request(VFIO, 19));

pub(super) const IOAS_ALLOC: Sized = Sized(request(IOMMUFD, 1));
pub(super) const IOAS_UNMAP: Sized = Sized(request(IOMMUFD, 6));
pub(super) const IOAS_MAP_FILE: Sized = Sized(request(IOMMUFD, 0x0f));

const GROUP_SET_CONTAINER: Opcode = request(VFIO, 4);
const GROUP_GET_DEVICE_FD: Opcode = request(VFIO, 6);
const IOMMU_MAP_DMA: Opcode = request(VFIO, 13);
const IOAS_IOVA_RANGES: Opcode = request(IOMMUFD, 4);
const IOAS_MAP: Opcode = request(IOMMUFD, 5);

/// One call: what the kernel gets as its third argument, for as long as that is borrowed.
struct Call<'a> {
    opcode: Opcode,
    argument: *mut c_void,
    _borrowed: PhantomData<&'a mut [u8]>,
}

// SAFETY:
// * `as_ptr` gives what the caller of `call` vouched for;
// * `output_from_ptr` looks at the return value only.
unsafe impl Ioctl for Call<'_> {
    type Output = IoctlOutput;
    const IS_MUTATING: bool = true;

    fn opcode(&self) -> Opcode {
        self.opcode
    }

    fn as_ptr(&mut self) -> *mut c_void {
        self.argument
    }

    unsafe fn output_from_ptr(
        returned: IoctlOutput,
        _argument: *mut c_void,
    ) -> rustix::io::Result<IoctlOutput> {
        Ok(returned)
    }
}

/// # Safety
/// `argument` is what `opcode` expects: a number that is no address, or the address of memory that
/// is valid for all that the kernel reads and writes there.
unsafe fn call(
    fd: BorrowedFd<'_>,
    opcode: Opcode,
    argument: *mut c_void,
) -> io::Result<IoctlOutput> {
    let call = Call { opcode, argument, _borrowed: PhantomData };
    // SAFETY: the obligation is passed on to the caller.
    Ok(unsafe { ioctl(fd, call) }?)
}

/// A request with a number. Returns what the kernel returns.
pub(super) fn plain(fd: BorrowedFd<'_>, request: Plain, number: usize) -> io::Result<i32> {
    // SAFETY: a request of type `Plain` takes a number, never an address.
    unsafe { call(fd, request.0, std::ptr::without_provenance_mut(number)) }
}

/// A request with a structure of variable size. The first four bytes, its size, are filled in here.
pub(super) fn sized_bytes(
    fd: BorrowedFd<'_>,
    request: Sized,
    argument: &mut [u8],
) -> io::Result<i32> {
    let size = u32::try_from(argument.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    let first = argument.first_chunk_mut::<4>().ok_or(io::ErrorKind::InvalidInput)?;
    *first = size.to_ne_bytes();
    // SAFETY:
    // * the kernel touches at most as many bytes as the structure's first word says (type `Sized`),
    //   and that is the length of the borrowed bytes;
    // * any bytes are valid for them.
    unsafe { call(fd, request.0, argument.as_mut_ptr().cast()) }
}

/// A request with a structure. Its first word, its size, is filled in here.
pub(super) fn sized<T: Pod>(
    fd: BorrowedFd<'_>,
    request: Sized,
    argument: &mut T,
) -> io::Result<i32> {
    sized_bytes(fd, request, bytemuck::bytes_of_mut(argument))
}

/// Puts a group into a container.
pub(super) fn set_container(group: BorrowedFd<'_>, container: BorrowedFd<'_>) -> io::Result<()> {
    let mut fd: i32 = container.as_raw_fd();
    // SAFETY: the kernel reads one `int` at the address.
    unsafe { call(group, GROUP_SET_CONTAINER, (&raw mut fd).cast()) }.map(drop)
}

/// A device of a group, by its name with a NUL at the end.
pub(super) fn device_fd(group: BorrowedFd<'_>, name: &std::ffi::CStr) -> io::Result<OwnedFd> {
    // SAFETY: the kernel only reads, up to the NUL.
    let fd = unsafe { call(group, GROUP_GET_DEVICE_FD, name.as_ptr().cast_mut().cast()) }?;
    if fd < 0 {
        return Err(io::Error::other("the kernel returned no descriptor"));
    }
    // SAFETY: the kernel has just made this descriptor for us; nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Exports a part of a device's region as a dma-buf.
pub(super) fn export_dma_buf(
    device: BorrowedFd<'_>,
    export: &mut DmaBufExport,
) -> io::Result<OwnedFd> {
    export.flags = flag::FEATURE_GET | u32::from(flag::FEATURE_DMA_BUF);
    let fd = sized(device, DEVICE_FEATURE, export)?;
    if fd < 0 {
        return Err(io::Error::other("the kernel returned no descriptor"));
    }
    // SAFETY: this feature returns a descriptor that the kernel has just made for us; nobody else owns
    // it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Maps memory of this process for the devices of a container. The addresses in `map` are filled in.
///
/// The kernel pins the memory's pages, so they outlive the mapping in this process.
pub(super) fn map_dma(
    container: BorrowedFd<'_>,
    memory: &SharedMem,
    map: &mut DmaMap,
) -> io::Result<()> {
    map.argsz = size_of::<DmaMap>() as u32;
    map.vaddr = memory.as_ptr() as u64;
    map.size = memory.len() as u64;
    // SAFETY:
    // * the kernel reads one `DmaMap` at the address;
    // * the range that it names is `memory`'s, which is mapped while it is borrowed and which
    //   tolerates concurrent writers, such as a device (its type's invariant); its pages are shared
    //   memory of a file, and pinned from here on.
    unsafe { call(container, IOMMU_MAP_DMA, std::ptr::from_mut(map).cast()) }.map(drop)
}

/// As [`map_dma`], for an I/O address space of an iommufd.
pub(super) fn ioas_map(
    iommufd: BorrowedFd<'_>,
    memory: &SharedMem,
    map: &mut IoasMap,
) -> io::Result<()> {
    map.size = size_of::<IoasMap>() as u32;
    map.user_va = memory.as_ptr() as u64;
    map.length = memory.len() as u64;
    // SAFETY: as for `map_dma`, with one `IoasMap`.
    unsafe { call(iommufd, IOAS_MAP, std::ptr::from_mut(map).cast()) }.map(drop)
}

/// The IOVA ranges of an I/O address space, as many as fit into `into`. `EMSGSIZE` if there are more;
/// [`IoasIovaRanges::num_iovas`] then says how many.
pub(super) fn iova_ranges(
    iommufd: BorrowedFd<'_>,
    argument: &mut IoasIovaRanges,
    into: &mut [IovaRange],
) -> io::Result<()> {
    argument.size = size_of::<IoasIovaRanges>() as u32;
    argument.num_iovas = u32::try_from(into.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    argument.allowed_iovas = into.as_mut_ptr() as u64;
    // SAFETY:
    // * the kernel reads and writes one `IoasIovaRanges` at the address;
    // * it writes at most `num_iovas` ranges at `allowed_iovas`, the length of `into`.
    let done = unsafe { call(iommufd, IOAS_IOVA_RANGES, std::ptr::from_mut(argument).cast()) };
    argument.allowed_iovas = 0;
    done.map(drop)
}
