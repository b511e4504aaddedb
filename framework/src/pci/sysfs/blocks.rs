//! Block devices of a PCI function, and what is stacked upon them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::Roots;
use super::error::SysfsError;
use super::nodes::{Node, Number};
use super::read::{PAGE, names, optional, present, real};

/// A block device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct BlockDevice {
    /// The kernel's name: `nvme0n1p1`, `dm-0`.
    pub name: String,
    /// Its number; the paths of a multipath disk have none.
    pub number: Option<Number>,
    /// What it is.
    pub kind: BlockKind,
    /// The block device that it lies upon.
    pub upon: Option<String>,
    #[serde(skip)]
    pub(super) folder: PathBuf,
}

/// What a block device is to the function below it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum BlockKind {
    /// A disk of the function.
    Disk,
    /// An NVMe multipath disk, one of whose paths is a disk of the function.
    Head,
    /// A partition.
    Partition,
    /// A device-mapper device, with its name and its uuid: `LVM-...`, `CRYPT-...`, `mpath-...`.
    Mapper {
        /// `/dev/mapper/NAME`.
        name: String,
        /// The uuid says who made it.
        uuid: String,
    },
    /// An md array, with its level.
    Raid {
        /// `raid1`.
        level: String,
    },
    /// Anything else that holds a disk: bcache, drbd.
    Other,
}

impl BlockDevice {
    pub(super) fn node(&self) -> Node {
        Node { name: self.name.clone(), number: self.number, block: true }
    }

    /// True if a path such as `/dev/mapper/data-home` names this device.
    pub(super) fn is_named(&self, path: &str, roots: &Roots) -> bool {
        let by_name = |path: &str| match path.strip_prefix("/dev/") {
            Some(name) if name == self.name => true,
            Some(name) => match &self.kind {
                BlockKind::Mapper { name: mapped, .. } => {
                    name.strip_prefix("mapper/").is_some_and(|name| name == mapped)
                }
                _ => false,
            },
            None => false,
        };
        if by_name(path) {
            return true;
        }
        // Something like /dev/disk/by-uuid/X or /dev/data/home: a link to the node.
        let Some(link) = path.strip_prefix("/dev/").map(|name| roots.dev.join(name)) else {
            return false;
        };
        link.canonicalize().is_ok_and(|node| {
            let dev = roots.dev.canonicalize().unwrap_or_else(|_| roots.dev.clone());
            node.strip_prefix(dev).is_ok_and(|name| name == Path::new(&self.name))
        })
    }
}

/// The block devices of the function whose real folder this is: its disks, their partitions, and
/// everything that is stacked upon them.
pub(super) fn stack(roots: &Roots, function: &Path) -> Result<Vec<BlockDevice>, SysfsError> {
    let class = roots.sys.join("class/block");
    let mut all = BTreeMap::new();
    for name in names(&class)? {
        // One that went away meanwhile is left out.
        if let Some(folder) = real(&class.join(&name))? {
            all.insert(name, folder);
        }
    }
    let mut stack = Vec::new();
    for (name, folder) in all.iter().filter(|(_, folder)| folder.starts_with(function)) {
        let partition = folder.join("partition").exists();
        let kind = if partition { BlockKind::Partition } else { BlockKind::Disk };
        add(&mut stack, name, folder, kind, None)?;
        let head = head(name);
        if let Some((head, folder)) = head.as_ref().and_then(|head| all.get_key_value(head)) {
            add(&mut stack, head, folder, BlockKind::Head, Some(name))?;
        }
    }
    // What is found grows the list, and each device enters it once: there is an end.
    let mut at = 0;
    while let Some(lower) = stack.get(at).cloned() {
        at += 1;
        let partitions =
            all.iter().filter(|(_, folder)| folder.parent() == Some(lower.folder.as_path()));
        for (name, folder) in partitions {
            add(&mut stack, name, folder, BlockKind::Partition, Some(&lower.name))?;
        }
        for name in names(&lower.folder.join("holders"))? {
            if let Some(folder) = all.get(&name) {
                add(&mut stack, &name, folder, kind_of(folder)?, Some(&lower.name))?;
            }
        }
    }
    Ok(stack)
}

fn add(
    stack: &mut Vec<BlockDevice>,
    name: &str,
    folder: &Path,
    kind: BlockKind,
    upon: Option<&str>,
) -> Result<(), SysfsError> {
    if stack.iter().any(|device| device.name == name) {
        return Ok(());
    }
    let number = optional(&folder.join("dev"), PAGE)?.and_then(|number| number.parse().ok());
    let (name, upon) = (name.to_owned(), upon.map(str::to_owned));
    stack.push(BlockDevice { name, number, kind, upon, folder: folder.to_owned() });
    Ok(())
}

/// The multipath disk that `nvme0c1n2` is a path of: `nvme0n2`, which programs use.
fn head(path: &str) -> Option<String> {
    let rest = path.strip_prefix("nvme")?;
    let (subsystem, rest) = rest.split_once('c')?;
    let (controller, namespace) = rest.split_once('n')?;
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let path = digits(subsystem) && digits(controller) && digits(namespace);
    path.then(|| format!("nvme{subsystem}n{namespace}"))
}

fn kind_of(folder: &Path) -> Result<BlockKind, SysfsError> {
    let word =
        |file: &str| Ok(present(optional(&folder.join(file), PAGE))?.flatten().unwrap_or_default());
    if folder.join("dm").is_dir() {
        return Ok(BlockKind::Mapper { name: word("dm/name")?, uuid: word("dm/uuid")? });
    }
    if folder.join("md").is_dir() {
        return Ok(BlockKind::Raid { level: word("md/level")? });
    }
    Ok(BlockKind::Other)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_of_a_multipath_disk_names_its_head() {
        assert_eq!(head("nvme0c1n2").as_deref(), Some("nvme0n2"));
        for disk in ["nvme0n1", "nvme0n1p1", "sda", "nvmec1n2", "nvme0c1n2p1", "nvme0cn1"] {
            assert_eq!(head(disk), None, "{disk}");
        }
    }
}
