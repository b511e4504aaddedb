//! The table: floor, figure, ratio and goal side by side; and the same as JSON.

use std::fmt::Write;

use anyhow::{Context, Result};
use doorbell_bench::report::terminal::WIDTH;
use doorbell_bench::report::units::{count, time, times};
use doorbell_bench::{Floor, Placement, Series};
use doorbell_figures::nvme::DEPTH;
use doorbell_figures::served::DEVICE;
use serde::Serialize;

use crate::measure::{Measured, Served};

/// What is aimed at.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Goal {
    /// At most so many times the floor; and a limit that may never be passed, where there is one.
    AtMostTimes { goal: f64, limit: Option<f64> },
    /// At least so many times faster than the floor.
    TimesFaster(f64),
    /// At most so many nanoseconds.
    AtMostNs(f64),
}

/// The most that a round trip over bus `vfio-user` may take of one over bus `soft`.
const MOST_SERVED: f64 = 1.05;

/// One row.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Line {
    name: String,
    /// The median, or the median of means where single operations are too short to be timed.
    ns: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    p99_ns: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    p999_ns: Option<u64>,
    per_second: f64,
    /// The name of the line that it is compared with.
    floor: Option<String>,
    floor_ns: Option<f64>,
    /// How many times the floor the figure is; or its inverse, where the goal is to be faster.
    ratio: Option<f64>,
    goal: Option<Goal>,
    met: Option<bool>,
}

impl Line {
    fn of(name: impl Into<String>, series: &Series) -> Self {
        let latency = series.latency();
        let mut line = Self::mean(name, latency.p50_ns as f64);
        line.p99_ns = Some(latency.p99_ns);
        line.p999_ns = Some(latency.p999_ns);
        line.per_second = latency.iops;
        line
    }

    /// Of something that was timed in bulk.
    fn mean(name: impl Into<String>, ns: f64) -> Self {
        Self {
            name: name.into(),
            ns,
            p99_ns: None,
            p999_ns: None,
            per_second: 1e9 / ns,
            floor: None,
            floor_ns: None,
            ratio: None,
            goal: None,
            met: None,
        }
    }

    fn against(mut self, floor: &Self, goal: Goal) -> Self {
        let times_floor = self.ns / floor.ns;
        let (ratio, met) = match goal {
            Goal::AtMostTimes { goal, .. } => (times_floor, times_floor <= goal),
            Goal::TimesFaster(goal) => (1.0 / times_floor, 1.0 / times_floor >= goal),
            Goal::AtMostNs(goal) => (times_floor, self.ns <= goal),
        };
        self.floor = Some(floor.name.clone());
        self.floor_ns = Some(floor.ns);
        self.ratio = Some(ratio);
        self.goal = Some(goal);
        self.met = Some(met);
        self
    }
}

/// Floors first, then figures.
#[derive(Debug, Serialize)]
pub(crate) struct Lines {
    floors: Vec<Line>,
    figures: Vec<Line>,
}

/// Sets each figure beside its floor.
pub(crate) fn lines(measured: &Measured) -> Lines {
    let shm = Line::of(Floor::Shm.label(), &measured.floors.shm);
    let shm_4k = Line::of(Floor::Shm4k.label(), &measured.floors.shm_4k);
    let uds = Line::of(Floor::Uds.label(), &measured.floors.uds);
    let [device, direct, futures] = measured.ring;
    let device = Line::mean("device in the thread", device);
    let command = Goal::AtMostTimes { goal: 1.5, limit: Some(2.0) };
    let read = Goal::AtMostTimes { goal: 1.5, limit: None };
    let served = Goal::AtMostTimes { goal: MOST_SERVED, limit: None };
    let flush = Line::of("flush, QD 1", &measured.flush).against(&shm, command);
    let read_1 = Line::of("read 4 KiB, QD 1", &measured.read_1).against(&shm_4k, read);
    let by_server = |name, figure: &Served, soft: &Line| {
        let mut line = Line::of(name, &figure.series).against(soft, served);
        let ratio = figure.ratio();
        (line.ratio, line.met) = (Some(ratio), Some(ratio <= MOST_SERVED));
        line
    };
    let figures = vec![
        flush.clone(),
        by_server("flush, by vfio-user", &measured.flush_served, &flush),
        Line::of("flush, QD 1, vs. socket", &measured.flush).against(&uds, Goal::TimesFaster(30.0)),
        read_1.clone(),
        by_server("read, by vfio-user", &measured.read_1_served, &read_1),
        Line::of("read as futures, QD 1", &measured.read_1_futures).against(&shm_4k, read),
        Line::of(format!("read 4 KiB, QD {DEPTH}"), &measured.read_32),
        Line::mean(format!("one thread, QD {DEPTH}"), direct)
            .against(&device, Goal::AtMostNs(20.0)),
        Line::mean("one thread, as futures", futures).against(&device, Goal::AtMostNs(30.0)),
    ];
    Lines { floors: vec![shm, shm_4k, uds, device], figures }
}

