//! What the demo's child processes do and say. A child gets its [`Role`] as an argument, says
//! [`Said`] in lines of JSON on its standard output, and ends when its standard input is closed.

use std::fs::File;
use std::io::{BufRead, Write};
use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use doorbell_bench::{Floors, Placement, Series};
use rustix::process::{Signal, set_parent_process_death_signal};
use serde::{Deserialize, Serialize};

use super::supervise::Supervised;
use super::{measure, verify, victim};
use crate::output;

/// What a child is to do.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Role {
    /// The broker's socket.
    pub(crate) socket: PathBuf,
    /// The namespace to work on.
    pub(crate) namespace: u32,
    /// The work.
    pub(crate) work: Work,
}

/// The work of a child.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) enum Work {
    /// Reads bytes `0..bytes` through the device and compares them with the file, once, and again
    /// until it is told to end.
    Read {
        /// The file behind the namespace.
        file: PathBuf,
        /// How many bytes of it.
        bytes: u64,
    },
    /// Writes a pattern to `start..start + bytes` and reads it back, once, and again until it is
    /// told to end.
    Write {
        /// First byte.
        start: u64,
        /// How many bytes.
        bytes: u64,
        /// Of the pattern.
        seed: u64,
    },
    /// Keeps a queue full until it is killed. Its standard input is the memory of [`victim::Tally`].
    Die,
    /// Claims what the victim had and reads one buffer.
    Inherit,
    /// Measures latencies and floors.
    Measure {
        /// The cores; `None` if there is only one.
        placement: Option<Placement>,
        /// Seconds, all together.
        seconds: f64,
    },
}

/// What a child says.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Said {
    /// It holds a queue and its I/O has begun.
    Started,
    /// So many bytes were compared so far.
    Compared(u64),
    /// A victim: its queue is full of I/O.
    Full,
    /// The end of a comparison.
    Verified(Verified),
    /// The end of a measurement.
    Measured(Box<Measured>),
    /// Why it ends.
    Failed(String),
}

/// The outcome of a comparison.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Verified {
    /// Bytes that were compared.
    pub(crate) bytes: u64,
    /// Bytes that differed.
    pub(crate) mismatches: u64,
    /// The first of them: where, and what was there instead of what.
    pub(crate) first: Option<String>,
    /// I/O that failed.
    pub(crate) errors: u64,
    /// The first failure.
    pub(crate) first_error: Option<String>,
}

/// What was measured.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Measured {
    /// The floors.
    pub(crate) floors: Floors,
    /// Flushes at depth 1.
    pub(crate) flush: Series,
    /// Reads of 4 KiB at depth 1.
    pub(crate) read_1: Series,
    /// Reads of 4 KiB at depth 32.
    pub(crate) read_32: Series,
    /// What one reading of the clock costs, in nanoseconds.
    pub(crate) clock_ns: f64,
}

/// Says something to the demo.
pub(crate) fn say(said: &Said) -> Result<()> {
    let mut out = std::io::stdout().lock();
    serde_json::to_writer(&mut out, said).context("telling the demo")?;
    out.write_all(b"\n").and_then(|()| out.flush()).context("telling the demo")
}

/// Waits for a child's next word other than progress; a failure that it tells is an error.
pub(crate) fn hear(child: &mut Supervised, name: &str, waiting_for: &str) -> Result<Said> {
    loop {
        let line = child.line(waiting_for)?;
        match parse(&line, name)? {
            Said::Compared(_) => {}
            Said::Failed(why) => bail!("{name}: {why}"),
            said => return Ok(said),
        }
    }
}

/// The latest progress that a child has told of and nobody has heard yet.
pub(crate) fn latest_progress(child: &Supervised, name: &str) -> Result<Option<u64>> {
    let mut latest = None;
    while let Some(line) = child.line_at_once() {
        match parse(&line, name)? {
            Said::Compared(bytes) => latest = Some(bytes),
            Said::Failed(why) => bail!("{name}: {why}"),
            other => bail!("{name}: said {other:?} too early"),
        }
    }
    Ok(latest)
}

fn parse(line: &str, name: &str) -> Result<Said> {
    serde_json::from_str(line).with_context(|| format!("{name}: said what is no message"))
}

/// Runs a child of the demo.
pub(crate) fn run(role: &str) -> Result<()> {
    set_parent_process_death_signal(Some(Signal::KILL)).context("asking to end with the demo")?;
    let role: Role = serde_json::from_str(role)
        .context("this is a command of the demo itself; run `doorbell demo`")?;
    let outcome = match &role.work {
        Work::Read { file, bytes } => File::open(file)
            .context("opening the image")
            .and_then(|file| verify::read_image(&role, &file, *bytes)),
        Work::Write { start, bytes, seed } => verify::write_pattern(&role, *start, *bytes, *seed),
        Work::Die => victim::run(&role),
        Work::Inherit => victim::inherit(&role),
        Work::Measure { placement, seconds } => measure::run(&role, *placement, *seconds),
    };
    if let Err(error) = &outcome {
        say(&Said::Failed(output::one_line(error)))?;
    }
    outcome
}

/// True once standard input is closed: looked at by a thread, so that the work can go on meanwhile.
pub(crate) fn told_to_end() -> impl Fn() -> bool {
    let (to, ended) = std::sync::mpsc::channel::<()>();
    std::thread::spawn(move || {
        let mut line = String::new();
        while std::io::stdin().lock().read_line(&mut line).is_ok_and(|bytes| bytes > 0) {
            line.clear();
        }
        drop(to);
    });
    move || ended.try_recv() == Err(std::sync::mpsc::TryRecvError::Disconnected)
}
