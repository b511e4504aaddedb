//! Where a device is: on a node of its own, in a slot that can be emptied.

use std::fs;
use std::path::{Path, PathBuf};

use rustix::process::Signal;
use serde_json::Value;

use super::clients::{busy, client};
use super::cx::{Cx, Trouble, Verdict, check, refused, succeeded};
use crate::guest::pci::Function;
use crate::guest::process::{Process, until};
use crate::guest::programs::Broker;
use crate::host::sites;
use crate::protocol::{Request, Wrote};

/// The bridge above the slot.
const SLOT_PORT: &str = "0000:00:0a.0";
/// NVM Express controllers, as sysfs writes class codes.
const NVME_CLASS: &str = "0x010802";

/// The controller on NUMA node 1.
pub(super) fn far() -> Option<Function> {
    let entries = fs::read_dir("/sys/bus/pci/devices").ok()?;
    let functions =
        entries.flatten().map(|entry| Function::at(entry.file_name().to_string_lossy()));
    let is = |function: &Function, name: &str, value: &str| {
        function.attribute(name).is_ok_and(|found| found == value)
    };
    let mut functions = functions.filter(|function| is(function, "class", NVME_CLASS));
    functions.find(|function| is(function, "numa_node", "1"))
}

pub(super) fn numa(cx: &mut Cx<'_>) -> Verdict {
    let far = far().ok_or_else(|| Trouble::Failed("no controller is on node 1".to_owned()))?;
    let broker = cx.serve(&far)?;
    let status = broker.status(&mut cx.programs)?;
    let node = status.pointer("/device/numa_node").and_then(Value::as_u64);
    check(node == Some(1), || format!("the broker reports node {node:?}"))?;
    let processors = far.attribute("local_cpulist")?;
    let near = threads_on(&broker, &processors)?;
    check(near > 0, || format!("no thread of the broker keeps to processor {processors}"))?;
    let client = busy(cx, &broker)?;
    // The broker pins a client's arena before the client has touched it; that puts its pages where the device is.
    let mut pages = pages_by_node(&broker.process)?;
    pages.extend(pages_by_node(&client)?);
    let all_here = |pages: &Pages| pages.here > 0 && pages.elsewhere == 0;
    check(pages.len() > 1 && pages.iter().all(all_here), || {
        let tell = |Pages { file, here, elsewhere }: &Pages| {
            format!("{file}: {here} pages on node 1 and {elsewhere} elsewhere")
        };
        format!("memory for DMA: {}", pages.iter().map(tell).collect::<Vec<_>>().join(", "))
    })?;
    drop(client);
    let (lba, blocks, seed) = (0, 16, 0x4000 + cx.turn());
    succeeded(self::client(cx, &broker, "work", &[lba, blocks, seed, 1, 0])?.wait()?)?;
    cx.wrote(Wrote { disk: sites::FAR.name.to_owned(), lba, blocks, seed })?;
    broker.stop()?;
    let near = format!("{near} threads keep to processor {processors}");
    let tell = |Pages { file, here, .. }: &Pages| format!("{here} pages of {file}");
    let pages = pages.iter().map(tell).collect::<Vec<_>>().join(" and ");
    Ok(format!("node 1; {near}; all {pages} lie there"))
}

/// Where the pages of a piece of memory lie.
pub(super) struct Pages {
    pub(super) file: String,
    pub(super) here: u64,
    pub(super) elsewhere: u64,
}

/// The pages of everything that a process has mapped for the device's DMA: a driver's memory, a client's arena
/// (`/proc/PID/numa_maps`: "7f...-7f... default file=/memfd:NAME dirty=4 N1=4 kernelpagesize_kB=4").
pub(super) fn pages_by_node(process: &Process) -> Result<Vec<Pages>, Trouble> {
    let maps = fs::read_to_string(format!("/proc/{}/numa_maps", process.pid()))?;
    let pages = |line: &str| {
        let mut words = line.split_whitespace();
        let file = words.find_map(|word| word.strip_prefix("file=/memfd:"))?;
        let file = file.trim_end_matches("\\040(deleted)").to_owned();
        let on = |word: &str| -> Option<(u32, u64)> {
            let (node, pages) = word.strip_prefix('N')?.split_once('=')?;
            Some((node.parse().ok()?, pages.parse().ok()?))
        };
        let (mut here, mut elsewhere) = (0, 0);
        for (node, pages) in words.filter_map(on) {
            *(if node == 1 { &mut here } else { &mut elsewhere }) += pages;
        }
        Some(Pages { file, here, elsewhere })
    };
    Ok(maps.lines().filter_map(pages).collect())
}

/// How many threads of a broker may only run on these processors.
fn threads_on(broker: &Broker, processors: &str) -> Result<usize, Trouble> {
    let threads = fs::read_dir(format!("/proc/{}/task", broker.process.pid()))?;
    let statuses = threads.flatten().map(|thread| fs::read_to_string(thread.path().join("status")));
    let here = |status: &String| {
        let list = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"));
        list.is_some_and(|list| list.trim() == processors)
    };
    Ok(statuses.flatten().filter(here).count())
}

/// What is in the slot, once the kernel is done with it: a function has its folder before it has its attributes, and a
/// driver comes last.
fn plugged_in() -> Option<Function> {
    Function::below(SLOT_PORT).filter(|slot| slot.driver().is_some())
}

