//! The kernel's driver finds the controller, and has nothing to complain of.

use std::fs::{self, File};
use std::io::Read;
use std::path::Path;

use super::FILES;
use crate::guest::kernel_log::KernelLog;
use crate::guest::process::until;
use crate::host::{firmware, sites};
use crate::pattern;
use crate::plan::cx::{Cx, Trouble, Verdict, check};
use crate::plan::io::disk;

/// What the driver says of every controller, or of what this one lawfully does not have. Parts of lines.
const HARMLESS: [&str; 6] = [
    "pci function 0000:",
    "default/read/poll queues",
    // An arithmetic of the controller's RTD3 entry latency.
    "D3 entry latency set to",
    // No SGLs.
    "passthrough uses implicit buffer lengths",
    // Partition tables are looked for, and there are none.
    " nvme0n1:",
    " nvme0n2:",
];

/// What a complaint has in it that may come from anywhere else because of the device.
const SIGNS: [&str; 9] = [
    "nvme",
    "I/O error",
    "EXT4-fs error",
    "EXT4-fs warning",
    "EXT4-fs (nvme0n1): error",
    "DMAR:",
    "WARNING:",
    "BUG:",
    "blocked for more than",
];

pub(in crate::plan) fn firmware(_: &mut Cx<'_>) -> Verdict {
    let (from, distance) = (u64::from(firmware::FROM), u64::from(firmware::DISTANCE));
    let blocks = u64::from(firmware::BLOCKS);
    let mut data = vec![0; usize::try_from(distance + blocks).unwrap_or(0) * pattern::BLOCK];
    namespace()?.read_exact(&mut data)?;
    let copy = data.split_off(usize::try_from(distance).unwrap_or(0) * pattern::BLOCK);
    let different = pattern::first_difference(sites::FILES.seed, from, &copy);
    check(different.is_none(), || {
        let empty = if copy.iter().all(|byte| *byte == 0) { " (nothing was written)" } else { "" };
        format!("block {} of firmware's copy is wrong{empty}", different.unwrap_or(0))
    })?;
    Ok(format!("{blocks} blocks read and written by INT 13h"))
}

/// The first namespace, once the kernel has made its block device.
fn namespace() -> Result<File, Trouble> {
    until("the kernel's block device", || Ok(Path::new(FILES).exists().then_some(())))?;
    Ok(File::open(FILES)?)
}

pub(in crate::plan) fn driver(_: &mut Cx<'_>) -> Verdict {
    let mut file = namespace()?;
    let held = disk().driver();
    check(held.as_deref() == Some("nvme"), || format!("the driver is {held:?}"))?;
    let attribute = |name: &str| -> Result<String, Trouble> {
        let text = fs::read_to_string(Path::new("/sys/class/nvme/nvme0").join(name))?;
        Ok(text.trim().to_owned())
    };
    let serial = attribute("serial")?;
    check(serial == sites::SERIAL, || format!("the serial number is {serial:?}"))?;
    let state = attribute("state")?;
    check(state == "live", || format!("the controller is {state}"))?;
    for image in [sites::FILES, sites::LOAD] {
        let number = if image.name == sites::FILES.name { 1 } else { 2 };
        let blocks = fs::read_to_string(format!("/sys/class/block/nvme0n{number}/size"))?;
        check(blocks.trim() == image.blocks.to_string(), || {
            format!("namespace {number} has {} blocks, not {}", blocks.trim(), image.blocks)
        })?;
    }
    let mut data = vec![0; usize::try_from(sites::FILES.filled).unwrap_or(0) * pattern::BLOCK];
    file.read_exact(&mut data)?;
    let different = pattern::first_difference(sites::FILES.seed, 0, &data);
    check(different.is_none(), || format!("block {} is not the image's", different.unwrap_or(0)))?;
    let vectors = fs::read_dir(disk().folder().join("msi_irqs"))?.count();
    // Linux names the handlers after the controller's queues.
    let table = fs::read_to_string("/proc/interrupts")?;
    let queues = table.lines().filter(|line| line.contains(" nvme0q")).count();
    check(vectors > 1 && queues > 1, || format!("{vectors} vectors, {queues} in use"))?;
    let model = attribute("model")?;
    Ok(format!("{model}, serial number {serial}, {queues} MSI-X vectors in use"))
}

/// Everything that the kernel has said since it started.
pub(in crate::plan) fn log(_: &mut Cx<'_>) -> Verdict {
    let mut log = KernelLog::from_boot()?;
    let lines: Vec<_> = log.text()?.lines().filter(|line| is_sign(line)).collect();
    let complaints: Vec<_> = lines.iter().filter(|line| !is_harmless(line)).copied().collect();
    check(complaints.is_empty(), || complaints.join("; "))?;
    let mut said: Vec<_> = lines.iter().map(|line| line.trim()).collect();
    said.dedup();
    Ok(said.join("; "))
}

fn is_sign(line: &str) -> bool {
    SIGNS.iter().any(|sign| line.contains(sign))
        // The IOMMU's driver says at length what it is.
        && (!line.contains("DMAR:") || line.contains("fault") || line.contains("ERROR"))
        // A file system that is mounted and unmounted says so.
        && !line.contains("EXT4-fs (nvme0n1): mounted")
        && !line.contains("EXT4-fs (nvme0n1): unmounting")
        && !line.starts_with("Command line:")
        && !line.starts_with("Kernel command line:")
}

fn is_harmless(line: &str) -> bool {
    HARMLESS.iter().any(|part| line.contains(part))
}