/// For a terminal.
pub(crate) fn text(lines: &Lines, measured: &Measured, placement: Option<Placement>) -> String {
    let mut text = String::new();
    row(&mut text, ["", "p50", "p99", "per s", "floor", "ratio", "goal"].map(str::to_owned));
    for line in &lines.floors {
        row(&mut text, cells(line));
    }
    text.push_str(&"─".repeat(WIDTH));
    text.push('\n');
    for line in &lines.figures {
        row(&mut text, cells(line));
    }
    // Writing to a String cannot fail.
    let _ = writeln!(
        text,
        "\n{DEVICE}, {}; one reading of the clock\n({:.0} ns) is in each time between processes.",
        match placement {
            Some(Placement { client, device }) =>
                format!("client on core {client}, device on core {device}"),
            None => "client and device on the only core".to_owned(),
        },
        measured.clock_ns
    );
    text.push_str(
        "By vfio-user: in turns with bus soft; the ratio is the median of those of the turns.\n",
    );
    text.push_str(
        "One thread: submit plus complete, of which the device in that thread is a part.\n",
    );
    let missed = lines.figures.iter().filter(|line| line.met == Some(false)).count();
    let _ = match missed {
        0 => writeln!(text, "Every figure is within its goal."),
        _ => writeln!(text, "{missed} not within the goal (marked !): was the machine quiet?"),
    };
    text
}

fn cells(line: &Line) -> [String; 7] {
    let floor = line.floor_ns.map(short_time).unwrap_or_default();
    [
        line.name.clone(),
        short_time(line.ns),
        line.p99_ns.map(|ns| time(ns as f64)).unwrap_or_default(),
        count(line.per_second),
        floor,
        line.ratio.map(times).unwrap_or_default(),
        line.goal.map(|goal| shown(goal, line.met)).unwrap_or_default(),
    ]
}

/// A tenth of a nanosecond is much where an operation takes ten.
fn short_time(ns: f64) -> String {
    if ns < 100.0 { format!("{ns:.1} ns") } else { time(ns) }
}

fn shown(goal: Goal, met: Option<bool>) -> String {
    let mark = if met == Some(false) { "! " } else { "" };
    match goal {
        Goal::AtMostTimes { goal, limit: None } => format!("{mark}≤ {goal}×"),
        Goal::AtMostTimes { goal, limit: Some(limit) } => format!("{mark}≤ {goal}×, {limit}×"),
        Goal::TimesFaster(goal) => format!("{mark}≥ {goal}× less"),
        Goal::AtMostNs(ns) => format!("{mark}≤ {ns} ns"),
    }
}

fn row(text: &mut String, cells: [String; 7]) {
    let [name, p50, p99, rate, floor, ratio, goal] = cells;
    let row = format!("{name:<24}{p50:>8}{p99:>9}{rate:>8}{floor:>9}{ratio:>8}{goal:>14}");
    text.push_str(row.trim_end());
    text.push('\n');
}

/// One object for programs.
pub(crate) fn json(
    lines: &Lines,
    measured: &Measured,
    placement: Option<Placement>,
) -> Result<String> {
    let object = serde_json::json!({
        "device": DEVICE,
        "placement": placement,
        "clock_ns": measured.clock_ns,
        "floors": lines.floors,
        "figures": lines.figures,
    });
    serde_json::to_string(&object).context("writing JSON")
}
