//! Choosing the bus and opening a device: every way in which that can fail has its words here or in
//! the bus's own file.

use std::fs::File;
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use doorbell_queues::EntryStores;

use crate::pci::Address;
use crate::pci::sysfs::{Function, Group, Roots, SysfsError, is_vfio, vfio_file};

use super::features::Feature;
use super::space::Iommu;
use super::token::Token;
use super::{cdev, container};

/// What could not be done, and why. The caller adds the device.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Problem {
    pub(super) step: &'static str,
    pub(super) problem: String,
}

pub(super) fn problem(step: &'static str, problem: impl Into<String>) -> Problem {
    Problem { step, problem: problem.into() }
}

/// Which bus the operator wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wanted {
    Any,
    Container,
    Cdev,
}

/// The option `stores` of a device's name, `plain` (which it is without) or `non-temporal`, and the
/// options that are left.
pub(super) fn stores(
    options: &[(String, String)],
) -> Result<(EntryStores, Vec<(String, String)>), Problem> {
    let mut stores = EntryStores::Plain;
    let mut rest = Vec::new();
    for (key, value) in options {
        match (key.as_str(), value.as_str()) {
            ("stores", "plain") => stores = EntryStores::Plain,
            ("stores", "non-temporal") => stores = EntryStores::NonTemporal,
            ("stores", other) => {
                let why = format!("stores={other}: there are stores=plain and stores=non-temporal");
                return Err(problem("reading its options", why));
            }
            _ => rest.push((key.clone(), value.clone())),
        }
    }
    Ok((stores, rest))
}

/// Options of a device's name: `0000:01:00.0,bus=cdev`.
pub(super) fn wanted(options: &[(String, String)]) -> Result<Wanted, Problem> {
    let step = "reading its options";
    let mut wanted = Wanted::Any;
    for (key, value) in options {
        wanted = match (key.as_str(), value.as_str()) {
            ("bus", "container") => Wanted::Container,
            ("bus", "cdev") => Wanted::Cdev,
            ("bus", other) => {
                let why = format!("bus={other}: there are bus=container and bus=cdev");
                return Err(problem(step, why));
            }
            (other, _) => {
                let why = format!(
                    "there is no option '{other}'; a PCI device has bus, stores, \
                     dmabuf-revoke and dmabuf-memattr"
                );
                return Err(problem(step, why));
            }
        };
    }
    Ok(wanted)
}

/// A device that VFIO's driver has, with its group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Site {
    pub(super) address: Address,
    pub(super) group: u32,
    pub(super) numa_node: Option<u32>,
    pub(super) cdev: Option<String>,
}

/// Looks a device up, and says why it cannot be had.
pub(super) fn site(roots: &Roots, address: Address) -> Result<Site, Problem> {
    let step = "looking it up";
    let failed = |error: SysfsError| match error {
        // The caller says which.
        SysfsError::NoFunction(_) => {
            problem(step, "no such PCI function; `doorbell list --all` shows those that are here")
        }
        error => problem(step, error.to_string()),
    };
    let function = Function::read(roots, address).map_err(failed)?;
    let group = function.group.map(|number| Group::read(roots, number)).transpose();
    // First of all: without an IOMMU vfio-pci takes no device.
    let Some(group) = group.map_err(failed)?.filter(|group| !group.no_iommu) else {
        let why = "it has no IOMMU group, so nothing would keep its DMA within bounds: switch the \
                   IOMMU on in the firmware (VT-d or AMD-Vi), and on Intel boot the kernel with \
                   intel_iommu=on";
        return Err(problem("looking for its IOMMU group", why));
    };
    match &function.driver {
        Some(driver) if is_vfio(driver) => {}
        Some(driver) => {
            let why = format!(
                "the driver {driver} has it; give it to vfio-pci with `doorbell bind {address}`"
            );
            return Err(problem(step, why));
        }
        None => {
            let why = format!(
                "no driver is bound to it; give it to vfio-pci with `doorbell bind {address}`"
            );
            return Err(problem(step, why));
        }
    }
    let cdev = vfio_file(roots, address);
    Ok(Site { address, group: group.number, numa_node: function.numa_node, cdev })
}

/// Opens a file for reading and writing.
pub(super) fn open_file(step: &'static str, path: &Path) -> Result<File, Problem> {
    let opened = File::options().read(true).write(true).open(path);
    opened.map_err(|error| {
        let shown = path.display();
        problem(
            step,
            match error.kind() {
                std::io::ErrorKind::PermissionDenied => format!("{shown}: {}", permission(path)),
                std::io::ErrorKind::NotFound => {
                    format!(
                        "{shown} is not there; load the module vfio-pci, or see `doorbell check`"
                    )
                }
                _ => format!("{shown}: {error}"),
            },
        )
    })
}

/// Whose file it is, for whoever may not open it.
fn permission(path: &Path) -> String {
    let me = rustix::process::geteuid().as_raw();
    match std::fs::metadata(path) {
        Ok(file) => format!(
            "user {me} may not open it: mode {:03o}, owner {}, group {}; join the group, or have a \
             udev rule give the file to one",
            file.mode() & 0o777,
            file.uid(),
            file.gid()
        ),
        Err(error) => format!("user {me} may not open it ({error})"),
    }
}

/// A device that was opened, and the IOMMU that its DMA goes through.
#[derive(Debug)]
pub(super) struct Opened {
    pub(super) device: OwnedFd,
    pub(super) iommu: Iommu,
    pub(super) ranges: Vec<Range<u64>>,
    pub(super) features: Vec<Feature>,
    /// For an operator.
    pub(super) about: Vec<String>,
}

