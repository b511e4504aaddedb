//! [`Uses`]: what would be lost if the kernel gave a function away.

use std::fmt;
use std::fs::OpenOptions;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::Roots;
use super::blocks::{BlockDevice, BlockKind, stack};
use super::error::SysfsError;
use super::function::Function;
use super::mounts::{Mount, mounts, swaps};
use super::nodes;
use super::processes::{Opener, openers};
use super::read::{PAGE, hex, names, optional, present, printable, real};

/// One use of a function by the kernel or a process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Use {
    /// A file system is mounted from it.
    Mounted {
        /// The block device, or the file share's tag.
        device: String,
        /// Where.
        at: String,
    },
    /// It is swapped on.
    Swap {
        /// The block device.
        device: String,
    },
    /// Another block device lies upon it.
    Held {
        /// The block device.
        device: String,
        /// What holds it, in words.
        by: String,
    },
    /// It carries a member of something larger, which is not active or not seen in another way.
    Member {
        /// The block device.
        device: String,
        /// Of what, in words.
        of: String,
    },
    /// The kernel has it claimed for itself and does not say for what: a mount in another namespace,
    /// ZFS, bcache.
    Claimed {
        /// The block device.
        device: String,
    },
    /// A network interface is up.
    Interface {
        /// Its name.
        name: String,
    },
    /// Virtual functions are enabled: they would vanish.
    VirtualFunctions {
        /// How many.
        enabled: u32,
    },
    /// A process has a device node open.
    Open(Opener),
}

impl Use {
    /// True if an operator may decide that it does not matter. What the kernel itself uses always
    /// matters: data would be lost.
    #[must_use]
    pub fn can_be_forced(&self) -> bool {
        matches!(self, Self::Open(_))
    }
}

impl fmt::Display for Use {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Mounted { device, at } => write!(f, "{device} is mounted at {at}"),
            Self::Swap { device } => write!(f, "{device} is swap"),
            Self::Held { device, by } => write!(f, "{device} is part of {by}"),
            Self::Member { device, of } => write!(f, "{device} carries a member of {of}"),
            Self::Claimed { device } => write!(
                f,
                "the kernel has {device} claimed (a mount in another namespace, ZFS, bcache)"
            ),
            Self::Interface { name } => write!(f, "network interface {name} is up"),
            Self::VirtualFunctions { enabled } => {
                write!(f, "{enabled} virtual functions are enabled on it")
            }
            Self::Open(Opener { pid, program, node }) => {
                write!(f, "{node} is open in process {pid} ({program})")
            }
        }
    }
}

/// Everything that uses a function, and what could not be looked at.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Uses {
    /// The uses.
    pub uses: Vec<Use>,
    /// Its block devices, with what lies upon them.
    pub blocks: Vec<BlockDevice>,
    /// What this user may not see, a sentence each.
    pub unseen: Vec<String>,
}

impl Uses {
    /// What the kernel itself does with a function, as far as its files show it. Every user may look,
    /// and nothing is touched.
    ///
    /// # Errors
    /// A file that cannot be read or makes no sense: then nothing is known.
    pub fn shown(roots: &Roots, function: &Function) -> Result<Self, SysfsError> {
        let folder = folder(roots, function)?;
        let blocks = stack(roots, &folder)?;
        let mut found = Self { uses: Vec::new(), blocks: blocks.clone(), unseen: Vec::new() };
        let mounts = mounts(roots)?;
        found.file_systems(roots, &blocks, &mounts, &swaps(roots)?);
        found.shares(&folder, &mounts)?;
        found.members(roots, &blocks)?;
        found.interfaces(roots, &folder)?;
        if let Some(sriov) = function.sriov.as_ref().filter(|sriov| sriov.enabled > 0) {
            found.uses.push(Use::VirtualFunctions { enabled: sriov.enabled });
        }
        Ok(found)
    }

