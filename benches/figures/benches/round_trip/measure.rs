//! The loops: floors and figures in turn.

use std::path::Path;
use std::time::Duration;

use anyhow::Result;
use doorbell_bench::{Floor, Floors, Placement, Series, clock};
use doorbell_figures::in_thread::Kind;
use doorbell_figures::median;
use doorbell_figures::nvme::{Command, DEPTH, claim, direct, futures};
use doorbell_figures::rings::in_one_thread;
use doorbell_nvme::{Namespace, Nvme};

/// All rounds together, warm-ups not counted.
pub(crate) const TIME: Duration = Duration::from_secs(20);

const ROUNDS: u32 = 10;

/// Floors and figures of each round.
const SERIES: u32 = 12;

/// Turns of bus `soft` and bus `vfio-user` in one round.
const TURNS: u32 = 4;

/// What was measured.
#[derive(Debug)]
pub(crate) struct Measured {
    pub(crate) floors: Floors,
    pub(crate) flush: Series,
    pub(crate) read_1: Series,
    pub(crate) flush_served: Served,
    pub(crate) read_1_served: Served,
    pub(crate) read_1_futures: Series,
    pub(crate) read_32: Series,
    /// Nanoseconds of each operation in one thread: the device alone, direct, as futures.
    pub(crate) ring: [f64; 3],
    /// What one reading of the clock costs, in nanoseconds.
    pub(crate) clock_ns: f64,
}

/// Measures on the core that the calling thread is pinned to.
pub(crate) async fn run(
    socket: &Path,
    behind_server: &Path,
    placement: Option<Placement>,
) -> Result<Measured> {
    let time = TIME / (ROUNDS * SERIES);
    let (nvme, served) = (claim(socket).await?, claim(behind_server).await?);
    let ns = nvme.namespace(1)?;
    let both = [(&nvme, ns), (&served, served.namespace(1)?)];
    let mut measured = Measured {
        floors: Floors::new()?,
        flush: Series::new()?,
        read_1: Series::new()?,
        flush_served: Served::new()?,
        read_1_served: Served::new()?,
        read_1_futures: Series::new()?,
        read_32: Series::new()?,
        ring: [0.0; 3],
        clock_ns: clock::reading_costs_ns(),
    };
    let mut ring = [const { Vec::new() }; 3];
    for _ in 0..ROUNDS {
        // Each floor right beside what is compared with it.
        measured.floors.shm.append(&Floor::Shm.measure(placement, time)?);
        measured.flush.append(&measured.flush_served.in_turn(both, Command::Flush, time)?);
        measured.floors.shm_4k.append(&Floor::Shm4k.measure(placement, time)?);
        measured.read_1.append(&measured.read_1_served.in_turn(both, Command::Read, time)?);
        measured.read_1_futures.append(&futures(&nvme, ns, time)?);
        measured.floors.uds.append(&Floor::Uds.measure(placement, time)?);
        measured.read_32.append(&direct(&nvme, ns, Command::Read, DEPTH, time)?);
        for (kind, samples) in
            [Kind::Device, Kind::Direct, Kind::Futures].into_iter().zip(&mut ring)
        {
            in_one_thread(kind, DEPTH, time, samples)?;
        }
    }
    measured.ring = ring.map(median);
    nvme.release().await?;
    served.release().await?;
    Ok(measured)
}

/// The same over bus `vfio-user`. The device is busy: it does not nap between two commands.
#[derive(Debug)]
pub(crate) struct Served {
    pub(crate) series: Series,
    /// How many times as long as over bus `soft`, of each turn.
    ratios: Vec<f64>,
}

impl Served {
    fn new() -> Result<Self> {
        Ok(Self { series: Series::new()?, ratios: Vec::new() })
    }

    /// The median over the turns: what else the machine does changes from one to the next.
    pub(crate) fn ratio(&self) -> f64 {
        median(self.ratios.clone())
    }

    /// Measures over both buses for `time` each, in turns. Returns the figures of bus `soft`.
    fn in_turn(
        &mut self,
        [soft, served]: [(&Nvme, Namespace<'_>); 2],
        command: Command,
        time: Duration,
    ) -> Result<Series> {
        let mut all = Series::new()?;
        let measure = |(nvme, ns)| direct(nvme, ns, command, 1, time / TURNS);
        for turn in 0..TURNS {
            // Each is the first as often as the other.
            let (one, other) = if turn.is_multiple_of(2) {
                let one = measure(soft)?;
                (one, measure(served)?)
            } else {
                let other = measure(served)?;
                (measure(soft)?, other)
            };
            self.ratios.push(other.midmean_ns() / one.midmean_ns());
            all.append(&one);
            self.series.append(&other);
        }
        Ok(all)
    }
}
