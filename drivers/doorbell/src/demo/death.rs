//! The fourth client is killed with a full queue in flight; what the broker takes back; who gets it
//! next.

use std::process::Stdio;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use doorbell::wire::{ReclaimReport, StatusReport};
use doorbell_bench::report::units::bytes;

use super::dice::Dice;
use super::role::{Said, Work, hear, latest_progress};
use super::supervise::Supervised;
use super::victim::{DEPTH, Tally};
use super::{IMAGE, Stage, expect_started};
use crate::connect::block_on;
use crate::status::{ask, plural};

/// The longest that the broker may take to take everything back.
const PATIENCE: Duration = Duration::from_secs(10);

/// The longest that the others may take to show that they go on.
const GOING_ON: Duration = Duration::from_secs(10);

/// Bytes that are more than what a pipe can still hold messages about.
const CLEARLY_MORE: u64 = 4 << 20;

/// What came of it.
pub(super) struct Death {
    pub(super) reclaim: ReclaimReport,
    pub(super) in_flight: u32,
    pub(super) problems: Vec<String>,
}

/// What a client holds, as the broker's own records say.
#[derive(Debug, PartialEq, Eq)]
struct Holding {
    queues: Vec<u16>,
    /// IOVA and bytes.
    arenas: Vec<(u64, u64)>,
}

impl Holding {
    fn of(pid: i32, status: &StatusReport) -> Option<Self> {
        let session = status.sessions.iter().find(|session| session.pid == pid)?;
        Some(Self {
            queues: session.queues.iter().map(|queue| queue.id).collect(),
            arenas: session.arenas.iter().map(|arena| (arena.iova, arena.bytes)).collect(),
        })
    }

    fn words(&self) -> String {
        let (iova, len) = self.arenas.first().copied().unwrap_or_default();
        let queue = self.queues.first().copied().unwrap_or_default();
        format!("queue {queue}, {} at IOVA {iova:#x}", bytes(len))
    }
}

/// Kills a client and looks at what follows. `others` must go on meanwhile.
pub(super) fn stage(
    stage: &Stage,
    others: &mut [(&mut Supervised, &str)],
    seed: u64,
) -> Result<Death> {
    let narrator = &stage.narrator;
    narrator.step("a fourth client fills its queue and is killed (SIGKILL)");
    let tally = Tally::create()?;
    let stdin = Stdio::from(tally.descriptor()?);
    let mut victim = stage.client_with("the victim", IMAGE, Work::Die, stdin)?;
    expect_started(&mut victim, "the victim")?;
    let held = Holding::of(victim.pid(), &block_on(ask(&stage.socket))?)
        .context("the broker's status does not show the victim")?;
    match hear(&mut victim, "the victim", "a full queue")? {
        Said::Full => {}
        other => bail!("the victim: said {other:?} instead of filling its queue"),
    }
    sleep(Duration::from_micros(Dice::new(seed).below(50_000)));
    victim.kill()?;
    victim.wait()?;
    let in_flight = tally.in_flight();
    narrator.detail(&format!(
        "it held {}, with {in_flight} of {DEPTH} commands in flight",
        held.words()
    ));
    let mut problems = Vec::new();
    if in_flight + 1 < DEPTH {
        problems.push(format!("the victim had only {in_flight} of {DEPTH} commands in flight"));
    }
    let reclaim = await_reclaim(stage, victim.pid())?;
    narrator.detail(&format!(
        "the broker took back {}, {}, {} in {:.1} ms",
        plural(u64::from(reclaim.queues), "queue"),
        plural(u64::from(reclaim.mappings), "mapping"),
        bytes(reclaim.bytes),
        reclaim.ms()
    ));
    let all: u64 = held.arenas.iter().map(|(_, bytes)| bytes).sum();
    let taken = (reclaim.queues as usize, reclaim.mappings as usize, reclaim.bytes);
    if taken != (held.queues.len(), held.arenas.len(), all) || reclaim.quarantined > 0 {
        problems
            .push(format!("the broker did not take back all that the victim held: {reclaim:?}"));
    }
    go_on(stage, others)?;
    problems.extend(heir(stage, &held)?);
    Ok(Death { reclaim, in_flight, problems })
}

/// Waits until the broker reports what it took back from a process.
fn await_reclaim(stage: &Stage, pid: i32) -> Result<ReclaimReport> {
    let begin = Instant::now();
    loop {
        let status = block_on(ask(&stage.socket))?;
        if let Some(reclaim) = status.reclaims.into_iter().rfind(|reclaim| reclaim.pid == pid) {
            return Ok(reclaim);
        }
        if begin.elapsed() > PATIENCE {
            bail!("the broker has not taken back what the victim held within {PATIENCE:?}");
        }
        sleep(Duration::from_millis(2));
    }
}

/// Waits until every other client has compared clearly more than it had at the death.
fn go_on(stage: &Stage, others: &mut [(&mut Supervised, &str)]) -> Result<()> {
    for (child, name) in others {
        let before = latest_progress(child, name)?;
        let begin = Instant::now();
        let mut wanted = before.map(|bytes| bytes + CLEARLY_MORE);
        loop {
            match (latest_progress(child, name)?, wanted) {
                (Some(bytes), Some(enough)) if bytes >= enough => break,
                (Some(bytes), None) => wanted = Some(bytes + CLEARLY_MORE),
                _ => {}
            }
            if begin.elapsed() > GOING_ON {
                bail!("{name}: has done nothing since the victim died");
            }
            sleep(Duration::from_millis(1));
        }
    }
    stage.narrator.detail("the other clients went on");
    Ok(())
}

/// A new client claims as much as the victim had: it must get the same.
fn heir(stage: &Stage, held: &Holding) -> Result<Option<String>> {
    let mut heir = stage.client("the heir", IMAGE, Work::Inherit)?;
    expect_started(&mut heir, "the heir")?;
    let holds = Holding::of(heir.pid(), &block_on(ask(&stage.socket))?)
        .context("the broker's status does not show the heir")?;
    heir.finish()?;
    if holds == *held {
        stage.narrator.detail(&format!("a new client got the same again: {}", holds.words()));
        return Ok(None);
    }
    Ok(Some(format!("a new client got {} instead of {}", holds.words(), held.words())))
}
