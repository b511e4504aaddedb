//! Opening a device by its own file, under an iommufd (Linux 6.6).

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::io::Errno;

use crate::dma::map::PAGE;

use super::container::{busy, foreign, not_viable, refused};
use super::features::Feature;
use super::open::{Opened, Problem, Site, open_file, problem};
use super::space::Iommu;
use super::token::{self, Token};
use super::uapi::{chain, iommufd};

/// The file that makes iommufds.
pub(super) const IOMMUFD: &str = "/dev/iommu";

/// The device's own file.
pub(super) fn device_file(name: &str) -> PathBuf {
    Path::new("/dev/vfio/devices").join(name)
}

/// Both files of a device, opened.
#[derive(Debug)]
pub(super) struct Files {
    device: OwnedFd,
    iommufd: OwnedFd,
}

/// Opens the files that this bus needs. The device is not touched.
pub(super) fn files(site: &Site) -> Result<Files, Problem> {
    let step = "looking for its own file in /dev/vfio/devices";
    let Some(name) = &site.cdev else {
        let why = "there is none: the kernel is older than 6.6 or was built without \
                   CONFIG_VFIO_DEVICE_CDEV";
        return Err(problem(step, why));
    };
    if !Path::new(IOMMUFD).exists() {
        let why = "/dev/iommu is not there: load the module iommufd; without CONFIG_IOMMUFD \
                   the kernel has none";
        return Err(problem("looking for iommufd", why));
    }
    let path = device_file(name);
    let iommufd: File = open_file("opening iommufd", Path::new(IOMMUFD))?;
    let device: File = open_file("opening the device", &path)?;
    Ok(Files { device: device.into(), iommufd: iommufd.into() })
}

/// Opens the device at `site`.
pub(super) fn open(site: &Site, files: Files, token: Option<&Token>) -> Result<Opened, Problem> {
    let Files { device, iommufd } = files;
    let bound = match token {
        None => iommufd::bind(device.as_fd(), iommufd.as_fd()),
        Some(token) => iommufd::bind_with_token(device.as_fd(), iommufd.as_fd(), token.as_bytes()),
    };
    bound.map_err(|error| {
        let step = "binding the device to iommufd (VFIO_DEVICE_BIND_IOMMUFD)";
        match error.raw_os_error().map(Errno::from_raw_os_error) {
            // Kernels differ in how they say that the group is not viable.
            Some(Errno::BUSY | Errno::PERM) if !foreign(site.group).is_empty() => {
                problem(step, not_viable(site))
            }
            // By its group, or by its own file.
            Some(Errno::BUSY | Errno::INVAL) => problem(step, busy(site)),
            Some(Errno::PERM) => problem(step, refused("bind", &error)),
            Some(Errno::ACCESS) => problem(step, token::REFUSED),
            _ => problem(step, error.to_string()),
        }
    })?;
    let ioas = iommufd::ioas_alloc(iommufd.as_fd()).map_err(|error| {
        problem("making an I/O address space (IOMMU_IOAS_ALLOC)", error.to_string())
    })?;
    iommufd::attach(device.as_fd(), ioas).map_err(|error| {
        let step = "attaching the device to its address space (VFIO_DEVICE_ATTACH_IOMMUFD_PT)";
        problem(step, refused("attach", &error))
    })?;
    // Only now: the device's IOMMU and its reserved ranges narrow them.
    let step = "asking the IOMMU what it can translate (IOMMU_IOAS_IOVA_RANGES)";
    let ranges =
        iommufd::ranges(iommufd.as_fd(), ioas).map_err(|error| problem(step, error.to_string()))?;
    let mut ranges = chain::half_open(&ranges);
    ranges.retain(|range| range.end - range.start >= PAGE as u64);
    let map_file = maps_files(&iommufd, ioas);
    let mut features = vec![Feature::Cdev];
    if map_file {
        features.push(Feature::MapFile);
    }
    let how = if map_file { "by file" } else { "by address" };
    let about = vec![format!("memory is mapped {how}")];
    let iommu = Iommu::Ioas { iommufd, ioas, map_file };
    Ok(Opened { device, iommu, ranges, features, about })
}

/// True if the kernel maps files: it is asked to map a file that is none, and says more than that it
/// does not know the request.
fn maps_files(iommufd: &OwnedFd, ioas: u32) -> bool {
    let file = (iommufd.as_fd(), 0, PAGE as u64);
    let tried = iommufd::map_file(iommufd.as_fd(), ioas, file, 1 << 32, 0);
    match tried.map_err(|error| error.raw_os_error().map(Errno::from_raw_os_error)) {
        Ok(()) => {
            // No kernel does that; but if it was mapped, it must not stay.
            let _ = iommufd::unmap(iommufd.as_fd(), ioas, 1 << 32, PAGE as u64);
            true
        }
        Err(errno) => !matches!(errno, Some(Errno::NOTTY | Errno::OPNOTSUPP)),
    }
}
