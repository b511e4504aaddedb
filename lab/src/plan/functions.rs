//! Virtual functions: a client that has one has a device, an IOMMU group and an address space of its own.

use std::fs;

use rustix::process::Signal;
use serde_json::Value;

use super::cx::{Cx, Trouble, Verdict, check, refused};
use super::io::compare;
use crate::guest::kernel_log::KernelLog;
use crate::guest::pci::Function;
use crate::guest::process::{Process, until};
use crate::guest::programs::Broker;
use crate::host::sites::SHARED;
use crate::pattern;
use crate::protocol::Wrote;

/// The bridge above the controller that has virtual functions.
const PORT: &str = "0000:00:0b.0";
/// vfio-pci enables virtual functions if this says so.
const ENABLE_SRIOV: &str = "/sys/module/vfio_pci/parameters/enable_sriov";
/// How many blocks a turn writes.
const BLOCKS: u64 = 64;

pub(super) fn virtual_function(cx: &mut Cx<'_>) -> Verdict {
    fs::write(ENABLE_SRIOV, "Y")?;
    let physical = Function::below(PORT)
        .ok_or_else(|| Trouble::Failed(format!("nothing is plugged in below {PORT}")))?;
    let broker = cx.serve(&physical)?;
    // The broker has reset the controller, and QEMU's functions vanish with that: the kernel makes them again.
    physical.write("sriov_numvfs", "0")?;
    physical.write("sriov_numvfs", "2")?;
    let said = clients(cx, &broker);
    let stopped = broker.stop();
    physical.write("sriov_numvfs", "0")?;
    let said = said?;
    stopped?;
    Ok(said)
}

fn clients(cx: &mut Cx<'_>, broker: &Broker) -> Verdict {
    let mut log = KernelLog::from_now()?;
    data(cx, broker)?;
    let clients = [isolated(cx, broker)?, isolated(cx, broker)?];
    let names = until("two clients to have a function each", || {
        let status = broker.status(&mut cx.programs)?;
        let names: Vec<_> = clients.iter().filter_map(|one| function_of(&status, one)).collect();
        Ok((names.len() == 2).then_some(names))
    })?;
    check(names.iter().collect::<std::collections::BTreeSet<_>>().len() == 2, || {
        format!("two clients share {names:?}")
    })?;
    let third =
        ["nvme", "read", "--tier", "isolated", "--blocks", "1", "--out", "/tmp/process-third"];
    let said = refused(&broker.ask(&mut cx.programs, &third)?, &["virtual function"])?;
    let [one, other] = clients;
    one.signal(Signal::KILL)?;
    // Its function is given to the next client; the other client is still there.
    let data = until("the killed client's function to be free", || free(cx, broker, 1))
        .map_err(Trouble::from)
        .and_then(|()| read(cx, broker, &["--tier", "isolated"]))?;
    compare(seed(cx), lba(cx), BLOCKS, &data)?;
    let pid = other.pid().to_string();
    cx.ask(broker, &["revoke", "--pid", &pid])?;
    refused(&other.wait()?, &["revoked"])?;
    until("both functions to be free", || free(cx, broker, 2))?;
    let faults = log.text()?;
    check(!faults.contains("fault addr"), || format!("the IOMMU refused something: {faults}"))?;
    Ok(format!("{}; a third: {said}", names.join(" and ")))
}

fn lba(cx: &Cx<'_>) -> u64 {
    cx.turn() * BLOCKS
}

fn seed(cx: &Cx<'_>) -> u64 {
    0x8000 + cx.turn()
}

/// Data that is written through a function comes back through the controller itself.
fn data(cx: &mut Cx<'_>, broker: &Broker) -> Result<(), Trouble> {
    let (lba, seed, file) = (lba(cx), seed(cx), "/tmp/process-pattern");
    fs::write(file, pattern::blocks(seed, lba, BLOCKS))?;
    let at = lba.to_string();
    cx.ask(broker, &["nvme", "write", "--tier", "isolated", "--lba", &at, "--in", file])?;
    cx.wrote(Wrote { disk: SHARED.name.to_owned(), lba, blocks: BLOCKS, seed })?;
    let data = read(cx, broker, &[])?;
    compare(seed, lba, BLOCKS, &data)
}

fn read(cx: &mut Cx<'_>, broker: &Broker, more: &[&str]) -> Result<Vec<u8>, Trouble> {
    let (lba, blocks, file) = (lba(cx).to_string(), BLOCKS.to_string(), "/tmp/process-data");
    let words = ["nvme", "read", "--lba", &lba, "--blocks", &blocks, "--out", file];
    cx.ask(broker, &[&words, more].concat())?;
    Ok(fs::read(file)?)
}

/// Starts a client that keeps a queue of a virtual function full until it is stopped.
fn isolated(cx: &mut Cx<'_>, broker: &Broker) -> Result<Process, Trouble> {
    let words = ["bench", "--tier", "isolated", "--depth", "8", "--seconds", "3600"];
    let mut command = broker.command(&cx.programs, &words);
    Ok(cx.programs.start(&mut command)?)
}

/// The function that a client has, once it has a queue of tier `isolated` there.
fn function_of(status: &Value, client: &Process) -> Option<String> {
    let sessions = status["sessions"].as_array()?;
    let session = sessions.iter().find(|session| session["pid"] == client.pid())?;
    let queue = session["queues"].as_array()?.first()?;
    (queue["tier"] == "isolated").then_some(())?;
    Some(session["function"].as_str()?.to_owned())
}

/// Whether so many functions can be given out.
fn free(cx: &mut Cx<'_>, broker: &Broker, wanted: usize) -> std::io::Result<Option<()>> {
    let status = broker.status(&mut cx.programs)?;
    let functions = status["virtual_functions"].as_array().cloned().unwrap_or_default();
    let free = functions.iter().filter(|function| function["state"] == "free").count();
    Ok((free == wanted).then_some(()))
}
