//! What the kernel offers, as safe functions: VFIO's requests to devices, groups and containers, and
//! iommufd's.
//!
//! Structures are plain bytes ([`types`]); the ioctls are in [`call`], the only `unsafe` code of the
//! kernel buses. What the kernel writes into variable parts is walked by [`chain`], which believes
//! no offset.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use bytemuck::{Pod, bytes_of, pod_read_unaligned};
use doorbell_queues::SharedMem;

#[allow(unsafe_code, reason = "ioctls: each site lists its obligations")]
mod call;
pub(super) mod chain;
pub(super) mod container;
pub(super) mod dmabuf;
pub(super) mod iommufd;
#[cfg(test)]
mod tests;
pub(super) mod types;

use types::{DeviceInfo, FeatureHeader, Irq, IrqInfo, IrqSet, RegionInfo, flag};

/// The most bytes that a variable structure of the kernel may have.
const LARGEST: usize = 64 << 10;

/// A structure with its variable part. The kernel says in its first word how much room it needs; it
/// is asked again with that.
fn variable<T: Pod>(
    fd: BorrowedFd<'_>,
    request: call::Sized,
    head: &T,
) -> io::Result<(T, Vec<u8>)> {
    let mut buffer = bytes_of(head).to_vec();
    // Twice: the second time with the room that the first answer asks for. A third answer that wants
    // still more is cut.
    for _ in 0..2 {
        call::sized_bytes(fd, request, &mut buffer)?;
        let first = buffer.first_chunk::<4>().copied().unwrap_or_default();
        let wanted = u32::from_ne_bytes(first) as usize;
        if wanted <= buffer.len() || wanted > LARGEST {
            break;
        }
        buffer = bytes_of(head).to_vec();
        buffer.resize(wanted, 0);
    }
    let head = buffer.get(..size_of::<T>()).map(pod_read_unaligned);
    let head = head.ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData))?;
    Ok((head, buffer))
}

/// What the device is.
pub(super) fn device_info(device: BorrowedFd<'_>) -> io::Result<DeviceInfo> {
    let mut info = DeviceInfo::default();
    call::sized(device, call::DEVICE_GET_INFO, &mut info)?;
    Ok(info)
}

/// One region, with its capabilities ([`chain`]).
pub(super) fn region_info(device: BorrowedFd<'_>, index: u32) -> io::Result<(RegionInfo, Vec<u8>)> {
    let head = RegionInfo { index, ..RegionInfo::default() };
    variable(device, call::DEVICE_GET_REGION_INFO, &head)
}

/// One kind of interrupt.
pub(super) fn irq_info(device: BorrowedFd<'_>, irq: Irq) -> io::Result<IrqInfo> {
    let mut info = IrqInfo { index: irq as u32, ..IrqInfo::default() };
    call::sized(device, call::DEVICE_GET_IRQ_INFO, &mut info)?;
    Ok(info)
}

/// Lets vectors from `start` on signal these eventfds; `None`: nothing. Enables the interrupt if it
/// is not. `Ok(Some(n))`: the system has only `n` vectors left, nothing was done.
pub(super) fn set_triggers(
    device: BorrowedFd<'_>,
    irq: Irq,
    start: u32,
    eventfds: &[Option<BorrowedFd<'_>>],
) -> io::Result<Option<u32>> {
    let head = IrqSet {
        flags: flag::IRQ_SET_DATA_EVENTFD | flag::IRQ_SET_ACTION_TRIGGER,
        index: irq as u32,
        start,
        count: eventfds.len() as u32,
        ..IrqSet::default()
    };
    let mut buffer = bytes_of(&head).to_vec();
    for fd in eventfds {
        buffer.extend(fd.map_or(-1, |fd| fd.as_raw_fd()).to_ne_bytes());
    }
    let left = call::sized_bytes(device, call::DEVICE_SET_IRQS, &mut buffer)?;
    Ok(u32::try_from(left).ok().filter(|left| *left > 0))
}

/// Disables an interrupt altogether.
pub(super) fn disable_irq(device: BorrowedFd<'_>, irq: Irq) -> io::Result<()> {
    let mut set = IrqSet {
        flags: flag::IRQ_SET_DATA_NONE | flag::IRQ_SET_ACTION_TRIGGER,
        index: irq as u32,
        ..IrqSet::default()
    };
    call::sized(device, call::DEVICE_SET_IRQS, &mut set).map(drop)
}

/// Resets the function. `EAGAIN`: somebody else is at it.
pub(super) fn reset(device: BorrowedFd<'_>) -> io::Result<()> {
    call::plain(device, call::DEVICE_RESET, 0).map(drop)
}

/// Reads or changes a feature of the device: `flags` says which, with [`flag::FEATURE_PROBE`] only
/// whether that is possible. `data` goes in and comes out. Returns what the kernel returns: a
/// descriptor, for some features.
pub(super) fn feature(
    device: BorrowedFd<'_>,
    feature: u16,
    flags: u32,
    data: &mut [u8],
) -> io::Result<i32> {
    if feature == flag::FEATURE_LOGGING_REPORT {
        // Its data holds an address that the kernel writes to.
        return Err(io::ErrorKind::Unsupported.into());
    }
    let head = FeatureHeader { flags: flags | u32::from(feature), ..FeatureHeader::default() };
    let mut buffer = bytes_of(&head).to_vec();
    buffer.extend_from_slice(data);
    let returned = call::sized_bytes(device, call::DEVICE_FEATURE, &mut buffer)?;
    data.copy_from_slice(&buffer[size_of::<FeatureHeader>()..]);
    Ok(returned)
}
