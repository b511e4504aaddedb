//! A device's DMA address space: what the IOMMU lets it reach.

use std::ops::Range;

use super::{Access, DmaError, Memfd};
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