/// Opens a device by the bus that is wanted, or by the best there is. Says which, and why. `token` is
/// for a virtual function.
pub(super) fn open(
    site: &Site,
    wanted: Wanted,
    token: Option<&Token>,
) -> Result<(Opened, &'static str, String), Problem> {
    match wanted {
        Wanted::Container => {
            let opened = container::open(site, token)?;
            Ok((opened, "container", "asked for".to_owned()))
        }
        Wanted::Cdev => {
            let opened = cdev::open(site, cdev::files(site)?, token)?;
            Ok((opened, "cdev", "asked for".to_owned()))
        }
        // What goes wrong once both files are open would go wrong with a container too.
        Wanted::Any => match cdev::files(site) {
            Ok(files) => {
                let why = "the kernel has cdev and iommufd".to_owned();
                match (cdev::open(site, files, token), token) {
                    (Ok(opened), _) => Ok((opened, "cdev", why)),
                    (Err(no), None) => Err(no),
                    // Linux before 6.17 takes a virtual function's token with its group only.
                    (Err(no), Some(_)) => {
                        let Ok(opened) = container::open(site, token) else { return Err(no) };
                        Ok((opened, "container", format!("no cdev: {}: {}", no.step, no.problem)))
                    }
                }
            }
            Err(no) => {
                let why = format!("no cdev: {}: {}", no.step, no.problem);
                let opened = container::open(site, token).map_err(|mut problem| {
                    if site.cdev.is_some() {
                        // It could have been had that way: the operator may choose what to mend.
                        problem.problem += &format!("; {why}");
                    }
                    problem
                })?;
                Ok((opened, "container", why))
            }
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pci::sysfs::testing::{FakeFunction, FakeMachine};

    fn options(options: &[(&str, &str)]) -> Result<Wanted, Problem> {
        let own = |(key, value): &(&str, &str)| ((*key).to_owned(), (*value).to_owned());
        wanted(&options.iter().map(own).collect::<Vec<_>>())
    }

    #[test]
    fn the_bus_can_be_forced_and_nothing_else() {
        assert_eq!(options(&[]), Ok(Wanted::Any));
        assert_eq!(options(&[("bus", "cdev")]), Ok(Wanted::Cdev));
        assert_eq!(options(&[("bus", "container")]), Ok(Wanted::Container));
        for (key, value, part) in
            [("bus", "soft", "bus=soft"), ("bus", "", "bus="), ("ram", "64M", "'ram'")]
        {
            assert!(options(&[(key, value)]).unwrap_err().problem.contains(part));
        }
    }

    #[test]
    fn stores_are_plain_unless_the_operator_says_otherwise() {
        let own = |(key, value): &(&str, &str)| ((*key).to_owned(), (*value).to_owned());
        let read = |options: &[(&str, &str)]| stores(&options.iter().map(own).collect::<Vec<_>>());
        assert_eq!(read(&[]), Ok((EntryStores::Plain, vec![])));
        assert_eq!(read(&[("stores", "plain")]), Ok((EntryStores::Plain, vec![])));
        let left = vec![("bus".to_owned(), "cdev".to_owned())];
        let read_both = read(&[("stores", "non-temporal"), ("bus", "cdev")]);
        assert_eq!(read_both, Ok((EntryStores::NonTemporal, left)));
        assert!(read(&[("stores", "fast")]).unwrap_err().problem.contains("stores=fast"));
    }

    #[test]
    fn a_device_that_cannot_be_had_says_why() {
        let address: Address = "0000:01:00.0".parse().unwrap();
        let why = |function: Option<FakeFunction>| {
            let machine = FakeMachine::new().unwrap();
            if let Some(function) = function {
                machine.function(address, &function).unwrap();
            }
            site(machine.roots(), address).unwrap_err().problem
        };
        let nvme = FakeFunction::nvme(5);
        for (function, parts) in [
            (None, &["no such PCI function"][..]),
            (Some(FakeFunction { group: None, ..nvme }), &["intel_iommu=on"]),
            (Some(FakeFunction { driver: None, ..nvme }), &["no driver is bound"]),
            (Some(nvme), &["the driver nvme has it", "`doorbell bind 0000:01:00.0`"]),
        ] {
            let why = why(function);
            assert!(parts.iter().all(|part| why.contains(part)), "{why}");
        }
        let machine = FakeMachine::new().unwrap();
        let bound = FakeFunction { driver: Some("vfio-pci"), numa_node: 1, ..nvme };
        let folder = machine.function(address, &bound).unwrap();
        std::fs::create_dir_all(folder.join("vfio-dev/vfio3")).unwrap();
        let found = site(machine.roots(), address).unwrap();
        let cdev = Some("vfio3".to_owned());
        assert_eq!(found, Site { address, group: 5, numa_node: Some(1), cdev });
        machine.write("sys/kernel/iommu_groups/5/name", "vfio-noiommu\n").unwrap();
        let why = site(machine.roots(), address).unwrap_err().problem;
        assert!(why.contains("no IOMMU group"), "{why}");
    }

    #[test]
    fn files_that_cannot_be_opened_say_why() {
        let missing = open_file("opening", Path::new("/dev/no-such-file")).unwrap_err();
        assert!(missing.problem.contains("is not there"), "{missing:?}");
        let text = permission(Path::new("/proc/1/mem"));
        assert!(text.contains("mode 600, owner 0, group 0"), "{text}");
    }
}
