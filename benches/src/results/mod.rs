//! [`Results`]: everything that one run of a benchmark found. It becomes a page, a table, JSON and
//! CSV, and is read again from JSON to be compared with a later run.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::load::{Outcome, Pattern};
use crate::machine::Machine;
use crate::report::units::count;
use crate::series::Series;

mod compare;
mod csv;
mod json;

pub use compare::{Change, Comparison, Figure, Verdict};
pub use csv::to_csv;
pub use json::{BadJson, SCHEMA, VERSION};

/// How a client waits for completions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// It looks at the completion ring until something is there.
    Spin,
    /// It looks for as long as the queue's adaptive budget says, then sleeps until the interrupt.
    Hybrid,
    /// It looks once, then sleeps until the interrupt.
    Interrupt,
}

impl Mode {
    /// Its word on the command line and in reports.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Spin => "spin",
            Self::Hybrid => "hybrid",
            Self::Interrupt => "interrupt",
        }
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

/// The arrivals of an open loop.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Offered {
    /// Arrivals per second, of all clients together.
    pub rate: f64,
    /// How they follow each other.
    pub pattern: Pattern,
}

/// Which load was measured. Two runs are compared load by load.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct What {
    /// `read`, `write`, `70 % read`, `flush`.
    pub mix: String,
    /// Bytes of each operation; 0 if it moves none.
    pub block: u64,
    /// Operations in flight: exactly so many (closed loop), or at most (open loop); of each client.
    pub depth: u32,
    /// How completions are waited for.
    pub mode: Mode,
    /// Client processes.
    pub clients: u32,
    /// `None` for a closed loop.
    pub offered: Option<Offered>,
}

impl What {
    /// `read 4 KiB`, `flush`.
    #[must_use]
    pub fn operation(&self) -> String {
        match self.block {
            0 => self.mix.clone(),
            block => format!("{} {}", self.mix, block_name(block)),
        }
    }

    /// `read 4 KiB, QD 32`, or with a rate `read 4 KiB at 50.0 k/s`. Without the mode and the number
    /// of clients.
    #[must_use]
    pub fn short(&self) -> String {
        match self.offered {
            None => format!("{}, QD {}", self.operation(), self.depth),
            Some(offered) => format!("{} at {}/s", self.operation(), count(offered.rate)),
        }
    }

    /// True if both are the same load. Rates may differ by what writing them loses.
    #[must_use]
    pub fn is_same(&self, other: &Self) -> bool {
        let close = match (self.offered, other.offered) {
            (None, None) => true,
            (Some(one), Some(two)) => {
                one.pattern == two.pattern && (one.rate - two.rate).abs() <= one.rate * 1e-9
            }
            _ => false,
        };
        close && Self { offered: None, ..self.clone() } == Self { offered: None, ..other.clone() }
    }

    /// With the mode and the clients where they are not the usual ones.
    #[must_use]
    pub fn name(&self) -> String {
        let mut name = self.short();
        if self.mode != Mode::Spin {
            name = format!("{name}, {}", self.mode);
        }
        if self.clients > 1 {
            name = format!("{name}, {} clients", self.clients);
        }
        name
    }
}

/// `4 KiB`, without a fraction where there is none.
#[must_use]
pub fn block_name(block: u64) -> String {
    match block {
        block if block >= 1 << 20 && block.is_multiple_of(1 << 20) => {
            format!("{} MiB", block >> 20)
        }
        block if block >= 1 << 10 && block.is_multiple_of(1 << 10) => {
            format!("{} KiB", block >> 10)
        }
        block => format!("{block} B"),
    }
}

/// CPU time of some operations, in nanoseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cpu {
    /// Of the clients.
    pub client_ns: u64,
    /// Of the device's process (all of it: broker and software device), or its threads in this
    /// process; `None` if that cannot be known, as with hardware.
    pub device_ns: Option<u64>,
}

impl Cpu {
    /// Adds.
    pub fn add(&mut self, other: Self) {
        self.client_ns = self.client_ns.saturating_add(other.client_ns);
        self.device_ns = self.device_ns.zip(other.device_ns).map(|(a, b)| a.saturating_add(b));
    }
}

/// One of the rounds that a measurement was made in: rounds show how much a figure moves by itself.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Round {
    /// Median, in nanoseconds.
    pub p50_ns: f64,
    /// 99th percentile, in nanoseconds.
    pub p99_ns: f64,
    /// 99.9th percentile, in nanoseconds.
    pub p999_ns: f64,
    /// Completed operations per second.
    pub iops: f64,
    /// CPU time of the clients per operation, in nanoseconds.
    pub cpu_ns: f64,
}

impl Round {
    /// The figures of one round.
    #[must_use]
    pub fn of(outcome: &Outcome, cpu: Cpu) -> Self {
        let latency = outcome.response.latency();
        let (completed, seconds) = (outcome.completed(), outcome.response.elapsed().as_secs_f64());
        // To a thousandth: such numbers are read from a file exactly as they were written.
        let short = |number: f64| (number * 1e3).round() / 1e3;
        Self {
            p50_ns: latency.p50_ns as f64,
            p99_ns: latency.p99_ns as f64,
            p999_ns: latency.p999_ns as f64,
            iops: if seconds > 0.0 { short(completed as f64 / seconds) } else { 0.0 },
            cpu_ns: short(cpu.client_ns as f64 / completed.max(1) as f64),
        }
    }
}

