//! Several clients: processes of this same program, each with a queue of its own. Each gets its
//! [`Setup`] as an argument, then one load after the other as a line of JSON on its standard input,
//! and answers each with a line. It ends when its standard input is closed.

use std::io::{BufRead, Write};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::{Signal, set_parent_process_death_signal};
use serde::{Deserialize, Serialize};

use super::plan::Job;
use super::runner::{Part, Runner, Setup};
use crate::connect::block_on;
use crate::demo::supervise::Supervised;
use crate::output;

/// What a client may take beyond the time of its load.
const PATIENCE: Duration = Duration::from_secs(60);

/// What a client is told.
#[derive(Debug, Serialize, Deserialize)]
enum Order {
    /// Say whether this load is possible, and claim its queue.
    Check(Job),
    /// Run it.
    Run(Job),
}

/// What a client answers.
#[derive(Debug, Serialize, Deserialize)]
enum Answer {
    Ready,
    Done(Box<Part>),
    Failed(String),
}

/// The clients of a run.
pub(crate) struct Team(Vec<Supervised>);

impl Team {
    /// Starts a process for each setup, and waits until all are connected.
    ///
    /// # Errors
    /// What any of them says.
    pub(crate) fn start(setups: &[Setup]) -> Result<Self> {
        let program = std::env::current_exe().context("finding this program's own file")?;
        let until = Instant::now() + PATIENCE;
        let start = |setup: &Setup| -> Result<Supervised> {
            let setup_text = serde_json::to_string(setup)?;
            let mut command = Command::new(&program);
            command.args(["bench-client", &setup_text]).stdin(Stdio::piped());
            Supervised::start(&format!("client {}", setup.index + 1), command, until)
        };
        let mut team = Self(setups.iter().map(start).collect::<Result<_>>()?);
        team.answers("the connection")?;
        Ok(team)
    }

    /// Has all of them check a load.
    ///
    /// # Errors
    /// If it is not possible.
    pub(crate) fn check(&mut self, job: &Job) -> Result<()> {
        self.tell(&Order::Check(job.clone()), PATIENCE)?;
        self.answers("a queue").map(drop)
    }

    /// Has all of them run a load at the same time.
    ///
    /// # Errors
    /// What any of them says.
    pub(crate) fn run(&mut self, job: &Job) -> Result<Vec<Part>> {
        let time = job.time().saturating_mul(2).saturating_add(PATIENCE);
        self.tell(&Order::Run(job.clone()), time)?;
        self.answers("the end of a load")
    }

    fn tell(&mut self, order: &Order, time: Duration) -> Result<()> {
        let line = serde_json::to_string(order)?;
        let now = Instant::now();
        let until = now.checked_add(time).unwrap_or(now + PATIENCE);
        self.0.iter_mut().try_for_each(|client| client.tell(&line, until))
    }

    fn answers(&mut self, waiting_for: &str) -> Result<Vec<Part>> {
        let mut parts = Vec::new();
        for (at, client) in self.0.iter_mut().enumerate() {
            let line = client.line(waiting_for)?;
            match serde_json::from_str(&line) {
                Ok(Answer::Ready) => {}
                Ok(Answer::Done(part)) => parts.push(*part),
                Ok(Answer::Failed(why)) => bail!("client {}: {why}", at + 1),
                Err(_) => bail!("client {}: said what is no message", at + 1),
            }
        }
        Ok(parts)
    }

    /// Has all of them give their queues back and end.
    ///
    /// # Errors
    /// If one does not.
    pub(crate) fn finish(mut self) -> Result<()> {
        // All at once, so that they end side by side.
        self.0.iter_mut().for_each(Supervised::tell_to_end);
        self.0.into_iter().try_for_each(Supervised::finish)
    }
}

/// Is a client.
pub(crate) fn run(setup: &str) -> Result<()> {
    let signal = set_parent_process_death_signal(Some(Signal::KILL));
    signal.context("asking to end with the benchmark")?;
    let setup: Setup = serde_json::from_str(setup)
        .context("this is a command of the benchmark itself; run `doorbell bench`")?;
    // Whoever started it says what failed: once is enough.
    block_on(serve(setup)).or_else(|error| say(&Answer::Failed(output::one_line(&error))))
}

async fn serve(setup: Setup) -> Result<()> {
    let mut runner = Runner::connect(setup).await?;
    say(&Answer::Ready)?;
    // The runtime is idle between loads: nothing waits while this thread reads.
    for line in std::io::stdin().lock().lines() {
        let line = line.context("hearing the benchmark")?;
        match serde_json::from_str(&line).context("hearing the benchmark")? {
            Order::Check(job) => {
                runner.check(&job).await?;
                say(&Answer::Ready)?;
            }
            Order::Run(job) => {
                let part = runner.run(&job).await?;
                say(&Answer::Done(Box::new(part)))?;
            }
        }
    }
    runner.release().await
}

fn say(answer: &Answer) -> Result<()> {
    let mut out = std::io::stdout().lock();
    serde_json::to_writer(&mut out, answer).context("telling the benchmark")?;
    out.write_all(b"\n").and_then(|()| out.flush()).context("telling the benchmark")
}
