//! What the guest's kernel offers; if this fails nothing else means much.

use std::fs;
use std::path::Path;

use super::cx::{Cx, Trouble, Verdict, check};
use crate::guest::pci::Function;
use crate::plan::io::DISK;

pub(super) fn kernel(cx: &mut Cx<'_>) -> Verdict {
    let units = fs::read_dir("/sys/class/iommu").map(Iterator::count).unwrap_or(0);
    check(units > 0, || "the kernel knows no IOMMU".to_owned())?;
    let group = Function::at(DISK).group();
    check(group.is_some(), || format!("{DISK} is in no IOMMU group"))?;
    let buses: Vec<_> =
        ["container", "cdev"].into_iter().filter(|bus| cx.kernel_offers(bus)).collect();
    check(!buses.is_empty(), || {
        "the kernel offers neither /dev/vfio/vfio nor /dev/iommu".to_owned()
    })?;
    if !Path::new("/sys/bus/pci/drivers/vfio-pci").exists() {
        return Err(Trouble::Failed("the kernel has no vfio-pci".to_owned()));
    }
    Ok(format!("IOMMU on; {}", buses.join(" and ")))
}