    /// The same, and what only a closer look shows: disks are opened for reading (`O_EXCL`, which
    /// fails while the kernel has them claimed), and so are the lists of all processes' open files.
    /// It changes nothing.
    ///
    /// # Errors
    /// As [`Self::shown`].
    pub fn find(roots: &Roots, function: &Function) -> Result<Self, SysfsError> {
        let mut found = Self::shown(roots, function)?;
        let blocks = found.blocks.clone();
        found.claims(roots, &blocks);
        found.processes(roots, &folder(roots, function)?, &blocks);
        Ok(found)
    }

    /// The uses that forbid a move: all, or with `force` those that cannot be forced.
    #[must_use]
    pub fn forbidding(&self, force: bool) -> Vec<&Use> {
        self.uses.iter().filter(|one| !(force && one.can_be_forced())).collect()
    }

    fn file_systems(
        &mut self,
        roots: &Roots,
        blocks: &[BlockDevice],
        mounts: &[Mount],
        swaps: &[String],
    ) {
        for block in blocks {
            let device = block.name.clone();
            let mounted = mounts.iter().filter(|mount| {
                let same = block.number.is_some() && mount.number == block.number;
                same || block.is_named(&mount.source, roots)
            });
            self.uses.extend(
                mounted
                    .map(|mount| Use::Mounted { device: device.clone(), at: printable(&mount.at) }),
            );
            if swaps.iter().any(|path| block.is_named(path, roots)) {
                self.uses.push(Use::Swap { device: device.clone() });
            }
            if let (Some(upon), Some(by)) = (&block.upon, holder(block)) {
                self.uses.push(Use::Held { device: upon.clone(), by });
            }
        }
    }

    /// A 9p share of a virtual machine is mounted by its tag.
    fn shares(&mut self, folder: &Path, mounts: &[Mount]) -> Result<(), SysfsError> {
        for name in names(folder)?.iter().filter(|name| name.starts_with("virtio")) {
            let path = folder.join(name).join("mount_tag");
            let Some(tag) = optional(&path, PAGE)? else { continue };
            let tag = tag.trim_end_matches('\0');
            let mounted = mounts.iter().filter(|mount| mount.kind == "9p" && mount.source == tag);
            self.uses.extend(mounted.map(|mount| Use::Mounted {
                device: format!("9p share {}", printable(tag)),
                at: printable(&mount.at),
            }));
        }
        Ok(())
    }

    fn members(&mut self, roots: &Roots, blocks: &[BlockDevice]) -> Result<(), SysfsError> {
        let btrfs = roots.sys.join("fs/btrfs");
        for file_system in names(&btrfs)? {
            for device in names(&btrfs.join(&file_system).join("devices"))? {
                if blocks.iter().any(|block| block.name == device) {
                    let of = format!("a mounted btrfs file system ({})", printable(&file_system));
                    self.uses.push(Use::Member { device, of });
                }
            }
        }
        for block in blocks {
            let held = |one: &Use| matches!(one, Use::Held { device, .. } if *device == block.name);
            if self.uses.iter().any(held) {
                continue;
            }
            if let Some(of) = signature(roots, block)? {
                self.uses.push(Use::Member { device: block.name.clone(), of: of.to_owned() });
            }
        }
        Ok(())
    }

    /// The kernel refuses a second exclusive opener: mounts, swap, md, dm, ZFS and bcache are ones.
    fn claims(&mut self, roots: &Roots, blocks: &[BlockDevice]) {
        let storage = |one: &Use| {
            matches!(
                one,
                Use::Mounted { .. } | Use::Swap { .. } | Use::Held { .. } | Use::Member { .. }
            )
        };
        let known = self.uses.iter().any(storage);
        let own = |block: &&BlockDevice| !matches!(block.kind, BlockKind::Partition);
        for block in blocks.iter().filter(own).filter(|block| block.upon_disk()) {
            match claim(&roots.dev.join(&block.name)) {
                Claim::Free => {}
                Claim::Taken if known => {}
                Claim::Taken => self.uses.push(Use::Claimed { device: block.name.clone() }),
                Claim::Unknown(why) => self
                    .unseen
                    .push(format!("whether the kernel has {} claimed ({why})", block.name)),
            }
        }
    }

