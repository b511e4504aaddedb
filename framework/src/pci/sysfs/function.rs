//! [`Function`]: one PCI function.

use std::path::Path;

use serde::Serialize;

use super::Roots;
use super::error::SysfsError;
use super::read::{PAGE, hex, link_name, malformed, names, optional, text};
use crate::bus::Identity;
use crate::pci::Address;

/// Most virtual functions of one physical function (SR-IOV 1.1, 3.3.5: a 16-bit field).
const MOST_VFS: u32 = 0xffff;

/// A PCI function as sysfs shows it (Linux, Documentation/ABI/testing/sysfs-bus-pci).
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Function {
    /// Where it sits.
    pub address: Address,
    /// Vendor id.
    pub vendor: u16,
    /// Device id.
    pub device: u16,
    /// Class code, 24 bits.
    pub class: u32,
    /// Vendor and id of the subsystem.
    pub subsystem: Option<(u16, u16)>,
    /// The driver that is bound now.
    pub driver: Option<String>,
    /// The only driver that may bind, if that is set.
    pub driver_override: Option<String>,
    /// Number of the IOMMU group; `None` without an IOMMU.
    pub group: Option<u32>,
    /// NUMA node; `None` where the firmware does not say.
    pub numa_node: Option<u32>,
    /// The physical function, of a virtual one.
    pub physical: Option<Address>,
    /// Of a physical function that can have virtual ones.
    pub sriov: Option<SrIov>,
    /// BARs and the expansion ROM that have a size.
    pub resources: Vec<Resource>,
}

/// The virtual functions of a physical one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SrIov {
    /// The most there can be.
    pub total: u32,
    /// How many are enabled.
    pub enabled: u32,
    /// Those that are enabled.
    pub functions: Vec<Address>,
}

/// One BAR (0 to 5) or the expansion ROM (6).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Resource {
    /// Which.
    pub index: u8,
    /// Physical address of the first byte; 0 where this user may not see it.
    pub start: u64,
    /// Bytes.
    pub size: u64,
    /// Linux's `IORESOURCE_*` flags.
    pub flags: u64,
}

impl Function {
    /// Reads a function.
    ///
    /// # Errors
    /// [`SysfsError::NoFunction`], or the file that cannot be read or makes no sense.
    pub fn read(roots: &Roots, address: Address) -> Result<Self, SysfsError> {
        let folder = roots.function(address);
        let at = |name: &str| folder.join(name);
        if !folder.is_dir() {
            return Err(SysfsError::NoFunction(address));
        }
        Ok(Self {
            address,
            vendor: hex16(&at("vendor"))?,
            device: hex16(&at("device"))?,
            class: hex(&at("class"), 0xff_ffff)?,
            subsystem: subsystem(&folder)?,
            driver: link_name(&at("driver"))?,
            driver_override: driver_override(&at("driver_override"))?,
            group: group(&at("iommu_group"))?,
            numa_node: numa_node(&at("numa_node"))?,
            physical: link_address(&at("physfn"))?,
            sriov: sriov(&folder)?,
            resources: resources(&at("resource"))?,
        })
    }

    /// What a driver matches against.
    #[must_use]
    pub fn identity(&self) -> Identity {
        Identity {
            name: self.address.to_string().into(),
            vendor: self.vendor,
            device: self.device,
            class: self.class,
            numa_node: self.numa_node,
        }
    }

    /// True for a bridge (class 06h): it is part of the fabric, and VFIO drives none.
    #[must_use]
    pub fn is_bridge(&self) -> bool {
        self.class >> 16 == 0x06
    }

    /// The driver by name, or `no driver`.
    #[must_use]
    pub fn driver_name(&self) -> &str {
        self.driver.as_deref().unwrap_or("no driver")
    }
}

/// All functions, by address, and what could not be read. A function that is pulled meanwhile is
/// left out.
///
/// # Errors
/// If sysfs itself cannot be read. A machine without PCI has no functions.
pub fn functions(roots: &Roots) -> Result<(Vec<Function>, Vec<SysfsError>), SysfsError> {
    let (mut found, mut broken) = (Vec::new(), Vec::new());
    for name in names(&roots.pci_devices())? {
        let Ok(address) = name.parse() else { continue };
        match Function::read(roots, address) {
            Ok(function) => found.push(function),
            Err(error) if error.is_absent() => {}
            Err(error) => broken.push(error),
        }
    }
    found.sort_by_key(|function| function.address);
    Ok((found, broken))
}

fn hex16(path: &Path) -> Result<u16, SysfsError> {
    // The bound makes the conversion whole.
    Ok(u16::try_from(hex(path, 0xffff)?).unwrap_or(u16::MAX))
}

fn subsystem(folder: &Path) -> Result<Option<(u16, u16)>, SysfsError> {
    let vendor = super::read::present(hex16(&folder.join("subsystem_vendor")))?;
    let device = super::read::present(hex16(&folder.join("subsystem_device")))?;
    Ok(vendor.zip(device))
}

/// The kernel prints `(null)` where none is set.
fn driver_override(path: &Path) -> Result<Option<String>, SysfsError> {
    Ok(optional(path, PAGE)?.filter(|name| !name.is_empty() && name != "(null)"))
}

fn group(path: &Path) -> Result<Option<u32>, SysfsError> {
    let Some(name) = link_name(path)? else { return Ok(None) };
    name.parse().map(Some).map_err(|_| malformed(path, &name, "number of an IOMMU group"))
}

