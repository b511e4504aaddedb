//! Rounds that take turns: every load and every floor sees the same machine.

use std::io::IsTerminal;
use std::time::Duration;

use anyhow::{Context, Result};
use doorbell::client::Client;
use doorbell_bench::load::{Outcome, Stop};
use doorbell_bench::report::units::count;
use doorbell_bench::results::{Cpu, FloorResult, Measurement, Mode, What};
use doorbell_bench::{Floor, Placement, Results, Series, cpu};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::clients::Team;
use super::plan::{Job, Plan};
use super::runner::{Device, Part, Runner, Setup};
use crate::cli::Bench;
use crate::connect::to_look;

/// Time for each floor, of all rounds together.
const FLOOR_TIME: Duration = Duration::from_millis(500);

/// The floors of a run.
const FLOORS: [Floor; 3] = [Floor::Shm, Floor::Shm4k, Floor::Uds];

/// What was found.
pub(super) struct Measured {
    pub(super) floors: Vec<FloorResult>,
    pub(super) results: Vec<Measurement>,
}

/// Who runs the loads.
enum Side {
    Here(Box<Runner>),
    Others(Team),
}

/// The clients, and what is known of the device's process.
pub(super) struct Measurer {
    side: Side,
    device: String,
    /// The process that holds a software device, if its CPU time can be read.
    device_pid: Option<u32>,
}

impl Measurer {
    /// Connects as many clients as there are setups: one is this process.
    ///
    /// # Errors
    /// If one cannot connect.
    pub(super) async fn start(mut setups: Vec<Setup>) -> Result<Self> {
        if setups.len() > 1 {
            let (mut device, mut pid) = (String::new(), None);
            if let Some(Setup { device: Device::Served(socket), .. }) = setups.first() {
                let client = to_look(socket).await?;
                device.clone_from(&client.device().name);
                pid = process_of(&client).await;
            }
            let side = Side::Others(Team::start(&setups)?);
            return Ok(Self { side, device, device_pid: pid });
        }
        let setup = setups.pop().context("a benchmark has at least one client")?;
        let served = matches!(setup.device, Device::Served(_));
        let runner = Runner::connect(setup).await?;
        let device = runner.client().device().name.clone();
        let device_pid = if served { process_of(runner.client()).await } else { None };
        Ok(Self { side: Side::Here(Box::new(runner)), device, device_pid })
    }

    /// The device's name.
    pub(super) fn device(&self) -> &str {
        &self.device
    }

    /// Gives everything back.
    ///
    /// # Errors
    /// If a broker does not confirm.
    pub(super) async fn finish(self) -> Result<()> {
        match self.side {
            Side::Here(mut runner) => runner.release().await,
            Side::Others(team) => team.finish(),
        }
    }

    /// Measures everything.
    ///
    /// # Errors
    /// If a load is not possible, or fails.
    pub(super) async fn measure(
        &mut self,
        args: &Bench,
        plan: &Plan,
        placement: Option<Placement>,
        old: Option<&Results>,
    ) -> Result<Measured> {
        for job in &plan.first {
            self.check(job).await.with_context(|| format!("measuring {}", job.what.name()))?;
        }
        let wanted: &[Floor] = if args.floors { &FLOORS } else { &[] };
        let mut floors: Vec<FloorResult> =
            wanted.iter().map(|floor| nothing_of(*floor)).collect::<Result<_>>()?;
        let mut results = self.rounds(plan, &plan.first, placement, &mut floors).await?;
        if plan.sweep {
            let sweep = plan.sweep(&results, old);
            results.extend(self.rounds(plan, &sweep, None, &mut []).await?);
        }
        Ok(Measured { floors, results })
    }

    /// Measures the loads, and the floors, in rounds.
    async fn rounds(
        &mut self,
        plan: &Plan,
        jobs: &[Job],
        placement: Option<Placement>,
        floors: &mut [FloorResult],
    ) -> Result<Vec<Measurement>> {
        let empty = |job: &Job| {
            let floor = floor_of(&job.what).map(|floor| floor.word().to_owned());
            Measurement::new(job.what.clone(), floor).context("making a histogram of latencies")
        };
        let mut all: Vec<Measurement> = jobs.iter().map(empty).collect::<Result<_>>()?;
        let bar = progress(jobs.len() as u64 * u64::from(plan.rounds));
        for round in 0..plan.rounds {
            add_round(floors, placement, plan.rounds)?;
            for (job, measurement) in jobs.iter().zip(&mut all) {
                let name = job.what.name();
                bar.set_message(name.clone());
                let (outcomes, cpu) = self
                    .turn(plan, job, round)
                    .await
                    .with_context(|| format!("measuring {name}"))?;
                measurement.add_round(&outcomes, cpu);
                bar.inc(1);
                if round + 1 == plan.rounds {
                    let iops = count(measurement.iops());
                    let full = if measurement.outcome.is_saturated() { " (saturated)" } else { "" };
                    bar.println(format!("{name:<36} {iops} IOPS{full}"));
                }
            }
        }
        bar.finish_and_clear();
        Ok(all)
    }

