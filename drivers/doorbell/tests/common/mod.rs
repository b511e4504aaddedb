//! What the tests share: a broker process that ends with its test, and commands with a deadline.
#![allow(dead_code, clippy::unwrap_used, clippy::panic, reason = "not every test program uses all")]

use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::channel;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

/// The longest that anything here may take.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// The program under test.
pub(crate) fn doorbell() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_doorbell"));
    command.stdin(Stdio::null()).env_remove("DOORBELL_LOG").env_remove("JOURNAL_STREAM");
    command
}

/// How a command ended.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) code: Option<i32>,
    pub(crate) out: Vec<u8>,
    pub(crate) err: String,
}

impl Ended {
    /// Standard output, of a command that must have succeeded.
    #[track_caller]
    pub(crate) fn text(&self) -> String {
        assert_eq!(self.code, Some(0), "{self:?}");
        String::from_utf8_lossy(&self.out).into_owned()
    }

    /// Standard output as JSON, of a command that must have succeeded.
    #[track_caller]
    pub(crate) fn json(&self) -> serde_json::Value {
        let text = self.text();
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
    }

    /// Checks that it failed with one line that contains every one of `parts`.
    #[track_caller]
    pub(crate) fn fails_with(&self, parts: &[&str]) {
        assert_eq!(self.err.lines().count(), 1, "one line: {self:?}");
        self.ends_with(parts);
    }

    /// Checks that it failed and that its last line contains every one of `parts`.
    #[track_caller]
    pub(crate) fn ends_with(&self, parts: &[&str]) {
        assert!(self.code.is_some_and(|code| code != 0), "{self:?}");
        let last = self.err.lines().last().unwrap_or_default();
        assert!(last.starts_with("doorbell: "), "{self:?}");
        for part in parts {
            assert!(last.contains(part), "'{part}' is not in: {last}");
        }
        for noise in ["panicked", "backtrace", "Error {", "Err("] {
            assert!(!self.err.contains(noise), "{}", self.err);
        }
    }
}

/// Runs a command to its end, or kills it after [`PATIENCE`].
#[track_caller]
pub(crate) fn run(command: &mut Command) -> Ended {
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let out = read_all(child.stdout.take().unwrap());
    let err = read_all(child.stderr.take().unwrap());
    let code = wait(&mut child).code();
    let err = String::from_utf8_lossy(&err.join().unwrap()).into_owned();
    Ended { code, out: out.join().unwrap(), err }
}

fn read_all(mut from: impl Read + Send + 'static) -> JoinHandle<Vec<u8>> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        from.read_to_end(&mut bytes).unwrap();
        bytes
    })
}

/// Waits for a child's end, or kills it after [`PATIENCE`].
#[track_caller]
pub(crate) fn wait(child: &mut Child) -> ExitStatus {
    let begin = Instant::now();
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return status;
        }
        if begin.elapsed() > PATIENCE {
            child.kill().unwrap();
            child.wait().unwrap();
            panic!("a command did not end within {PATIENCE:?}");
        }
        thread::sleep(Duration::from_millis(5));
    }
}

/// Looks again and again until `look` finds something.
#[track_caller]
pub(crate) fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let begin = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(begin.elapsed() < PATIENCE, "waited {PATIENCE:?} for {what}");
        thread::sleep(Duration::from_millis(20));
    }
}

/// A child that is killed when it is dropped.
#[derive(Debug)]
pub(crate) struct Guard(pub(crate) Child);

impl Guard {
    pub(crate) fn pid(&self) -> i32 {
        i32::try_from(self.0.id()).unwrap()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_raw(self.pid()).unwrap(), signal).unwrap();
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A broker in a folder of its own.
#[derive(Debug)]
pub(crate) struct Broker {
    pub(crate) process: Guard,
    pub(crate) socket: PathBuf,
    pub(crate) folder: tempfile::TempDir,
}

impl Broker {
    /// Serves a device and waits until clients can connect.
    #[track_caller]
    pub(crate) fn serve(spec: &str) -> Self {
        Self::serve_with(spec, |_, _| {})
    }

    /// The same with more arguments.
    #[track_caller]
    pub(crate) fn serve_with(spec: &str, more: impl FnOnce(&mut Command, &Path)) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("nvme0.sock");
        let mut command = doorbell();
        command.args(["serve", spec, "--with-parent", "--socket"]).arg(&socket);
        more(&mut command, folder.path());
        let log = std::fs::File::create(folder.path().join("log")).unwrap();
        let mut child = command.stdout(Stdio::piped()).stderr(log).spawn().unwrap();
        let stdout = child.stdout.take().unwrap();
        let process = Guard(child);
        let (to, lines) = channel();
        thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                let _ = to.send(line);
            }
        });
        match lines.recv_timeout(PATIENCE) {
            Ok(line) => assert!(line.contains(&socket.display().to_string()), "{line}"),
            Err(_) => {
                let log = std::fs::read_to_string(folder.path().join("log")).unwrap();
                panic!("the broker does not serve: {log}");
            }
        }
        Self { process, socket, folder }
    }

    /// Runs a command against it.
    #[track_caller]
    pub(crate) fn ask(&self, arguments: &[&str]) -> Ended {
        run(doorbell().args(arguments).arg("--socket").arg(&self.socket))
    }

    /// Its status, as JSON.
    #[track_caller]
    pub(crate) fn status(&self) -> serde_json::Value {
        self.ask(&["status", "--json"]).json()[0]["report"].clone()
    }

    /// Starts a client that keeps a queue busy for long.
    pub(crate) fn busy_client(&self) -> Guard {
        let mut command = doorbell();
        command.args(["bench", "--depth", "16", "--seconds", "600", "--socket"]).arg(&self.socket);
        command.stdout(Stdio::null()).stderr(Stdio::piped());
        Guard(command.spawn().unwrap())
    }

    /// Waits until a process holds a queue.
    #[track_caller]
    pub(crate) fn await_queue_of(&self, pid: i32) {
        until("a client to hold a queue", || {
            let status = self.status();
            let sessions = status["sessions"].as_array().unwrap();
            let holds = |session: &&serde_json::Value| {
                session["pid"] == pid && !session["queues"].as_array().unwrap().is_empty()
            };
            sessions.iter().find(holds).map(|_| ())
        });
    }
}

/// A file of so many bytes.
pub(crate) fn file(path: &Path, bytes: u64) {
    std::fs::File::create(path).unwrap().set_len(bytes).unwrap();
}