    fn interfaces(&mut self, roots: &Roots, folder: &Path) -> Result<(), SysfsError> {
        const IFF_UP: u32 = 1;
        let class = roots.sys.join("class/net");
        for name in names(&class)? {
            let Some(place) = real(&class.join(&name))? else { continue };
            if !place.starts_with(folder) {
                continue;
            }
            let flags = present(hex(&place.join("flags"), u32::MAX))?.unwrap_or(0);
            if flags & IFF_UP != 0 {
                self.uses.push(Use::Interface { name });
            }
        }
        Ok(())
    }

    fn processes(&mut self, roots: &Roots, folder: &Path, blocks: &[BlockDevice]) {
        let mut nodes = nodes::below(folder);
        if nodes.more {
            self.unseen.push("some of its device nodes (there are too many)".to_owned());
        }
        nodes.found.extend(blocks.iter().map(BlockDevice::node));
        let scan = openers(roots, &nodes.found);
        self.uses.extend(scan.openers.into_iter().map(Use::Open));
        if scan.unseen > 0 {
            let unseen = scan.unseen;
            self.unseen.push(format!("the open files of {unseen} processes of other users"));
        }
    }
}

fn folder(roots: &Roots, function: &Function) -> Result<PathBuf, SysfsError> {
    let address = function.address;
    real(&roots.function(address))?.ok_or(SysfsError::NoFunction(address))
}

impl BlockDevice {
    /// A disk itself or the head of its paths, but no hidden path, which has no node.
    fn upon_disk(&self) -> bool {
        matches!(self.kind, BlockKind::Disk | BlockKind::Head) && self.number.is_some()
    }
}

/// What a block device that lies upon another is, in words; nothing for a partition.
fn holder(block: &BlockDevice) -> Option<String> {
    match &block.kind {
        BlockKind::Disk | BlockKind::Head | BlockKind::Partition => None,
        BlockKind::Mapper { name, uuid } => {
            let what = match uuid.split('-').next() {
                Some("LVM") => "LVM volume",
                Some("CRYPT") => "encrypted volume",
                Some("mpath") => "multipath device",
                _ => "device-mapper device",
            };
            Some(format!("{what} {} ({})", printable(name), block.name))
        }
        BlockKind::Raid { level } => {
            Some(format!("md array {} ({})", block.name, printable(level)))
        }
        BlockKind::Other => Some(block.name.clone()),
    }
}

/// What udev found on a block device, if that is a member of something larger.
fn signature(roots: &Roots, block: &BlockDevice) -> Result<Option<&'static str>, SysfsError> {
    const RECORD: usize = 1 << 16;
    let Some(number) = block.number else { return Ok(None) };
    let path: PathBuf = roots.run.join("udev/data").join(format!("b{number}"));
    let record = optional(&path, RECORD)?.unwrap_or_default();
    let kind = record.lines().find_map(|line| line.strip_prefix("E:ID_FS_TYPE="));
    Ok(match kind {
        Some("LVM2_member") => Some("LVM"),
        Some("linux_raid_member") => Some("an md array"),
        Some("zfs_member") => Some("a ZFS pool"),
        Some("bcache") => Some("a bcache set"),
        _ => None,
    })
}

enum Claim {
    Free,
    Taken,
    Unknown(String),
}

fn claim(node: &Path) -> Claim {
    let flags = rustix::fs::OFlags::EXCL | rustix::fs::OFlags::NONBLOCK;
    let flags = i32::try_from(flags.bits()).unwrap_or_default();
    match OpenOptions::new().read(true).custom_flags(flags).open(node) {
        Ok(_) => Claim::Free,
        Err(error) if error.kind() == std::io::ErrorKind::ResourceBusy => Claim::Taken,
        Err(error) => Claim::Unknown(error.to_string()),
    }
}
