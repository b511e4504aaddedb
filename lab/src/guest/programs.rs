//! The programs under test: a broker, and commands against it.

use std::fs;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::process::{Resource, Rlimit, Signal};
use serde_json::Value;

use crate::guest::process::{Ended, Process, until};

/// Where the programs lie, and numbers for files that are not to clash.
#[derive(Debug)]
pub struct Programs {
    folder: PathBuf,
    started: u32,
}

/// Who runs a program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Account {
    /// The superuser.
    Root,
    /// A user and group of this number, with no privileges.
    Ordinary(u32),
}

impl Programs {
    /// Programs in `folder`.
    #[must_use]
    pub fn new(folder: &str) -> Self {
        Self { folder: PathBuf::from(folder), started: 0 }
    }

    /// A program of ours.
    #[must_use]
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new(self.folder.join(program));
        command
            .env_clear()
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .env("HOME", "/tmp")
            .env("TMPDIR", "/tmp");
        command
    }

    /// Where a program of ours lies.
    #[must_use]
    pub fn path(&self, program: &str) -> PathBuf {
        self.folder.join(program)
    }

    /// Runs a command to its end, as somebody else.
    ///
    /// # Errors
    /// As [`Programs::run`].
    pub fn run_as(&mut self, command: &mut Command, account: Account) -> io::Result<Ended> {
        if let Account::Ordinary(id) = account {
            command.uid(id).gid(id);
        }
        self.run(command)
    }

    /// Starts a command.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn start(&mut self, command: &mut Command) -> io::Result<Process> {
        self.started += 1;
        Process::start(command, &format!("process-{}", self.started))
    }

    /// Runs a command to its end.
    ///
    /// # Errors
    /// If it cannot be started, or does not end in time.
    pub fn run(&mut self, command: &mut Command) -> io::Result<Ended> {
        self.start(command)?.wait()
    }

    /// Runs `doorbell` to its end.
    ///
    /// # Errors
    /// As [`Programs::run`].
    pub fn doorbell(&mut self, arguments: &[&str]) -> io::Result<Ended> {
        let mut command = self.command("doorbell");
        self.run(command.args(arguments))
    }

    /// Starts a broker and waits until clients can connect.
    ///
    /// # Errors
    /// What it says if it ends, or that it does not get that far.
    pub fn serve(&mut self, spec: &str, serve: &Serve<'_>) -> io::Result<Broker> {
        self.started += 1;
        let folder = PathBuf::from(format!("/run/broker-{}", self.started));
        fs::create_dir(&folder)?;
        let socket = folder.join("device.sock");
        let mut command = self.command("doorbell");
        command.args(["serve", spec, "--socket"]).arg(&socket).args(serve.more);
        if let Account::Ordinary(id) = serve.account {
            std::os::unix::fs::chown(&folder, Some(id), Some(id))?;
            command.uid(id).gid(id);
        }
        // A child has the limits of its parent; the parent's come back once it runs.
        let before = rustix::process::getrlimit(Resource::Memlock);
        if let Some(bytes) = serve.memlock {
            // Root may raise the hard limit, where that is the lower one.
            let limit = Rlimit {
                current: Some(bytes),
                maximum: before.maximum.map(|most| most.max(bytes)),
            };
            rustix::process::setrlimit(Resource::Memlock, limit)?;
        }
        let started = self.start(&mut command);
        rustix::process::setrlimit(Resource::Memlock, before)?;
        let mut process = started?;
        let name = socket.display().to_string();
        let ready = until("the broker to serve", || {
            if process.out().contains(&name) {
                return Ok(Some(true));
            }
            Ok((!process.runs()).then_some(false))
        })?;
        if !ready {
            let said = process.err();
            let said = said.lines().last().unwrap_or("it said nothing");
            return Err(io::Error::other(said.to_owned()));
        }
        Ok(Broker { process, socket })
    }
}

/// How a broker is started.
#[derive(Debug)]
pub struct Serve<'a> {
    /// Who runs it.
    pub account: Account,
    /// Its limit on pinned memory, in bytes.
    pub memlock: Option<u64>,
    /// More arguments.
    pub more: &'a [&'a str],
}

impl Default for Serve<'_> {
    fn default() -> Self {
        Self { account: Account::Root, memlock: None, more: &[] }
    }
}

/// A broker that serves. It is killed when this is dropped.
#[derive(Debug)]
pub struct Broker {
    /// The process.
    pub process: Process,
    socket: PathBuf,
}

impl Broker {
    /// Where clients connect.
    #[must_use]
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// A command of `doorbell` against it.
    #[must_use]
    pub fn command(&self, programs: &Programs, arguments: &[&str]) -> Command {
        let mut command = programs.command("doorbell");
        command.args(arguments).arg("--socket").arg(&self.socket);
        command
    }

    /// Runs a command of `doorbell` against it.
    ///
    /// # Errors
    /// As [`Programs::run`].
    pub fn ask(&self, programs: &mut Programs, arguments: &[&str]) -> io::Result<Ended> {
        let mut command = self.command(programs, arguments);
        programs.run(&mut command)
    }

    /// What `doorbell status` reports.
    ///
    /// # Errors
    /// If it fails, or prints no report.
    pub fn status(&self, programs: &mut Programs) -> io::Result<Value> {
        let ended = self.ask(programs, &["status", "--json"])?;
        let mut answer: Value = serde_json::from_slice(&ended.out).unwrap_or_default();
        let report = answer.pointer_mut("/0/report").map(Value::take);
        report.ok_or_else(|| {
            io::Error::other(format!("no report in the status: {}", ended.err.trim_end()))
        })
    }

    /// Stops it as an operator does.
    ///
    /// # Errors
    /// If it does not end, or not well.
    pub fn stop(self) -> io::Result<()> {
        self.process.signal(Signal::TERM)?;
        let ended = self.process.wait()?;
        if !ended.status.success() {
            return Err(io::Error::other(format!(
                "the broker stopped with {}: {}",
                ended.status,
                ended.err.trim_end()
            )));
        }
        Ok(())
    }
}
