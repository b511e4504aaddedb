//! The device's process: this same executable, started with a hidden first argument.

use std::env;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use doorbell::broker::Broker;
use doorbell_bench::{Placement, cores};
use rustix::process::{Pid, Signal, kill_process, set_parent_process_death_signal};
use tempfile::TempDir;

/// The hidden first argument.
const WORD: &str = "round-trip-broker";

/// What is served: memory, so that a flush moves no data and waits for no disk.
pub(crate) const DEVICE: &str = "soft:nvme,ram=64M";

/// What the broker says once clients may connect.
const READY: &str = "ready";

/// The longest that a broker which was told to end may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// A running broker. It is killed if this is dropped before it has ended; and it asks the kernel to
/// be killed when this process dies.
#[derive(Debug)]
pub(crate) struct Served {
    child: Child,
    socket: PathBuf,
    /// Where the socket lies. Dropped after [`Drop::drop`] has ended the broker.
    _folder: TempDir,
}

impl Served {
    /// Starts a broker on the device's core and waits until it serves.
    ///
    /// # Errors
    /// If it does not start.
    pub(crate) fn start(placement: Option<Placement>) -> Result<Self> {
        let folder = tempfile::Builder::new()
            .prefix("doorbell-bench-")
            .tempdir()
            .context("making a temporary folder")?;
        let socket = folder.path().join("nvme0.sock");
        let core = placement.map_or_else(|| "any".to_owned(), |cores| cores.device.to_string());
        let program = env::current_exe().context("finding this program's own file")?;
        let child = Command::new(program)
            .arg(WORD)
            .arg(&socket)
            .arg(core)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .context("starting the broker")?;
        let mut served = Self { child, socket, _folder: folder };
        let stdout = served.child.stdout.take().context("the broker has no standard output")?;
        let mut line = String::new();
        // The broker limits how long its device may take, so this ends.
        BufReader::new(stdout).read_line(&mut line).context("waiting for the broker")?;
        ensure!(line.trim() == READY, "the broker did not start; what it said stands above");
        Ok(served)
    }

    /// Where to connect.
    pub(crate) fn socket(&self) -> &Path {
        &self.socket
    }

    /// Ends the broker in good order.
    ///
    /// # Errors
    /// If it does not end, or not well.
    pub(crate) fn stop(mut self) -> Result<()> {
        kill_process(Pid::from_child(&self.child), Signal::TERM).context("ending the broker")?;
        let begin = Instant::now();
        while begin.elapsed() < PATIENCE {
            if let Some(status) = self.child.try_wait().context("waiting for the broker's end")? {
                ensure!(status.success(), "the broker ended with {status}");
                return Ok(());
            }
            sleep(Duration::from_millis(1));
        }
        bail!("the broker did not end within {PATIENCE:?}");
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        // Both fail only if it has ended and was waited for.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Becomes the broker if this process was started as one: `Some` with its outcome.
pub(crate) fn run_if_asked(arguments: &[String]) -> Option<Result<()>> {
    match arguments {
        [word, socket, core] if word == WORD => Some(run(Path::new(socket), core)),
        _ => None,
    }
}

fn run(socket: &Path, core: &str) -> Result<()> {
    set_parent_process_death_signal(Some(Signal::KILL)).context("asking to end with the parent")?;
    if core != "any" {
        // Before any thread is started: they all stay there.
        cores::pin_to(core.parse().context("core")?)?;
    }
    let broker = Broker::builder(doorbell_nvme::registry())
        .device(DEVICE.parse()?)
        .socket(socket)
        .until_signal()
        .start()?;
    let mut out = std::io::stdout().lock();
    writeln!(out, "{READY}").and_then(|()| out.flush()).context("telling the benchmark")?;
    drop(out);
    Ok(broker.wait()?)
}
