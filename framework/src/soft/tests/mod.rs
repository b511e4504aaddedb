//! The harness, end to end, with the copy engine.

use std::collections::BTreeSet;
use std::time::Duration;

use super::testing::Rig;
use crate::bus::Bus;
use crate::bus::proof::PartitionQuiesced;
use crate::deadline::Deadline;
use crate::dma::{Access, HugePages, Mapping, Memfd, Prefault};

mod dma;
mod failing;
mod slices;
mod waking;

const SPIN: Duration = Duration::from_micros(50);

fn soon() -> Deadline {
    Deadline::after(Duration::from_secs(20))
}

/// A client's memfd, mapped for the device in a partition of its own.
fn client_memory(rig: &mut Rig, len: usize) -> (Memfd, doorbell_queues::SharedMem, Mapping) {
    let memfd = Memfd::create("client", len, HugePages::No).unwrap();
    let mut partition = rig.iova.partition(memfd.len()).unwrap();
    let iova = partition.alloc(memfd.len()).unwrap();
    let space = rig.bus.dma();
    let id = partition.id();
    let mapping = space.map(id, iova, &memfd, 0, memfd.len(), Access::ReadWrite).unwrap();
    let memory = memfd.map(Prefault::No).unwrap();
    (memfd, memory, mapping)
}

fn proof(mapping: &Mapping) -> PartitionQuiesced {
    PartitionQuiesced::of(mapping.partition, &BTreeSet::new(), vec![]).unwrap()
}
