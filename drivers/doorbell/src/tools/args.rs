//! The command lines of `list`, `bind`, `unbind` and `check`.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use doorbell::pci::Address;
use doorbell::pci::sysfs::Roots;

/// Which machine to look at.
#[derive(Debug, Args)]
pub(crate) struct Machine {
    /// Look at the machine whose /sys, /proc and /dev are below this folder, such as the host's in a
    /// container
    #[arg(long, value_name = "DIR", default_value = "/")]
    pub(crate) root: PathBuf,
}

impl Machine {
    pub(crate) fn roots(&self) -> Roots {
        Roots::under(&self.root)
    }

    /// True for the machine that this process runs on.
    pub(crate) fn is_this_one(&self) -> bool {
        self.root == std::path::Path::new("/")
    }
}

/// Shows the PCI functions that a driver of this program matches.
///
/// With ids by name, the driver that is bound now, the IOMMU group and what shares it, the NUMA
/// node, and what uses or holds the function: mounts, swap, a process, a broker.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  doorbell list
  doorbell list --all          every PCI function
  doorbell list --json         for a program

Names come from pci.ids where that is installed (Debian: apt-get install pci.ids).")]
pub(crate) struct List {
    /// Every PCI function, whether a driver matches it or not
    #[arg(long)]
    pub(crate) all: bool,
    /// Print JSON: a list with one object for each function
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) machine: Machine,
}

/// Takes a PCI function from its kernel driver and gives it to vfio-pci.
///
/// Refuses, and says why, while the function is in use: a file system mounted from it, swap, LVM, md,
/// device-mapper, ZFS, btrfs, a network interface that is up, virtual functions that are enabled, a
/// process that has one of its device nodes open. Bridges are always refused. If a step fails, the
/// function goes back to the driver that it had.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  doorbell bind 0000:01:00.0 --dry-run   what would be done
  doorbell bind 0000:01:00.0

The change lasts until `doorbell unbind` or the next boot.")]
pub(crate) struct Bind {
    /// The function: DDDD:BB:DD.F, as `doorbell list` shows it
    pub(crate) address: Address,
    /// Check everything, show what would be done, and do nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Bind although a process has a device node of it open; what the kernel itself uses is refused
    /// all the same
    #[arg(long)]
    pub(crate) force: bool,
    #[command(flatten)]
    pub(crate) machine: Machine,
}

/// Gives a PCI function back to the kernel's own driver.
///
/// Refuses while a process holds it through VFIO: the kernel would wait for that process's end.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  doorbell unbind 0000:01:00.0 --dry-run
  doorbell unbind 0000:01:00.0")]
pub(crate) struct Unbind {
    /// The function: DDDD:BB:DD.F
    pub(crate) address: Address,
    /// Check everything, show what would be done, and do nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
    #[command(flatten)]
    pub(crate) machine: Machine,
}

/// Can this machine run Doorbell? A line for each thing that matters, and what to do about it.
///
/// Software devices need nothing special; real devices need an IOMMU, VFIO, and permission. The
/// status is 0 if what is required works: software devices, unless --require or an address says more.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  doorbell check
  doorbell check --require vfio       fails if real devices cannot be driven
  doorbell check 0000:01:00.0         fails if this one cannot be served now
  doorbell check --json")]
pub(crate) struct Check {
    /// A function that is to be driven: requires everything that it needs
    pub(crate) address: Option<Address>,
    /// What must work for status 0
    #[arg(long, value_enum, value_name = "WHAT")]
    pub(crate) require: Option<Require>,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) machine: Machine,
}

/// What must work.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub(crate) enum Require {
    /// Software devices and vfio-user
    Software,
    /// And real devices, by whichever interface the kernel has
    Vfio,
    /// And iommufd with the VFIO cdev
    Cdev,
}
