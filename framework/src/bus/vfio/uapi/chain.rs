//! The capability chains that follow some of VFIO's structures.
//!
//! A header is an id, a version, and the offset of the next header from the beginning of the whole
//! structure; 0 ends the chain. No offset is believed: a chain that leaves the structure or runs in
//! a circle ends there.

use std::ops::Range;

use bytemuck::{Pod, Zeroable, pod_read_unaligned};

use super::types::{IovaRange, flag};

/// `struct vfio_info_cap_header`.
#[repr(C)]
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
struct Header {
    id: u16,
    version: u16,
    next: u32,
}

/// `struct vfio_region_sparse_mmap_area`.
#[repr(C)]
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
struct Area {
    offset: u64,
    size: u64,
}

fn at<T: Pod>(bytes: &[u8], offset: usize) -> Option<T> {
    let end = offset.checked_add(size_of::<T>())?;
    bytes.get(offset..end).map(pod_read_unaligned)
}

/// What follows the header of capability `id`, if the chain has one.
fn find(structure: &[u8], first: u32, id: u16) -> Option<&[u8]> {
    let mut offset = first as usize;
    // Headers do not overlap, so there are no more than this.
    for _ in 0..structure.len() / size_of::<Header>() {
        if offset == 0 {
            return None;
        }
        let header: Header = at(structure, offset)?;
        if header.id == id {
            return structure.get(offset + size_of::<Header>()..);
        }
        offset = header.next as usize;
    }
    None
}

/// A count, four bytes that mean nothing, and as many items: fewer if the structure ends before.
fn list<T: Pod>(body: &[u8]) -> Vec<T> {
    let count = at::<u32>(body, 0).unwrap_or(0) as usize;
    let items = body.get(8..).unwrap_or_default();
    items.chunks_exact(size_of::<T>()).take(count).map(pod_read_unaligned).collect()
}

/// The parts of a region that can be mapped, where only parts can; `None`: the whole.
pub(crate) fn sparse_areas(structure: &[u8], first: u32) -> Option<Vec<Range<u64>>> {
    let body = find(structure, first, flag::REGION_CAP_SPARSE_MMAP)?;
    let range = |area: Area| Some(area.offset..area.offset.checked_add(area.size)?);
    Some(list(body).into_iter().filter_map(range).collect())
}

/// The IOVA ranges that a container can map (Linux 5.4); `None` from a kernel that does not say.
pub(crate) fn iova_ranges(structure: &[u8], first: u32) -> Option<Vec<IovaRange>> {
    find(structure, first, flag::IOMMU_CAP_IOVA_RANGE).map(list)
}

/// How many more mappings a container takes (Linux 5.10).
pub(crate) fn mappings_left(structure: &[u8], first: u32) -> Option<u32> {
    at(find(structure, first, flag::IOMMU_CAP_DMA_AVAIL)?, 0)
}

/// Ranges with both ends included, as half-open ones: ascending, without empty ones. The last
/// address of all is left out, for no half-open range can end behind it.
pub(crate) fn half_open(ranges: &[IovaRange]) -> Vec<Range<u64>> {
    let range = |range: &IovaRange| range.start..range.last.saturating_add(1);
    let mut ranges: Vec<_> = ranges.iter().map(range).filter(|range| !range.is_empty()).collect();
    ranges.sort_by_key(|range| range.start);
    ranges
}
