//! The process on the other side of a floor: this same executable, started with a hidden first
//! argument and with what the two sides share as its standard input.

use std::env;
use std::os::fd::OwnedFd;
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use rustix::process::{Signal, set_parent_process_death_signal};

use super::{Floor, memory, shm, uds};
use crate::cores::{self, Placement};
use crate::series::Series;

/// The hidden first argument.
const WORD: &str = "floor-peer";

/// The longest that a peer which was told to end may take.
const PATIENCE: Duration = Duration::from_secs(2);

/// A running peer; it is killed if it is dropped before it has ended.
#[derive(Debug)]
pub(super) struct Peer {
    child: Child,
}

impl Peer {
    /// Starts the other side of `floor` with `shared` as its standard input.
    pub(super) fn start(
        floor: Floor,
        placement: Option<Placement>,
        shared: OwnedFd,
    ) -> Result<Self> {
        let program = env::current_exe().context("finding this program's own file")?;
        let core = placement.map_or_else(|| "any".to_owned(), |cores| cores.device.to_string());
        let child = Command::new(program)
            .args([WORD, floor.word(), &core])
            .stdin(Stdio::from(shared))
            .stdout(Stdio::null())
            .spawn()
            .context("starting the other side of a ping-pong")?;
        Ok(Self { child })
    }

    /// Waits for the peer's end. Its own failure explains the client's, so it comes first.
    pub(super) fn finish(mut self, measured: Result<Series>) -> Result<Series> {
        let begin = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().context("waiting for a ping-pong's end")? {
                if !status.success() {
                    let problem = anyhow!("the other side of a ping-pong ended with {status}");
                    return measured.and_then(|_| Err(problem));
                }
                return measured;
            }
            if begin.elapsed() > PATIENCE {
                // Dropping it kills it.
                measured?;
                bail!("the other side of a ping-pong did not end within {PATIENCE:?}");
            }
            sleep(Duration::from_micros(200));
        }
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        // Both fail only if it has ended and was waited for.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Becomes the other side of a floor if this process was started as one: `Some` with its outcome.
/// A program that measures floors calls this first of all in `main`, and ends if it gets `Some`.
#[must_use]
pub fn run_if_asked() -> Option<Result<()>> {
    let mut args = env::args().skip(1);
    if args.next().as_deref() != Some(WORD) {
        return None;
    }
    Some(run(args.next().as_deref(), args.next().as_deref()))
}

fn run(floor: Option<&str>, core: Option<&str>) -> Result<()> {
    let floor = floor.and_then(Floor::from_word).context("which floor?")?;
    set_parent_process_death_signal(Some(Signal::KILL)).context("asking to end with the parent")?;
    let core = core.filter(|word| *word != "any").map(str::parse).transpose().context("core")?;
    if let Some(core) = core {
        cores::pin_to(core)?;
    }
    let shared = rustix::io::dup(rustix::stdio::stdin()).context("taking what is shared")?;
    match floor {
        Floor::Shm | Floor::Shm4k => {
            let memory = memory::Shared::receive(shared, shm::SIZE)?;
            shm::serve(memory.view(), floor, core.is_none())
        }
        Floor::Uds => uds::serve(shared),
    }
}
