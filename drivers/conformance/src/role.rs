//! The client processes of a plan: this program again, with its [`Role`] in the environment.
//!
//! A client process says what it does in lines of JSON on its standard output, after a mark, because a
//! test harness may print there as well.

use std::io::Write;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Signal, set_parent_process_death_signal};
use serde::{Deserialize, Serialize};

use crate::process::Process;
use crate::{edu, nvme, plan};

/// Names the environment variable with the role.
const ROLE: &str = "DOORBELL_CONFORMANCE_ROLE";

/// Stands before every line that is meant for the plan.
const MARK: &str = "@conformance ";

/// What a client process is to do, and with which broker.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Role {
    /// The broker's socket.
    pub socket: PathBuf,
    /// The work.
    pub work: Work,
}

/// The work of a client process.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum Work {
    /// Writes and reads back blocks of an NVMe namespace, so many times.
    NvmeVerify(nvme::load::Load),
    /// The same until it is killed or its queue ends.
    NvmeLoad(nvme::load::Load),
    /// Writes and reads back a part of an edu device's buffer, so many times.
    EduVerify(edu::Load),
    /// The same until it is killed or its session ends.
    EduLoad(edu::Load),
}

/// What a client process says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Said {
    /// It holds what it needs, and its queue is full.
    Started,
    /// One more round is done and verified.
    Round(u64),
    /// All is done.
    Done,
    /// It failed, and why.
    Failed(String),
    /// The grant ended, with the error as a program sees it.
    Ended {
        /// Why, in a word: `revoked`, `device_reset`, `device_gone`, `broker_gone`, `doorbell_lost` (nobody
        /// said why in time), or another.
        why: String,
        /// The error.
        error: String,
    },
}

/// Says it to the plan.
///
/// # Errors
/// If nobody listens any more.
pub fn say(said: &Said) -> Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "\n{MARK}{}", serde_json::to_string(said)?)?;
    Ok(out.flush()?)
}

/// Plays the role that the environment asks for; `None` if it asks for none.
#[must_use]
pub fn asked() -> Option<Result<()>> {
    let role = std::env::var(ROLE).ok()?;
    let played = play(&role);
    if let Err(error) = &played {
        // The plan may be gone as well; the exit status says it again.
        let _ = say(&Said::Failed(plan::one_line(error)));
    }
    Some(played)
}

fn play(role: &str) -> Result<()> {
    set_parent_process_death_signal(Some(Signal::KILL)).context("asking to end with the plan")?;
    let Role { socket, work } = serde_json::from_str(role).context("the role")?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        match work {
            Work::NvmeVerify(load) => nvme::load::play(&socket, &load, Some(load.rounds)).await,
            Work::NvmeLoad(load) => nvme::load::play(&socket, &load, None).await,
            Work::EduVerify(load) => edu::play(&socket, &load, Some(load.rounds)).await,
            Work::EduLoad(load) => edu::play(&socket, &load, None).await,
        }
    })
}

/// A client process, as the plan sees it.
#[derive(Debug)]
pub struct RoleProcess(Process);

impl RoleProcess {
    /// Starts it.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn start(command: &mut Command, role: &Role) -> Result<Self> {
        command.env(ROLE, serde_json::to_string(role)?);
        Process::start("a client process", command).map(Self)
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> i32 {
        self.0.pid()
    }

    /// The next that it says.
    ///
    /// # Errors
    /// If it ends without a word, or says nothing for long.
    pub fn next(&self) -> Result<Said> {
        loop {
            let Some(line) = self.0.line()? else {
                bail!("a client process ended without saying why");
            };
            if let Some(said) = line.strip_prefix(MARK) {
                return match serde_json::from_str(said).context("what a client process said")? {
                    Said::Failed(why) => bail!("a client process: {why}"),
                    said => Ok(said),
                };
            }
        }
    }

    /// Waits until it has started.
    ///
    /// # Errors
    /// If it says anything else.
    pub fn started(&self) -> Result<()> {
        let said = self.next()?;
        ensure!(said == Said::Started, "a client process did not start: {said:?}");
        Ok(())
    }

    /// Waits for the next round.
    ///
    /// # Errors
    /// If it says anything else.
    pub fn round(&self) -> Result<u64> {
        match self.next()? {
            Said::Round(round) => Ok(round),
            said => bail!("a client process at work: {said:?}"),
        }
    }

    /// Waits until it says that its grant has ended; why, and the error.
    ///
    /// # Errors
    /// If it ends in another way.
    pub fn ended(&mut self) -> Result<(String, String)> {
        loop {
            match self.next()? {
                Said::Ended { why, error } => {
                    self.succeeded()?;
                    return Ok((why, error));
                }
                Said::Done => bail!("a client process was done before its grant ended"),
                Said::Started | Said::Round(_) | Said::Failed(_) => {}
            }
        }
    }

    /// Waits until it has done all of its work.
    ///
    /// # Errors
    /// If it ends in another way.
    pub fn done(&mut self) -> Result<()> {
        loop {
            match self.next()? {
                Said::Done => return self.succeeded(),
                Said::Ended { error, .. } => bail!("a client process: {error}"),
                Said::Started | Said::Round(_) | Said::Failed(_) => {}
            }
        }
    }

    /// Kills it by SIGKILL.
    ///
    /// # Errors
    /// If it does not end.
    pub fn kill(&mut self) -> Result<()> {
        self.0.kill()
    }

    fn succeeded(&mut self) -> Result<()> {
        let status = self.0.wait()?;
        ensure!(status.success(), "a client process ended with {status}");
        Ok(())
    }
}
