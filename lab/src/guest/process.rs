//! Child processes with deadlines, whose output is kept in files.

use std::fs::{self, File};
use std::io;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

/// The longest that anything in a proof may take. Emulation on a busy host is slow; a proof that passes takes a
/// fraction of it.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// How often a condition is looked at.
const LOOK: Duration = Duration::from_millis(10);

/// A child. It is killed when this is dropped.
#[derive(Debug)]
pub struct Process {
    child: Child,
    name: String,
    out: PathBuf,
    err: PathBuf,
}

/// How a process ended, and what it had printed.
#[derive(Debug)]
pub struct Ended {
    /// The command, for messages.
    pub name: String,
    /// Its status.
    pub status: ExitStatus,
    /// Its standard output.
    pub out: Vec<u8>,
    /// Its standard error.
    pub err: String,
}

impl Process {
    /// Starts a command whose output goes to files named after `stem` in `/tmp`.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn start(command: &mut Command, stem: &str) -> io::Result<Self> {
        let words = command.get_args().map(|word| word.to_string_lossy().into_owned());
        let name = words.collect::<Vec<_>>().join(" ");
        let (out, err) =
            (PathBuf::from(format!("/tmp/{stem}.out")), PathBuf::from(format!("/tmp/{stem}.err")));
        let child = command
            .stdin(Stdio::null())
            .stdout(File::create(&out)?)
            .stderr(File::create(&err)?)
            .spawn()
            .map_err(|error| io::Error::other(format!("cannot start {name}: {error}")))?;
        Ok(Self { child, name, out, err })
    }

    /// Its number.
    #[must_use]
    pub fn pid(&self) -> i32 {
        i32::try_from(self.child.id()).unwrap_or(-1)
    }

    /// Whether it still runs.
    pub fn runs(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Sends it a signal.
    ///
    /// # Errors
    /// If it is gone.
    pub fn signal(&self, signal: Signal) -> io::Result<()> {
        let pid = Pid::from_raw(self.pid()).ok_or_else(|| io::Error::other("no process"))?;
        Ok(kill_process(pid, signal)?)
    }

    /// What it has printed on standard output so far.
    #[must_use]
    pub fn out(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.out).unwrap_or_default()).into_owned()
    }

    /// What it has printed on standard error so far.
    #[must_use]
    pub fn err(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.err).unwrap_or_default()).into_owned()
    }

    /// A field of its `/proc/PID/status`, in kilobytes.
    ///
    /// # Errors
    /// If it is gone, or there is no such field.
    pub fn kilobytes(&self, field: &str) -> io::Result<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid()))?;
        let value = status.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
        let value = value.and_then(|value| value.split_whitespace().next()?.parse().ok());
        value.ok_or_else(|| {
            io::Error::other(format!("no {field} in the status of process {}", self.pid()))
        })
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// If it does not end in time; it is killed then.
    pub fn wait(self) -> io::Result<Ended> {
        self.wait_within(PATIENCE)
    }

    /// The same for a program that does much.
    ///
    /// # Errors
    /// As [`Process::wait`].
    pub fn wait_within(mut self, patience: Duration) -> io::Result<Ended> {
        let status = until_within(patience, "the end", || self.child.try_wait());
        let status = status.map_err(|error| io::Error::other(format!("{}: {error}", self.name)))?;
        let (out, err) = (fs::read(&self.out)?, self.err());
        Ok(Ended { name: self.name.clone(), status, out, err })
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Looks again and again until `look` finds something.
///
/// # Errors
/// What `look` says, or that [`PATIENCE`] has run out.
pub fn until<T>(what: &str, look: impl FnMut() -> io::Result<Option<T>>) -> io::Result<T> {
    until_within(PATIENCE, what, look)
}

fn until_within<T>(
    patience: Duration,
    what: &str,
    mut look: impl FnMut() -> io::Result<Option<T>>,
) -> io::Result<T> {
    let begin = Instant::now();
    loop {
        if let Some(found) = look()? {
            return Ok(found);
        }
        if begin.elapsed() >= patience {
            return Err(io::Error::other(format!("waited {} s for {what}", patience.as_secs())));
        }
        thread::sleep(LOOK);
    }
}
