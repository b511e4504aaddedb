//! The teardown proof chain: queue quiesced, doorbell revoked, IOVA unmapped, memory released, ids
//! reused. Each step consumes the proof of the one before, so the compiler keeps the order.

use std::collections::BTreeSet;

/// A client's partition of the IOVA space.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PartitionId(pub u32);

/// A queue that exists on the device. Not `Clone`: whoever holds it may end the queue, once.
#[derive(Debug, PartialEq, Eq)]
pub struct QueueToken {
    queue: u16,
    partition: PartitionId,
}

impl QueueToken {
    /// Minted by the broker when it asks the driver to create a queue.
    #[cfg(feature = "broker")]
    pub(crate) fn mint(queue: u16, partition: PartitionId) -> Self {
        Self { queue, partition }
    }

    /// The queue's id on the device.
    #[must_use]
    pub fn queue(&self) -> u16 {
        self.queue
    }

    /// The partition that the queue's commands can name.
    #[must_use]
    pub fn partition(&self) -> PartitionId {
        self.partition
    }

    /// For the driver: the device has confirmed that it no longer uses the queue, its entries, or
    /// any memory that the queue's commands name.
    pub fn quiesced(self) -> Quiesced {
        Quiesced { queue: self.queue, partition: self.partition }
    }

    /// A device that was reset uses no queue.
    pub fn quiesced_by(self, _reset: &Recovered) -> Quiesced {
        self.quiesced()
    }
}

/// Proof that the device is done with a queue and the memory its commands named.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "the chain goes on: revoke the doorbell"]
pub struct Quiesced {
    queue: u16,
    partition: PartitionId,
}

impl Quiesced {
    /// The queue's id.
    #[must_use]
    pub fn queue(&self) -> u16 {
        self.queue
    }

    /// For a bus: the client's doorbell no longer reaches the device.
    pub fn revoked(self) -> Revoked {
        Revoked { queue: self.queue, partition: self.partition }
    }
}

/// Proof that the device was reset, or is gone, and uses no queue at all.
#[derive(Debug)]
pub struct Recovered(());

impl Recovered {
    /// For the driver, after a successful reset.
    #[must_use]
    pub fn by_reset() -> Self {
        Self(())
    }

    /// A device that is not there any more reaches no memory. For the broker, when its bus says so.
    #[cfg(feature = "broker")]
    #[must_use]
    pub(crate) fn by_removal() -> Self {
        Self(())
    }
}

/// Proof that a queue is quiesced and its doorbell taken back.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "the chain goes on: the queue's id and its partition's mappings"]
pub struct Revoked {
    queue: u16,
    partition: PartitionId,
}

impl Revoked {
    /// The queue's id, which may be given out again.
    #[must_use]
    pub fn queue(&self) -> u16 {
        self.queue
    }
}

/// Proof that no queue of a partition is left: its mappings may go.
#[derive(Debug, PartialEq, Eq)]
pub struct PartitionQuiesced {
    partition: PartitionId,
}

impl PartitionQuiesced {
    /// `held` are the queues that the broker's records give to the partition; `proofs` must cover
    /// each of them.
    ///
    /// # Errors
    /// The proofs come back if one is missing.
    pub fn of(
        partition: PartitionId,
        held: &BTreeSet<u16>,
        proofs: Vec<Revoked>,
    ) -> Result<Self, Vec<Revoked>> {
        let covered: BTreeSet<u16> =
            proofs.iter().filter(|p| p.partition == partition).map(|p| p.queue).collect();
        if held.is_subset(&covered) { Ok(Self { partition }) } else { Err(proofs) }
    }

    /// The partition.
    #[must_use]
    pub fn partition(&self) -> PartitionId {
        self.partition
    }
}

/// Proof that a mapping is gone and the device can no longer reach its memory.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "the IOVA range may be given out again"]
pub struct Unmapped {
    /// First address.
    iova: u64,
    /// Length in bytes.
    len: u64,
}

impl Unmapped {
    /// For an address space, after the IOTLB was flushed.
    pub fn new(iova: u64, len: u64) -> Self {
        Self { iova, len }
    }

    /// The range that is free again: first address and length.
    #[must_use]
    pub fn range(&self) -> (u64, u64) {
        (self.iova, self.len)
    }

    /// The range, for whoever gives it out again: the proof is used up.
    #[must_use]
    pub fn into_range(self) -> (u64, u64) {
        (self.iova, self.len)
    }
}