/// A floor: see [`crate::floors`].
#[derive(Debug, Clone)]
pub struct FloorResult {
    /// Its key in files: `shm`.
    pub key: String,
    /// Its name for people.
    pub name: String,
    /// All rounds.
    pub series: Series,
    /// The median of each round, in nanoseconds.
    pub rounds: Vec<f64>,
}

impl FloorResult {
    /// Its median, in nanoseconds.
    #[must_use]
    pub fn p50_ns(&self) -> u64 {
        self.series.quantile_ns(0.5)
    }
}

/// One load and what was seen.
#[derive(Debug, Clone)]
pub struct Measurement {
    /// The load.
    pub what: What,
    /// All rounds and clients together.
    pub outcome: Outcome,
    /// CPU time of all of it.
    pub cpu: Cpu,
    /// Round by round.
    pub rounds: Vec<Round>,
    /// With several clients: each one's latencies.
    pub shares: Vec<Series>,
    /// The key of the floor of the same shape, if there is one.
    pub floor: Option<String>,
}

impl Measurement {
    /// Nothing measured yet.
    #[must_use]
    pub fn new(what: What, floor: Option<String>) -> Option<Self> {
        let outcome = Outcome::closed(Series::new().ok()?);
        let cpu = Cpu { client_ns: 0, device_ns: Some(0) };
        Some(Self { what, outcome, cpu, rounds: Vec::new(), shares: Vec::new(), floor })
    }

    /// Adds a round: what each client saw, and the CPU time of all.
    pub fn add_round(&mut self, clients: &[Outcome], cpu: Cpu) {
        let Some((first, others)) = clients.split_first() else { return };
        let mut all = first.clone();
        for other in others {
            all.join(other);
        }
        self.rounds.push(Round::of(&all, cpu));
        self.cpu.add(cpu);
        if self.rounds.len() == 1 {
            self.outcome = all;
        } else {
            self.outcome.append(&all);
        }
        if clients.len() > 1 {
            self.add_shares(clients);
        }
    }

    fn add_shares(&mut self, clients: &[Outcome]) {
        let new = self.shares.is_empty();
        for (at, client) in clients.iter().enumerate() {
            let series = client.service.as_ref().unwrap_or(&client.response);
            match self.shares.get_mut(at) {
                Some(share) => share.append(series),
                None if new => self.shares.push(series.clone()),
                None => {}
            }
        }
    }

    /// Completed operations.
    #[must_use]
    pub fn completed(&self) -> u64 {
        self.outcome.completed()
    }

    /// Completed operations per second.
    #[must_use]
    pub fn iops(&self) -> f64 {
        let seconds = self.outcome.response.elapsed().as_secs_f64();
        if seconds > 0.0 { self.completed() as f64 / seconds } else { 0.0 }
    }

    /// Bytes moved per second.
    #[must_use]
    pub fn bytes_per_second(&self) -> f64 {
        let seconds = self.outcome.response.elapsed().as_secs_f64();
        if seconds > 0.0 { self.outcome.response.bytes() as f64 / seconds } else { 0.0 }
    }

    /// CPU time per operation, in nanoseconds: the clients', and the device's.
    #[must_use]
    pub fn cpu_per_operation(&self) -> (f64, Option<f64>) {
        let each = |ns: u64| ns as f64 / self.completed().max(1) as f64;
        (each(self.cpu.client_ns), self.cpu.device_ns.map(each))
    }

    /// How evenly several clients were served: Jain's index of their operations, 1 for evenly and
    /// 1/N if one of N had everything. `None` for a single client.
    #[must_use]
    pub fn fairness(&self) -> Option<f64> {
        let served = || self.shares.iter().map(|share| share.operations() as f64);
        let (sum, squares): (f64, f64) = (served().sum(), served().map(|each| each * each).sum());
        (self.shares.len() > 1 && squares > 0.0)
            .then(|| sum * sum / (self.shares.len() as f64 * squares))
    }
}

/// A run.
#[derive(Debug, Clone, Default)]
pub struct Results {
    /// The device, as its broker calls it.
    pub device: String,
    /// The namespace.
    pub namespace: u32,
    /// The machine.
    pub machine: Machine,
    /// Other facts of the run, in order: seed, order of blocks, cores.
    pub facts: Vec<(String, String)>,
    /// The floors that were measured in the same run.
    pub floors: Vec<FloorResult>,
    /// The loads.
    pub results: Vec<Measurement>,
}

impl Results {
    /// The floor of a measurement, if it was measured.
    #[must_use]
    pub fn floor_of(&self, one: &Measurement) -> Option<&FloorResult> {
        let key = one.floor.as_ref()?;
        self.floors.iter().find(|floor| floor.key == *key && floor.p50_ns() > 0)
    }

    /// How many times its floor's median a measurement's median is.
    #[must_use]
    pub fn ratio(&self, one: &Measurement) -> Option<f64> {
        let floor = self.floor_of(one)?.p50_ns();
        Some(one.outcome.response.quantile_ns(0.5) as f64 / floor as f64)
    }

    /// The measurement of a load, if there is one.
    #[must_use]
    pub fn find(&self, what: &What) -> Option<&Measurement> {
        self.results.iter().find(|one| one.what.is_same(what))
    }

    /// The closed loops.
    pub fn closed(&self) -> impl Iterator<Item = &Measurement> {
        self.results.iter().filter(|one| one.what.offered.is_none())
    }

    /// The open loops.
    pub fn open(&self) -> impl Iterator<Item = &Measurement> {
        self.results.iter().filter(|one| one.what.offered.is_some())
    }
}

#[cfg(test)]
pub(crate) mod tests;
