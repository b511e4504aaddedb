//! Child processes that cannot outlive the demo, and lines of JSON that they say.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};

/// A child process. It is killed when this is dropped; and it asks the kernel to be killed when the
/// demo dies.
#[derive(Debug)]
pub(crate) struct Supervised {
    /// What it is, for errors.
    name: String,
    child: Child,
    lines: Receiver<String>,
    stdin: Option<ChildStdin>,
    until: Instant,
}

impl Supervised {
    /// Starts a child that must have ended at `until`. What it writes to standard output arrives
    /// as lines; its standard input is open until [`Supervised::tell_to_end`], unless the command
    /// has another.
    ///
    /// # Errors
    /// If it cannot be started.
    pub(crate) fn start(name: &str, mut command: Command, until: Instant) -> Result<Self> {
        let spawned = command.stdout(Stdio::piped()).spawn();
        let mut child = spawned.with_context(|| format!("starting {name}"))?;
        let stdin = child.stdin.take();
        let (to, lines) = channel();
        if let Some(stdout) = child.stdout.take() {
            // Ends with the child, which nobody else writes for.
            thread::spawn(move || {
                for line in BufReader::new(stdout).lines() {
                    let Ok(line) = line else { return };
                    if to.send(line).is_err() {
                        return;
                    }
                }
            });
        }
        Ok(Self { name: name.to_owned(), child, lines, stdin, until })
    }

    /// Its process id.
    pub(crate) fn pid(&self) -> i32 {
        // Process ids are below 2^22.
        i32::try_from(self.child.id()).unwrap_or(i32::MAX)
    }

    /// The next line that it says.
    ///
    /// # Errors
    /// If it has ended or its time is over.
    pub(crate) fn line(&mut self, waiting_for: &str) -> Result<String> {
        let left = self.until.saturating_duration_since(Instant::now());
        match self.lines.recv_timeout(left) {
            Ok(line) => Ok(line),
            Err(RecvTimeoutError::Timeout) => {
                bail!("{}: waited for {waiting_for} until its time was over", self.name)
            }
            Err(RecvTimeoutError::Disconnected) => {
                let status = self.wait()?;
                bail!("{}: ended ({status}) before {waiting_for}", self.name)
            }
        }
    }

    /// The next line, if there is one already.
    pub(crate) fn line_at_once(&self) -> Option<String> {
        self.lines.try_recv().ok()
    }

    /// Says a line to it, and gives it until then for its answer.
    ///
    /// # Errors
    /// If it has ended.
    pub(crate) fn tell(&mut self, line: &str, until: Instant) -> Result<()> {
        self.until = until;
        let stdin = self.stdin.as_mut().context("its standard input is closed")?;
        let said = stdin.write_all(line.as_bytes()).and_then(|()| stdin.write_all(b"\n"));
        said.and_then(|()| stdin.flush()).with_context(|| format!("telling {}", self.name))
    }

    /// Closes its standard input: it may end now.
    pub(crate) fn tell_to_end(&mut self) {
        if let Some(mut stdin) = self.stdin.take() {
            // It may have ended already.
            let _ = stdin.flush();
        }
    }

    /// SIGTERM: a request.
    ///
    /// # Errors
    /// If it has ended.
    pub(crate) fn terminate(&self) -> Result<()> {
        self.signal(Signal::TERM)
    }

    /// SIGKILL: an instruction later it runs no more.
    ///
    /// # Errors
    /// If it has ended.
    pub(crate) fn kill(&self) -> Result<()> {
        self.signal(Signal::KILL)
    }

    fn signal(&self, signal: Signal) -> Result<()> {
        let pid = Pid::from_raw(self.pid()).context("a process has an id above 0")?;
        kill_process(pid, signal).with_context(|| format!("sending a signal to {}", self.name))
    }

    /// Waits until it has ended.
    ///
    /// # Errors
    /// If its time is over.
    pub(crate) fn wait(&mut self) -> Result<ExitStatus> {
        loop {
            if let Some(status) = self.child.try_wait().context("waiting for a child")? {
                return Ok(status);
            }
            if Instant::now() >= self.until {
                bail!("{}: did not end in its time", self.name);
            }
            thread::sleep(Duration::from_millis(1));
        }
    }

    /// Waits until it has ended well.
    ///
    /// # Errors
    /// If it has not, or its time is over.
    pub(crate) fn finish(mut self) -> Result<()> {
        self.tell_to_end();
        let status = self.wait()?;
        if !status.success() {
            bail!("{}: ended with {status}", self.name);
        }
        Ok(())
    }
}

impl Drop for Supervised {
    fn drop(&mut self) {
        // Both fail only if it has ended and was waited for.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]).stdin(Stdio::piped());
        command
    }

    fn long() -> Instant {
        Instant::now() + Duration::from_secs(30)
    }

    #[test]
    fn lines_arrive_and_the_end_is_told() {
        let mut child =
            Supervised::start("a shell", shell("echo one; read x; echo two"), long()).unwrap();
        assert_eq!(child.line("a line").unwrap(), "one");
        assert!(child.line_at_once().is_none());
        child.tell_to_end();
        assert_eq!(child.line("a line").unwrap(), "two");
        let error = child.line("a third line").unwrap_err().to_string();
        assert!(error.contains("a shell: ended") && error.contains("third"), "{error}");
        child.finish().unwrap();
    }

    #[test]
    fn a_failure_is_an_error_and_a_deadline_ends_the_wait() {
        let child = Supervised::start("a shell", shell("exit 3"), long()).unwrap();
        assert!(child.finish().unwrap_err().to_string().contains("exit status: 3"));
        let short = Instant::now() + Duration::from_millis(20);
        let mut child = Supervised::start("a shell", shell("exec sleep 60"), short).unwrap();
        assert!(child.line("anything").unwrap_err().to_string().contains("anything"));
        assert!(child.wait().is_err());
    }

    #[test]
    fn dropping_it_kills_it() {
        let child = Supervised::start("a shell", shell("exec sleep 60"), long()).unwrap();
        let pid = Pid::from_raw(child.pid()).unwrap();
        drop(child);
        assert!(rustix::process::test_kill_process(pid).is_err());
    }
}
