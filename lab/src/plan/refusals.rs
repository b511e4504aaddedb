//! What the broker says when it cannot have a device, and serving without root.

use std::fs;
use std::os::unix::fs::{MetadataExt, chown};
use std::path::Path;

use super::cx::{BUSES, Cx, Trouble, VFIO, Verdict, check, kernel_offers, refused, succeeded};
use super::io::{DISK, disk};
use crate::guest::pci::Function;
use crate::guest::programs::{Account, Serve};

/// A disk that shares its group with [`TWIN`].
const HELD: &str = "0000:00:09.0";
const TWIN: &str = "0000:00:09.1";

/// The driver of the kernel's own.
const KERNELS: &str = "nvme";

/// Pinned memory that is enough for a broker and a few clients.
const ENOUGH: u64 = 128 << 20;
/// And what is not: the broker's own queues may fit, a client's memory does not.
const TOO_LITTLE: u64 = 1 << 20;

/// Tries to serve a device over each bus that the kernel offers; each time it must fail in one line with `parts`.
fn refused_over_each_bus(cx: &mut Cx<'_>, address: &str, parts: &[&str]) -> Verdict {
    let mut said = Vec::new();
    for bus in BUSES.into_iter().filter(|bus| kernel_offers(bus)) {
        let spec = format!("{address},bus={bus}");
        let ended = cx.programs.doorbell(&["serve", &spec, "--socket", "/run/refused.sock"])?;
        said.push(format!("{bus}: {}", refused(&ended, parts)?));
    }
    check(!said.is_empty(), || "the kernel offers no bus".to_owned())?;
    Ok(said.join(" | "))
}

pub(super) fn held(cx: &mut Cx<'_>) -> Verdict {
    let twin = Function::at(TWIN);
    check(twin.driver().as_deref() == Some(KERNELS), || {
        format!("{TWIN} is with {:?}", twin.driver())
    })?;
    let said = refused_over_each_bus(cx, TWIN, &[TWIN, KERNELS, "doorbell bind"])?;
    check(twin.driver().as_deref() == Some(KERNELS), || {
        "it is with the driver no longer".to_owned()
    })?;
    Ok(said)
}

pub(super) fn not_viable(cx: &mut Cx<'_>) -> Verdict {
    let (one, twin) = (Function::at(HELD), Function::at(TWIN));
    check(one.group() == twin.group() && one.group().is_some(), || {
        format!("{HELD} and {TWIN} are in the groups {:?} and {:?}", one.group(), twin.group())
    })?;
    one.bind(VFIO)?;
    let said = refused_over_each_bus(cx, HELD, &[HELD, "not viable", TWIN]);
    one.restore(KERNELS)?;
    said
}

pub(super) fn no_iommu(cx: &mut Cx<'_>) -> Verdict {
    // As a careless operator does: the kernel then gives the device, with nothing that keeps its DMA within bounds.
    let mode = Path::new("/sys/module/vfio/parameters/enable_unsafe_noiommu_mode");
    if mode.exists() {
        fs::write(mode, "Y")?;
        disk().bind(VFIO)?;
        return refused_over_each_bus(cx, DISK, &[DISK, "IOMMU"]);
    }
    let bound = disk().bind(VFIO);
    check(bound.is_err(), || "vfio-pci took a device without an IOMMU".to_owned())?;
    refused_over_each_bus(cx, DISK, &[DISK])
}

pub(super) fn no_remapping(cx: &mut Cx<'_>) -> Verdict {
    if disk().group().is_none() {
        let release = rustix::system::uname().release().to_string_lossy().into_owned();
        return Err(Trouble::Skipped(format!(
            "the kernel {release} has no driver for virtio-iommu"
        )));
    }
    disk().bind(VFIO)?;
    refused_over_each_bus(cx, DISK, &[DISK, "remap"])
}

/// Gives the device's files to an account, as a udev rule does.
fn hand_over(cx: &Cx<'_>, function: &Function, id: u32) -> Result<(), Trouble> {
    function.bind(VFIO)?;
    let mut files = Vec::new();
    if cx.bus() == "cdev" {
        files.push("/dev/iommu".to_owned());
        files.extend(function.vfio_device().map(|name| format!("/dev/vfio/devices/{name}")));
    } else {
        files.extend(function.group().map(|group| format!("/dev/vfio/{group}")));
    }
    for file in files {
        chown(&file, Some(id), Some(id))?;
    }
    Ok(())
}

/// The account that the programs belong to, which can read them wherever they lie; if that is root, any other.
fn account(cx: &Cx<'_>) -> Result<u32, Trouble> {
    let owner = fs::metadata(cx.programs.path("doorbell"))?.uid();
    Ok(if owner == 0 { 1000 } else { owner })
}

pub(super) fn ordinary_user(cx: &mut Cx<'_>) -> Verdict {
    let id = account(cx)?;
    hand_over(cx, &disk(), id)?;
    let serve = Serve { account: Account::Ordinary(id), memlock: Some(ENOUGH), more: &[] };
    let broker = cx.serve_as(&disk(), &serve)?;
    // Root is not this broker's user, so it may have nothing by default: the client has to be that user too.
    let mut command = broker.command(&cx.programs, &["bench", "--ios", "200"]);
    let ended = cx.programs.run_as(&mut command, Account::Ordinary(id))?;
    succeeded(ended)?;
    broker.stop()?;
    hand_over(cx, &disk(), 0)?;
    Ok(format!("user {id}, {} MiB may be pinned", ENOUGH >> 20))
}

pub(super) fn memlock(cx: &mut Cx<'_>) -> Verdict {
    let id = account(cx)?;
    hand_over(cx, &disk(), id)?;
    let serve = Serve { account: Account::Ordinary(id), memlock: Some(TOO_LITTLE), more: &[] };
    let said = match cx.serve_as(&disk(), &serve) {
        Err(Trouble::Failed(said) | Trouble::Skipped(said)) => said,
        Ok(broker) => {
            let mut command = broker.command(&cx.programs, &["bench", "--ios", "10"]);
            let ended = cx.programs.run_as(&mut command, Account::Ordinary(id))?;
            let said = refused(&ended, &[])?;
            broker.stop()?;
            said
        }
    };
    hand_over(cx, &disk(), 0)?;
    let names_it =
        said.contains("memlock") || said.contains("RLIMIT_MEMLOCK") || said.contains("ulimit");
    check(names_it, || format!("the limit on pinned memory is not named: {said}"))?;
    Ok(said)
}
