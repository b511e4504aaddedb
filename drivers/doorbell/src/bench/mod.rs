//! `doorbell bench`: latency and IOPS of a namespace.

use std::cell::RefCell;
use std::fs;
use std::io::IsTerminal;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use doorbell::client::QueueSpec;
use doorbell_bench::load::{self, Stop};
use doorbell_bench::page::Page;
use doorbell_bench::report::units::{bytes, count};
use doorbell_bench::report::{html, terminal};
use doorbell_bench::{Floor, Floors, Latency, Placement, Report, Row, Series, cores};
use doorbell_nvme::{Namespace, Nvme};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;

use crate::cli::Bench;
use crate::connect::{block_on, to_work};
use crate::output;

pub(crate) mod work;

use work::{Choice, Load, Mix, Posting, buffers, once};

/// Time for each floor.
const FLOOR_TIME: Duration = Duration::from_millis(500);

/// One combination of depth and block size.
#[derive(Debug, Clone, Copy)]
struct Combination {
    load: Load,
    depth: u16,
}

impl Combination {
    fn name(&self) -> String {
        match self.load.mix {
            Mix::Flush => format!("flush, QD {}", self.depth),
            Mix::ReadWrite { read_percent } => {
                let what = match read_percent {
                    100 => "read".to_owned(),
                    0 => "write".to_owned(),
                    percent => format!("{percent} % read"),
                };
                format!("{what} {}, QD {}", block_name(self.load.block), self.depth)
            }
        }
    }
}

/// `4 KiB`, without a fraction where there is none.
fn block_name(block: usize) -> String {
    match block {
        block if block.is_multiple_of(1 << 20) => format!("{} MiB", block >> 20),
        block if block.is_multiple_of(1 << 10) => format!("{} KiB", block >> 10),
        block => format!("{block} B"),
    }
}

/// What `--json` prints for one combination.
#[derive(Debug, Serialize)]
struct Line {
    name: String,
    depth: u16,
    block: usize,
    operations: u64,
    seconds: f64,
    bytes: u64,
    #[serde(flatten)]
    latency: Latency,
}

/// What `--json` prints.
#[derive(Debug, Serialize)]
struct Json {
    device: String,
    namespace: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    floors: Option<JsonFloors>,
    results: Vec<Line>,
}

/// The medians of the floors, in nanoseconds.
#[derive(Debug, Serialize)]
struct JsonFloors {
    shm_ns: u64,
    shm_4k_ns: u64,
    uds_ns: u64,
}

/// Runs `doorbell bench`.
pub(crate) fn run(args: &Bench) -> Result<()> {
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
    let placement = if args.floors { Placement::choose()? } else { None };
    // Before any thread is started: they all stay on the core.
    if let Some(core) = args.core.or(placement.map(|cores| cores.client)) {
        cores::pin_to(core)?;
    }
    let combinations = combinations(args);
    let arena = arena_bytes(&combinations);
    let deepest = combinations.iter().map(|one| one.depth).max().unwrap_or(1);
    let spec = QueueSpec::depth(u32::from(deepest)).at_least(args.tier);
    block_on(async {
        let nvme = match &args.spec {
            Some(device) => crate::registry::open(device, spec, arena).await?,
            None => Nvme::claim(&to_work(&args.target, arena).await?, spec).await?,
        };
        let ns = nvme.namespace(args.namespace)?;
        let floors = args.floors.then(|| measure_floors(placement)).transpose()?;
        let measured = measure(args, &nvme, ns, &combinations)?;
        let device = nvme.client().device().name.clone();
        nvme.release().await?;
        tell(args, &device, floors.as_ref(), &measured)
    })
}

fn combinations(args: &Bench) -> Vec<Combination> {
    let mix = if args.flush { Mix::Flush } else { Mix::ReadWrite { read_percent: args.read } };
    let blocks: &[u64] = if args.flush { &[4096] } else { &args.block };
    let load = |block: u64| Load {
        mix,
        block: usize::try_from(block).unwrap_or(usize::MAX),
        span: args.span.unwrap_or(u64::MAX),
        sequential: args.sequential,
    };
    let with_depths = |block| {
        args.depth.iter().map(move |depth| Combination { load: load(block), depth: *depth })
    };
    blocks.iter().copied().flat_map(with_depths).collect()
}

/// Buffers of the most demanding combination, and rings and lists of a queue as deep as can be.
fn arena_bytes(combinations: &[Combination]) -> usize {
    let data = |one: &Combination| one.load.block.saturating_mul(usize::from(one.depth));
    let most = combinations.iter().map(data).max().unwrap_or(0);
    let deepest = combinations.iter().map(|one| usize::from(one.depth)).max().unwrap_or(1);
    most.saturating_add(deepest * 8192).saturating_add(2 << 20)
}

