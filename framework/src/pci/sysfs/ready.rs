//! Whether VFIO can open a function now, and if not, why.

use std::path::Path;

use super::Roots;
use super::error::SysfsError;
use super::function::Function;
use super::group::{Group, is_vfio};
use super::processes::vfio_holders;
use super::read::{names, printable};
use crate::pci::Address;

/// What this process may do with a device node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// It may read and write.
    Granted,
    /// It may not.
    Denied,
    /// There is no such node.
    Absent,
}

/// Whether this process, as the user that it acts for, may open a node for reading and writing.
#[must_use]
pub fn access(node: &Path) -> Access {
    use rustix::fs::{Access as Want, AtFlags, CWD};
    let want = Want::READ_OK | Want::WRITE_OK;
    match rustix::fs::accessat(CWD, node, want, AtFlags::EACCESS) {
        Ok(()) => Access::Granted,
        Err(rustix::io::Errno::NOENT | rustix::io::Errno::NOTDIR) => Access::Absent,
        Err(_) => Access::Denied,
    }
}

/// The nodes below `/dev` by which VFIO opens a function: its group's, and its own (cdev) where the
/// kernel has one. They need not be there.
#[must_use]
pub fn vfio_nodes(roots: &Roots, function: &Function) -> Vec<String> {
    let mut nodes = Vec::new();
    if let Some(group) = function.group {
        nodes.push(format!("vfio/{group}"));
        nodes.push(format!("vfio/noiommu-{group}"));
    }
    nodes.extend(vfio_file(roots, function.address).map(|name| format!("vfio/devices/{name}")));
    nodes
}

/// The name of a function's own file in `/dev/vfio/devices`, from Linux 6.6 on, while VFIO's driver has
/// it.
#[must_use]
pub fn vfio_file(roots: &Roots, address: Address) -> Option<String> {
    let own = names(&roots.function(address).join("vfio-dev")).unwrap_or_default();
    let numbered = |name: &str| name.strip_prefix("vfio").is_some_and(|n| n.parse::<u32>().is_ok());
    own.into_iter().find(|name| numbered(name))
}

/// Why VFIO cannot open a function now, in a sentence that says what to do; `None` if nothing is in
/// the way.
///
/// # Errors
/// A file of sysfs that cannot be read or makes no sense. A function that does not exist is no
/// error: it is the reason.
pub fn why_not(roots: &Roots, address: Address) -> Result<Option<String>, SysfsError> {
    let function = match Function::read(roots, address) {
        Ok(function) => function,
        Err(SysfsError::NoFunction(address)) => {
            return Ok(Some(SysfsError::NoFunction(address).to_string()));
        }
        Err(error) => return Err(error),
    };
    Ok(not_bound(&function).or(no_group(roots, &function)?).or_else(|| no_node(roots, &function)))
}

fn not_bound(function: &Function) -> Option<String> {
    let address = function.address;
    if function.is_bridge() {
        return Some(format!("{address} is a bridge; VFIO drives none"));
    }
    match function.driver.as_deref() {
        Some(driver) if is_vfio(driver) => None,
        Some(driver) => Some(format!(
            "{address} is driven by {}; hand it over with `doorbell bind {address}`",
            printable(driver)
        )),
        None => Some(format!(
            "{address} has no driver; give it to vfio-pci with `doorbell bind {address}`"
        )),
    }
}

fn no_group(roots: &Roots, function: &Function) -> Result<Option<String>, SysfsError> {
    let address = function.address;
    let Some(number) = function.group else {
        return Ok(Some(format!(
            "{address} is in no IOMMU group: the IOMMU is off; `doorbell check` says how to turn \
             it on"
        )));
    };
    let group = Group::read(roots, number)?;
    if group.no_iommu {
        return Ok(Some(format!(
            "{address} is bound in VFIO's no-IOMMU mode, in which nothing keeps it from any memory; \
             turn the IOMMU on, as `doorbell check` says"
        )));
    }
    let others = group.in_the_way(address);
    if others.is_empty() {
        return Ok(None);
    }
    let list: Vec<_> = others
        .iter()
        .map(|member| {
            let driver = printable(member.driver.as_deref().unwrap_or_default());
            format!("{} (driven by {driver})", printable(&member.name))
        })
        .collect();
    Ok(Some(format!(
        "IOMMU group {number} of {address} is not viable: {} shares it; bind that to vfio-pci as \
         well, or take it from its driver",
        list.join(", ")
    )))
}

