use super::super::allowed;
use super::*;

/// Four nodes of two cores with two threads each, three NVMe controllers: one below node 2, one below
/// node 0, one at the root. As `lstopo` writes it, without what is not needed.
const FOUR_NODES: &str = include_str!("four-nodes.xml");
/// The same machine where CPUs 9 and 11 are offline and a container allows 8-15.
const CONTAINER: &str = include_str!("container.xml");

fn set(topology: &Topology, node: Option<u32>) -> Vec<usize> {
    topology.near(node).iter().collect()
}

fn everything() -> CpuSet {
    (0..1024).collect()
}

/// The CPUs that `count` threads get, one after the other.
fn assigned(topology: &Topology, node: Option<u32>, allowed: &CpuSet, count: usize) -> Vec<usize> {
    let mut taken: Vec<usize> = Vec::new();
    for _ in 0..count {
        let load = |cpu| taken.iter().filter(|other| **other == cpu).count() as u32;
        let chosen = topology.choose(node, allowed, load);
        taken.push(chosen.unwrap());
    }
    taken
}

#[test]
fn two_nodes_have_their_own_cores() {
    let topology = synthetic("NUMANode:2 Core:4 PU:2").unwrap();
    assert_eq!(topology.nodes().collect::<Vec<_>>(), [0, 1]);
    assert_eq!(set(&topology, Some(0)), (0..8).collect::<Vec<_>>());
    assert_eq!(set(&topology, Some(1)), (8..16).collect::<Vec<_>>());
    assert_eq!(topology.near(None).len(), 16);
    assert_eq!(topology.near(Some(7)), topology.cpus());
}

#[test]
fn two_sockets_of_two_nodes_are_four_nodes() {
    let topology = synthetic("Package:2 NUMANode:2 Core:2 PU:2").unwrap();
    assert_eq!(topology.nodes().collect::<Vec<_>>(), [0, 1, 2, 3]);
    assert_eq!(set(&topology, Some(2)), [8, 9, 10, 11]);
    // Cores first, then their siblings, then around again; never another node.
    let all = everything();
    assert_eq!(assigned(&topology, Some(2), &all, 6), [8, 10, 9, 11, 8, 10]);
    assert_eq!(assigned(&topology, Some(9), &all, 3), [0, 2, 4], "an unknown node: any");
    assert_eq!(assigned(&topology, None, &all, 9)[8], 1, "siblings when every core has a thread");
}

#[test]
fn nobody_is_put_where_he_may_not_run() {
    let topology = synthetic("Package:2 NUMANode:1 Core:2 PU:2").unwrap();
    let allowed: CpuSet = [1, 3, 6].into_iter().collect();
    assert_eq!(assigned(&topology, Some(0), &allowed, 3), [1, 3, 1]);
    assert_eq!(assigned(&topology, Some(1), &allowed, 2), [6, 6]);
    let elsewhere: CpuSet = [1, 3].into_iter().collect();
    assert_eq!(assigned(&topology, Some(1), &elsewhere, 2), [1, 3], "none of the node: another");
    assert_eq!(topology.choose(Some(1), &CpuSet::default(), |_| 0), None);
    let unknown: CpuSet = [40].into_iter().collect();
    assert_eq!(topology.choose(None, &unknown, |_| 0), Some(40), "hwloc does not know it");
}

#[test]
fn a_device_on_node_2_is_near_its_cores() {
    let topology = xml(FOUR_NODES).unwrap();
    assert_eq!(topology.nodes().collect::<Vec<_>>(), [0, 1, 2, 3]);
    let node = |address: &str| topology.device_node(&address.parse().unwrap());
    assert_eq!(node("0000:81:00.0"), Some(2));
    assert_eq!(node("0000:01:00.0"), Some(0));
    assert_eq!(node("0000:c1:00.0"), None, "at the root of the machine: near every node");
    assert_eq!(node("0000:81:00.1"), None, "there is no such function");
    assert_eq!(set(&topology, node("0000:81:00.0")), [8, 9, 10, 11]);
    assert_eq!(assigned(&topology, node("0000:81:00.0"), &everything(), 2), [8, 10]);
}

#[test]
fn offline_cores_and_those_outside_of_the_cpuset_are_not_there() {
    let topology = xml(CONTAINER).unwrap();
    assert_eq!(topology.cpus().iter().collect::<Vec<_>>(), [8, 10, 12, 13, 14, 15]);
    assert_eq!(set(&topology, Some(2)), [8, 10]);
    let node = topology.device_node(&"0000:81:00.0".parse().unwrap());
    assert_eq!(assigned(&topology, node, &everything(), 3), [8, 10, 8]);
    // Node 0 has nothing that the container may use.
    assert_eq!(assigned(&topology, Some(0), &everything(), 1), [8]);
}

#[test]
fn a_node_with_memory_only_has_no_cores_of_its_own() {
    // Two nodes of processors, and one more of memory at the machine.
    let topology = synthetic("[NUMANode(memory=64GB)] Package:2 [NUMANode] Core:2 PU:1").unwrap();
    assert_eq!(topology.nodes().count(), 3);
    assert_eq!(topology.cpus().len(), 4);
    let memory: Vec<_> =
        topology.nodes().filter(|node| topology.near(Some(*node)).len() == 4).collect();
    assert_eq!(memory.len(), 1);
    assert!(topology.choose(Some(memory[0]), &everything(), |_| 0).is_some());
}

#[test]
fn a_machine_without_nodes_is_one() {
    let topology = synthetic("Core:2 PU:1").unwrap();
    assert_eq!(topology.near(Some(0)).len(), 2);
    assert_eq!(topology.near(None).nth(5), Some(1));
}

#[test]
fn a_description_that_is_none_is_refused() {
    assert!(Topology::from_synthetic("Core:none").is_err());
    assert!(Topology::from_xml("<topology").is_err());
}

#[test]
fn this_machine_has_cores() {
    let topology = Topology::load_with_devices();
    assert!(!topology.cpus().is_empty());
    assert!(topology.nodes().all(|node| !topology.near(Some(node)).is_empty()));
    let allowed = allowed().unwrap();
    let chosen = topology.choose(None, &allowed, |_| 0).unwrap();
    assert!(allowed.contains(chosen));
}

#[test]
fn memory_is_asked_for_and_a_node_that_does_not_exist_is_an_error() {
    std::thread::spawn(|| {
        let topology = Topology::load();
        if let Some(node) = topology.nodes().next()
            && let Err(error) = super::super::prefer_memory_of(node)
        {
            // A container may forbid it; that is said in words.
            assert!(!error.is_empty());
        }
        let error = super::super::prefer_memory_of(4711).unwrap_err();
        assert!(error.contains("4711"), "{error}");
    })
    .join()
    .unwrap();
}
