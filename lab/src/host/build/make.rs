//! Running make for a kernel, with a line that says how far it is.

use std::fs::{self, File};
use std::io::{IsTerminal, Write, stderr};
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread::available_parallelism;
use std::time::{Duration, Instant};

use crate::error::{LabError, Result, failed};
use crate::host::process;

/// Sixteen minutes of one processor; this is for a slow one on a busy machine.
const LIMIT: Duration = Duration::from_secs(4 * 3600);

/// How often the line is renewed: on a terminal, and in a file.
const ON_TERMINAL: Duration = Duration::from_secs(1);
const IN_FILE: Duration = Duration::from_secs(60);

/// A make for the kernel whose objects go to `output`. It is asked to end (and ends its own children) when whoever
/// started it is gone.
pub(super) fn command(source: &Path, output: &Path) -> Command {
    let mut command = process::with_parent_by("TERM", "make");
    // Settings of a make or cargo around this one are not meant for it.
    command.env_remove("MAKEFLAGS").env_remove("CARGO_MAKEFLAGS").env("LC_ALL", "C");
    let mut folder = std::ffi::OsString::from("O=");
    folder.push(output);
    command.arg("-C").arg(source).arg(folder);
    command
}

/// Compiles the kernel; goes on where an earlier run was interrupted.
pub(super) fn compile(source: &Path, output: &Path) -> Result<()> {
    let log = output.join("build.log");
    let create = || File::create(&log).map_err(|error| LabError::file("write", &log, error));
    let (out, err) = (create()?, File::options().append(true).open(&log));
    let err = err.map_err(|error| LabError::file("write", &log, error))?;
    eprintln!("  building the lab's kernel, once; it takes many minutes and can be interrupted");
    let jobs = available_parallelism().map_or(1, usize::from);
    let mut make = command(source, output);
    make.arg(format!("-j{jobs}")).arg("bzImage").stdout(out).stderr(err).stdin(Stdio::null());
    let child = make.spawn();
    let mut child =
        child.map_err(|error| LabError::Failed(format!("cannot start make: {error}")))?;
    let begin = Instant::now();
    let pause = if stderr().is_terminal() { ON_TERMINAL } else { IN_FILE };
    let status = loop {
        if let Some(status) = process::wait(&mut child, pause)? {
            break status;
        }
        if begin.elapsed() >= LIMIT {
            process::end(&mut child);
            return failed(format!("the kernel was not built within {} s", LIMIT.as_secs()));
        }
        tell(&log, begin);
    };
    if stderr().is_terminal() {
        eprintln!();
    }
    if status.success() {
        return Ok(());
    }
    let said = fs::read_to_string(&log).unwrap_or_default();
    let error = said.lines().find(|line| line.contains("rror")).unwrap_or("make says nothing");
    failed(format!("the kernel cannot be built: {error}; all of it is in {}", log.display()))
}

/// How far it is: on a terminal in one line that is renewed.
fn tell(log: &Path, begin: Instant) {
    let files = compiled(&fs::read_to_string(log).unwrap_or_default());
    let seconds = begin.elapsed().as_secs();
    let line = format!("  {files} files compiled, {}:{:02} min", seconds / 60, seconds % 60);
    let (begin, end) = if stderr().is_terminal() { ("\r", "") } else { ("", "\n") };
    // A line that cannot be shown is nothing that a build should end for.
    let _ = write!(stderr(), "{begin}{line}{end}");
}

/// How many files make says that it has compiled: lines such as "  CC      kernel/fork.o".
fn compiled(log: &str) -> usize {
    let is = |line: &&str| matches!(line.split_whitespace().next(), Some("CC" | "AS" | "HOSTCC"));
    log.lines().filter(is).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_counted() {
        let log =
            "make: Entering\n  HOSTCC  scripts/x\n  CC      kernel/fork.o\n  LD      vmlinux\n";
        assert_eq!(compiled(log), 2);
    }
}
