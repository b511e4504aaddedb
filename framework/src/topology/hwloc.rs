//! The topology as hwloc tells it.
//!
//! hwloc leaves out processors that are offline, and those that a container's cpuset does not allow.

use std::collections::BTreeMap;

use hwlocality::Topology as Hwloc;
use hwlocality::memory::binding::{MemoryBindingFlags, MemoryBindingPolicy};
use hwlocality::memory::nodeset::NodeSet;
use hwlocality::object::TopologyObject;
use hwlocality::object::attributes::ObjectAttributes;
use hwlocality::object::types::ObjectType;
use hwlocality::topology::builder::{TopologyBuilder, TypeFilter};

use super::{CpuSet, Parts, Topology};
use crate::pci::Address;

type AnyError = Box<dyn std::error::Error>;

/// This machine. Its devices are looked for where `devices` says so: that takes longer.
pub(super) fn load(devices: bool) -> Result<Topology, AnyError> {
    build(Hwloc::builder(), devices)
}

/// The machine that a synthetic description tells of.
pub(super) fn synthetic(description: &str) -> Result<Topology, AnyError> {
    build(Hwloc::builder().from_synthetic(description)?, false)
}

/// The machine that an XML export tells of.
pub(super) fn xml(text: &str) -> Result<Topology, AnyError> {
    build(Hwloc::builder().from_xml(text)?, true)
}

fn build(builder: TopologyBuilder, devices: bool) -> Result<Topology, AnyError> {
    let filter = if devices { TypeFilter::KeepAll } else { TypeFilter::KeepNone };
    Ok(convert(&builder.with_io_type_filter(filter)?.build()?))
}

fn convert(topology: &Hwloc) -> Topology {
    let mut parts = Parts::default();
    for node in topology.objects_with_type(ObjectType::NUMANode) {
        if let Some(index) = number(node) {
            parts.nodes.insert(index, cpus(node));
        }
    }
    for (index, core) in topology.objects_with_type(ObjectType::Core).enumerate() {
        parts.cores.extend(cpus(core).iter().map(|cpu| (cpu, index)));
    }
    parts.devices = devices(topology, &parts.nodes);
    Topology::new(parts)
}

fn number(object: &TopologyObject) -> Option<u32> {
    object.os_index().and_then(|index| u32::try_from(index).ok())
}

fn cpus(object: &TopologyObject) -> CpuSet {
    object.cpuset().map(|set| set.iter_set().map(usize::from).collect()).unwrap_or_default()
}

/// The node of every PCI function whose place belongs to one node, or to several that are as near to
/// each other as can be (fast and slow memory of the same processors): then the first.
fn devices(topology: &Hwloc, cpus: &BTreeMap<u32, CpuSet>) -> BTreeMap<Address, u32> {
    let functions = topology.objects_with_type(ObjectType::PCIDevice);
    let placed = functions.filter_map(|function| {
        let Some(ObjectAttributes::PCIDevice(pci)) = function.attributes() else { return None };
        let address = Address {
            // The narrowest that hwloc can be built with is 16 bits.
            #[allow(clippy::useless_conversion, reason = "its type depends on hwloc's version")]
            domain: u32::from(pci.domain()),
            bus: pci.bus_id(),
            device: pci.bus_device(),
            function: pci.function(),
        };
        let nodes = function.first_non_io_ancestor()?.nodeset()?;
        let nodes = nodes.iter_set().filter_map(|node| u32::try_from(usize::from(node)).ok());
        let known: Vec<_> = nodes.filter_map(|node| Some((node, cpus.get(&node)?))).collect();
        let (first, its) = known.iter().find(|(_, cpus)| !cpus.is_empty())?;
        let near = |cpus: &CpuSet| cpus.is_empty() || cpus == *its;
        known.iter().all(|(_, cpus)| near(cpus)).then_some((address, *first))
    });
    placed.collect()
}

/// Has the kernel take memory that this thread touches first from `node` while that has some.
pub(super) fn prefer_memory_of(node: u32) -> Result<(), String> {
    let topology = Hwloc::new().map_err(|error| error.to_string())?;
    let nodes = topology.objects_with_type(ObjectType::NUMANode);
    let mut found = nodes.filter(|object| number(object) == Some(node));
    let Some(set) = found.next().and_then(TopologyObject::nodeset) else {
        return Err(format!("this machine has no node {node}"));
    };
    let set: NodeSet = set.clone_target();
    // Without STRICT: memory from elsewhere is better than none.
    let (policy, flags) = (MemoryBindingPolicy::Bind, MemoryBindingFlags::THREAD);
    topology.bind_memory(&set, policy, flags).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests;