fn no_node(roots: &Roots, function: &Function) -> Option<String> {
    let address = function.address;
    let nodes = vfio_nodes(roots, function);
    let seen: Vec<_> = nodes.iter().map(|name| (name, access(&roots.dev.join(name)))).collect();
    if seen.iter().any(|(_, access)| *access == Access::Granted) {
        let holders = vfio_holders(roots, function).openers;
        let holder = holders.first()?;
        return Some(format!(
            "{address} is held by process {} ({}), which has /dev/{} open",
            holder.pid, holder.program, holder.node
        ));
    }
    let denied: Vec<_> = seen.iter().filter(|(_, access)| *access == Access::Denied).collect();
    match denied.first() {
        Some((name, _)) => Some(format!(
            "{address}: this user may not open /dev/{name}; see 'Without root' in the book's \
             'Setting up a real machine'"
        )),
        None => Some(format!(
            "{address} has no node below /dev/vfio although vfio-pci drives it; in a container, \
             give it /dev/vfio"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::super::bind::VFIO_PCI;
    use super::super::testing::{FakeFunction, FakeMachine};
    use super::*;

    #[test]
    fn each_reason_says_what_to_do() {
        let machine = FakeMachine::new().unwrap();
        let roots = machine.roots();
        let address: Address = "0000:01:00.0".parse().unwrap();
        let why = || why_not(roots, address).unwrap();
        assert!(why().unwrap().contains("list --all"));

        machine.function(address, &FakeFunction::nvme(3)).unwrap();
        assert!(why().unwrap().contains("driven by nvme; hand it over with `doorbell bind"));
        machine.set_driver(address, None).unwrap();
        assert!(why().unwrap().contains("no driver"));
        machine.set_driver(address, Some(VFIO_PCI)).unwrap();
        assert!(why().unwrap().contains("no node"));
        machine.node("vfio/3").unwrap();
        assert_eq!(why(), None);

        machine.process(77, "qemu", &["/dev/vfio/3"]).unwrap();
        assert!(why().unwrap().contains("process 77 (qemu)"));
        let sibling = FakeFunction { driver: Some("e1000e"), ..FakeFunction::nvme(3) };
        machine.function("0000:01:00.1".parse().unwrap(), &sibling).unwrap();
        let said = why().unwrap();
        assert!(said.contains("not viable") && said.contains("0000:01:00.1 (driven by e1000e)"));
    }

    #[test]
    fn bridges_and_machines_without_an_iommu() {
        let machine = FakeMachine::new().unwrap();
        let at = |text: &str| text.parse::<Address>().unwrap();
        let bridge = FakeFunction { class: 0x06_0400, ..FakeFunction::nvme(3) };
        machine.function(at("0000:00:1c.0"), &bridge).unwrap();
        assert!(why_not(machine.roots(), at("0000:00:1c.0")).unwrap().unwrap().contains("bridge"));
        let alone = FakeFunction { group: None, driver: Some(VFIO_PCI), ..FakeFunction::nvme(0) };
        machine.function(at("0000:01:00.0"), &alone).unwrap();
        let said = why_not(machine.roots(), at("0000:01:00.0")).unwrap().unwrap();
        assert!(said.contains("IOMMU is off") && said.contains("doorbell check"), "{said}");
        let made_up = FakeFunction { group: Some(0), ..alone };
        machine.function(at("0000:01:00.0"), &made_up).unwrap();
        machine.write("sys/kernel/iommu_groups/0/name", "vfio-noiommu\n").unwrap();
        let said = why_not(machine.roots(), at("0000:01:00.0")).unwrap().unwrap();
        assert!(said.contains("no-IOMMU mode"), "{said}");
    }
}
