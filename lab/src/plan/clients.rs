//! Clients beside each other, and clients that end.

use rustix::process::Signal;
use serde_json::Value;

use super::client::STRAY_IOVA;
use super::cx::{Cx, Trouble, Verdict, check, refused, succeeded};
use super::io::{DISK_NAME, compare, disk, read_blocks};
use crate::guest::kernel_log::KernelLog;
use crate::guest::process::{Process, until};
use crate::guest::programs::Broker;
use crate::protocol::Wrote;

/// Where the clients of these proofs write: behind what [`super::io::write`] uses.
const FIRST: u64 = 512;
/// How much each writes.
const BLOCKS: u64 = 64;

/// A client that writes and compares, and what it leaves on the disk.
pub(super) struct Worker {
    process: Process,
    wrote: Wrote,
}

/// Starts a client that works on the `number`-th range of this turn, so many times.
pub(super) fn worker(
    cx: &mut Cx<'_>,
    broker: &Broker,
    number: u64,
    rounds: u64,
) -> Result<Worker, Trouble> {
    let (lba, seed) = (FIRST + number * BLOCKS, 0x2000 + cx.turn() * 8 + number);
    let process = client(cx, broker, "work", &[lba, BLOCKS, seed, rounds, 0])?;
    Ok(Worker { process, wrote: Wrote { disk: DISK_NAME.to_owned(), lba, blocks: BLOCKS, seed } })
}

impl Worker {
    /// Whether it still works.
    pub(super) fn works(&mut self) -> bool {
        self.process.runs()
    }

    /// Waits for its end; it must have succeeded.
    pub(super) fn finish(self, cx: &mut Cx<'_>) -> Result<String, Trouble> {
        let ended = succeeded(self.process.wait()?)?;
        cx.wrote(self.wrote)?;
        Ok(String::from_utf8_lossy(&ended.out).trim_end().to_owned())
    }
}

/// Starts a client of the plan.
pub(super) fn client(
    cx: &mut Cx<'_>,
    broker: &Broker,
    role: &str,
    numbers: &[u64],
) -> Result<Process, Trouble> {
    let mut command = cx.programs.command("lab-guest");
    command.arg(role).arg(broker.socket()).args(numbers.iter().map(ToString::to_string));
    Ok(cx.programs.start(&mut command)?)
}

/// Starts a client that keeps a queue full until it is stopped, and waits until it holds that queue.
pub(super) fn busy(cx: &mut Cx<'_>, broker: &Broker) -> Result<Process, Trouble> {
    let mut command =
        broker.command(&cx.programs, &["bench", "--depth", "16", "--seconds", "3600"]);
    let process = cx.programs.start(&mut command)?;
    session_with_queue(cx, broker, process.pid())?;
    Ok(process)
}

/// Waits until a client holds a queue.
pub(super) fn session_with_queue(
    cx: &mut Cx<'_>,
    broker: &Broker,
    pid: i32,
) -> Result<(), Trouble> {
    Ok(until("a client to hold a queue", || {
        let status = broker.status(&mut cx.programs)?;
        Ok(session_of(&status, pid).is_some_and(|session| holds_queue(&session)).then_some(()))
    })?)
}

fn session_of(status: &Value, pid: i32) -> Option<Value> {
    let sessions = status.get("sessions")?.as_array()?;
    sessions.iter().find(|session| session["pid"] == pid).cloned()
}

fn holds_queue(session: &Value) -> bool {
    session["queues"].as_array().is_some_and(|queues| !queues.is_empty())
}

/// What the kernel counts as pinned or locked for a broker, in kilobytes: the container counts in one, iommufd in the
/// other.
fn pinned(broker: &Broker) -> Result<u64, Trouble> {
    Ok(broker.process.kilobytes("VmLck")? + broker.process.kilobytes("VmPin")?)
}

pub(super) fn interrupts(cx: &mut Cx<'_>) -> Verdict {
    let broker = cx.serve(&disk())?;
    let before = disk().interrupts()?;
    let (lba, seed, rounds) = (FIRST, 0x3000 + cx.turn(), 16);
    let client = client(cx, &broker, "sleep", &[lba, seed, rounds])?;
    succeeded(client.wait()?)?;
    let risen = disk().interrupts()?.saturating_sub(before);
    cx.wrote(Wrote { disk: DISK_NAME.to_owned(), lba, blocks: 16, seed })?;
    // Its queue's vector. Not one for each command: a completion that is there at the first look needs none.
    check(risen > 0, || format!("the kernel counted no interrupt in {rounds} rounds"))?;
    broker.stop()?;
    Ok(format!("{risen} interrupts counted"))
}

