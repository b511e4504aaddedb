//! The figures as Markdown, in the form of the README: figure, floor, ratio, goal.

use std::fmt::Write;

use doorbell_bench::Placement;
use doorbell_bench::report::units::{count, time, times};

use crate::cases::{DEVICE_SHARE, SUBMIT_COMPLETE};
use crate::contention::Contender;
use crate::figures::Figure;
use crate::run::{BATCHES, Measured};

/// The goal of submit plus complete, the device's work in the same thread included.
const MOST_INSTRUCTIONS: f64 = 150.0;

/// What is aimed at.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Goal {
    /// Nothing: it is there to be compared.
    None,
    /// At most so many times the floor.
    AtMostTimes(f64),
    /// The floor is at least so many times slower.
    TimesFaster(f64),
    /// At most so many nanoseconds.
    AtMostNs(f64),
    /// At least so many millions per second.
    AtLeastMops(f64),
}

/// What a figure is.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Value {
    Ns(Figure),
    Mops(Figure),
}

/// One row.
#[derive(Debug, Clone, PartialEq)]
struct Row {
    what: String,
    value: Value,
    /// Its name, and nanoseconds of one operation.
    floor: Option<(&'static str, Figure)>,
    goal: Goal,
}

impl Value {
    /// Nanoseconds of one operation.
    fn each_ns(self) -> Figure {
        match self {
            Self::Ns(ns) => ns,
            Self::Mops(mops) => mops.map(|mops| 1000.0 / mops),
        }
    }

    fn shown(self) -> String {
        let shown = match self {
            Self::Ns(ns) => ns.map(short_time),
            Self::Mops(mops) => mops.map(|mops| format!("{}/s", count(mops * 1e6))),
        };
        shown.unwrap_or_else(|| "none".to_owned())
    }
}

/// A tenth of a nanosecond is much where an operation takes ten.
fn short_time(ns: f64) -> String {
    if ns < 100.0 { format!("{ns:.1} ns") } else { time(ns) }
}

impl Row {
    fn ns(what: impl Into<String>, ns: Figure) -> Self {
        Self { what: what.into(), value: Value::Ns(ns), floor: None, goal: Goal::None }
    }

    fn mops(what: impl Into<String>, mops: Figure) -> Self {
        Self { what: what.into(), value: Value::Mops(mops), floor: None, goal: Goal::None }
    }

    fn over(mut self, floor: &'static str, ns: Figure) -> Self {
        self.floor = Some((floor, ns));
        self
    }

    fn goal(mut self, goal: Goal) -> Self {
        self.goal = goal;
        self
    }

    /// How many times its floor the figure is.
    fn ratio(&self) -> Figure {
        Some(self.value.each_ns()? / self.floor?.1?)
    }

    /// Whether the goal is met, where both are known.
    fn met(&self) -> Option<bool> {
        match self.goal {
            Goal::None => None,
            Goal::AtMostTimes(goal) => self.ratio().map(|ratio| ratio <= goal),
            Goal::TimesFaster(goal) => self.ratio().map(|ratio| 1.0 / ratio >= goal),
            Goal::AtMostNs(goal) => self.value.each_ns().map(|ns| ns <= goal),
            Goal::AtLeastMops(goal) => self.value.each_ns().map(|ns| 1000.0 / ns >= goal),
        }
    }

