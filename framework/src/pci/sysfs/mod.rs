//! PCI functions as the kernel shows them, and moving them between drivers.
//!
//! * [`Function`]: one function: ids, driver, IOMMU group, NUMA node, SR-IOV, resources.
//! * [`Group`]: an IOMMU group, and who shares it.
//! * [`Uses`]: what would be lost if the function were taken from the kernel: mounted file systems,
//!   swap, LVM, md and device-mapper, network interfaces that are up, processes.
//! * [`Move`]: to vfio-pci and back, with every check before and after.
//! * [`why_not`]: why VFIO cannot open a function, in a sentence.
//!
//! Everything is read below [`Roots`], so that tests can make up a machine (feature `fake-machine`) and a
//! program in a container can look at its host. The files are read with bounds; what they say is
//! checked, and an error names the file.
//!
//! What it does not do: it locks nothing. A disk that is mounted between the check and the move is
//! taken away all the same.

use std::path::{Path, PathBuf};

mod bind;
mod blocks;
mod error;
mod function;
mod group;
mod mounts;
mod nodes;
mod processes;
mod read;
mod ready;
#[cfg(any(test, feature = "fake-machine"))]
pub mod testing;
mod undo;
mod uses;

pub use bind::{Change, Kernel, Move, MoveError, Outcome, Step, SystemKernel, VFIO_PCI};
pub use blocks::{BlockDevice, BlockKind};
pub use error::SysfsError;
pub use function::{Function, Resource, SrIov, functions};
pub use group::{Group, Member, is_vfio};
pub use processes::{Opener, Scan, group_holders, vfio_holders};
pub use read::{names, optional, printable, text};
pub use ready::{Access, access, vfio_file, vfio_nodes, why_not};
pub use uses::{Use, Uses};

/// Where the kernel's files are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Roots {
    /// sysfs.
    pub sys: PathBuf,
    /// procfs.
    pub proc: PathBuf,
    /// Device nodes.
    pub dev: PathBuf,
    /// Where udev keeps what it knows.
    pub run: PathBuf,
    /// Where the kernel's modules lie.
    pub modules: PathBuf,
    /// Where `pci.ids` may lie.
    pub share: PathBuf,
}

impl Roots {
    /// Everything below one folder, as it is below `/`.
    #[must_use]
    pub fn under(folder: &Path) -> Self {
        Self {
            sys: folder.join("sys"),
            proc: folder.join("proc"),
            dev: folder.join("dev"),
            run: folder.join("run"),
            modules: folder.join("lib/modules"),
            share: folder.join("usr/share"),
        }
    }

    /// `/sys/bus/pci/devices`.
    #[must_use]
    pub fn pci_devices(&self) -> PathBuf {
        self.sys.join("bus/pci/devices")
    }

    /// The folder of a function in sysfs.
    #[must_use]
    pub fn function(&self, address: crate::pci::Address) -> PathBuf {
        self.pci_devices().join(address.to_string())
    }
}

impl Default for Roots {
    /// This machine.
    fn default() -> Self {
        Self::under(Path::new("/"))
    }
}
