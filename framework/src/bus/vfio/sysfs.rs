//! What sysfs says about a PCI function. Everything read here is untrusted text, and optional.

use std::fs;
use std::path::{Path, PathBuf};

use crate::pci::Address;

/// Where sysfs is mounted.
pub(super) const SYSFS: &str = "/sys";

/// The most members of a group, and entries of a folder, that are looked at.
const MOST: usize = 4096;

/// A function in sysfs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Facts {
    /// The driver that is bound to it.
    pub(super) driver: Option<String>,
    /// Its IOMMU group.
    pub(super) group: Option<u32>,
    /// The group is one of the no-IOMMU mode: nothing is translated.
    pub(super) no_iommu: bool,
    /// The NUMA node, where it is known.
    pub(super) numa_node: Option<u32>,
    /// Name of the device's own file in `/dev/vfio/devices`, from Linux 6.6 on.
    pub(super) cdev: Option<String>,
}

fn folder(root: &Path, address: Address) -> PathBuf {
    root.join("bus/pci/devices").join(address.to_string())
}

fn link_name(link: &Path) -> Option<String> {
    let target = fs::read_link(link).ok()?;
    Some(target.file_name()?.to_str()?.to_owned())
}

fn text(path: &Path) -> Option<String> {
    Some(fs::read_to_string(path).ok()?.trim().to_owned())
}

/// Looks a function up; `None` if there is none.
pub(super) fn facts(root: &Path, address: Address) -> Option<Facts> {
    let folder = folder(root, address);
    if !folder.is_dir() {
        return None;
    }
    let group: Option<u32> = link_name(&folder.join("iommu_group")).and_then(|n| n.parse().ok());
    let named = text(&folder.join("iommu_group/name"));
    let entries = fs::read_dir(folder.join("vfio-dev")).ok().into_iter().flatten().take(MOST);
    let cdev = entries
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .find(|name| name.strip_prefix("vfio").is_some_and(|n| n.parse::<u32>().is_ok()));
    Some(Facts {
        driver: link_name(&folder.join("driver")),
        group,
        no_iommu: named.as_deref() == Some("vfio-noiommu"),
        numa_node: text(&folder.join("numa_node")).and_then(|node| node.parse().ok()),
        cdev,
    })
}

/// The virtual functions that are enabled, in the order of their numbers (the links `virtfn0` on).
pub(super) fn virtual_functions(root: &Path, address: Address) -> Vec<Address> {
    let folder = folder(root, address);
    let link = |index| link_name(&folder.join(format!("virtfn{index}")))?.parse().ok();
    (0..MOST).map_while(link).collect()
}

/// True for a driver that hands its devices to user space through VFIO.
pub(super) fn is_vfio(driver: &str) -> bool {
    driver == "vfio-pci" || driver.ends_with("-vfio-pci") || driver.ends_with("_vfio_pci")
}

/// The functions of a group that keep it from being viable: those that a kernel driver has, with the
/// driver's name. Bridges do not count (`pcieport`), nor do functions that no driver has.
pub(super) fn foreign(root: &Path, group: u32) -> Vec<(String, String)> {
    let folder = root.join("kernel/iommu_groups").join(group.to_string()).join("devices");
    let entries = fs::read_dir(folder).ok().into_iter().flatten().take(MOST);
    let mut foreign: Vec<_> = entries
        .filter_map(|entry| {
            let entry = entry.ok()?;
            let driver = link_name(&entry.path().join("driver"))?;
            let harmless = is_vfio(&driver) || driver == "pcieport" || driver == "pci-stub";
            (!harmless).then(|| (entry.file_name().to_string_lossy().into_owned(), driver))
        })
        .collect();
    foreign.sort();
    foreign
}

