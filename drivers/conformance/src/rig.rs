//! The broker process under test, connections to it, and the dice.

use std::fs::File;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};
use doorbell::client::Client;
use doorbell::wire::{SessionStatus, StatusReport};
use rustix::process::Signal;
use tempfile::TempDir;

use crate::dice::Dice;
use crate::process::{PATIENCE, Process};
use crate::role::{Role, RoleProcess, Work};

/// What is to be checked, and with what.
#[derive(Debug, Clone)]
pub struct Setup {
    /// The device, as `doorbell serve` takes it.
    pub device: String,
    /// The `doorbell` program.
    pub doorbell: PathBuf,
    /// Starts this program again as a client process: its path and arguments.
    pub client: (PathBuf, Vec<String>),
    /// Where the broker listens; in a folder of the run's own if `None`.
    pub socket: Option<PathBuf>,
    /// More arguments of `doorbell serve`.
    pub serve: Vec<String>,
    /// Of everything random.
    pub seed: u64,
    /// The file behind the first namespace, where it can be seen from here.
    pub image: Option<PathBuf>,
    /// A command, run by `sh -c`, that takes the device away.
    pub unplug: Option<String>,
    /// Go on with a disk that holds data.
    pub overwrite: bool,
}

/// The broker, and what checks share.
#[derive(Debug)]
pub struct Rig {
    /// What is to be checked.
    pub setup: Setup,
    /// Random numbers.
    pub dice: Dice,
    socket: PathBuf,
    broker: Option<Process>,
    runtime: tokio::runtime::Runtime,
    folder: TempDir,
}

impl Rig {
    /// Nothing runs yet.
    ///
    /// # Errors
    /// If there is no folder or no runtime to be had.
    pub fn new(setup: Setup) -> Result<Self> {
        let folder = tempfile::tempdir().context("a folder for temporary files")?;
        let socket = setup.socket.clone().unwrap_or_else(|| folder.path().join("broker.sock"));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let dice = Dice::new(setup.seed);
        Ok(Self { setup, dice, socket, broker: None, runtime, folder })
    }

    /// Starts the broker unless it runs, and waits until it serves.
    ///
    /// # Errors
    /// If it does not serve; with its last line.
    pub fn serve(&mut self) -> Result<()> {
        if self.broker.is_some() {
            return Ok(());
        }
        let log = self.folder.path().join("broker.log");
        let mut command = Command::new(&self.setup.doorbell);
        command.args(["serve", &self.setup.device, "--with-parent", "--socket"]);
        command.arg(&self.socket).args(&self.setup.serve);
        command.stderr(File::options().create(true).append(true).open(&log)?);
        let broker = Process::start("the broker", &mut command)?;
        match broker.line()? {
            Some(line) if line.starts_with("serving ") => {}
            _ => bail!("the broker does not serve: {}", self.last_words()),
        }
        self.broker = Some(broker);
        Ok(())
    }

    /// The last line that a broker logged.
    #[must_use]
    pub fn last_words(&self) -> String {
        let log = std::fs::read_to_string(self.folder.path().join("broker.log"));
        let log = log.unwrap_or_default();
        log.lines().last().unwrap_or("it said nothing").to_owned()
    }

    /// Sends the broker a signal and waits for its end.
    ///
    /// # Errors
    /// If it does not run, or does not end.
    pub fn end(&mut self, signal: Signal) -> Result<ExitStatus> {
        let mut broker = self.broker.take().context("the broker does not run")?;
        broker.signal(signal)?;
        broker.wait()
    }

    /// Waits until the broker has given its device up: it says so and is then told to end, or has
    /// ended by itself.
    ///
    /// # Errors
    /// If it does neither within [`PATIENCE`].
    pub fn given_up(&mut self) -> Result<()> {
        let begin = Instant::now();
        loop {
            if self.broker.as_mut().context("the broker does not run")?.has_ended()? {
                self.broker = None;
                return Ok(());
            }
            // A broker that is about to end cannot be asked.
            if self.status().is_ok_and(|status| status.out_of_service.is_some()) {
                // It may say that the device could not be shut down.
                return self.end(Signal::TERM).map(drop);
            }
            ensure!(begin.elapsed() < PATIENCE, "waited {PATIENCE:?} for the broker to notice");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// After a failure: whatever runs is killed, and the next check starts a new broker.
    ///
    /// # Errors
    /// If it cannot be killed.
    pub fn start_over(&mut self) -> Result<()> {
        match self.broker.take() {
            Some(mut broker) => broker.kill(),
            None => Ok(()),
        }
    }

    /// Where the broker listens.
    #[must_use]
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// Runs a future, at most for [`PATIENCE`].
    ///
    /// # Errors
    /// What it says, or that it took too long.
    pub fn block_on<T>(&self, future: impl Future<Output = Result<T>>) -> Result<T> {
        let limited = async { tokio::time::timeout(PATIENCE, future).await };
        let late = |_| anyhow!("a client of this process was not done within {PATIENCE:?}");
        self.runtime.block_on(limited).map_err(late)?
    }

    /// Connects, with an arena of so many bytes.
    ///
    /// # Errors
    /// [`doorbell::client::ClientError`].
    pub async fn client(&self, arena: usize) -> Result<Client> {
        Ok(Client::builder().arena_bytes(arena).connect(&self.socket).await?)
    }

    /// What the broker holds, without the session that asks.
    ///
    /// # Errors
    /// If it does not answer.
    pub fn status(&self) -> Result<StatusReport> {
        self.block_on(async {
            let client = self.client(0).await?;
            let mut status = client.status().await?;
            status.sessions.retain(|session| session.session != client.session());
            Ok(status)
        })
    }

    /// Looks at the broker's status again and again until `look` finds something.
    ///
    /// # Errors
    /// If that takes longer than [`PATIENCE`].
    pub fn until<T>(
        &self,
        what: &str,
        mut look: impl FnMut(&StatusReport) -> Option<T>,
    ) -> Result<T> {
        let begin = Instant::now();
        loop {
            let status = self.status()?;
            if let Some(found) = look(&status) {
                return Ok(found);
            }
            ensure!(begin.elapsed() < PATIENCE, "waited {PATIENCE:?} for {what}: {status:?}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Waits until a process has a session that `look` likes.
    ///
    /// # Errors
    /// As [`Rig::until`].
    pub fn until_session<T>(
        &self,
        what: &str,
        pid: i32,
        look: impl Fn(&SessionStatus) -> Option<T>,
    ) -> Result<T> {
        self.until(what, |status| {
            status.sessions.iter().filter(|session| session.pid == pid).find_map(&look)
        })
    }

    /// Waits until nothing is held for a process any more.
    ///
    /// # Errors
    /// As [`Rig::until`].
    pub fn until_gone(&self, pid: i32) -> Result<()> {
        self.until("everything of a dead client to be taken back", |status| {
            status.sessions.iter().all(|session| session.pid != pid).then_some(())
        })
    }

    /// Starts a client process.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn start(&self, work: Work) -> Result<RoleProcess> {
        let (program, arguments) = &self.setup.client;
        let mut command = Command::new(program);
        command.args(arguments).stderr(Stdio::inherit());
        RoleProcess::start(&mut command, &Role { socket: self.socket.clone(), work })
    }
}
