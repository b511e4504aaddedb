//! The regions of a device server: what they are, and what of them can be mapped.
//!
//! Everything here is the server's word and is checked: areas lie in their region, on page borders,
//! and do not overlap; the descriptor is a file of memory that is as long as the areas say.
//!
//! What it does not do: it cannot keep a server from making its file smaller later, unless the file
//! is sealed. An access to a page that is gone raises SIGBUS, which whoever mapped it here or in a
//! client survives ([`crate::dma::guard`]); `map=sealed` excludes it.

use std::ops::Range;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use rustix::fs::{FileType, SealFlags};

use super::error::LinkError;
use super::link::Link;
use super::options::Mapping;
use crate::bus::BusError;
use crate::dma::map::PAGE;
use crate::vfio_user::message::{RegionCapability, RegionInfo, RegionInfoReply, SparseArea};
use crate::vfio_user::{Command, Frame, Request, pci};

/// What is asked for first: room for the capabilities of most devices.
const FIRST_ARGSZ: u32 = 4096;
/// The longest answer that is taken.
const MAX_ARGSZ: u32 = 1 << 20;
/// How often an answer may turn out to be longer than what was asked for.
const ROUNDS: usize = 4;
/// Areas of one region.
const MAX_AREAS: usize = 1024;
/// Bytes of one region: more than any BAR that fits beside others in 52 bits of address.
const MAX_SIZE: u64 = 1 << 48;

/// One region.
#[derive(Debug)]
pub(super) struct ServerRegion {
    pub(super) index: u32,
    pub(super) size: u64,
    /// True if it can be written.
    pub(super) writable: bool,
    /// Where it begins in the file.
    pub(super) offset: u64,
    /// The file, if something can be mapped.
    pub(super) fd: Option<Arc<OwnedFd>>,
    /// What can be mapped: ascending, whole pages.
    pub(super) mappable: Vec<Range<u64>>,
    /// Why something that was offered is not mapped.
    pub(super) not_mapped: Option<&'static str>,
}

impl ServerRegion {
    /// The whole pages around a range, if they can be mapped.
    pub(super) fn pages(&self, offset: u64, len: u64) -> Option<Range<u64>> {
        let pages = whole_pages(offset, len)?;
        let inside = |area: &&Range<u64>| area.start <= pages.start && pages.end <= area.end;
        self.mappable.iter().find(inside).map(|_| pages.clone())
    }
}

/// The whole pages around a range that is not empty.
pub(super) fn whole_pages(offset: u64, len: u64) -> Option<Range<u64>> {
    let page = PAGE as u64;
    let end = offset.checked_add(len).filter(|_| len > 0)?.checked_next_multiple_of(page)?;
    Some(offset - offset % page..end)
}

/// Asks for the BARs and config space. Regions that the device does not have are left out.
pub(super) fn find(
    link: &Link,
    regions: u32,
    mapping: Mapping,
) -> Result<Vec<ServerRegion>, BusError> {
    let wanted = (pci::BAR0..=pci::BAR5).chain([pci::CONFIG]);
    let mut found = Vec::new();
    for index in wanted.filter(|index| *index < regions) {
        let region = one(link, index, mapping);
        let region =
            region.map_err(|error| error.opening(&link.shared.name, "asking for its regions"))?;
        found.extend(region.filter(|region| region.size > 0));
    }
    Ok(found)
}

fn one(link: &Link, index: u32, mapping: Mapping) -> Result<Option<ServerRegion>, LinkError> {
    let bad = |problem: String| {
        LinkError::answer(Command::DeviceGetRegionInfo, format!("region {index}: {problem}"))
    };
    let (frame, answer) = ask(link, index)?;
    let RegionInfoReply { info, capabilities } = answer;
    if info.index != index {
        return Err(bad(format!("it is about region {}", info.index)));
    }
    if info.size > MAX_SIZE {
        return Err(bad(format!("its size is {:#x}", info.size)));
    }
    let mappable = info.flags & RegionInfo::MMAP != 0 && info.size > 0;
    let mut region = ServerRegion {
        index,
        size: info.size,
        writable: info.flags & RegionInfo::WRITE != 0,
        offset: info.offset,
        fd: None,
        mappable: Vec::new(),
        not_mapped: None,
    };
    let mut fds = frame.fds;
    let (fd, more) = (fds.pop(), fds.len());
    match fd {
        None if mappable => return Err(bad("it can be mapped, and no descriptor came".to_owned())),
        Some(_) if !mappable || more > 0 => {
            let wanted = usize::from(mappable);
            return Err(bad(format!("{} descriptors came, {wanted} belong(s) to it", more + 1)));
        }
        None => return Ok(Some(region)),
        Some(fd) => {
            let areas = areas(&info, &capabilities).map_err(&bad)?;
            let sealed = check_file(&fd, info.offset, &areas).map_err(&bad)?;
            match mapping {
                Mapping::Nothing => region.not_mapped = Some("map=none"),
                Mapping::Sealed if !sealed => {
                    region.not_mapped = Some("map=sealed, and its file can be made smaller");
                }
                Mapping::Offered | Mapping::Sealed => {
                    region.mappable = areas;
                    region.fd = Some(Arc::new(fd));
                }
            }
        }
    }
    Ok(Some(region))
}

