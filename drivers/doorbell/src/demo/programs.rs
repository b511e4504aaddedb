//! Other programs that the demo needs, each run to its end within a limit.

use std::env;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::thread::{self, JoinHandle, sleep};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

/// The longest that one of them may take.
const LIMIT: Duration = Duration::from_secs(20);

/// How a program ended.
#[derive(Debug)]
pub(super) struct Ended {
    pub(super) status: ExitStatus,
    pub(super) stdout: Vec<u8>,
    pub(super) stderr: Vec<u8>,
}

/// A program, found on PATH or in the folders of system administration, which the PATH of most
/// users lacks.
pub(super) fn program(name: &str) -> Result<Command> {
    let path = env::var_os("PATH").unwrap_or_default();
    let found = env::split_paths(&path)
        .chain([PathBuf::from("/usr/sbin"), PathBuf::from("/sbin")])
        .map(|folder| folder.join(name))
        .find(|file| file.is_file());
    let Some(file) = found else {
        let package = if name == "sha256sum" { "coreutils" } else { "e2fsprogs" };
        bail!("{name} is not installed: install the package {package}");
    };
    let mut command = Command::new(file);
    command.env("LC_ALL", "C");
    Ok(command)
}

/// Runs a program to its end; it is killed if that takes too long.
pub(super) fn run(command: &mut Command) -> Result<Ended> {
    let name = Path::new(command.get_program()).file_name().unwrap_or_default().to_owned();
    let name = name.to_string_lossy();
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().with_context(|| format!("starting {name}"))?;
    let stdout = child.stdout.take().map(read_all);
    let stderr = child.stderr.take().map(read_all);
    let begin = Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait().with_context(|| format!("waiting for {name}"))? {
            break status;
        }
        if begin.elapsed() > LIMIT {
            // Both fail only if it has ended.
            let _ = child.kill();
            let _ = child.wait();
            bail!("{name} did not end within {LIMIT:?}");
        }
        sleep(Duration::from_millis(2));
    };
    Ok(Ended { status, stdout: collect(stdout), stderr: collect(stderr) })
}

/// Runs a program that must succeed; its last words are the error.
pub(super) fn succeed(command: &mut Command) -> Result<Ended> {
    let ended = run(command)?;
    let name = Path::new(command.get_program()).file_name().unwrap_or_default();
    ensure!(
        ended.status.success(),
        "{} failed: {}",
        name.to_string_lossy(),
        last_line(&ended.stderr)
    );
    Ok(ended)
}

fn read_all(mut from: impl Read + Send + 'static) -> JoinHandle<Vec<u8>> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        // What was read before a failure is all there is.
        let _ = from.read_to_end(&mut bytes);
        bytes
    })
}

fn collect(reader: Option<JoinHandle<Vec<u8>>>) -> Vec<u8> {
    reader.and_then(|reader| reader.join().ok()).unwrap_or_default()
}

/// The last line that says anything.
pub(super) fn last_line(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    text.lines().rfind(|line| !line.trim().is_empty()).unwrap_or("it did not say why").to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_program_names_its_package() {
        let error = program("no-such-program").unwrap_err().to_string();
        assert!(error.contains("e2fsprogs"), "{error}");
    }

    #[test]
    fn a_failure_tells_the_program_s_last_words() {
        let mut command = Command::new("sh");
        command.args(["-c", "echo out; echo first >&2; echo last >&2; exit 3"]);
        assert_eq!(succeed(&mut command).unwrap_err().to_string(), "sh failed: last");
        assert_eq!(run(&mut command).unwrap().stdout, b"out\n");
    }
}
