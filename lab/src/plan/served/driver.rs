//! The kernel's driver finds the controller, and has nothing to complain of.

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::{FILES, LOAD, namespace};
use crate::guest::kernel_log::KernelLog;
use crate::guest::pci::Function;
use crate::host::{firmware, sites};
use crate::pattern;
use crate::plan::cx::{Cx, Trouble, Verdict, check};
use crate::plan::io::disk;

/// What the driver says of every controller, or of what this one lawfully does not have. Parts of lines.
const HARMLESS: [&str; 7] = [
    "pci function 0000:",
    "default/read/poll queues",
    // An arithmetic of the controller's RTD3 entry latency.
    "D3 entry latency set to",
    // No SGLs.
    "passthrough uses implicit buffer lengths",
    // After Format NVM.
    "rescanning namespaces.",
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
    "): error",
    "DMAR:",
    "WARNING:",
    "BUG:",
    "blocked for more than",
];

pub(in crate::plan) fn firmware(_: &mut Cx<'_>) -> Verdict {
    copied(sites::LOAD.seed)?;
    Ok(format!("{} blocks read and written by INT 13h", firmware::BLOCKS))
}

/// Whether firmware has made its copy of blocks with the pattern of `seed`.
pub(super) fn copied(seed: u64) -> Result<(), Trouble> {
    let byte = |block: u16| u64::from(block) * pattern::BLOCK as u64;
    let mut copy = vec![0; usize::from(firmware::BLOCKS) * pattern::BLOCK];
    let disk = File::open(namespace(LOAD)?.device)?;
    disk.read_exact_at(&mut copy, byte(firmware::FROM + firmware::DISTANCE))?;
    let different = pattern::first_difference(seed, u64::from(firmware::FROM), &copy);
    check(different.is_none(), || {
        let empty = if copy.iter().all(|byte| *byte == 0) { " (nothing was written)" } else { "" };
        format!("block {} of firmware's copy is wrong{empty}", different.unwrap_or(0))
    })
}

pub(in crate::plan) fn driver(_: &mut Cx<'_>) -> Verdict {
    let said = controller()?;
    let mut data = vec![0; usize::try_from(sites::FILES.filled).unwrap_or(0) * pattern::BLOCK];
    File::open(namespace(FILES)?.device)?.read_exact(&mut data)?;
    let different = pattern::first_difference(sites::FILES.seed, 0, &data);
    check(different.is_none(), || format!("block {} is not the image's", different.unwrap_or(0)))?;
    Ok(said)
}

/// What the kernel says of the controller that its own driver runs.
pub(super) fn controller() -> Verdict {
    namespace(FILES)?;
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
    for (nsid, image) in [(FILES, sites::FILES), (LOAD, sites::LOAD)] {
        let blocks = namespace(nsid)?.attribute("size")?;
        check(blocks == image.blocks.to_string(), || {
            format!("namespace {nsid} has {blocks} blocks, not {}", image.blocks)
        })?;
    }
    let vectors = fs::read_dir(disk().folder().join("msi_irqs"))?.count();
    // Linux names the handlers after the controller's queues.
    let table = fs::read_to_string("/proc/interrupts")?;
    let queues = table.lines().filter(|line| line.contains(" nvme0q")).count();
    check(vectors > 1 && queues > 1, || format!("{vectors} vectors, {queues} in use"))?;
    let model = attribute("model")?;
    Ok(format!("{model}, serial number {serial}, {queues} MSI-X vectors in use"))
}

/// Our model of QEMU's edu device: what it looks like to the kernel, and our own driver of it in this guest.
pub(in crate::plan) fn edu(cx: &mut Cx<'_>) -> Verdict {
    let function = Function::at("0000:00:05.0");
    let (vendor, device) = (function.attribute("vendor")?, function.attribute("device")?);
    check(vendor == "0x1234" && device == "0x11e8", || format!("it is {vendor}:{device}"))?;
    let resources = function.attribute("resource")?;
    let bar = resources.lines().next().unwrap_or_default();
    check(!bar.starts_with("0x0000000000000000"), || format!("BAR 0 is nowhere: {bar}"))?;
    let said = crate::plan::conformance::edu(cx)?;
    Ok(format!("{vendor}:{device}: {said}"))
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
        && !["mounted filesystem", "unmounting filesystem"].iter().any(|part| line.contains(part))
        && !line.starts_with("Command line:")
        && !line.starts_with("Kernel command line:")
}

fn is_harmless(line: &str) -> bool {
    HARMLESS.iter().any(|part| line.contains(part))
}
