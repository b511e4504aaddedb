//! What the guest's kernel offers; if this fails nothing else means much.

use std::fs;
use std::path::Path;

use super::cx::{BUSES, Cx, Trouble, Verdict, check, kernel_offers};
use crate::guest::pci::Function;
use crate::plan::io::DISK;

pub(super) fn kernel(_: &mut Cx<'_>) -> Verdict {
    let units = fs::read_dir("/sys/class/iommu").map_or(0, Iterator::count);
    check(units > 0, || "the kernel knows no IOMMU".to_owned())?;
    let group = Function::at(DISK).group();
    check(group.is_some(), || format!("{DISK} is in no IOMMU group"))?;
    let buses: Vec<_> = BUSES.into_iter().filter(|bus| kernel_offers(bus)).collect();
    // A kernel that was built for the lab has both; no Debian one has iommufd.
    let release = rustix::system::uname().release().to_string_lossy().into_owned();
    let wanted: &[&str] = if release.contains("-lab") { &BUSES } else { &["container"] };
    for bus in wanted {
        check(buses.contains(bus), || format!("the kernel {release} does not offer {bus}"))?;
    }
    if !Path::new("/sys/bus/pci/drivers/vfio-pci").exists() {
        return Err(Trouble::Failed("the kernel has no vfio-pci".to_owned()));
    }
    Ok(format!("IOMMU on; {}", buses.join(" and ")))
}
