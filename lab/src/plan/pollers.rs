//! A poller on a machine of two nodes: where its thread runs, and where the memory of its queues lies.

use std::fs;

use rustix::process::Signal;
use serde_json::Value;

use super::clients::client;
use super::cx::{Cx, Trouble, Verdict, check, succeeded};
use super::places::{far, pages_by_node};
use crate::guest::process::{Process, until};
use crate::host::sites;
use crate::protocol::Wrote;

/// Queues of the poller.
const QUEUES: u64 = 4;
/// What each of them writes.
const BLOCKS: u64 = 16;
/// Where: behind what the proof `numa` writes.
const FIRST: u64 = 64;

pub(super) fn poller(cx: &mut Cx<'_>) -> Verdict {
    let far = far().ok_or_else(|| Trouble::Failed("no controller is on node 1".to_owned()))?;
    let processors = far.attribute("local_cpulist")?;
    let broker = cx.serve(&far)?;
    let reader = client(cx, &broker, "poll", &[FIRST, BLOCKS, 0, 0, QUEUES])?;
    let seen = until("a poller with all of its queues", || {
        let status = broker.status(&mut cx.programs)?;
        Ok(poller_of(&status, reader.pid()).filter(serves_all))
    })?;
    let about = |what: &str| seen.pointer(&format!("/about/{what}")).cloned().unwrap_or_default();
    let (cpu, node, memory) = (about("cpu"), about("node"), about("memory"));
    check(cpu.as_u64() == processors.parse().ok(), || {
        format!("it is on CPU {cpu}, near is {processors}")
    })?;
    check(node == 1 && memory == 1, || {
        format!("node {node}, memory of node {memory}: {}", about("trouble"))
    })?;
    let lists = threads_of(&reader, "doorbell-n1-")?;
    check(lists == [processors.clone()], || {
        format!("its threads may run on {lists:?}, and the device is near {processors}")
    })?;
    let pages = pages_by_node(&reader)?;
    let here: u64 = pages.iter().map(|pages| pages.here).sum();
    let elsewhere: Vec<_> = pages.iter().filter(|pages| pages.elsewhere > 0).collect();
    check(here > 0 && elsewhere.is_empty(), || {
        let tell = |pages: &&super::places::Pages| format!("{} of {}", pages.elsewhere, pages.file);
        format!("pages elsewhere: {}", elsewhere.iter().map(tell).collect::<Vec<_>>().join(", "))
    })?;
    reader.signal(Signal::KILL)?;
    reader.wait()?;
    let seed = 0x5000 + cx.turn();
    let writer = client(cx, &broker, "poll", &[FIRST, BLOCKS, seed, 2, QUEUES])?;
    let ended = succeeded(writer.wait()?)?;
    let (disk, blocks) = (sites::FAR.name.to_owned(), QUEUES * BLOCKS);
    cx.wrote(Wrote { disk, lba: FIRST, blocks, seed })?;
    broker.stop()?;
    let said = String::from_utf8_lossy(&ended.out).trim_end().to_owned();
    Ok(format!("on CPU {cpu} of node 1 with all {here} pages for DMA; {said}"))
}

/// The poller of a client, as the broker reports it.
fn poller_of(status: &Value, pid: i32) -> Option<Value> {
    let sessions = status.get("sessions")?.as_array()?;
    let session =
        sessions.iter().find(|one| one.get("pid").and_then(Value::as_i64) == Some(pid.into()))?;
    session.get("pollers")?.as_array()?.first().cloned()
}

fn serves_all(poller: &Value) -> bool {
    let queues = poller.get("queues").and_then(Value::as_array);
    queues.is_some_and(|queues| queues.len() as u64 == QUEUES)
}

/// Where the threads of a process whose names begin so may run.
fn threads_of(process: &Process, name: &str) -> Result<Vec<String>, Trouble> {
    let mut lists = Vec::new();
    for thread in fs::read_dir(format!("/proc/{}/task", process.pid()))?.flatten() {
        let status = fs::read_to_string(thread.path().join("status")).unwrap_or_default();
        let field =
            |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
        if field("Name:").is_some_and(|own| own.starts_with(name)) {
            lists.extend(field("Cpus_allowed_list:").map(str::to_owned));
        }
    }
    Ok(lists)
}