    fn cells(&self) -> [String; 5] {
        let floor = self.floor.map(|(name, ns)| match ns {
            Some(ns) => format!("{}: {name}", short_time(ns)),
            None => format!("none: {name}"),
        });
        let faster = matches!(self.goal, Goal::TimesFaster(_));
        let ratio = self.ratio().map(|ratio| match faster {
            true => format!("{:.0}× faster", 1.0 / ratio),
            false => times(ratio),
        });
        let goal = match self.goal {
            Goal::None => String::new(),
            Goal::AtMostTimes(goal) => format!("at most {goal}×"),
            Goal::TimesFaster(goal) => format!("at least {goal}×"),
            Goal::AtMostNs(goal) => format!("at most {goal} ns"),
            Goal::AtLeastMops(goal) => format!("at least {goal} M/s"),
        };
        let missed = if self.met() == Some(false) { ", **missed**" } else { "" };
        let (floor, ratio) = (floor.unwrap_or_default(), ratio.unwrap_or_default());
        [self.what.clone(), self.value.shown(), floor, ratio, format!("{goal}{missed}")]
    }
}

fn markdown(text: &mut String, rows: &[Row]) {
    text.push_str("| what | figure | floor, same run | ratio | goal |\n|---|---|---|---|---|\n");
    for row in rows {
        let _ = writeln!(text, "| {} |", row.cells().join(" | "));
    }
    text.push('\n');
}

fn device_rows(measured: &Measured) -> Vec<Row> {
    let lines = &measured.lines;
    let shm = lines.shm.ns();
    let shm_4k = lines.shm_4k.ns();
    let (bare, copying) = ("bare shared-memory ping-pong of the same shape", "that, with 4 KiB");
    let half = Goal::AtMostTimes(1.5);
    vec![
        Row::ns("a command that moves no data (Flush), depth 1", lines.flush_1.ns())
            .over(bare, shm)
            .goal(half),
        Row::ns("the same, against IPC", lines.flush_1.ns())
            .over("Unix-socket ping-pong", lines.uds.ns())
            .goal(Goal::TimesFaster(30.0)),
        Row::mops("the same, depth 32", lines.flush_32.mops()).goal(Goal::AtLeastMops(6.0)),
        Row::ns("read of 4 KiB, depth 1", lines.read_1.ns()).over(copying, shm_4k).goal(half),
        Row::ns("the same as a future", lines.read_1_future.ns()).over(copying, shm_4k).goal(half),
        Row::mops("read of 4 KiB, depth 32", lines.read_32.mops())
            .over("one memcpy of 4 KiB", lines.memcpy.ns()),
    ]
}

fn peer_rows(measured: &Measured) -> Vec<Row> {
    let lines = &measured.lines;
    let kernel = "io_uring, O_DIRECT, same file";
    vec![
        Row::ns("read of 4 KiB of an image, depth 1", lines.image_1.ns())
            .over(kernel, lines.kernel_1.ns()),
        Row::mops("the same, depth 32", lines.image_32.mops())
            .over(kernel, lines.kernel_32.mops().map(|mops| 1000.0 / mops)),
        Row::ns("a command that moves no data (Flush), depth 1", lines.flush_1.ns())
            .over("io_uring no-op", lines.no_op_1.ns()),
        Row::mops("the same, depth 32", lines.flush_32.mops())
            .over("io_uring no-ops, 32 at a time", lines.no_op_32.ns()),
    ]
}

fn wait_rows(measured: &Measured) -> Vec<Row> {
    let lines = &measured.lines;
    let (name, eventfd) = ("eventfd to a task of the same runtime", lines.wake_eventfd.ns());
    vec![
        Row::ns("completion to task, parked (interrupt)", lines.wake_interrupt.ns())
            .over(name, eventfd)
            .goal(Goal::AtMostTimes(1.3)),
        Row::ns("completion to task, within the spin budget", lines.wake_hybrid.ns())
            .over(name, eventfd),
    ]
}

fn ring_rows(measured: &Measured) -> Vec<Row> {
    let lines = &measured.lines;
    let device = ("the device in that thread", lines.ring_device.ns());
    vec![
        Row::ns("submit and complete by callback, depth 32", lines.ring_direct.ns())
            .over(device.0, device.1)
            .goal(Goal::AtMostNs(20.0)),
        Row::ns("submit and complete as futures, depth 32", lines.ring_futures.ns())
            .over(device.0, device.1)
            .goal(Goal::AtMostNs(30.0)),
    ]
}

fn contention_rows(measured: &Measured) -> Vec<Row> {
    let mut rows = Vec::new();
    for (index, batch) in BATCHES.into_iter().enumerate() {
        let ns = |contender| measured.contended(contender, index).and_then(|at| at.ns);
        let floor = ns(Contender::FetchAdd);
        for (contender, _) in &measured.contended {
            let atomics = matches!(contender, Contender::FetchAdd | Contender::CompareExchange);
            if atomics && index > 0 {
                continue;
            }
            let flushed = match batch {
                _ if atomics => String::new(),
                1 => ", flushed each".to_owned(),
                _ => format!(", flushed by {batch}"),
            };
            let turns = measured.contended(*contender, index).and_then(|at| at.turns);
            let turns = turns.map_or(String::new(), |turns| format!(" ({turns:.2} turns)"));
            let what = format!("2 producers: {}{flushed}{turns}", contender.label());
            rows.push(Row::ns(what, ns(*contender)).over("contended fetch_add", floor));
        }
    }
    rows
}

/// Everything that was measured, to be read and to be pasted.
#[must_use]
pub fn text(measured: &Measured) -> String {
    let mut text = String::new();
    let place = match measured.placement {
        Some(Placement { client, device }) => {
            format!("client on core {client}, device on core {device}")
        }
        None => "client and device on the only core".to_owned(),
    };
    // Writing to a String cannot fail.
    let _ = writeln!(
        text,
        "Client process and software controller ({place}; {:.0} ns for reading the clock are in each \
         time):\n",
        measured.clock_ns
    );
    let device = device_rows(measured);
    markdown(&mut text, &device);
    text.push_str("Beside the kernel's own way:\n\n");
    markdown(&mut text, &peer_rows(measured));
    text.push_str("Waiting, under tokio-uring:\n\n");
    let wait = wait_rows(measured);
    markdown(&mut text, &wait);
    let (signals, commands) = measured.hybrid_signals;
    let _ =
        writeln!(text, "Within the spin budget {signals} interrupts for {commands} commands.\n");
    text.push_str("In one thread, and many producers on one queue (submitting only):\n\n");
    let ring = ring_rows(measured);
    let rings = [ring, contention_rows(measured)].concat();
    markdown(&mut text, &rings);
    instructions(&mut text, measured);
    scaling(&mut text, measured);
    let rows = device.iter().chain(&wait).chain(&rings);
    let missed = rows.filter(|row| row.met() == Some(false)).count();
    let counted = measured.instructions(SUBMIT_COMPLETE).is_some_and(|n| n > MOST_INSTRUCTIONS);
    let _ = match (missed, counted) {
        (0, false) => writeln!(text, "Every figure that was had is within its goal."),
        (0, true) => writeln!(text, "Every time is within its goal; the instructions are not."),
        _ => writeln!(text, "{missed} not within the goal: was the machine quiet?"),
    };
    text
}

fn instructions(text: &mut String, measured: &Measured) {
    let Some(counted) = &measured.instructions else {
        text.push_str("Instructions were not counted.\n\n");
        return;
    };
    text.push_str("| one operation | instructions | allocations |\n|---|---|---|\n");
    for (case, cost) in counted {
        let _ = writeln!(text, "| {case} | {:.1} | {:.1} |", cost.instructions, cost.allocations);
    }
    if let (Some(all), Some(device)) =
        (measured.instructions(SUBMIT_COMPLETE), measured.instructions(DEVICE_SHARE))
    {
        let own = all - device;
        let _ = writeln!(
            text,
            "\nSubmit and complete: {all:.0} instructions, of which {device:.0} are the device's and \
             {own:.0} the queue's; the goal is at most {MOST_INSTRUCTIONS:.0}.\n"
        );
    }
}

fn scaling(text: &mut String, measured: &Measured) {
    if let Some(points) = &measured.scaling {
        let points = points.iter().map(|point| (point.in_flight, point.ns_per_op));
        curve(text, "in flight", &points.collect::<Vec<_>>());
    }
    if let Some(points) = &measured.queues_per_poller {
        let points = points.iter().map(|point| (point.queues, point.ns_per_op));
        curve(text, "queues on one poller", &points.collect::<Vec<_>>());
    }
}

fn curve(text: &mut String, over: &str, points: &[(usize, f64)]) {
    let (numbers, costs): (Vec<_>, Vec<_>) =
        points.iter().map(|(number, ns)| (number.to_string(), format!("{ns:.1}"))).unzip();
    let _ = writeln!(
        text,
        "| {over} | {} |\n|---|{}\n| ns per operation | {} |\n",
        numbers.join(" | "),
        "---|".repeat(points.len()),
        costs.join(" | ")
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_has_figure_floor_ratio_and_goal() {
        let row = Row::ns("x", Some(230.0)).over("bare", Some(171.0));
        assert_eq!(
            row.clone().goal(Goal::AtMostTimes(1.5)).cells(),
            ["x", "230 ns", "171 ns: bare", "1.35×", "at most 1.5×"]
        );
        let row = row.goal(Goal::AtMostTimes(1.3));
        assert_eq!(row.cells()[4], "at most 1.3×, **missed**");
    }

    #[test]
    fn throughput_is_compared_by_the_time_of_one() {
        let row = Row::mops("x", Some(5.0)).over("copy", Some(100.0)).goal(Goal::AtLeastMops(6.0));
        assert_eq!((row.ratio(), row.met()), (Some(2.0), Some(false)));
        let faster = Row::ns("x", Some(10.0)).over("ipc", Some(1000.0));
        let faster = faster.goal(Goal::TimesFaster(30.0));
        assert_eq!((faster.met(), faster.cells()[3].as_str()), (Some(true), "100× faster"));
    }

    #[test]
    fn what_is_not_known_is_neither_met_nor_missed() {
        let row = Row::ns("x", None).over("bare", Some(1.0)).goal(Goal::AtMostNs(20.0));
        assert_eq!((row.ratio(), row.met()), (None, None));
        assert_eq!(row.cells(), ["x", "none", "1.0 ns: bare", "", "at most 20 ns"]);
    }
}
