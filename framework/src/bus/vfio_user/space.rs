//! The device's address space: DMA_MAP and DMA_UNMAP.
//!
//! The server gets the memory's descriptor. It can map the whole of that memory, whatever part of it
//! DMA_MAP names, and keep it mapped when it is told to unmap: a device server is trusted with the
//! memory of every client that uses its device.

use std::ops::Range;
use std::os::fd::AsFd;
use std::sync::Arc;

use super::error::LinkError;
use super::link::Link;
use crate::bus::proof::{PartitionId, PartitionQuiesced, Unmapped};
use crate::dma::iova::{USUAL_RANGES, within};
use crate::dma::{Access, DmaError, DmaSpace, Mapping, Memfd, Prefault};
use crate::vfio_user::message::{DmaMap, DmaUnmap};
use crate::vfio_user::{Capabilities, Request};

/// What the server maps.
#[derive(Debug)]
pub(super) struct ServerSpace {
    link: Arc<Link>,
    /// The smallest page that it maps, in bytes.
    page: u64,
    max_maps: u64,
    /// False if it can take no descriptor: it reads and writes by messages then.
    by_fd: bool,
}

impl ServerSpace {
    pub(super) fn new(link: Arc<Link>, capabilities: &Capabilities) -> Self {
        // Not 0: checked when the version was agreed on.
        let page = 1u64.checked_shl(capabilities.pgsizes().trailing_zeros()).unwrap_or(4096);
        let by_fd = capabilities.max_msg_fds() > 0;
        Self { link, page: page.max(4096), max_maps: capabilities.max_dma_maps(), by_fd }
    }

    fn unreachable(&self, error: &LinkError) -> DmaError {
        DmaError::Unreachable(format!("{}: {error}", self.link.shared.name))
    }
}

impl DmaSpace for ServerSpace {
    fn ranges(&self) -> Vec<Range<u64>> {
        // No IOMMU says anything.
        USUAL_RANGES.to_vec()
    }

    fn map(
        &self,
        partition: PartitionId,
        iova: u64,
        memory: &Memfd,
        offset: u64,
        len: u64,
        access: Access,
    ) -> Result<Mapping, DmaError> {
        let bad = |why| DmaError::BadRange { iova, len, why };
        if [iova, offset, len].iter().any(|n| !n.is_multiple_of(self.page)) || len == 0 {
            return Err(bad("not whole pages of a size that the device server maps"));
        }
        if !within(&USUAL_RANGES, iova, len) {
            return Err(bad("outside of what can be mapped"));
        }
        // For the accesses that the server makes by messages.
        let ours = memory.map_range(offset, len, Prefault::No)?;
        let fd = self.by_fd.then(|| memory.as_fd().try_clone_to_owned()).transpose();
        let fd = fd.map_err(|source| DmaError::Os { what: "duplicating a memfd", source })?;
        {
            let mut maps = self.link.shared.maps();
            if maps.len() as u64 >= self.max_maps {
                return Err(DmaError::Unreachable(format!(
                    "{}: the device server takes {} maps, and all are in use",
                    self.link.shared.name, self.max_maps
                )));
            }
            // Before the server knows: it may use it before it answers.
            if !maps.insert(iova, ours, access) {
                return Err(bad("it overlaps a mapping"));
            }
        }
        let request = DmaMap {
            argsz: DmaMap::ARGSZ,
            flags: match access {
                Access::Read => DmaMap::READABLE,
                Access::Write => DmaMap::WRITEABLE,
                Access::ReadWrite => DmaMap::READABLE | DmaMap::WRITEABLE,
            },
            offset: if self.by_fd { offset } else { 0 },
            address: iova,
            size: len,
        };
        match self.link.done(&Request::DmaMap(request), fd.into_iter().collect()) {
            Ok(()) => Ok(Mapping { iova, len, partition }),
            Err(error) => {
                self.link.shared.maps().remove(iova);
                Err(self.unreachable(&error))
            }
        }
    }

    fn unmap(
        &self,
        mapping: Mapping,
        proof: &PartitionQuiesced,
    ) -> Result<Unmapped, (Mapping, DmaError)> {
        if let Err(error) = mapping.check(proof) {
            return Err((mapping, error));
        }
        let Mapping { iova, len, .. } = mapping;
        let unmap = DmaUnmap { argsz: DmaUnmap::ARGSZ, flags: 0, address: iova, size: len };
        match self.link.done(&Request::DmaUnmap(unmap), Vec::new()) {
            Ok(()) => {}
            Err(error @ (LinkError::TimedOut { .. } | LinkError::Refused { .. })) => {
                let error = self.unreachable(&error);
                return Err((mapping, error));
            }
            // The connection is over, and with it every address. What the server has mapped it keeps
            // as long as it lives; the memory is that of the client who gave it.
            Err(_) => {}
        }
        self.link.shared.maps().remove(iova);
        Ok(Unmapped::new(iova, len))
    }
}