pub(super) fn two_clients(cx: &mut Cx<'_>) -> Verdict {
    let broker = cx.serve(&disk())?;
    let (one, other) = (worker(cx, &broker, 1, 4)?, worker(cx, &broker, 2, 4)?);
    let wrote = [one.wrote.clone(), other.wrote.clone()];
    let said = [one.finish(cx)?, other.finish(cx)?];
    for Wrote { lba, blocks, seed, .. } in wrote {
        let data = read_blocks(cx, &broker, lba, blocks)?;
        compare(seed, lba, blocks, &data)?;
    }
    broker.stop()?;
    Ok(said.join("; "))
}

pub(super) fn stray_dma(cx: &mut Cx<'_>) -> Verdict {
    let broker = cx.serve(&disk())?;
    let mut log = KernelLog::from_now()?;
    let neighbour = worker(cx, &broker, 3, 4)?;
    let ended = client(cx, &broker, "stray", &[FIRST])?.wait()?;
    let wanted = format!("fault addr {STRAY_IOVA:#x}");
    let line = until("the fault in the kernel's log", || {
        let text = log.text()?;
        Ok(text.lines().find(|line| line.contains(&wanted)).map(str::to_owned))
    })?;
    check(line.contains("00:04.0"), || format!("the fault is not the disk's: {line}"))?;
    neighbour.finish(cx)?;
    broker.stop()?;
    let said = if ended.status.success() {
        String::from_utf8_lossy(&ended.out).trim_end().to_owned()
    } else {
        refused(&ended, &[])?
    };
    Ok(format!("{line} ({said})"))
}

pub(super) fn killed_client(cx: &mut Cx<'_>) -> Verdict {
    let broker = cx.serve(&disk())?;
    let before = pinned(&broker)?;
    let victim = busy(cx, &broker)?;
    let held = pinned(&broker)?;
    check(held > before, || format!("{held} kB are pinned for a client, {before} kB without"))?;
    let pid = victim.pid();
    victim.signal(Signal::KILL)?;
    // Nobody has looked at its status yet: the broker learns of the end by itself.
    let reclaim = until("the broker to take everything back", || {
        let status = broker.status(&mut cx.programs)?;
        let reclaims = status["reclaims"].as_array().cloned().unwrap_or_default();
        Ok(reclaims.into_iter().find(|reclaim| reclaim["pid"] == pid))
    })?;
    let (queues, kept) = (reclaim["queues"].as_u64(), reclaim["quarantined"].as_u64());
    check(queues == Some(1) && kept == Some(0), || format!("taken back: {reclaim}"))?;
    until("the mappings to be gone", || {
        Ok((pinned(&broker).unwrap_or(u64::MAX) <= before).then_some(()))
    })?;
    drop(victim);
    worker(cx, &broker, 4, 1)?.finish(cx)?;
    broker.stop()?;
    Ok(format!("{} kB pinned for it, {before} kB before and after", held - before))
}

pub(super) fn revoked_client(cx: &mut Cx<'_>) -> Verdict {
    let broker = cx.serve(&disk())?;
    let victim = busy(cx, &broker)?;
    let neighbour = worker(cx, &broker, 5, 4)?;
    cx.ask(&broker, &["revoke", "--pid", &victim.pid().to_string()])?;
    let said = refused(&victim.wait()?, &["revoked"])?;
    neighbour.finish(cx)?;
    broker.stop()?;
    Ok(said)
}

pub(super) fn broker_restart(cx: &mut Cx<'_>) -> Verdict {
    let broker = cx.serve(&disk())?;
    let client = busy(cx, &broker)?;
    // The controller stays enabled, with a queue that still has commands in it: only a reset gets it out of that.
    broker.process.signal(Signal::KILL)?;
    let said = refused(&client.wait()?, &["broker"])?;
    drop(broker);
    let broker = cx.serve(&disk())?;
    worker(cx, &broker, 6, 1)?.finish(cx)?;
    broker.stop()?;
    let broker = cx.serve(&disk())?;
    worker(cx, &broker, 7, 1)?.finish(cx)?;
    broker.stop()?;
    Ok(said)
}

pub(super) fn reset(cx: &mut Cx<'_>) -> Verdict {
    let broker = cx.serve(&disk())?;
    let clients = [busy(cx, &broker)?, busy(cx, &broker)?];
    cx.ask(&broker, &["reset"])?;
    let mut said = String::new();
    for client in clients {
        said = refused(&client.wait()?, &["reset"])?;
    }
    worker(cx, &broker, 6, 1)?.finish(cx)?;
    let resets = broker.status(&mut cx.programs)?["resets"].as_u64();
    check(resets == Some(1), || format!("the broker counts {resets:?} resets"))?;
    broker.stop()?;
    Ok(said)
}