/// Processes that have `path` open, as far as this user may see: `1234 (name)`.
pub(super) fn holders(path: &Path) -> Vec<String> {
    let processes = fs::read_dir("/proc").ok().into_iter().flatten();
    let holder = |entry: fs::DirEntry| {
        let pid: u32 = entry.file_name().to_str()?.parse().ok()?;
        let fds = fs::read_dir(entry.path().join("fd")).ok()?;
        let mut links = fds.filter_map(|fd| fs::read_link(fd.ok()?.path()).ok());
        links.any(|link| link == path).then(|| {
            let name = text(&entry.path().join("comm")).unwrap_or_default();
            format!("{pid} ({name})")
        })
    };
    processes.filter_map(|entry| holder(entry.ok()?)).take(8).collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn function(root: &Path, address: &str, driver: Option<&str>, group: Option<&str>) -> PathBuf {
        let folder = root.join("bus/pci/devices").join(address);
        fs::create_dir_all(&folder).unwrap();
        if let Some(driver) = driver {
            symlink(Path::new("../drivers").join(driver), folder.join("driver")).unwrap();
        }
        if let Some(group) = group {
            let devices = root.join("kernel/iommu_groups").join(group).join("devices");
            fs::create_dir_all(&devices).unwrap();
            symlink(devices.parent().unwrap(), folder.join("iommu_group")).unwrap();
            symlink(&folder, devices.join(address)).unwrap();
        }
        folder
    }

    #[test]
    fn a_function_is_described() {
        let root = tempfile::tempdir().unwrap();
        let address: Address = "0000:01:00.0".parse().unwrap();
        assert_eq!(facts(root.path(), address), None);
        let folder = function(root.path(), "0000:01:00.0", Some("vfio-pci"), Some("7"));
        fs::write(folder.join("numa_node"), "-1\n").unwrap();
        fs::create_dir_all(folder.join("vfio-dev/vfio3")).unwrap();
        let mut expected = Facts {
            driver: Some("vfio-pci".into()),
            group: Some(7),
            no_iommu: false,
            numa_node: None,
            cdev: Some("vfio3".into()),
        };
        assert_eq!(facts(root.path(), address), Some(expected.clone()));
        fs::write(folder.join("numa_node"), "1\n").unwrap();
        fs::write(folder.join("iommu_group/name"), "vfio-noiommu\n").unwrap();
        (expected.numa_node, expected.no_iommu) = (Some(1), true);
        assert_eq!(facts(root.path(), address), Some(expected));
    }

    #[test]
    fn virtual_functions_are_counted_while_their_links_are_sound() {
        let root = tempfile::tempdir().unwrap();
        let address: Address = "0000:01:00.0".parse().unwrap();
        assert_eq!(virtual_functions(root.path(), address), []);
        let folder = function(root.path(), "0000:01:00.0", Some("vfio-pci"), Some("7"));
        for (index, to) in ["0000:01:00.1", "0000:01:00.2", "elsewhere"].iter().enumerate() {
            symlink(Path::new("..").join(to), folder.join(format!("virtfn{index}"))).unwrap();
        }
        let found = virtual_functions(root.path(), address);
        let expected = ["0000:01:00.1", "0000:01:00.2"].map(|at| at.parse().unwrap());
        assert_eq!(found, expected);
    }

    #[test]
    fn what_makes_a_group_unviable_is_named() {
        let root = tempfile::tempdir().unwrap();
        function(root.path(), "0000:01:00.0", Some("vfio-pci"), Some("7"));
        function(root.path(), "0000:01:00.1", Some("snd_hda_intel"), Some("7"));
        function(root.path(), "0000:01:00.2", None, Some("7"));
        function(root.path(), "0000:00:01.0", Some("pcieport"), Some("7"));
        function(root.path(), "0000:01:00.3", Some("mlx5_vfio_pci"), Some("7"));
        let expected = [("0000:01:00.1".to_owned(), "snd_hda_intel".to_owned())];
        assert_eq!(foreign(root.path(), 7), expected);
        assert_eq!(foreign(root.path(), 8), []);
    }

    #[test]
    fn the_holder_of_a_file_is_found() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let found = holders(&file.path().canonicalize().unwrap());
        let me = std::process::id().to_string();
        assert!(found.iter().any(|holder| holder.starts_with(&me)), "{found:?}");
        assert_eq!(holders(Path::new("/dev/no-such-file")), Vec::<String>::new());
    }
}