    async fn check(&mut self, job: &Job) -> Result<()> {
        match &mut self.side {
            Side::Here(runner) => runner.check(job).await,
            Side::Others(team) => team.check(job),
        }
    }

    /// One round of one load, after a warm-up: what each client saw, and everyone's CPU time.
    async fn turn(&mut self, plan: &Plan, job: &Job, round: u32) -> Result<(Vec<Outcome>, Cpu)> {
        let mut job = Job {
            stop: job.stop.part(u64::from(round), u64::from(plan.rounds)),
            seed: job.seed.wrapping_add(u64::from(round) << 32),
            ..job.clone()
        };
        if let Some(time) = plan.warm_up {
            let stop = Stop::After(time);
            self.run(&Job { stop, ..job.clone() }).await?;
        }
        // What a warm-up asked for is not asked again.
        job.seed = job.seed.wrapping_add(1);
        let before = self.device_pid.and_then(cpu::of_other);
        let parts = self.run(&job).await?;
        let after = self.device_pid.and_then(cpu::of_other);
        let inside = parts.first().and_then(|part| part.cpu.device_ns);
        let cpu = Cpu {
            client_ns: parts.iter().map(|part| part.cpu.client_ns).sum(),
            device_ns: inside.or(before.zip(after).map(|(from, to)| to.saturating_sub(from))),
        };
        Ok((parts.into_iter().map(|part| part.outcome).collect(), cpu))
    }

    async fn run(&mut self, job: &Job) -> Result<Vec<Part>> {
        match &mut self.side {
            Side::Here(runner) => Ok(vec![runner.run(job).await?]),
            Side::Others(team) => team.run(job),
        }
    }
}

/// The process of a software device's broker; `None` for hardware, whose I/O costs no CPU time
/// there, and where the broker tells this user nothing.
async fn process_of(client: &Client) -> Option<u32> {
    if client.device().bus != "soft" {
        return None;
    }
    let status = client.status().await.ok()?;
    u32::try_from(status.broker_pid).ok()
}

/// The floor of the same shape: only what has the same shape is compared.
fn floor_of(what: &What) -> Option<Floor> {
    let alone = what.depth == 1 && what.clients == 1 && what.offered.is_none();
    match (what.mix.as_str(), what.block) {
        _ if !alone || what.mode == Mode::Interrupt => None,
        ("flush", _) => Some(Floor::Shm),
        ("read", 4096) => Some(Floor::Shm4k),
        _ => None,
    }
}

fn nothing_of(floor: Floor) -> Result<FloorResult> {
    let (key, name) = (floor.word().to_owned(), floor.label().to_owned());
    Ok(FloorResult { key, name, series: Series::new()?, rounds: Vec::new() })
}

/// One more round of each floor.
fn add_round(floors: &mut [FloorResult], placement: Option<Placement>, rounds: u32) -> Result<()> {
    let time = (FLOOR_TIME / rounds).max(Duration::from_millis(20));
    for result in floors {
        let floor = Floor::from_word(&result.key).context("a floor has a word")?;
        let series = floor.measure(placement, time)?;
        result.rounds.push(series.quantile_ns(0.5) as f64);
        result.series.append(&series);
    }
    Ok(())
}

/// A progress bar on standard error; hidden where that is no terminal.
fn progress(steps: u64) -> ProgressBar {
    let target = if std::io::stderr().is_terminal() {
        ProgressDrawTarget::stderr()
    } else {
        ProgressDrawTarget::hidden()
    };
    let bar = ProgressBar::with_draw_target(Some(steps), target);
    if let Ok(style) = ProgressStyle::with_template("{bar:24} {pos}/{len} {msg} ({elapsed})") {
        bar.set_style(style);
    }
    // It shows the time that goes by while the loop measures.
    bar.enable_steady_tick(Duration::from_millis(500));
    bar
}
