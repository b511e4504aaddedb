//! Which cores and which memory are near a device.
//!
//! With feature `hwloc` (the default) the topology comes from hwloc, which also knows cpusets and
//! containers; without it, or where hwloc fails, from sysfs. A device whose node is unknown is near
//! every core, and nothing is pinned for it.
//!
//! What it does not do: it binds no memory. A thread that is pinned before it first touches memory
//! gets it from its own node by the kernel's default policy.

use std::collections::{BTreeMap, BTreeSet};
use std::io;

#[cfg(feature = "hwloc")]
mod hwloc;
mod sysfs;

/// CPUs by their OS index.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct CpuSet(BTreeSet<usize>);

impl CpuSet {
    /// The CPUs, ascending.
    pub fn iter(&self) -> impl Iterator<Item = usize> + '_ {
        self.0.iter().copied()
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// True if there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// True if `cpu` is among them.
    #[must_use]
    pub fn contains(&self, cpu: usize) -> bool {
        self.0.contains(&cpu)
    }

    /// The `n`-th CPU, counted around: to spread threads over a set. `None` for an empty set.
    #[must_use]
    pub fn nth(&self, n: usize) -> Option<usize> {
        self.0.iter().copied().nth(n.checked_rem(self.0.len())?)
    }
}

impl FromIterator<usize> for CpuSet {
    fn from_iter<I: IntoIterator<Item = usize>>(cpus: I) -> Self {
        Self(cpus.into_iter().collect())
    }
}

/// The cores of this machine by NUMA node.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Topology {
    nodes: BTreeMap<u32, CpuSet>,
    all: CpuSet,
}

impl Topology {
    /// Reads this machine's topology. It never fails: a machine that tells nothing is one node with
    /// the CPUs that this thread may use.
    #[must_use]
    pub fn load() -> Self {
        #[cfg(feature = "hwloc")]
        match hwloc::load() {
            Ok(topology) => return topology,
            Err(error) => tracing::warn!(%error, "hwloc failed; sysfs is read instead"),
        }
        Self::from_sysfs()
    }

    fn from_sysfs() -> Self {
        match sysfs::load(std::path::Path::new("/sys/devices/system/node")) {
            Ok(nodes) => Self::new(nodes),
            Err(error) => {
                tracing::debug!(%error, "sysfs shows no NUMA nodes");
                Self::new(BTreeMap::new())
            }
        }
    }

    fn new(nodes: BTreeMap<u32, CpuSet>) -> Self {
        let mut all: CpuSet = nodes.values().flat_map(CpuSet::iter).collect();
        if all.is_empty() {
            all = allowed().unwrap_or_default();
        }
        Self { nodes, all }
    }

    /// The NUMA nodes that have CPUs or memory, ascending.
    pub fn nodes(&self) -> impl Iterator<Item = u32> + '_ {
        self.nodes.keys().copied()
    }

    /// All CPUs.
    #[must_use]
    pub fn cpus(&self) -> &CpuSet {
        &self.all
    }

    /// The CPUs of a node; all CPUs if the node is unknown, does not exist, or has memory only.
    #[must_use]
    pub fn near(&self, numa_node: Option<u32>) -> &CpuSet {
        let node = numa_node.and_then(|node| self.nodes.get(&node));
        node.filter(|cpus| !cpus.is_empty()).unwrap_or(&self.all)
    }
}

/// The CPUs that the calling thread may run on.
///
/// # Errors
/// The kernel's.
pub fn allowed() -> io::Result<CpuSet> {
    let set = rustix::thread::sched_getaffinity(None)?;
    Ok((0..rustix::thread::CpuSet::MAX_CPU).filter(|cpu| set.is_set(*cpu)).collect())
}

/// Pins the calling thread to one CPU.
///
/// # Errors
/// `InvalidInput` if no such CPU can be; the kernel's error if this process may not run there.
pub fn pin_thread(cpu: usize) -> io::Result<()> {
    if cpu >= rustix::thread::CpuSet::MAX_CPU {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("there is no CPU {cpu}")));
    }
    let mut set = rustix::thread::CpuSet::new();
    set.set(cpu);
    Ok(rustix::thread::sched_setaffinity(None, &set)?)
}

/// Keeps the calling thread on the cores near a device's node, of those that it may use. For an
/// unknown node, or one without such cores, nothing is changed. Returns whether it was placed.
///
/// # Errors
/// The kernel's.
pub fn place_thread(numa_node: Option<u32>) -> io::Result<bool> {
    if numa_node.is_none() {
        return Ok(false);
    }
    let (topology, allowed) = (Topology::load(), allowed()?);
    let mut set = rustix::thread::CpuSet::new();
    topology.near(numa_node).iter().filter(|cpu| allowed.contains(*cpu)).for_each(|c| set.set(c));
    if set.count() == 0 {
        return Ok(false);
    }
    rustix::thread::sched_setaffinity(None, &set)?;
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_is_pinned_where_it_may_run() {
        std::thread::spawn(|| {
            let cpu = allowed().unwrap().nth(0).unwrap();
            pin_thread(cpu).unwrap();
            assert_eq!(allowed().unwrap().iter().collect::<Vec<_>>(), [cpu]);
            assert!(pin_thread(1 << 20).is_err());
        })
        .join()
        .unwrap();
    }

    #[test]
    fn a_thread_keeps_to_the_cores_of_its_devices_node() {
        std::thread::spawn(|| {
            assert!(!place_thread(None).unwrap());
            let topology = Topology::load();
            let Some(node) = topology.nodes().next() else { return };
            assert!(place_thread(Some(node)).unwrap());
            assert!(allowed().unwrap().iter().all(|cpu| topology.near(Some(node)).contains(cpu)));
        })
        .join()
        .unwrap();
    }

    #[test]
    fn an_unknown_machine_has_the_cpus_this_thread_may_use() {
        let topology = Topology::new(BTreeMap::new());
        assert_eq!(topology.near(None), &allowed().unwrap());
        assert_eq!(CpuSet::default().nth(3), None);
        assert!(!Topology::from_sysfs().cpus().is_empty());
    }
}
