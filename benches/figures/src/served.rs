//! The device's process: this same executable, started with a hidden first argument. It is the broker, or
//! a device server behind one. A program that uses this calls [`run_if_asked`] first of all in `main`.

use std::env;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use doorbell::broker::Broker;
use doorbell::soft::HarnessOptions;
use doorbell::vfio_user::server::{Server, ServerOptions};
use doorbell_bench::{Placement, cores};
use rustix::process::{Pid, Signal, kill_process, set_parent_process_death_signal};
use tempfile::TempDir;

/// The hidden first argument of a broker.
const BROKER: &str = "round-trip-broker";

/// The hidden first argument of a device server.
const SERVER: &str = "round-trip-server";

/// What is served: memory, so that a flush moves no data and waits for no disk.
pub const DEVICE: &str = "soft:nvme,ram=64M";

/// What either says once clients may connect.
const READY: &str = "ready";

/// The longest that a broker which was told to end may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// A running process. It is killed if this is dropped before it has ended; and it asks the kernel to
/// be killed when this process dies.
#[derive(Debug)]
struct Started(Child);

/// A running broker, and the device server behind it if there is one.
#[derive(Debug)]
pub struct Served {
    broker: Started,
    socket: PathBuf,
    /// Ended after the broker.
    _server: Option<Started>,
    /// Where the sockets lie. Removed after both have ended.
    _folder: TempDir,
}

impl Started {
    /// Starts a process that serves `device` at `socket`, on the device's core, and waits until it does.
    fn start(
        word: &str,
        device: &str,
        socket: &Path,
        placement: Option<Placement>,
    ) -> Result<Self> {
        let core = placement.map_or_else(|| "any".to_owned(), |cores| cores.device.to_string());
        let program = env::current_exe().context("finding this program's own file")?;
        let child = Command::new(program)
            .args([word, device])
            .arg(socket)
            .arg(core)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .context("starting the device's process")?;
        let mut started = Self(child);
        let stdout = started.0.stdout.take().context("the process has no standard output")?;
        let mut line = String::new();
        // A broker limits how long its device may take, so this ends.
        BufReader::new(stdout).read_line(&mut line).context("waiting for the device's process")?;
        ensure!(line.trim() == READY, "{word} did not start; what it said stands above");
        Ok(started)
    }
}

impl Served {
    /// Starts a broker of `device` on the device's core, whose device is in its own process, and waits until it
    /// serves.
    ///
    /// # Errors
    /// If it does not start.
    pub fn start(device: &str, placement: Option<Placement>) -> Result<Self> {
        let folder = folder()?;
        let socket = folder.path().join("nvme0.sock");
        let broker = Started::start(BROKER, device, &socket, placement)?;
        Ok(Self { broker, socket, _server: None, _folder: folder })
    }

    /// The same with [`DEVICE`] in a device server, over vfio-user.
    ///
    /// # Errors
    /// If either does not start.
    pub fn behind_server(placement: Option<Placement>) -> Result<Self> {
        let folder = folder()?;
        let [socket, behind] = ["nvme1.sock", "server.sock"].map(|name| folder.path().join(name));
        let server = Started::start(SERVER, DEVICE, &behind, placement)?;
        let device = format!("vfio-user:{}", behind.display());
        let broker = Started::start(BROKER, &device, &socket, placement)?;
        Ok(Self { broker, socket, _server: Some(server), _folder: folder })
    }

    /// Where to connect.
    #[must_use]
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// Ends the broker in good order.
    ///
    /// # Errors
    /// If it does not end, or not well.
    pub fn stop(mut self) -> Result<()> {
        kill_process(Pid::from_child(&self.broker.0), Signal::TERM).context("ending the broker")?;
        let begin = Instant::now();
        while begin.elapsed() < PATIENCE {
            if let Some(status) =
                self.broker.0.try_wait().context("waiting for the broker's end")?
            {
                ensure!(status.success(), "the broker ended with {status}");
                return Ok(());
            }
            sleep(Duration::from_millis(1));
        }
        bail!("the broker did not end within {PATIENCE:?}");
    }
}

impl Drop for Started {
    fn drop(&mut self) {
        // Both fail only if it has ended and was waited for.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn folder() -> Result<TempDir> {
    tempfile::Builder::new()
        .prefix("doorbell-bench-")
        .tempdir()
        .context("making a temporary folder")
}

/// Becomes the broker or the device server if this process was started as one: `Some` with its outcome.
#[must_use]
pub fn run_if_asked(arguments: &[String]) -> Option<Result<()>> {
    match arguments {
        [word, device, socket, core] if word == BROKER => {
            Some(prepare(core).and_then(|()| run_broker(device, Path::new(socket))))
        }
        [word, device, socket, core] if word == SERVER => {
            Some(prepare(core).and_then(|()| run_server(device, Path::new(socket))))
        }
        _ => None,
    }
}

fn prepare(core: &str) -> Result<()> {
    set_parent_process_death_signal(Some(Signal::KILL)).context("asking to end with the parent")?;
    if core != "any" {
        // Before any thread is started: they all stay there.
        cores::pin_to(core.parse().context("core")?)?;
    }
    Ok(())
}

fn say_ready() -> Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{READY}").and_then(|()| out.flush()).context("telling the benchmark")
}

fn run_broker(device: &str, socket: &Path) -> Result<()> {
    let broker = Broker::builder(doorbell_nvme::registry())
        .device(device.parse()?)
        .socket(socket)
        .until_signal()
        .start()?;
    say_ready()?;
    Ok(broker.wait()?)
}

/// It runs until it is killed: nothing of its device outlives it.
fn run_server(device: &str, socket: &Path) -> Result<()> {
    let device = doorbell_nvme::registry().open_model(&device.parse()?)?;
    let harness = HarnessOptions { name: DEVICE.into(), ..HarnessOptions::default() };
    let mut server = Server::bind(device, harness, &ServerOptions::at(socket))?;
    say_ready()?;
    Ok(server.run()?)
}