/// Asks until the whole answer has come.
fn ask(link: &Link, index: u32) -> Result<(Frame, RegionInfoReply), LinkError> {
    let command = Command::DeviceGetRegionInfo;
    let mut argsz = FIRST_ARGSZ;
    for _ in 0..ROUNDS {
        let ask = RegionInfo { argsz, index, ..RegionInfo::default() };
        let frame = link.call(&Request::DeviceGetRegionInfo(ask), Vec::new())?;
        let answer = RegionInfoReply::decode(&frame.payload)
            .map_err(|error| LinkError::protocol(command, &error))?;
        if !answer.is_cut(frame.payload.len()) {
            return Ok((frame, answer));
        }
        argsz = answer.info.argsz;
        if argsz > MAX_ARGSZ {
            let problem = format!("region {index}: it needs {argsz} bytes; {MAX_ARGSZ} are taken");
            return Err(LinkError::answer(command, problem));
        }
    }
    let problem = format!("region {index}: it gets longer whenever it is asked for");
    Err(LinkError::answer(command, problem))
}

/// The areas that can be mapped, ascending.
fn areas(info: &RegionInfo, capabilities: &[RegionCapability]) -> Result<Vec<Range<u64>>, String> {
    let page = PAGE as u64;
    let sparse: Vec<&SparseArea> = capabilities
        .iter()
        .filter_map(|capability| match capability {
            RegionCapability::SparseMmap(areas) => Some(areas),
            _ => None,
        })
        .flatten()
        .collect();
    let is_sparse = capabilities.iter().any(|c| matches!(c, RegionCapability::SparseMmap(_)));
    if sparse.len() > MAX_AREAS {
        return Err(format!("{} areas can be mapped; {MAX_AREAS} are taken", sparse.len()));
    }
    let mut areas = Vec::with_capacity(sparse.len().max(1));
    if !is_sparse {
        // What is less than a page at the end is reached by messages.
        areas.push(0..info.size - info.size % page);
    }
    for SparseArea { offset, size } in sparse {
        let end = offset.checked_add(*size).filter(|end| *end <= info.size);
        let (Some(end), true) = (end, offset.is_multiple_of(page) && size.is_multiple_of(page))
        else {
            return Err(format!(
                "an area at {offset:#x} of {size:#x} bytes lies outside of it ({:#x} bytes) or not \
                 on page borders",
                info.size
            ));
        };
        areas.push(*offset..end);
    }
    areas.retain(|area| !area.is_empty());
    areas.sort_by_key(|area| area.start);
    if let Some([a, b]) = areas.windows(2).find(|pair| matches!(pair, [a, b] if a.end > b.start)) {
        return Err(format!("its areas at {:#x} and {:#x} overlap", a.start, b.start));
    }
    Ok(areas)
}

/// True if the file holds the areas for good.
fn check_file(fd: &OwnedFd, offset: u64, areas: &[Range<u64>]) -> Result<bool, String> {
    let last = areas.last().map_or(0, |area| area.end);
    let needed = offset.checked_add(last).filter(|_| offset.is_multiple_of(PAGE as u64));
    let Some(needed) = needed else {
        return Err(format!("it begins at {offset:#x} of its file, which cannot be mapped"));
    };
    let stat = rustix::fs::fstat(fd.as_fd())
        .map_err(|errno| format!("looking at its descriptor (fstat): {errno}"))?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err("its descriptor is no file of memory but a socket, pipe or device".to_owned());
    }
    let len = u64::try_from(stat.st_size).unwrap_or(0);
    if len < needed {
        return Err(format!("its file has {len:#x} bytes, and its areas end at {needed:#x}"));
    }
    let seals = rustix::fs::fcntl_get_seals(fd);
    Ok(seals.is_ok_and(|seals| seals.contains(SealFlags::SHRINK)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn info(size: u64) -> RegionInfo {
        RegionInfo { size, ..RegionInfo::default() }
    }

    fn sparse(areas: &[(u64, u64)]) -> Vec<RegionCapability> {
        let areas = areas.iter().map(|(offset, size)| SparseArea { offset: *offset, size: *size });
        vec![RegionCapability::SparseMmap(areas.collect())]
    }

    #[test]
    fn areas_are_what_can_be_mapped() {
        assert_eq!(areas(&info(0x4800), &[]).unwrap(), std::slice::from_ref(&(0..0x4000)));
        assert!(areas(&info(0x800), &[]).unwrap().is_empty());
        let found = areas(&info(0x8000), &sparse(&[(0x4000, 0x1000), (0x1000, 0x2000)])).unwrap();
        assert_eq!(found, [0x1000..0x3000, 0x4000..0x5000]);
        assert!(areas(&info(0x8000), &sparse(&[])).unwrap().is_empty());
        assert!(areas(&info(0x8000), &sparse(&[(0x1000, 0)])).unwrap().is_empty());
    }

    #[test]
    fn areas_that_cannot_be_are_refused() {
        for bad in [
            &[(0x8000, 0x1000)][..],
            &[(0x7000, 0x2000)],
            &[(u64::MAX - 0xfff, 0x2000)],
            &[(0x800, 0x1000)],
            &[(0x1000, 0x800)],
            &[(0x1000, 0x2000), (0x2000, 0x1000)],
            &[(0x1000, 0x1000), (0x1000, 0x1000)],
        ] {
            let error = areas(&info(0x8000), &sparse(bad)).unwrap_err();
            assert!(error.contains("area"), "{error}");
        }
        assert!(areas(&info(1 << 40), &sparse(&vec![(0, 0); MAX_AREAS + 1])).is_err());
    }

    #[test]
    fn pages_around_a_range() {
        assert_eq!(whole_pages(0x1004, 4), Some(0x1000..0x2000));
        assert_eq!(whole_pages(0x1ffc, 8), Some(0x1000..0x3000));
        for (offset, len) in [(0, 0), (u64::MAX, 1), (u64::MAX - 1, 1)] {
            assert_eq!(whole_pages(offset, len), None);
        }
    }
}