fn numa_node(path: &Path) -> Result<Option<u32>, SysfsError> {
    let Some(text) = optional(path, PAGE)? else { return Ok(None) };
    let node: i32 = text.parse().map_err(|_| malformed(path, &text, "NUMA node"))?;
    Ok(u32::try_from(node).ok())
}

fn link_address(path: &Path) -> Result<Option<Address>, SysfsError> {
    let Some(name) = link_name(path)? else { return Ok(None) };
    name.parse().map(Some).map_err(|_| malformed(path, &name, "PCI address"))
}

fn count(path: &Path) -> Result<Option<u32>, SysfsError> {
    let Some(text) = optional(path, PAGE)? else { return Ok(None) };
    let number = text.parse().ok().filter(|number| *number <= MOST_VFS);
    number.map(Some).ok_or_else(|| malformed(path, &text, "number of virtual functions"))
}

fn sriov(folder: &Path) -> Result<Option<SrIov>, SysfsError> {
    let Some(total) = count(&folder.join("sriov_totalvfs"))? else { return Ok(None) };
    let enabled = count(&folder.join("sriov_numvfs"))?.unwrap_or(0);
    let mut functions = Vec::new();
    for index in 0..enabled {
        // They come and go one by one.
        functions.extend(link_address(&folder.join(format!("virtfn{index}")))?);
    }
    Ok(Some(SrIov { total, enabled, functions }))
}

/// Lines of `start end flags`; the first seven are the BARs and the ROM.
fn resources(path: &Path) -> Result<Vec<Resource>, SysfsError> {
    let text = text(path, PAGE)?;
    let mut found = Vec::new();
    for (index, line) in (0u8..7).zip(text.lines()) {
        let fields: Vec<_> = line.split_whitespace().map(field).collect();
        let [Some(start), Some(end), Some(flags)] = fields[..] else {
            return Err(malformed(path, line, "resource line"));
        };
        if (start, end) == (0, 0) {
            continue;
        }
        let size = end.checked_sub(start).and_then(|size| size.checked_add(1));
        let size = size.ok_or_else(|| malformed(path, line, "resource line"))?;
        found.push(Resource { index, start, size, flags });
    }
    Ok(found)
}

fn field(text: &str) -> Option<u64> {
    u64::from_str_radix(text.strip_prefix("0x")?, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::super::testing::{FakeFunction, FakeMachine};
    use super::*;
    use std::fs;

    #[test]
    fn a_function_is_read_whole() {
        let machine = FakeMachine::new().unwrap();
        let address: Address = "0000:01:00.0".parse().unwrap();
        let nvme = FakeFunction { numa_node: 1, ..FakeFunction::nvme(7) };
        let folder = machine.function(address, &nvme).unwrap();
        machine.virtual_function(address, 0, "0000:01:00.1".parse().unwrap(), 8).unwrap();
        let function = Function::read(machine.roots(), address).unwrap();
        assert_eq!((function.vendor, function.device, function.class), (0x1b36, 0x10, 0x01_0802));
        assert_eq!(function.driver.as_deref(), Some("nvme"));
        assert_eq!((function.driver_override, function.group), (None, Some(7)));
        assert_eq!((function.numa_node, function.physical), (Some(1), None));
        let bar = Resource { index: 0, start: 0xfeb0_0000, size: 0x4000, flags: 0x14_0204 };
        assert_eq!(function.resources, [bar]);
        let sriov = function.sriov.unwrap();
        assert_eq!((sriov.enabled, sriov.functions.len()), (1, 1));
        let virtual_one = Function::read(machine.roots(), sriov.functions[0]).unwrap();
        assert_eq!(virtual_one.physical, Some(address));
        assert_eq!(functions(machine.roots()).unwrap().0.len(), 2);

        fs::write(folder.join("numa_node"), "-1\n").unwrap();
        assert_eq!(Function::read(machine.roots(), address).unwrap().numa_node, None);
    }

    #[test]
    fn what_makes_no_sense_is_an_error_that_names_the_file() {
        let machine = FakeMachine::new().unwrap();
        let address: Address = "0000:01:00.0".parse().unwrap();
        let folder = machine.function(address, &FakeFunction::nvme(7)).unwrap();
        for (file, text) in [
            ("vendor", "0x12345"),
            ("class", "0x1010802"),
            ("numa_node", "near"),
            ("resource", "0x1 0x0 0x0"),
            ("resource", "1 2"),
            ("sriov_totalvfs", "65536"),
            ("device", "\u{7}"),
        ] {
            let before = fs::read(folder.join(file)).unwrap_or_default();
            fs::write(folder.join(file), text).unwrap();
            let error = Function::read(machine.roots(), address).unwrap_err().to_string();
            assert!(error.contains(file) && error.contains("says"), "{error}");
            let (found, broken) = functions(machine.roots()).unwrap();
            assert_eq!((found.len(), broken.len()), (0, 1));
            if before.is_empty() {
                fs::remove_file(folder.join(file)).unwrap();
            } else {
                fs::write(folder.join(file), before).unwrap();
            }
        }
        Function::read(machine.roots(), address).unwrap();
    }

    #[test]
    fn no_function_and_no_pci_at_all() {
        let machine = FakeMachine::new().unwrap();
        assert!(functions(machine.roots()).unwrap().0.is_empty());
        let error = Function::read(machine.roots(), "0000:01:00.0".parse().unwrap()).unwrap_err();
        assert!(error.is_absent() && error.to_string().contains("doorbell list --all"));
    }
}
