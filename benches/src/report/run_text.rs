//! A run as text for a terminal: at most 80 columns, no colours.

use std::fmt::Write;

use super::terminal::{WIDTH, histogram};
use super::units::{bytes, change, count, percent, time, times};
use crate::results::{Comparison, FloorResult, Measurement, Results};
use crate::series::Series;

/// So many histograms help; more are a wall.
const FEW: usize = 4;

/// Tables of all figures, beside their floors; of the comparison, if there is one; and, for a few
/// loads, their histograms.
#[must_use]
pub fn run_text(results: &Results, comparison: Option<&Comparison>) -> String {
    let mut text = String::new();
    latencies(&mut text, results);
    tails(&mut text, results);
    for one in &results.results {
        clients(&mut text, one);
    }
    notes(&mut text, results);
    if let Some(comparison) = comparison {
        compared(&mut text, comparison);
    }
    if results.results.len() <= FEW {
        for one in &results.results {
            text.push('\n');
            text.push_str(&histogram(&one.what.name(), &one.outcome.response));
        }
    }
    text
}

/// A name, and cells of 8 columns each. A name that is too long has a line of its own.
fn line(text: &mut String, name: &str, cells: &[String]) {
    const NAME: usize = 27;
    let mut row = format!("{name:<NAME$}");
    if name.chars().count() > NAME {
        text.push_str(&row);
        text.push('\n');
        row = " ".repeat(NAME);
    }
    for cell in cells {
        // Writing to a String cannot fail.
        let _ = write!(row, "{cell:>8} ");
    }
    text.push_str(row.trim_end());
    text.push('\n');
}

fn heads(text: &mut String, names: [&str; 6]) {
    line(text, "", &names.map(str::to_owned));
}

fn latencies(text: &mut String, results: &Results) {
    heads(text, ["p50", "p99", "p99.9", "IOPS", "floor", "ratio"]);
    let cells = |series: &Series, iops: f64, floor: Option<&FloorResult>, ratio: Option<f64>| {
        let latency = series.latency();
        [
            time(latency.p50_ns as f64),
            time(latency.p99_ns as f64),
            time(latency.p999_ns as f64),
            count(iops),
            floor.map(|floor| time(floor.p50_ns() as f64)).unwrap_or_default(),
            ratio.map(times).unwrap_or_default(),
        ]
    };
    for floor in &results.floors {
        let series = &floor.series;
        line(text, &floor.name, &cells(series, series.latency().iops, None, None));
    }
    if !results.floors.is_empty() {
        text.push_str(&"─".repeat(WIDTH));
        text.push('\n');
    }
    for one in &results.results {
        let (floor, ratio) = (results.floor_of(one), results.ratio(one));
        line(text, &one.what.name(), &cells(&one.outcome.response, one.iops(), floor, ratio));
    }
}

fn tails(text: &mut String, results: &Results) {
    text.push('\n');
    heads(text, ["mean", "p90", "p99.99", "max", "CPU/IO", "device"]);
    for one in &results.results {
        let latency = one.outcome.response.percentiles();
        let (client, device) = one.cpu_per_operation();
        let cells = [
            time(latency.mean_ns),
            time(latency.p90_ns as f64),
            time(latency.p9999_ns as f64),
            time(latency.max_ns as f64),
            time(client),
            device.map(time).unwrap_or_default(),
        ];
        line(text, &one.what.name(), &cells);
    }
    let moved: u64 = results.results.iter().map(|one| one.outcome.response.bytes()).sum();
    let _ = writeln!(
        text,
        "\nCPU/IO: CPU time of the clients per operation; device: the same of the device.\n\
         {} moved.",
        bytes(moved)
    );
}

fn clients(text: &mut String, one: &Measurement) {
    let Some(fairness) = one.fairness() else { return };
    let _ = writeln!(text, "\n{}: each client (fairness {fairness:.3})", one.what.name());
    heads(text, ["p50", "p99", "p99.9", "IOPS", "share", ""]);
    let all = one.completed().max(1) as f64;
    for (at, share) in one.shares.iter().enumerate() {
        let latency = share.latency();
        let cells = [
            time(latency.p50_ns as f64),
            time(latency.p99_ns as f64),
            time(latency.p999_ns as f64),
            count(latency.iops),
            percent(share.operations() as f64 / all),
        ];
        line(text, &format!("  client {}", at + 1), &cells);
    }
}

fn notes(text: &mut String, results: &Results) {
    for one in results.open().filter(|one| one.outcome.is_saturated()) {
        let offered = one.what.offered.map_or(0.0, |offered| offered.rate);
        let _ = writeln!(
            text,
            "Saturated: {} was offered {}/s and served {}/s.\n  {} arrivals were never started; the \
             latencies grow with the run's length.",
            one.what.operation(),
            count(offered),
            count(one.iops()),
            count(one.outcome.unserved as f64)
        );
    }
}

fn compared(text: &mut String, comparison: &Comparison) {
    let (better, worse) = comparison.counts();
    let _ = writeln!(
        text,
        "\nAgainst the old run: {better} better, {worse} worse, of {} figures",
        comparison.changes.len()
    );
    for note in &comparison.notes {
        let _ = writeln!(text, "  {note}");
    }
    let mut last = "";
    for one in &comparison.changes {
        if one.name != last {
            last = &one.name;
            let _ = writeln!(text, "{last}");
        }
        let show = |value: f64| if one.figure.is_time() { time(value) } else { count(value) };
        let by = if one.by_floor { " (by floor)" } else { "" };
        let _ = writeln!(
            text,
            "  {:<8}{:>10} -> {:>9}{:>10}  {}{by}",
            one.figure.label(),
            show(one.old),
            show(one.new),
            one.share().map(change).unwrap_or_default(),
            one.verdict.label(),
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::results::tests::{sample, slower};

    #[test]
    fn every_load_is_there_and_nothing_is_wider_than_a_terminal() {
        let results = sample();
        let comparison = Comparison::new(&results, &slower(&results, 1.0, 1.5));
        let text = run_text(&results, Some(&comparison));
        for line in text.lines() {
            assert!(line.chars().count() <= WIDTH, "{} columns: {line}", line.chars().count());
        }
        for one in &results.results {
            assert!(text.matches(&one.what.name()).count() >= 3, "{}", one.what.name());
        }
        for part in ["Saturated: read 4 KiB", "worse", "+50.0 %", "fairness 1.000", "client 2"] {
            assert!(text.contains(part), "{part}: {text}");
        }
        assert!(!text.contains('█'), "too many loads for histograms");
    }

    #[test]
    fn a_few_loads_have_histograms() {
        let mut results = sample();
        results.results.truncate(2);
        assert!(run_text(&results, None).contains('█'));
    }
}
