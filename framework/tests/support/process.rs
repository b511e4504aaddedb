//! Other processes: this test binary, started again in another role.
//!
//! The role is a test of its own (`#[test] fn role()`), which does nothing unless the environment
//! names what to do.

use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

const ROLE: &str = "DOORBELL_TEST_ROLE";

/// What this process was started for: the role and its arguments.
pub fn role() -> Option<Vec<String>> {
    let text = std::env::var(ROLE).ok()?;
    Some(text.split('\n').map(str::to_owned).collect())
}

/// Another process in a role. It is killed when this is dropped.
pub struct Process {
    child: Child,
    /// Closed when this is dropped: [`until_parent_is_gone`] returns then.
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
}

impl Process {
    /// Starts this binary again; `test` is the path of the test that plays roles.
    pub fn start(test: &str, role: &[&str]) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", test, "--nocapture"])
            .env(ROLE, role.join("\n"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let stdin = child.stdin.take().unwrap();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        Self { child, stdin, stdout }
    }

    pub fn pid(&self) -> i32 {
        self.child.id() as i32
    }

    /// Waits for a line that begins with `word`; the rest of it.
    pub fn says(&mut self, word: &str) -> String {
        let mut seen = String::new();
        loop {
            let mut line = String::new();
            assert_ne!(self.stdout.read_line(&mut line).unwrap(), 0, "no '{word}', only: {seen}");
            // The harness prints its own text before ours on the same line.
            if let Some(at) = line.find(word) {
                return line[at + word.len()..].trim().to_owned();
            }
            seen.push_str(&line);
        }
    }

    /// Writes to its standard input.
    pub fn tell(&mut self, text: &str) {
        self.stdin.write_all(text.as_bytes()).unwrap();
    }

    /// SIGKILL.
    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// How it ended; it ends by itself.
    pub fn ended(&mut self) -> std::process::ExitStatus {
        self.child.wait().unwrap()
    }

    /// SIGTERM.
    pub fn terminate(&mut self) -> std::process::ExitStatus {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        self.child.wait().unwrap()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// In a role: waits for the end of the test.
pub fn until_parent_is_gone() {
    let mut rest = Vec::new();
    let _ = std::io::stdin().read_to_end(&mut rest);
}