/// Measures every combination, with progress on a terminal.
fn measure(
    args: &Bench,
    nvme: &Nvme,
    ns: Namespace<'_>,
    combinations: &[Combination],
) -> Result<Vec<(Combination, Series)>> {
    let bar = progress(combinations.len() as u64);
    let mut all = Vec::new();
    for one in combinations {
        one.load.check(&ns)?;
        bar.set_message(one.name());
        let series = measure_one(args, nvme, ns, *one)
            .with_context(|| format!("measuring {}", one.name()))?;
        bar.println(format!("{:<28} {} IOPS", one.name(), count(series.latency().iops)));
        bar.inc(1);
        all.push((*one, series));
    }
    bar.finish_and_clear();
    Ok(all)
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

fn measure_one(args: &Bench, nvme: &Nvme, ns: Namespace<'_>, one: Combination) -> Result<Series> {
    let (warm_up, stop) = match args.ios {
        Some(operations) => (None, Stop::Operations(operations)),
        None => {
            let time = Duration::from_secs_f64(args.seconds);
            (Some(Stop::After(time / 10)), Stop::After(time))
        }
    };
    let depth = usize::from(one.depth);
    if args.futures {
        let page = RefCell::new(Page::new());
        let mut run = |stop| {
            let mut choice = Choice::new(one.load, &ns);
            let buffers = buffers(nvme, one.load, depth)?;
            load::run_futures(buffers, stop, one.load.bytes_each(), |buffer| {
                once(ns, choice.next(), buffer, &page)
            })
        };
        warm_up.map(&mut run).transpose()?;
        return run(stop);
    }
    let mut work = Posting::new(nvme, ns, one.load, depth)?;
    warm_up.map(|stop| load::run(&mut work, depth, stop)).transpose()?;
    load::run(&mut work, depth, stop)
}

fn measure_floors(placement: Option<Placement>) -> Result<Floors> {
    let mut floors = Floors::new()?;
    floors.add_round(placement, FLOOR_TIME)?;
    Ok(floors)
}

/// Prints and writes what was measured.
fn tell(
    args: &Bench,
    device: &str,
    floors: Option<&Floors>,
    measured: &[(Combination, Series)],
) -> Result<()> {
    let report = report(args, device, floors, measured);
    if let Some(file) = &args.report {
        fs::write(file, html::page(&report))
            .with_context(|| format!("writing the report to {}", file.display()))?;
    }
    if args.json {
        return output::print_json(&json(args, device, floors, measured));
    }
    let mut text = terminal::table(&report);
    for (one, series) in measured {
        text.push('\n');
        text.push_str(&terminal::histogram(&one.name(), series));
    }
    if let Some(file) = &args.report {
        text.push_str(&format!("\nThe same with plots: {}\n", file.display()));
    }
    output::print(text)
}

fn json(
    args: &Bench,
    device: &str,
    floors: Option<&Floors>,
    measured: &[(Combination, Series)],
) -> Json {
    let p50 = |series: &Series| series.latency().p50_ns;
    let line = |(one, series): &(Combination, Series)| Line {
        name: one.name(),
        depth: one.depth,
        block: one.load.block,
        operations: series.operations(),
        seconds: series.elapsed().as_secs_f64(),
        bytes: series.bytes(),
        latency: series.latency(),
    };
    Json {
        device: device.to_owned(),
        namespace: args.namespace,
        floors: floors.map(|floors| JsonFloors {
            shm_ns: p50(&floors.shm),
            shm_4k_ns: p50(&floors.shm_4k),
            uds_ns: p50(&floors.uds),
        }),
        results: measured.iter().map(line).collect(),
    }
}

fn report(
    args: &Bench,
    device: &str,
    floors: Option<&Floors>,
    measured: &[(Combination, Series)],
) -> Report {
    let mut report = Report {
        title: "Doorbell bench".to_owned(),
        summary: format!("Latency and IOPS of {device}, namespace {}.", args.namespace),
        ..Report::default()
    };
    if let Some(floors) = floors {
        let rows =
            [(Floor::Shm, &floors.shm), (Floor::Shm4k, &floors.shm_4k), (Floor::Uds, &floors.uds)];
        report.rows.extend(rows.map(|(floor, series)| Row::floor(floor.label(), series.clone())));
    }
    for (one, series) in measured {
        let mut row = Row::figure(one.name(), series.clone());
        // Only what has the same shape is compared.
        row.floor = match one.load.mix {
            _ if one.depth != 1 || floors.is_none() => None,
            Mix::Flush => Some(0),
            Mix::ReadWrite { read_percent: 100 } if one.load.block == 4096 => Some(1),
            Mix::ReadWrite { .. } => None,
        };
        report.rows.push(row);
    }
    let moved: u64 = measured.iter().map(|(_, series)| series.bytes()).sum();
    report.fact("device", device);
    report.fact("data moved", bytes(moved));
    report.fact("order", if args.sequential { "sequential" } else { "random" });
    report.fact("driven by", if args.futures { "futures" } else { "post and reap" });
    report.notes.push(
        "A closed loop: each completion is followed at once by the next command. A read ends when \
         its data was copied out of the buffer. Each latency includes a reading of the clock."
            .to_owned(),
    );
    report
}
