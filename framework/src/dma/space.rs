//! A device's DMA address space: what the IOMMU lets it reach.

use std::ops::Range;

use super::{Access, DmaError, Memfd};
use crate::bus::PeerSlice;
use crate::bus::proof::{PartitionId, PartitionQuiesced, Unmapped};

/// A live mapping. Not `Clone`: unmapping consumes it.
#[derive(Debug, PartialEq, Eq)]
pub struct Mapping {
    /// First address.
    pub iova: u64,
    /// Length in bytes.
    pub len: u64,
    /// Whose it is.
    pub partition: PartitionId,
}

impl Mapping {
    /// Checks that `proof` is for the mapping's partition.
    ///
    /// # Errors
    /// [`DmaError::BadRange`] if it is for another.
    #[cfg(any(feature = "soft", feature = "vfio", feature = "vfio-user"))]
    pub(crate) fn check(&self, proof: &PartitionQuiesced) -> Result<(), DmaError> {
        if proof.partition() == self.partition {
            return Ok(());
        }
        let why = "the proof is for another partition";
        Err(DmaError::BadRange { iova: self.iova, len: self.len, why })
    }
}

/// The address space that a device's DMA goes through. Only the broker has one.
pub trait DmaSpace: Send + Sync {
    /// Valid IOVA ranges, ascending, as the IOMMU reports them after attach.
    fn ranges(&self) -> Vec<Range<u64>>;

    /// Maps `len` bytes of `memory` from `offset` at `iova`. The pages stay pinned (or, on a soft
    /// IOMMU, mapped) until unmapped, whatever happens to the process that donated them.
    ///
    /// # Errors
    /// [`DmaError::BadRange`] if it overlaps a mapping, is not page-aligned, wraps, or is longer
    /// than the memory; [`DmaError::Os`] from the kernel.
    fn map(
        &self,
        partition: PartitionId,
        iova: u64,
        memory: &Memfd,
        offset: u64,
        len: u64,
        access: Access,
    ) -> Result<Mapping, DmaError>;

    /// Lets the device reach another device's region at `iova`: all of `peer`. The mapping dies with the
    /// slice ([`PeerSlice`]) and is not made again by itself.
    ///
    /// # Errors
    /// [`DmaError::Peer`] if this address space cannot do that, and which can; [`DmaError::BadRange`]
    /// as for [`DmaSpace::map`].
    fn map_peer(
        &self,
        partition: PartitionId,
        iova: u64,
        peer: &PeerSlice,
        access: Access,
    ) -> Result<Mapping, DmaError> {
        let _ = (partition, iova, access);
        Err(DmaError::Peer {
            device: peer.device.to_string(),
            why: "this bus's address space takes memory only; use a device under cdev, on Linux 6.19 \
                  or newer"
                .to_owned(),
        })
    }

    /// Unmaps. When it returns, the device can no longer reach the memory.
    ///
    /// # Errors
    /// The mapping comes back with [`DmaError`] if `proof` is for another partition, or the device
    /// does not answer: it must then be quarantined.
    fn unmap(
        &self,
        mapping: Mapping,
        proof: &PartitionQuiesced,
    ) -> Result<Unmapped, (Mapping, DmaError)>;
}
