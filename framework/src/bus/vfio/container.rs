//! Opening a device through its group and a container: what every kernel with VFIO has.

use std::ffi::CString;
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::io::Errno;

use crate::dma::iova::USUAL_RANGES;
use crate::dma::map::PAGE;
use crate::pci::sysfs::{Group, Member, Roots, group_holders, printable};

use super::features::Feature;
use super::limits;
use super::open::{Opened, Problem, Site, open_file, problem};
use super::space::Iommu;
use super::token::{self, Token};
use super::uapi::container;
use super::uapi::types::flag;
use super::uapi::{chain, device_info};

/// The most processes that are named as holding a group.
const MOST_NAMED: usize = 8;

/// The file that makes containers.
pub(super) const CONTAINER: &str = "/dev/vfio/vfio";

/// The file of a group.
pub(super) fn group_file(group: u32) -> PathBuf {
    format!("/dev/vfio/{group}").into()
}

/// Opens the device at `site`.
pub(super) fn open(site: &Site, token: Option<&Token>) -> Result<Opened, Problem> {
    let path = group_file(site.group);
    let group = open_group(site, &path)?;
    viable(site, group.as_fd())?;
    let container: OwnedFd = open_file("opening the VFIO container", Path::new(CONTAINER))?.into();
    let step = "attaching its group to a container";
    let no_type1 = "/dev/vfio/vfio has no IOMMU of type1v2; load the module vfio_iommu_type1";
    match container::usable(container.as_fd()) {
        Ok(true) => {}
        Ok(false) => return Err(problem(step, no_type1)),
        Err(error) => return Err(problem(step, format!("VFIO_CHECK_EXTENSION: {error}"))),
    }
    container::join(group.as_fd(), container.as_fd())
        .map_err(|error| problem(step, format!("VFIO_GROUP_SET_CONTAINER: {error}")))?;
    container::set_iommu(container.as_fd())
        .map_err(|error| problem(step, refused("VFIO_SET_IOMMU", &error)))?;
    let name = match token {
        None => site.address.to_string(),
        Some(token) => format!("{} vf_token={token}", site.address),
    };
    let name = CString::new(name)
        .map_err(|_| problem("opening the device", "its address has a zero byte"))?;
    let device = container::device(group.as_fd(), &name).map_err(|error| {
        let why = match error.raw_os_error().map(Errno::from_raw_os_error) {
            Some(Errno::ACCESS) => token::REFUSED.to_owned(),
            _ => format!("VFIO_GROUP_GET_DEVICE_FD: {error}"),
        };
        problem("opening the device", why)
    })?;
    // A device that does not answer at all is told from one whose regions are odd.
    device_info(device.as_fd())
        .map_err(|error| problem("looking at the device", error.to_string()))?;
    finish(device, container, group)
}

fn finish(device: OwnedFd, container: OwnedFd, group: OwnedFd) -> Result<Opened, Problem> {
    let step = "asking the IOMMU what it can translate";
    let (info, structure) = container::info(container.as_fd())
        .map_err(|error| problem(step, format!("VFIO_IOMMU_GET_INFO: {error}")))?;
    if info.iova_pgsizes & PAGE as u64 == 0 {
        let sizes = format!("it has pages of {:#x}, and not of 4 KiB", info.iova_pgsizes);
        return Err(problem(step, sizes));
    }
    let first = if info.flags & flag::IOMMU_INFO_CAPS != 0 { info.cap_offset } else { 0 };
    let mut features = vec![Feature::Container];
    let ranges = match chain::iova_ranges(&structure, first) {
        Some(ranges) => {
            features.push(Feature::ContainerRanges);
            chain::half_open(&ranges)
        }
        None => USUAL_RANGES.to_vec(),
    };
    let mut about = Vec::new();
    if let Some(left) = chain::mappings_left(&structure, first) {
        features.push(Feature::ContainerMappingsLeft);
        about.push(format!("{left} mappings left"));
    } else if let Some(left) = limits::mappings_left(container.as_fd()) {
        about.push(format!("{left} mappings left"));
    }
    let unmaps_all = container::unmaps_all(container.as_fd());
    if unmaps_all {
        features.push(Feature::ContainerUnmapAll);
    }
    let iommu = Iommu::Container { container, _group: group, unmaps_all };
    Ok(Opened { device, iommu, ranges, features, about })
}

/// What a refusal of the IOMMU means.
pub(super) fn refused(what: &str, error: &std::io::Error) -> String {
    match error.raw_os_error().map(Errno::from_raw_os_error) {
        Some(Errno::PERM) => format!(
            "{what}: {error}: the IOMMU does not remap interrupts, so a device could raise any; \
             switch interrupt remapping on in the firmware (a virtual machine: intremap=on)"
        ),
        _ => format!("{what}: {error}"),
    }
}

fn open_group(site: &Site, path: &Path) -> Result<OwnedFd, Problem> {
    let step = "opening its IOMMU group";
    match File::options().read(true).write(true).open(path) {
        Ok(file) => Ok(file.into()),
        Err(error) if error.raw_os_error() == Some(Errno::BUSY.raw_os_error()) => {
            Err(problem(step, busy(site)))
        }
        // With the words for missing files and permissions.
        Err(_) => open_file(step, path).map(OwnedFd::from),
    }
}

/// Who has the device, or another of its group, by the group's file or by its own: they exclude each
/// other.
pub(super) fn busy(site: &Site) -> String {
    let roots = Roots::default();
    let group = Group::read(&roots, site.group);
    let mut holders = group.map(|group| group_holders(&roots, &group).openers).unwrap_or_default();
    holders.dedup_by_key(|holder| holder.pid);
    let holders: Vec<_> = holders
        .iter()
        .take(MOST_NAMED)
        .map(|holder| format!("{} ({})", holder.pid, holder.program))
        .collect();
    let who = match &holders[..] {
        [] => "by a process that this user cannot see".to_owned(),
        holders => format!("by process {}", holders.join(", ")),
    };
    format!("it, or its IOMMU group, is in use {who}; one process at a time can have it")
}

fn viable(site: &Site, group: BorrowedFd<'_>) -> Result<(), Problem> {
    let step = "checking its IOMMU group";
    let flags = container::group_flags(group)
        .map_err(|error| problem(step, format!("VFIO_GROUP_GET_STATUS: {error}")))?;
    if flags & flag::GROUP_CONTAINER_SET != 0 {
        let why = format!("group {} is in a container already; is the device open?", site.group);
        return Err(problem(step, why));
    }
    if flags & flag::GROUP_VIABLE != 0 {
        return Ok(());
    }
    Err(problem(step, not_viable(site)))
}

/// The functions that keep a group from being viable, with the drivers that have them, as far as sysfs
/// tells.
pub(super) fn foreign(group: u32) -> Vec<String> {
    let Ok(group) = Group::read(&Roots::default(), group) else { return Vec::new() };
    let said = |text: Option<&str>| printable(text.unwrap_or_default());
    let name = |member: &Member| {
        format!("{} ({})", said(Some(&member.name)), said(member.driver.as_deref()))
    };
    group.foreign().map(name).collect()
}

/// Names what keeps a group from being viable.
pub(super) fn not_viable(site: &Site) -> String {
    let names = foreign(site.group);
    let group = site.group;
    if names.is_empty() {
        return format!(
            "group {group} is not viable: another of its devices is in use by the kernel; bind all \
             of them to vfio-pci or to no driver"
        );
    }
    format!(
        "group {group} is not viable: kernel drivers have {}; the IOMMU cannot tell these devices \
         apart, so bind them to vfio-pci or unbind them too",
        names.join(", ")
    )
}
