//! QEMU's monitor protocol (QMP): as much as asking for one thing at a time takes.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::error::{LabError, Result, failed};

/// QEMU answers at once, between two instructions of the guest; a busy host makes that long.
const LIMIT: Duration = Duration::from_secs(30);
/// The longest line that is read.
const MAX_LINE: u64 = 1 << 20;

/// A connection to the monitor.
#[derive(Debug)]
pub struct Qmp {
    stream: BufReader<UnixStream>,
}

impl Qmp {
    /// Takes the connection that QEMU makes, and shakes hands.
    pub(crate) fn accept(listener: &UnixListener, alive: impl Fn() -> bool) -> Result<Self> {
        let stream = accept(listener, "QEMU's monitor", LIMIT, alive)?;
        stream
            .set_read_timeout(Some(LIMIT))
            .map_err(|error| LabError::Failed(format!("QEMU's monitor: {error}")))?;
        let mut qmp = Self { stream: BufReader::new(stream) };
        let greeting = qmp.line()?;
        if greeting.get("QMP").is_none() {
            return failed(format!("QEMU's monitor greets with {greeting}"));
        }
        qmp.execute("qmp_capabilities", &json!({}))?;
        Ok(qmp)
    }

    /// Executes a command and returns its answer. Events that come in between are left out.
    ///
    /// # Errors
    /// What QEMU says, or that it did not answer in time.
    pub fn execute(&mut self, command: &str, arguments: &Value) -> Result<Value> {
        let request = json!({ "execute": command, "arguments": arguments });
        writeln!(self.stream.get_mut(), "{request}")
            .map_err(|error| LabError::Failed(format!("QEMU's monitor, {command}: {error}")))?;
        let begin = Instant::now();
        while begin.elapsed() < LIMIT {
            let answer = self.line()?;
            if let Some(value) = answer.get("return") {
                return Ok(value.clone());
            }
            if let Some(error) = answer.get("error") {
                let said =
                    error.get("desc").and_then(Value::as_str).unwrap_or("it does not say why");
                return failed(format!("QEMU refuses {command}: {said}"));
            }
        }
        failed(format!("QEMU sends events and no answer to {command}"))
    }

    fn line(&mut self) -> Result<Value> {
        let mut line = String::new();
        let got = self.stream.by_ref().take(MAX_LINE).read_line(&mut line);
        match got {
            Ok(0) => failed("QEMU closed its monitor"),
            Ok(_) => serde_json::from_str(&line).map_err(|error| {
                LabError::Failed(format!("QEMU's monitor says {line:?}: {error}"))
            }),
            Err(error) => failed(format!("QEMU's monitor does not answer: {error}")),
        }
    }
}

/// Waits for a connection, as long as `alive` says that the other side is.
pub(crate) fn accept(
    listener: &UnixListener,
    whose: &str,
    limit: Duration,
    alive: impl Fn() -> bool,
) -> Result<UnixStream> {
    let fail = |error: std::io::Error| LabError::Failed(format!("{whose}: {error}"));
    listener.set_nonblocking(true).map_err(fail)?;
    let begin = Instant::now();
    loop {
        match listener.accept() {
            Ok((stream, _)) => {
                stream.set_nonblocking(false).map_err(fail)?;
                return Ok(stream);
            }
            Err(error) if error.kind() != std::io::ErrorKind::WouldBlock => {
                return Err(fail(error));
            }
            Err(_) if !alive() => return failed(format!("{whose}: QEMU has ended")),
            Err(_) if begin.elapsed() >= limit => {
                return failed(format!("{whose}: no connection within {} s", limit.as_secs()));
            }
            Err(_) => std::thread::sleep(Duration::from_millis(5)),
        }
    }
}

/// Binds a socket that QEMU is to connect to.
pub(crate) fn listen(path: &Path) -> Result<UnixListener> {
    UnixListener::bind(path).map_err(|error| LabError::file("listen at", path, error))
}
