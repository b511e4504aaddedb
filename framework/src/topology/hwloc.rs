//! The topology as hwloc tells it.

use std::collections::BTreeMap;

use hwlocality::Topology as Hwloc;
use hwlocality::object::types::ObjectType;

use super::{CpuSet, Topology};

pub(super) fn load() -> Result<Topology, Box<dyn std::error::Error>> {
    Ok(convert(&Hwloc::new()?))
}

fn convert(topology: &Hwloc) -> Topology {
    let mut nodes = BTreeMap::new();
    for node in topology.objects_with_type(ObjectType::NUMANode) {
        let Some(index) = node.os_index().and_then(|index| u32::try_from(index).ok()) else {
            continue;
        };
        let cpus: CpuSet =
            node.cpuset().map(|set| set.iter_set().map(usize::from).collect()).unwrap_or_default();
        nodes.insert(index, cpus);
    }
    Topology::new(nodes)
}
