//! [`Group`]: what the IOMMU can tell apart only together.

use serde::Serialize;

use super::Roots;
use super::bind::VFIO_PCI;
use super::error::SysfsError;
use super::function::Function;
use super::read::{PAGE, link_name, names, optional};
use crate::pci::Address;

/// Drivers that leave a group usable for VFIO: they do no DMA of their own.
const HARMLESS: &[&str] = &["pci-stub", "pcieport"];

/// An IOMMU group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Group {
    /// Its number: `/dev/vfio/N`.
    pub number: u32,
    /// The kernel's default domain: `DMA`, `DMA-FQ`, `identity`.
    pub kind: Option<String>,
    /// True for a group that VFIO made up in its no-IOMMU mode: nothing keeps its devices from any
    /// memory.
    pub no_iommu: bool,
    /// Everything in it, by name.
    pub members: Vec<Member>,
}

/// A device in a group; nearly always a PCI function.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Member {
    /// Its name: the address of a PCI function.
    pub name: String,
    /// The driver that is bound.
    pub driver: Option<String>,
    /// True for a PCI bridge.
    pub bridge: bool,
}

impl Member {
    /// True if VFIO can use the group beside this member: no driver, one of VFIO's, or one that does
    /// no DMA (Linux, Documentation/driver-api/vfio.rst).
    #[must_use]
    pub fn is_harmless(&self) -> bool {
        let harmless =
            |driver: &String| is_vfio(driver) || HARMLESS.contains(&driver.as_str()) || self.bridge;
        self.driver.as_ref().is_none_or(harmless)
    }
}

/// True for a driver that hands its devices to user space through VFIO: vfio-pci, and variants of it
/// for certain devices such as `mlx5_vfio_pci`.
#[must_use]
pub fn is_vfio(driver: &str) -> bool {
    driver.replace('_', "-").ends_with(VFIO_PCI)
}

impl Group {
    /// Reads a group.
    ///
    /// # Errors
    /// The file that cannot be read.
    pub fn read(roots: &Roots, number: u32) -> Result<Self, SysfsError> {
        let folder = roots.sys.join("kernel/iommu_groups").join(number.to_string());
        let mut members = Vec::new();
        for name in names(&folder.join("devices"))? {
            let driver = link_name(&folder.join("devices").join(&name).join("driver"))?;
            let address = name.parse::<Address>().ok();
            let function = address.and_then(|address| Function::read(roots, address).ok());
            let bridge = function.is_some_and(|function| function.is_bridge());
            members.push(Member { name, driver, bridge });
        }
        let kind = optional(&folder.join("type"), PAGE)?;
        let no_iommu = optional(&folder.join("name"), PAGE)?.as_deref() == Some("vfio-noiommu");
        Ok(Self { number, kind, no_iommu, members })
    }

    /// The members that keep VFIO from using the group.
    pub fn foreign(&self) -> impl Iterator<Item = &Member> {
        self.members.iter().filter(|member| !member.is_harmless())
    }

    /// The members beside a function.
    pub fn others(&self, address: Address) -> impl Iterator<Item = &Member> {
        let name = address.to_string();
        self.members.iter().filter(move |member| member.name != name)
    }

    /// The members beside a function that keep VFIO from using the group.
    #[must_use]
    pub fn in_the_way(&self, address: Address) -> Vec<&Member> {
        self.others(address).filter(|member| !member.is_harmless()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{FakeFunction, FakeMachine};
    use super::*;

    #[test]
    fn a_group_knows_who_shares_it_and_who_is_in_the_way() {
        let machine = FakeMachine::new().unwrap();
        let at = |text: &str| text.parse::<Address>().unwrap();
        let kinds = [
            ("0000:01:00.0", 0x01_0802, Some("vfio-pci")),
            ("0000:01:00.1", 0x02_0000, Some("e1000e")),
            ("0000:01:00.2", 0x04_0300, None),
            ("0000:00:1c.0", 0x06_0400, Some("pcieport")),
            ("0000:01:00.3", 0x02_0000, Some("mlx5_vfio_pci")),
        ];
        for (address, class, driver) in kinds {
            let function = FakeFunction { class, driver, ..FakeFunction::nvme(3) };
            machine.function(at(address), &function).unwrap();
        }
        let group = Group::read(machine.roots(), 3).unwrap();
        assert_eq!(group.others(at("0000:01:00.0")).count(), 4);
        let names = |members: Vec<&Member>| {
            members.into_iter().map(|member| member.name.clone()).collect::<Vec<_>>()
        };
        assert_eq!(names(group.in_the_way(at("0000:01:00.0"))), ["0000:01:00.1"]);
        assert_eq!(names(group.in_the_way(at("0000:01:00.1"))), Vec::<String>::new());
        assert_eq!(names(group.foreign().collect()), ["0000:01:00.1"]);
        assert!(Group::read(machine.roots(), 9).unwrap().members.is_empty());
    }
}
