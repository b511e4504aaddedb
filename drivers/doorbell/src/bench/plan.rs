//! What is to be measured: the loads of a command line.

use std::time::Duration;

use anyhow::{Result, ensure};
use doorbell_bench::Results;
use doorbell_bench::load::{Pattern, Stop};
use doorbell_bench::results::{Measurement, Mode, Offered, What};
use serde::{Deserialize, Serialize};

use super::work::{Load, Mix};
use crate::cli::{Arrivals, Bench, Wait};

/// Shares of a closed loop's throughput that a sweep offers.
const SHARES: [f64; 9] = [0.1, 0.25, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.1];

/// One load, for one client.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Job {
    pub(crate) what: What,
    pub(crate) load: Load,
    pub(crate) stop: Stop,
    /// Of the choices of blocks, and of arrivals.
    pub(crate) seed: u64,
}

impl Job {
    /// The arrivals of one client.
    pub(crate) fn rate(&self) -> Option<(f64, Pattern)> {
        let each = |offered: Offered| {
            (offered.rate / f64::from(self.what.clients.max(1)), offered.pattern)
        };
        self.what.offered.map(each)
    }

    /// The longest that it should take.
    pub(crate) fn time(&self) -> Duration {
        match self.stop {
            Stop::After(time) => time,
            // The queue's own time limit is what ends an operation that takes too long.
            Stop::Operations(operations) => {
                let paced = self.rate().map_or(0.0, |(rate, _)| operations as f64 / rate);
                let slow = operations as f64 / 1_000.0;
                Duration::from_secs_f64((paced + slow).clamp(0.0, 1e9))
            }
        }
    }
}

/// What the loads of a run have in common.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    /// Closed loops, or open ones if rates were given.
    pub(crate) first: Vec<Job>,
    pub(crate) sweep: bool,
    pub(crate) deepest: u16,
    pub(crate) rounds: u32,
    pattern: Pattern,
    stop: Stop,
    pub(crate) warm_up: Option<Duration>,
}

impl Plan {
    /// The loads of a command line.
    ///
    /// # Errors
    /// If it asks for what cannot be.
    pub(crate) fn new(args: &Bench) -> Result<Self> {
        let reads_only = args.flush || args.read == 100;
        ensure!(
            reads_only || args.overwrite,
            "writes destroy what is in namespace {}; add --overwrite if that may be",
            args.namespace
        );
        ensure!(
            args.depth.iter().all(|depth| *depth > 0),
            "a queue depth of 0 does nothing; use 1 or more"
        );
        ensure!(
            args.clients == 1 || args.spec.is_none(),
            "a device of this process has one client; serve it (`doorbell serve`) to use --clients"
        );
        ensure!(
            args.arrivals.is_none() || args.sweep || !args.rate.is_empty(),
            "a closed loop has no arrivals; add --rate or --sweep to --arrivals"
        );
        let all_spin = args.mode.iter().all(|mode| *mode == Wait::Spin);
        ensure!(
            all_spin || !args.futures,
            "--futures is for mode spin; hybrid and interrupt are driven by futures anyway"
        );
        let (warm_up, stop) = match args.ios {
            Some(operations) => (None, Stop::Operations(operations)),
            None => {
                let time = Duration::from_secs_f64(args.seconds);
                (Some(time / 10 / args.rounds), Stop::After(time))
            }
        };
        let pattern = match args.arrivals {
            Some(Arrivals::Poisson) => Pattern::Poisson,
            _ => Pattern::Fixed,
        };
        let deepest = args.depth.iter().copied().max().unwrap_or(1);
        // More rounds than operations would be rounds of nothing.
        let rounds = u64::from(args.rounds).min(args.ios.unwrap_or(u64::MAX)) as u32;
        let plan =
            Self { first: Vec::new(), sweep: args.sweep, deepest, rounds, pattern, stop, warm_up };
        Ok(Self { first: plan.jobs(args), ..plan })
    }

    fn jobs(&self, args: &Bench) -> Vec<Job> {
        let blocks: &[u64] = if args.flush { &[0] } else { &args.block };
        let mut jobs = Vec::new();
        for mode in modes(args) {
            for block in blocks {
                let job = |depth, offered| self.job(args, *block, mode, depth, offered);
                jobs.extend(args.rate.iter().map(|rate| {
                    let offered = Offered { rate: *rate, pattern: self.pattern };
                    job(self.deepest, Some(offered))
                }));
                if args.rate.is_empty() {
                    jobs.extend(args.depth.iter().map(|depth| job(*depth, None)));
                }
            }
        }
        jobs
    }

    fn job(
        &self,
        args: &Bench,
        block: u64,
        mode: Mode,
        depth: u16,
        offered: Option<Offered>,
    ) -> Job {
        let (mix, name) = match args.read {
            _ if args.flush => (Mix::Flush, "flush".to_owned()),
            100 => (Mix::ReadWrite { read_percent: 100 }, "read".to_owned()),
            0 => (Mix::ReadWrite { read_percent: 0 }, "write".to_owned()),
            percent => (Mix::ReadWrite { read_percent: percent }, format!("{percent} % read")),
        };
        let load = Load {
            mix,
            // A flush has a buffer that it does not use.
            block: if args.flush { 4096 } else { usize::try_from(block).unwrap_or(usize::MAX) },
            span: args.span.unwrap_or(u64::MAX),
            sequential: args.sequential,
        };
        let (depth, clients) = (u32::from(depth), args.clients);
        let what = What { mix: name, block, depth, mode, clients, offered };
        Job { what, load, stop: self.stop, seed: args.seed }
    }

