//! Programs that end: with a deadline, and with whoever started them.

use std::ffi::OsStr;
use std::io::{Read, Seek};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::error::{LabError, Result, failed};

/// How often an end is looked for.
const LOOK: Duration = Duration::from_millis(5);

/// A command for `program` that is killed when the thread that starts it ends, however that comes: by `setpriv` of
/// util-linux, as asking the kernel for it in the child takes unsafe code here.
#[must_use]
pub fn with_parent(program: impl AsRef<OsStr>) -> Command {
    with_parent_by("KILL", program)
}

/// The same by another signal, for a program that has children of its own to end.
#[must_use]
pub fn with_parent_by(signal: &str, program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", signal, "--"]).arg(program).stdin(Stdio::null());
    command
}

/// What a program printed, and how it ended.
#[derive(Debug)]
pub struct Ended {
    /// Its status.
    pub status: ExitStatus,
    /// Its standard output.
    pub out: String,
    /// Its standard error.
    pub err: String,
}

impl Ended {
    /// The last line of standard error that has something in it: what a well-behaved program says about its failure.
    #[must_use]
    pub fn complaint(&self) -> &str {
        self.err.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("it said nothing")
    }
}

/// Runs a program to its end, or kills it after `limit`.
///
/// # Errors
/// If it cannot be started, or had to be killed.
pub fn run(command: &mut Command, limit: Duration) -> Result<Ended> {
    let name = command.get_program().to_string_lossy().into_owned();
    let start = |error: std::io::Error| LabError::Failed(format!("cannot start {name}: {error}"));
    // Files, as a pipe that nobody empties would stop the program.
    let mut out = tempfile::tempfile().map_err(start)?;
    let mut err = tempfile::tempfile().map_err(start)?;
    command.stdin(Stdio::null());
    command.stdout(out.try_clone().map_err(start)?).stderr(err.try_clone().map_err(start)?);
    let mut child = command.spawn().map_err(start)?;
    let status = wait(&mut child, limit)?;
    let Some(status) = status else {
        end(&mut child);
        return failed(format!("{name} did not end within {} s", limit.as_secs()));
    };
    let text = |file: &mut std::fs::File| -> std::io::Result<String> {
        let mut bytes = Vec::new();
        file.rewind()?;
        file.read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    };
    Ok(Ended { status, out: text(&mut out).map_err(start)?, err: text(&mut err).map_err(start)? })
}

/// Waits for a child's end; `None` if it still runs after `limit`.
///
/// # Errors
/// If it cannot be waited for.
pub fn wait(child: &mut Child, limit: Duration) -> Result<Option<ExitStatus>> {
    let begin = Instant::now();
    loop {
        match child.try_wait() {
            Ok(Some(status)) => return Ok(Some(status)),
            Ok(None) if begin.elapsed() >= limit => return Ok(None),
            Ok(None) => thread::sleep(LOOK),
            Err(error) => {
                return failed(format!("cannot wait for process {}: {error}", child.id()));
            }
        }
    }
}

/// Kills a child and takes note of its end.
pub fn end(child: &mut Child) {
    // It may have ended by itself; either way it is gone after this.
    let _ = child.kill();
    let _ = child.wait();
}

/// Looks for a program in `PATH` and in the folders of system administration, which a user's `PATH` often lacks.
#[must_use]
pub fn find_program(name: &str) -> Option<std::path::PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin", "/sbin"].map(Into::into))
        .map(|folder| folder.join(name))
        .find(|file| file.is_file())
}
