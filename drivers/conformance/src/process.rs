//! Child processes that do not outlive the run, with a deadline on everything that is awaited of them.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open};

/// The longest that a process may take to say or do what is awaited of it.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// A child process and the lines that it prints. Killed when it is dropped.
#[derive(Debug)]
pub struct Process {
    child: Child,
    lines: Receiver<String>,
    what: &'static str,
}

impl Process {
    /// Starts it. `what` names it in errors.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn start(what: &'static str, command: &mut Command) -> Result<Self> {
        let program = command.get_program().to_owned();
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("starting {what} ({})", program.display()))?;
        let out = child.stdout.take().context("a child without standard output")?;
        let (to, lines) = channel();
        thread::spawn(move || {
            for line in BufReader::new(out).lines().map_while(Result::ok) {
                if to.send(line).is_err() {
                    return;
                }
            }
        });
        Ok(Self { child, lines, what })
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> i32 {
        i32::try_from(self.child.id()).unwrap_or(0)
    }

    /// The next line that it prints; `None` once its standard output is closed.
    ///
    /// # Errors
    /// If it says nothing for [`PATIENCE`].
    pub fn line(&self) -> Result<Option<String>> {
        match self.lines.recv_timeout(PATIENCE) {
            Ok(line) => Ok(Some(line)),
            Err(RecvTimeoutError::Disconnected) => Ok(None),
            Err(RecvTimeoutError::Timeout) => {
                bail!("{} (pid {}) said nothing for {PATIENCE:?}", self.what, self.pid())
            }
        }
    }

    /// Sends a signal.
    ///
    /// # Errors
    /// If it is not there any more.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        let pid = Pid::from_raw(self.pid()).context("a child without a pid")?;
        kill_process(pid, signal).with_context(|| format!("signalling {}", self.what))
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// If it does not end within [`PATIENCE`]; it is killed then.
    pub fn wait(&mut self) -> Result<ExitStatus> {
        if let Some(status) = self.child.try_wait()? {
            return Ok(status);
        }
        let pid = Pid::from_raw(self.pid()).context("a child without a pid")?;
        let fd = pidfd_open(pid, PidfdFlags::empty()).context("watching a child")?;
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                self.child.kill()?;
                self.child.wait()?;
                bail!("{} (pid {}) did not end within {PATIENCE:?}", self.what, self.pid());
            }
            let limit = Timespec {
                tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
                tv_nsec: left.subsec_nanos().into(),
            };
            match poll(&mut [PollFd::new(&fd, PollFlags::IN)], Some(&limit)) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error).context("watching a child"),
            }
        }
    }

    /// True once it has ended.
    ///
    /// # Errors
    /// The kernel's.
    pub fn has_ended(&mut self) -> Result<bool> {
        Ok(self.child.try_wait()?.is_some())
    }

    /// Kills it and waits for its end.
    ///
    /// # Errors
    /// As [`Process::wait`].
    pub fn kill(&mut self) -> Result<()> {
        self.child.kill()?;
        self.wait().map(drop)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended long ago.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
