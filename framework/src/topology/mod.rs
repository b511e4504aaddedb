//! Which cores and which memory are near a device.
//!
//! With feature `hwloc` (the default) the topology comes from hwloc, which also knows cpusets and
//! containers; without it, or where hwloc fails, from sysfs. A device whose node is unknown is near
//! every core, and nothing is pinned for it.
//!
//! **Memory.** A thread that is pinned before it first touches memory gets it from its own node by the
//! kernel's default policy. [`prefer_memory_of`] says so expressly.
//!
//! What it does not do: it moves no memory that is there already.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::Path;

use crate::pci::Address;

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

/// What a topology is made of.
#[derive(Debug, Default)]
struct Parts {
    nodes: BTreeMap<u32, CpuSet>,
    /// The core of each CPU.
    cores: BTreeMap<usize, usize>,
    devices: BTreeMap<Address, u32>,
}

/// The cores of this machine by NUMA node, and the nodes of its devices.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Topology {
    nodes: BTreeMap<u32, CpuSet>,
    cores: BTreeMap<usize, usize>,
    devices: BTreeMap<Address, u32>,
    all: CpuSet,
}

impl Topology {
    /// Reads this machine's topology. It never fails: a machine that tells nothing is one node with
    /// the CPUs that this thread may use.
    #[must_use]
    pub fn load() -> Self {
        Self::load_this_machine(false)
    }

    /// As [`Topology::load`], with the places of PCI functions ([`Topology::device_node`]). It takes
    /// longer.
    #[must_use]
    pub fn load_with_devices() -> Self {
        Self::load_this_machine(true)
    }

    fn load_this_machine(devices: bool) -> Self {
        #[cfg(feature = "hwloc")]
        match hwloc::load(devices) {
            Ok(topology) => return topology,
            Err(error) => tracing::warn!(%error, "hwloc failed; sysfs is read instead"),
        }
        // sysfs tells a device's node where the device is opened.
        let _ = devices;
        Self::from_sysfs()
    }

    /// The machine that hwloc's synthetic description tells of: `Package:2 NUMANode:2 Core:4 PU:2`. For
    /// plans and tests.
    ///
    /// # Errors
    /// hwloc's, in words.
    #[cfg(feature = "hwloc")]
    pub fn from_synthetic(description: &str) -> io::Result<Self> {
        hwloc::synthetic(description).map_err(|error| io::Error::other(error.to_string()))
    }

    /// The machine that an XML export of hwloc tells of (`lstopo machine.xml`): another one than this.
    ///
    /// # Errors
    /// hwloc's, in words.
    #[cfg(feature = "hwloc")]
    pub fn from_xml(text: &str) -> io::Result<Self> {
        hwloc::xml(text).map_err(|error| io::Error::other(error.to_string()))
    }

    fn from_sysfs() -> Self {
        let devices = Path::new("/sys/devices/system");
        let nodes = sysfs::load(&devices.join("node")).unwrap_or_else(|error| {
            tracing::debug!(%error, "sysfs shows no NUMA nodes");
            BTreeMap::new()
        });
        let cores = sysfs::cores(&devices.join("cpu"));
        Self::new(Parts { nodes, cores, devices: BTreeMap::new() })
    }

    fn new(parts: Parts) -> Self {
        let Parts { nodes, cores, devices } = parts;
        let mut all: CpuSet = nodes.values().flat_map(CpuSet::iter).collect();
        if all.is_empty() {
            all = allowed().unwrap_or_default();
        }
        Self { nodes, cores, devices, all }
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

    /// The node of a PCI function, if it is known and lies at one. Only a topology
    /// [with devices](Topology::load_with_devices) knows any.
    #[must_use]
    pub fn device_node(&self, device: &Address) -> Option<u32> {
        self.devices.get(device).copied()
    }

    /// The CPU for a thread near a node: of those that are `allowed`, the one with the least `load`; of
    /// these, one whose core has the least load on all of its CPUs, so that hyper-thread siblings come
    /// last; of these, the first. If none of the node is allowed, one of all nodes. `None` if none is
    /// allowed at all.
    #[must_use]
    pub fn choose(
        &self,
        numa_node: Option<u32>,
        allowed: &CpuSet,
        load: impl Fn(usize) -> u32,
    ) -> Option<usize> {
        let core_load = |cpu: usize| {
            let core = self.cores.get(&cpu);
            let siblings = self.cores.iter().filter(|(_, other)| core == Some(*other));
            siblings.map(|(sibling, _)| load(*sibling)).sum::<u32>()
        };
        let best = |cpus: &CpuSet| {
            let cpus = cpus.iter().filter(|cpu| allowed.contains(*cpu));
            cpus.min_by_key(|cpu| (load(*cpu), core_load(*cpu), *cpu))
        };
        best(self.near(numa_node)).or_else(|| best(&self.all)).or_else(|| best(allowed))
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
    keep_thread_on(&CpuSet::from_iter([cpu]))
}

/// Keeps the calling thread on these CPUs.
///
/// # Errors
/// The kernel's: this process may run on none of them.
pub fn keep_thread_on(cpus: &CpuSet) -> io::Result<()> {
    let mut set = rustix::thread::CpuSet::new();
    let most = rustix::thread::CpuSet::MAX_CPU;
    cpus.iter().filter(|cpu| *cpu < most).for_each(|cpu| set.set(cpu));
    Ok(rustix::thread::sched_setaffinity(None, &set)?)
}

/// Has the kernel take memory that the calling thread touches first from `node`, as long as there is
/// some; what is there already stays where it is.
///
/// # Errors
/// Why not, in words: there is no such node, a container forbids it, or this is built without hwloc.
pub fn prefer_memory_of(node: u32) -> Result<(), String> {
    #[cfg(feature = "hwloc")]
    return hwloc::prefer_memory_of(node);
    #[cfg(not(feature = "hwloc"))]
    return Err(format!("node {node} is not asked for: built without hwloc"));
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
    let near: CpuSet =
        topology.near(numa_node).iter().filter(|cpu| allowed.contains(*cpu)).collect();
    if near.is_empty() {
        return Ok(false);
    }
    keep_thread_on(&near)?;
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
        let topology = Topology::new(Parts::default());
        assert_eq!(topology.near(None), &allowed().unwrap());
        assert_eq!(CpuSet::default().nth(3), None);
        assert!(!Topology::from_sysfs().cpus().is_empty());
    }
}
