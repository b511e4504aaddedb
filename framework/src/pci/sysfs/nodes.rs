//! Device nodes that belong to a PCI function.

use std::fmt;
use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde::Serialize;

use super::read::{PAGE, link_name, optional};

/// Folders below a function that are looked into, at most: a function with more has its other nodes
/// unseen, which [`Nodes::more`] says.
const MOST_FOLDERS: usize = 1 << 14;
/// How deep.
const DEEPEST: usize = 16;

/// Major and minor number of a device node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct Number {
    /// Major number.
    pub major: u32,
    /// Minor number.
    pub minor: u32,
}

impl FromStr for Number {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let (major, minor) = text.split_once(':').ok_or(())?;
        Ok(Self { major: major.parse().map_err(drop)?, minor: minor.parse().map_err(drop)? })
    }
}

impl fmt::Display for Number {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.major, self.minor)
    }
}

/// A device node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Node {
    /// Below `/dev`.
    pub(super) name: String,
    /// Its number, where sysfs tells.
    pub(super) number: Option<Number>,
    /// A block device; else a character device.
    pub(super) block: bool,
}

impl Node {
    /// A node that is known by its name alone.
    pub(super) fn named(name: impl Into<String>) -> Self {
        Self { name: name.into(), number: None, block: false }
    }

    /// True if an open file with this path is this node, under whatever name.
    pub(super) fn is(&self, dev: &Path, target: &Path, open: &Path) -> bool {
        if target == Path::new("/dev").join(&self.name) || target == dev.join(&self.name) {
            return true;
        }
        let Some(number) = self.number else { return false };
        // Only what may be a node: a look at a file on a dead server would never end.
        if !target.starts_with("/") || !target.components().any(|part| part.as_os_str() == "dev") {
            return false;
        }
        fs::metadata(open).is_ok_and(|file| {
            let kind = file.file_type();
            let same = if self.block { kind.is_block_device() } else { kind.is_char_device() };
            same && rustix::fs::major(file.rdev()) == number.major
                && rustix::fs::minor(file.rdev()) == number.minor
        })
    }
}

/// What is found below a function's folder.
#[derive(Debug, Default)]
pub(super) struct Nodes {
    pub(super) found: Vec<Node>,
    /// True if there were more folders than are looked into.
    pub(super) more: bool,
}

/// The character devices below a function's folder in sysfs: what the kernel's drivers made for
/// programs, such as `nvme0` and `ng0n1`. Block devices are found by [`super::blocks`].
pub(super) fn below(folder: &Path) -> Nodes {
    let mut nodes = Nodes::default();
    let mut folders: Vec<(PathBuf, usize)> = vec![(folder.to_owned(), 0)];
    let mut seen = 0usize;
    while let Some((folder, depth)) = folders.pop() {
        seen += 1;
        if seen > MOST_FOLDERS || depth > DEEPEST {
            nodes.more = true;
            continue;
        }
        nodes.found.extend(node(&folder));
        let Ok(entries) = fs::read_dir(&folder) else { continue };
        let inner = entries.filter_map(Result::ok).filter(|entry| {
            // Links lead out, or back.
            entry.file_type().is_ok_and(|kind| kind.is_dir())
        });
        folders.extend(inner.map(|entry| (entry.path(), depth + 1)));
    }
    nodes
}

fn node(folder: &Path) -> Option<Node> {
    let number = optional(&folder.join("dev"), PAGE).ok()??.parse().ok()?;
    let class = link_name(&folder.join("subsystem")).ok()??;
    if class == "block" {
        return None;
    }
    let uevent = optional(&folder.join("uevent"), PAGE).ok().flatten().unwrap_or_default();
    let named = uevent.lines().find_map(|line| line.strip_prefix("DEVNAME="));
    let name = match named {
        Some(name) => name.to_owned(),
        None => folder.file_name()?.to_string_lossy().into_owned(),
    };
    Some(Node { name, number: Some(number), block: false })
}
