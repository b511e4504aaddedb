//! Register and config space accesses by messages.

use super::error::LinkError;
use super::link::Link;
use crate::bus::Width;
use crate::vfio_user::message::{RegionAccess, RegionData};
use crate::vfio_user::{Command, Reply, Request};

/// One read of a region.
pub(super) fn read(link: &Link, region: u32, offset: u64, width: Width) -> Result<u64, LinkError> {
    // At most 8.
    let count = width.bytes() as u32;
    let request = Request::RegionRead(RegionAccess { offset, region, count });
    let read = link.ask_for(&request, |reply| match reply {
        Reply::RegionRead(data) => Some((data.offset, data.region, data.data.to_vec())),
        _ => None,
    })?;
    let mut bytes = [0; 8];
    match (read, bytes.get_mut(..count as usize)) {
        ((at, of, data), Some(low)) if (at, of, data.len()) == (offset, region, low.len()) => {
            low.copy_from_slice(&data);
            Ok(from_register(bytes))
        }
        ((at, of, data), _) => {
            let problem = format!(
                "{} bytes at {at:#x} of region {of}; asked for were {count} at {offset:#x} of {region}",
                data.len()
            );
            Err(LinkError::answer(Command::RegionRead, problem))
        }
    }
}

/// One write to a region.
pub(super) fn write(
    link: &Link,
    region: u32,
    offset: u64,
    width: Width,
    value: u64,
) -> Result<(), LinkError> {
    let bytes = to_register(value);
    let data = bytes.get(..width.bytes() as usize).unwrap_or_default();
    let request = Request::RegionWrite(RegionData { offset, region, data });
    let written = link.ask_for(&request, |reply| match reply {
        Reply::RegionWrite(access) => Some(access),
        _ => None,
    })?;
    check_written(written, RegionAccess { offset, region, count: data.len() as u32 })
}

/// The answer to a REGION_WRITE is about what was written.
pub(super) fn check_written(written: RegionAccess, wanted: RegionAccess) -> Result<(), LinkError> {
    if written == wanted {
        return Ok(());
    }
    let problem = format!("it is about {written:?}, and written was {wanted:?}");
    Err(LinkError::answer(Command::RegionWrite, problem))
}

/// Registers of PCI devices are little-endian.
fn from_register(bytes: [u8; 8]) -> u64 {
    u64::from_le_bytes(bytes)
}

fn to_register(value: u64) -> [u8; 8] {
    value.to_le_bytes()
}