pub(super) fn unplug(cx: &mut Cx<'_>) -> Verdict {
    let name = sites::SLOT.name;
    let slot = until("the slot to be filled", || Ok(plugged_in()))?;
    let mut broker = cx.serve(&slot)?;
    let client = busy(cx, &broker)?;
    cx.host(Request::Unplug(name.to_owned()))?;
    let said = refused(&client.wait()?, &[])?;
    // A broker without a device either ends by itself, or tells what became of it until it is stopped. The kernel lets
    // go of the device when the broker's last file of it is closed, and not before.
    until("the broker to end, or to say that the device is gone", || {
        if !broker.process.runs() {
            return Ok(Some(()));
        }
        let ended = broker.ask(&mut cx.programs, &["status"])?;
        Ok(String::from_utf8_lossy(&ended.out).contains("OUT OF SERVICE").then_some(()))
    })?;
    if broker.process.runs() {
        broker.process.signal(Signal::TERM)?;
    }
    drop(broker.process.wait()?);
    until("the kernel to let go of the device", || Ok((!slot.exists()).then_some(())))?;
    // For the next turn, and to see that the slot can be used again.
    cx.host(Request::Plug(name.to_owned()))?;
    let slot = until("the slot to be filled again", || Ok(plugged_in()))?;
    let broker = cx.serve(&slot)?;
    let (lba, blocks, seed) = (0, 16, 0x5000 + cx.turn());
    succeeded(self::client(cx, &broker, "work", &[lba, blocks, seed, 1, 0])?.wait()?)?;
    cx.wrote(Wrote { disk: name.to_owned(), lba, blocks, seed })?;
    broker.stop()?;
    Ok(said)
}

pub(super) fn released(_: &mut Cx<'_>) -> Verdict {
    let mut holders = Vec::new();
    for process in fs::read_dir("/proc")?.flatten() {
        let own = process.file_name().to_string_lossy().parse::<u32>().is_ok_and(|pid| pid > 1);
        let files = fs::read_dir(process.path().join("fd")).ok().filter(|_| own);
        for file in files.into_iter().flatten().flatten() {
            if let Ok(target) = fs::read_link(file.path())
                && (target.starts_with("/dev/vfio") || target.starts_with("/dev/iommu"))
            {
                holders.push(format!("{} has {}", process.path().display(), target.display()));
            }
        }
        let comm = fs::read_to_string(process.path().join("comm")).unwrap_or_default();
        if comm.starts_with("doorbell") {
            holders.push(format!("{} still runs", process.path().display()));
        }
    }
    check(holders.is_empty(), || holders.join(", "))?;
    Ok("nothing is left".to_owned())
}

/// A disk that the kernel's own driver has, and that shares its group with another.
const KERNELS_DISK: &str = "0000:00:09.1";

/// The operator's tools on a live kernel: what they show, what they refuse, and what they do and undo.
pub(super) fn operator(cx: &mut Cx<'_>) -> Verdict {
    let function = Function::at(KERNELS_DISK);
    let listed = succeeded(cx.programs.doorbell(&["list", "--json"])?)?;
    let listed = String::from_utf8_lossy(&listed.out).into_owned();
    check(listed.contains(KERNELS_DISK), || format!("the list has no {KERNELS_DISK}: {listed}"))?;
    succeeded(cx.programs.doorbell(&["bind", KERNELS_DISK, "--dry-run"])?)?;
    let held = function.driver();
    check(held.as_deref() == Some("nvme"), || format!("a dry run left it with {held:?}"))?;
    let block = fs::File::open(block_device(&function)?)?;
    let said = refused(&cx.programs.doorbell(&["bind", KERNELS_DISK])?, &[KERNELS_DISK])?;
    drop(block);
    let held = function.driver();
    check(held.as_deref() == Some("nvme"), || format!("a refusal left it with {held:?}"))?;
    succeeded(cx.programs.doorbell(&["bind", KERNELS_DISK])?)?;
    let held = function.driver();
    check(held.as_deref() == Some("vfio-pci"), || format!("after bind it is with {held:?}"))?;
    succeeded(cx.programs.doorbell(&["unbind", KERNELS_DISK])?)?;
    let held = function.driver();
    check(held.as_deref() == Some("nvme"), || format!("after unbind it is with {held:?}"))?;
    // Without a privilege or a limit missing here, it has to find this machine fit.
    succeeded(cx.programs.doorbell(&["check"])?)?;
    Ok(said)
}

/// The block device of a controller's namespace, once the kernel has made it.
fn block_device(function: &Function) -> Result<PathBuf, Trouble> {
    let nvme = function.folder().join("nvme");
    let found = until("the kernel's block device", || {
        let controllers = fs::read_dir(&nvme).into_iter().flatten().flatten();
        let entries =
            controllers.flat_map(|one| fs::read_dir(one.path()).into_iter().flatten().flatten());
        let mut names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
        Ok(names
            .find(|name| name.starts_with("nvme") && name.contains('n') && name.ends_with("n1")))
    })?;
    // A controller of a subsystem shows `nvme0c1n1` here, and the device is `nvme0n1`.
    let (head, namespace) = found.split_once('c').map_or((found.as_str(), ""), |(head, rest)| {
        (head, rest.trim_start_matches(|c: char| c.is_ascii_digit()))
    });
    Ok(Path::new("/dev").join(format!("{head}{namespace}")))
}
