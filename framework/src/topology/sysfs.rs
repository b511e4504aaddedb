//! The topology as sysfs tells it (Linux, Documentation/ABI/stable/sysfs-devices-node).

use std::collections::BTreeMap;
use std::io;
use std::path::Path;

use super::CpuSet;

/// Most CPUs that a list may name: more is a broken file, not a machine.
const MOST: usize = 1 << 16;

/// Reads `nodeN/cpulist` of every node in `folder`.
pub(super) fn load(folder: &Path) -> io::Result<BTreeMap<u32, CpuSet>> {
    let mut nodes = BTreeMap::new();
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        let name = entry.file_name();
        let number = name.to_str().and_then(|name| name.strip_prefix("node"));
        let Some(node) = number.and_then(|number| number.parse().ok()) else { continue };
        let list = std::fs::read_to_string(entry.path().join("cpulist"))?;
        let cpus = parse(list.trim()).ok_or_else(|| {
            io::Error::new(io::ErrorKind::InvalidData, format!("node{node}: no CPU list: {list:?}"))
        })?;
        nodes.insert(node, cpus);
    }
    Ok(nodes)
}

/// Which CPUs share a core: reads `cpuN/topology/core_cpus_list` of every CPU in `folder`. The core has
/// the number of its first CPU. What cannot be read is a core by itself.
pub(super) fn cores(folder: &Path) -> BTreeMap<usize, usize> {
    let mut cores = BTreeMap::new();
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let number = name.to_str().and_then(|name| name.strip_prefix("cpu"));
        let Some(cpu) = number.and_then(|number| number.parse().ok()) else { continue };
        let list = std::fs::read_to_string(entry.path().join("topology/core_cpus_list"));
        let siblings = list.ok().and_then(|list| parse(list.trim()));
        let first = siblings.and_then(|siblings| siblings.iter().next());
        cores.insert(cpu, first.unwrap_or(cpu));
    }
    cores
}

/// A CPU list such as `0-3,8,10-11`; the empty list is a node with memory only.
fn parse(list: &str) -> Option<CpuSet> {
    if list.is_empty() {
        return Some(CpuSet::default());
    }
    let ranges = list.split(',').map(|part| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last) = (first.parse::<usize>().ok()?, last.parse::<usize>().ok()?);
        (first <= last && last < MOST).then_some(first..=last)
    });
    let ranges = ranges.collect::<Option<Vec<_>>>()?;
    Some(ranges.into_iter().flatten().collect())
}

#[cfg(test)]
mod tests {
    use super::super::Parts;
    use super::*;

    #[test]
    fn siblings_share_a_core() {
        let folder = tempfile::tempdir().unwrap();
        for (cpu, list) in
            [("cpu0", "0,2\n"), ("cpu1", "1,3\n"), ("cpu2", "0,2\n"), ("cpufreq", "")]
        {
            let topology = folder.path().join(cpu).join("topology");
            std::fs::create_dir_all(&topology).unwrap();
            std::fs::write(topology.join("core_cpus_list"), list).unwrap();
        }
        std::fs::create_dir(folder.path().join("cpu9")).unwrap();
        assert_eq!(cores(folder.path()), BTreeMap::from([(0, 0), (1, 1), (2, 0), (9, 9)]));
        assert!(cores(&folder.path().join("none")).is_empty());
    }

    #[test]
    fn lists_are_read_and_nonsense_is_refused() {
        let cpus = |list| parse(list).map(|set| set.iter().collect::<Vec<_>>());
        assert_eq!(cpus("0-2,5,7-7"), Some(vec![0, 1, 2, 5, 7]));
        assert_eq!(cpus(""), Some(vec![]));
        for bad in ["x", "3-1", "1-", "-", "0,,1", "0-99999999"] {
            assert_eq!(cpus(bad), None, "{bad}");
        }
    }

    #[test]
    fn nodes_come_from_their_folders() {
        let folder = tempfile::tempdir().unwrap();
        for (node, list) in [("node0", "0-1\n"), ("node1", "2-3\n"), ("node2", "\n")] {
            std::fs::create_dir(folder.path().join(node)).unwrap();
            std::fs::write(folder.path().join(node).join("cpulist"), list).unwrap();
        }
        std::fs::write(folder.path().join("possible"), "0-2\n").unwrap();
        let nodes = load(folder.path()).unwrap();
        let topology = super::super::Topology::new(Parts { nodes, ..Parts::default() });
        assert_eq!(topology.nodes().collect::<Vec<_>>(), [0, 1, 2]);
        assert_eq!(topology.near(Some(1)).iter().collect::<Vec<_>>(), [2, 3]);
        assert_eq!(topology.near(None).len(), 4);
        assert_eq!(topology.near(Some(2)).len(), 4, "a node with memory only");
        assert_eq!(topology.near(Some(9)).len(), 4, "a node that does not exist");
    }
}
