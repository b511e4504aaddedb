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

#[cfg(test)]
mod tests {
    use super::*;

    fn synthetic(description: &str) -> Topology {
        let builder = Hwloc::builder().from_synthetic(description).unwrap();
        convert(&builder.build().unwrap())
    }

    #[test]
    fn two_nodes_have_their_own_cores() {
        let topology = synthetic("NUMANode:2 Core:4 PU:2");
        assert_eq!(topology.nodes().collect::<Vec<_>>(), [0, 1]);
        assert_eq!(topology.near(Some(0)).iter().collect::<Vec<_>>(), (0..8).collect::<Vec<_>>());
        assert_eq!(topology.near(Some(1)).iter().collect::<Vec<_>>(), (8..16).collect::<Vec<_>>());
        assert_eq!(topology.near(None).len(), 16);
        assert_eq!(topology.near(Some(7)), topology.cpus());
    }

    #[test]
    fn a_machine_without_nodes_is_one() {
        let topology = synthetic("Core:2 PU:1");
        assert_eq!(topology.near(Some(0)).len(), 2);
        assert_eq!(topology.near(None).nth(5), Some(1));
    }

    #[test]
    fn this_machine_has_cores() {
        let topology = Topology::load();
        assert!(!topology.cpus().is_empty());
        assert!(topology.nodes().all(|node| !topology.near(Some(node)).is_empty()));
    }
}
