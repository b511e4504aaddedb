//! Peer-to-peer DMA: pages of a BAR for another device, and another device's pages in this one's address
//! space.
//!
//! Both are dma-bufs: the one device's VFIO exports it (Linux 6.19), the other's iommufd maps it as it
//! maps a file. The container cannot.

use std::os::fd::AsFd;

use rustix::io::Errno;

use crate::bus::{BusError, PeerSlice};
use crate::dma::DmaError;
use crate::dma::map::PAGE;

use super::function::Function;
use super::slices::Slices;
use super::space::VfioSpace;
use super::uapi::iommufd;
use super::uapi::types::flag;

/// What the kernel's refusal of a mapping means.
pub(super) fn explain(peer: &PeerSlice, error: &std::io::Error) -> DmaError {
    let why = match error.raw_os_error().map(Errno::from_raw_os_error) {
        Some(Errno::NODEV | Errno::BADFD) => {
            "the slice is dead: its device was reset or closed; export it again".to_owned()
        }
        Some(Errno::INVAL | Errno::OPNOTSUPP | Errno::NOTTY) => format!(
            "IOMMU_IOAS_MAP_FILE takes no dma-buf of it ({error}); Linux 6.19 does, for one range of one \
             BAR"
        ),
        _ => format!("IOMMU_IOAS_MAP_FILE: {error}"),
    };
    DmaError::Peer { device: peer.device.to_string(), why }
}

/// Tries it: maps a page of the device itself into its own address space, and unmaps it. Nothing is
/// mapped there yet. Else why not.
pub(super) fn probe(
    function: &Function,
    slices: &Slices,
    page: Option<(u8, u64)>,
    space: &VfioSpace,
) -> Result<(), String> {
    let len = PAGE as u64;
    let (region, start) = page.ok_or("it has no BAR that can be mapped")?;
    let iova = space.first_address().ok_or("its IOMMU translates nothing")?;
    let peer = slices.export_peer(function, region, &(start..start + len)).map_err(short)?;
    let tried = space.with_ioas(|iommufd, ioas| {
        let file = (peer.fd.as_fd(), 0, len);
        iommufd::map_file(iommufd.as_fd(), ioas, file, iova, flag::IOAS_MAP_READABLE)
            .map_err(|error| explain(&peer, &error))?;
        iommufd::unmap(iommufd.as_fd(), ioas, iova, len)
            .map_err(|source| DmaError::Os { what: "unmapping a page (IOMMU_IOAS_UNMAP)", source })
    });
    match tried {
        None => Err("a container maps memory only; bus=cdev".to_owned()),
        Some(Ok(_)) => Ok(()),
        Some(Err(DmaError::Peer { why, .. })) => Err(why),
        Some(Err(error)) => Err(error.to_string()),
    }
}

/// Without the device's name, which stands before it anyway.
fn short(error: BusError) -> String {
    match error {
        BusError::Peer { why, .. } => why,
        other => other.to_string(),
    }
}