    /// The open loops of a sweep: at the old report's rates, so that both can be compared, or at
    /// shares of what the closed loops reached.
    pub(crate) fn sweep(&self, measured: &[Measurement], old: Option<&Results>) -> Vec<Job> {
        let mut jobs = Vec::new();
        for job in &self.first {
            let Some(reached) = measured.iter().find(|one| one.what.is_same(&job.what)) else {
                continue;
            };
            if job.what.depth != u32::from(self.deepest) {
                continue;
            }
            let rates = self
                .old_rates(job, old)
                .unwrap_or_else(|| SHARES.map(|share| round_rate(share * reached.iops())).to_vec());
            let open = |rate: f64| {
                let offered = Some(Offered { rate, pattern: self.pattern });
                Job { what: What { offered, ..job.what.clone() }, ..job.clone() }
            };
            jobs.extend(rates.into_iter().filter(|rate| *rate > 0.0).map(open));
        }
        jobs
    }

    fn old_rates(&self, job: &Job, old: Option<&Results>) -> Option<Vec<f64>> {
        let is_like = |offered: &Offered, one: &Measurement| {
            let closed = What { offered: None, ..one.what.clone() };
            offered.pattern == self.pattern && closed.is_same(&job.what)
        };
        let rates: Vec<f64> = old?
            .open()
            .filter_map(|one| one.what.offered.filter(|offered| is_like(offered, one)))
            .map(|offered| offered.rate)
            .collect();
        (!rates.is_empty()).then_some(rates)
    }

    /// Buffers of the most demanding load, and rings and lists of a queue as deep as can be.
    pub(crate) fn arena_bytes(&self) -> usize {
        let data = |job: &Job| job.load.buffer().saturating_mul(job.what.depth as usize);
        let most = self.first.iter().map(data).max().unwrap_or(0);
        most.saturating_add(usize::from(self.deepest) * 8192).saturating_add(2 << 20)
    }
}

/// The modes, each once, in the order of the command line.
fn modes(args: &Bench) -> Vec<Mode> {
    let mut modes = Vec::new();
    for wait in &args.mode {
        let mode = match wait {
            Wait::Spin => Mode::Spin,
            Wait::Hybrid => Mode::Hybrid,
            Wait::Interrupt => Mode::Interrupt,
        };
        if !modes.contains(&mode) {
            modes.push(mode);
        }
    }
    modes
}

/// Three digits: a rate that a report can name and the next run can offer again.
fn round_rate(rate: f64) -> f64 {
    if rate < 1.0 {
        return 0.0;
    }
    let step = 10_f64.powf((rate.log10().floor() - 2.0).max(0.0));
    (rate / step).round() * step
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{Cli, Command};
    use clap::Parser;

    fn plan(line: &str) -> Result<Plan> {
        let cli = Cli::try_parse_from(format!("doorbell bench {line}").split_whitespace()).unwrap();
        let Command::Bench(args) = &cli.command else { panic!("bench") };
        Plan::new(args)
    }

    #[test]
    fn loads_are_modes_by_blocks_by_depths_or_rates() {
        let names = |line: &str| -> Vec<String> {
            plan(line).unwrap().first.iter().map(|job| job.what.name()).collect()
        };
        assert_eq!(names("--depth 1,4 --block 512"), ["read 512 B, QD 1", "read 512 B, QD 4"]);
        assert_eq!(
            names("--mode spin,interrupt,spin --rate 10k --depth 2,8"),
            ["read 4 KiB at 10.0 k/s", "read 4 KiB at 10.0 k/s, interrupt"]
        );
        assert_eq!(names("--flush --depth 1"), ["flush, QD 1"]);
        assert_eq!(names("--read 70 --overwrite --depth 1"), ["70 % read 4 KiB, QD 1"]);
    }

    #[test]
    fn what_cannot_be_is_refused() {
        for (line, says) in [
            ("--read 50", "--overwrite"),
            ("--depth 0", "depth of 0"),
            ("--clients 2 --spec soft:nvme", "doorbell serve"),
            ("--arrivals poisson", "--rate"),
            ("--mode interrupt --futures", "futures anyway"),
        ] {
            let error = plan(line).unwrap_err().to_string();
            assert!(error.contains(says), "{line}: {error}");
        }
    }

    #[test]
    fn a_sweep_offers_shares_of_what_was_reached() {
        let plan = plan("--sweep --depth 1,8").unwrap();
        let mut reached = Measurement::new(plan.first[1].what.clone(), None).unwrap();
        reached.outcome.response.record_many(100, 200_000);
        reached.outcome.response.extend(Duration::from_secs(1), 0);
        let jobs = plan.sweep(&[reached], None);
        let rates: Vec<f64> = jobs.iter().filter_map(|job| job.rate()).map(|rate| rate.0).collect();
        assert_eq!(rates.len(), SHARES.len());
        assert!((rates[0] - 20_000.0).abs() < 1.0 && (rates[8] - 220_000.0).abs() < 1.0);
        assert!(jobs.iter().all(|job| job.what.depth == 8));
        assert!((round_rate(123_456.0) - 123_000.0).abs() < 1e-6);
    }
}
