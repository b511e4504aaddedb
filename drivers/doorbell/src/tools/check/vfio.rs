//! VFIO: its drivers, and what this user may open.

use doorbell::bus::vfio::Feature;
use doorbell::pci::sysfs::{Access, Roots, VFIO_PCI, access, names, text};

use super::finding::{Finding, Part, State};

/// Bytes of a kernel's list of modules.
const LISTING: usize = 16 << 20;

pub(super) fn look(roots: &Roots) -> Vec<Finding> {
    vec![driver(roots), container(roots), iommufd(roots), cdev(roots)]
}

fn driver(roots: &Roots) -> Finding {
    const WHAT: &str = "vfio-pci";
    if roots.sys.join("bus/pci/drivers").join(VFIO_PCI).is_dir() {
        return Finding::ok(Part::Vfio, WHAT, "the driver is there");
    }
    let finding = |found: &str| Finding::new(Part::Vfio, WHAT, State::Missing, found);
    if has_module(roots, "vfio-pci.ko") {
        return finding("the module is not loaded").todo(
            "modprobe vfio-pci; at every boot: a line 'vfio-pci' in /etc/modules-load.d/vfio.conf",
        );
    }
    finding("this kernel has no such module")
        .todo("use a kernel with CONFIG_VFIO_PCI: distributions' standard ones have it, some cloud ones do not")
}

/// True if the running kernel comes with a module, loaded or not.
fn has_module(roots: &Roots, file: &str) -> bool {
    let Ok(release) = text(&roots.proc.join("sys/kernel/osrelease"), 4096) else { return false };
    let folder = roots.modules.join(release);
    ["modules.dep", "modules.builtin"].iter().any(|list| {
        let list = text(&folder.join(list), LISTING).unwrap_or_default();
        // Of `kernel/drivers/vfio/pci/vfio-pci.ko.xz: ...`.
        let mut paths = list.lines().filter_map(|line| line.split(':').next());
        paths.any(|path| path.rsplit('/').next().is_some_and(|name| name.starts_with(file)))
    })
}

/// Group and container: what every kernel with VFIO has.
fn container(roots: &Roots) -> Finding {
    const WHAT: &str = "/dev/vfio/vfio";
    match access(&roots.dev.join("vfio/vfio")) {
        Access::Granted => {
            let limit = roots.sys.join("module/vfio_iommu_type1/parameters/dma_entry_limit");
            let limit = text(&limit, 4096).unwrap_or_default();
            let entries = if limit.is_empty() {
                String::new()
            } else {
                format!(", {limit} mappings at most")
            };
            Finding::ok(Part::Vfio, WHAT, format!("this user may open it{entries}"))
        }
        // With iommufd alone there is another way in, and the kernel may have been built without it.
        Access::Absent if access(&roots.dev.join("iommu")) == Access::Granted => {
            Finding::new(Part::Vfio, WHAT, State::Note, "absent; iommufd takes its place")
        }
        Access::Absent => Finding::new(Part::Vfio, WHAT, State::Missing, "absent")
            .todo("modprobe vfio-pci; in a container, give it /dev/vfio"),
        Access::Denied => {
            Finding::new(Part::Vfio, WHAT, State::Missing, "this user may not open it")
                .todo("chmod 0666 /dev/vfio/vfio, which is its usual mode: it gives no device away")
        }
    }
}

fn iommufd(roots: &Roots) -> Finding {
    const WHAT: &str = "/dev/iommu";
    let finding = |state, found: &str| Finding::new(Part::Cdev, WHAT, state, found);
    match access(&roots.dev.join("iommu")) {
        Access::Granted => Finding::ok(Part::Cdev, WHAT, "this user may open it"),
        Access::Denied => finding(State::Missing, "this user may not open it")
            .todo("install the udev rule 70-doorbell.rules and join the group doorbell"),
        Access::Absent if has_module(roots, "iommufd.ko") => {
            finding(State::Missing, "the module is not loaded").todo("modprobe iommufd")
        }
        Access::Absent => finding(State::Missing, "this kernel has no iommufd").todo(
            "nothing: the container interface is used instead (Debian's kernels have no iommufd)",
        ),
    }
}

/// The nodes are there only while a device is bound.
fn cdev(roots: &Roots) -> Finding {
    const WHAT: &str = "VFIO cdev";
    let nodes = names(&roots.dev.join("vfio/devices")).unwrap_or_default();
    if !nodes.is_empty() {
        let list = nodes.join(", ");
        return Finding::ok(Part::Cdev, WHAT, format!("/dev/vfio/devices has {list}"));
    }
    // The numbers of its nodes are set aside when VFIO is loaded; the class in sysfs says nothing, it
    // is there without them as well.
    let numbers = text(&roots.proc.join("devices"), 1 << 16).unwrap_or_default();
    if numbers.split_whitespace().any(|word| word == "vfio-dev") {
        return Finding::ok(Part::Cdev, WHAT, "the kernel has it; no device is bound to vfio-pci");
    }
    Finding::new(Part::Cdev, WHAT, State::Note, absent())
}

/// What a kernel without it lacks, and what is done instead.
fn absent() -> String {
    let cdev = Feature::Cdev;
    let since = cdev.since().unwrap_or("none yet");
    let (option, otherwise) = (cdev.option(), cdev.otherwise());
    format!("absent ({option}, Linux {since}); instead: {otherwise}")
}
