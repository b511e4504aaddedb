//! Tables and histograms for a terminal: text of at most 80 columns, no colours.

use std::fmt::Write;

use super::units::{count, percent, time, times};
use super::{Kind, Report, Row};
use crate::series::Series;

/// Most columns of anything printed here.
pub const WIDTH: usize = 80;

/// Rows of a histogram.
const BARS: usize = 12;

/// The table: every row's percentiles, and beside each figure its floor and how many times that it
/// is.
#[must_use]
pub fn table(report: &Report) -> String {
    let mut text = String::new();
    let heads = ["p50", "p99", "p99.9", "IOPS", "floor", "ratio"];
    line(&mut text, "", heads.map(str::to_owned));
    for kind in [Kind::Floor, Kind::Figure] {
        for row in report.of_kind(kind) {
            line(&mut text, &row.name, cells(report, row));
        }
        if kind == Kind::Floor && report.of_kind(kind).next().is_some() {
            text.push_str(&"─".repeat(WIDTH));
            text.push('\n');
        }
    }
    text
}

fn cells(report: &Report, row: &Row) -> [String; 6] {
    let latency = row.series.latency();
    let floor = report.floor_of(row).map(|floor| time(floor.series.latency().p50_ns as f64));
    [
        time(latency.p50_ns as f64),
        time(latency.p99_ns as f64),
        time(latency.p999_ns as f64),
        count(latency.iops),
        floor.unwrap_or_default(),
        report.ratio(row).map(times).unwrap_or_default(),
    ]
}

fn line(text: &mut String, name: &str, cells: [String; 6]) {
    let [p50, p99, p999, iops, floor, ratio] = cells;
    let row = format!("{name:<25}{p50:>9}{p99:>9}{p999:>9}{iops:>9}{floor:>10}{ratio:>8}");
    text.push_str(row.trim_end());
    text.push('\n');
}

/// One bar of a histogram: `low..high` nanoseconds and how many operations took that long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bar {
    /// Shortest, in nanoseconds.
    pub low: u64,
    /// First that is too long, in nanoseconds; `u64::MAX` for the last bar.
    pub high: u64,
    /// How many.
    pub count: u64,
}

/// Cuts a series into about `bars` bars of equal ratio, from the fastest thousandth to the slowest
/// thousandth, which are part of the first and the last bar. Empty for an empty series.
#[must_use]
pub fn bars(series: &Series, bars: usize) -> Vec<Bar> {
    if series.operations() == 0 {
        return Vec::new();
    }
    let first = series.quantile_ns(0.001).max(1) as f64;
    let last = series.quantile_ns(0.999).max(2) as f64;
    // At least 2 % apart: finer is noise of the clock.
    let step = (last / first).powf(1.0 / bars as f64).max(1.02);
    let mut edges: Vec<u64> = Vec::with_capacity(bars + 1);
    let mut edge = first;
    while edges.len() < bars {
        let rounded = edge.round() as u64;
        if edges.last() != Some(&rounded) {
            edges.push(rounded);
        }
        if edge > last {
            break;
        }
        edge *= step;
    }
    let mut all: Vec<Bar> = edges
        .iter()
        .zip(edges.iter().skip(1).chain([&u64::MAX]))
        .map(|(low, high)| Bar { low: *low, high: *high, count: 0 })
        .collect();
    for (ns, count) in series.buckets() {
        // What is faster than the first edge belongs to the first bar.
        let at = all.iter().rposition(|bar| bar.low <= ns).unwrap_or(0);
        all[at].count += count;
    }
    all
}

/// A histogram of one series, on scales of equal ratio.
#[must_use]
pub fn histogram(title: &str, series: &Series) -> String {
    let bars = bars(series, BARS);
    let total = series.operations();
    let longest = bars.iter().map(|bar| bar.count).max().unwrap_or(0).max(1);
    let mut text = format!("{title} ({} operations)\n", count(total as f64));
    for bar in bars {
        let until = if bar.high == u64::MAX {
            format!("and up to {:>8}", time(series.slowest_ns() as f64))
        } else {
            format!("to {:>8}", time(bar.high as f64))
        };
        let share = percent(bar.count as f64 / total as f64);
        let cells = WIDTH - 12 - 20 - 11;
        // Writing to a String cannot fail.
        let _ = writeln!(
            text,
            "  {:>8} {until:<20} {share:>8} {}",
            time(bar.low as f64),
            blocks(bar.count as f64 / longest as f64, cells)
        );
    }
    text
}

/// A bar of up to `cells` characters, to an eighth of one. What is not nothing is visible.
fn blocks(share: f64, cells: usize) -> String {
    const EIGHTHS: [&str; 8] = ["", "▏", "▎", "▍", "▌", "▋", "▊", "▉"];
    let eighths = (share * cells as f64 * 8.0).round() as usize;
    let eighths = if share > 0.0 { eighths.max(1) } else { 0 };
    format!("{}{}", "█".repeat(eighths / 8), EIGHTHS[eighths % 8])
}

#[cfg(test)]
mod tests {
    use super::super::tests::{sample, series};
    use super::*;

    #[test]
    fn nothing_is_wider_than_a_terminal_or_coloured() {
        let report = sample();
        let mut text = table(&report);
        text.push_str(&histogram("flush, QD 1", &report.rows[3].series));
        for line in text.lines() {
            assert!(line.chars().count() <= WIDTH, "{} columns: {line}", line.chars().count());
        }
        assert!(!text.contains('\x1b'));
    }

    #[test]
    fn a_figure_stands_beside_its_floor() {
        let report = sample();
        let text = table(&report);
        let flush = text.lines().find(|line| line.starts_with("flush")).unwrap();
        assert!(flush.contains("1.3") && flush.ends_with('×'), "{flush}");
        let floor = time(report.rows[0].series.latency().p50_ns as f64);
        assert!(flush.contains(&floor), "{flush}");
    }

    #[test]
    fn bars_hold_every_operation() {
        for typical in [3, 130, 9_000, 2_000_000] {
            let series = series(typical);
            let bars = bars(&series, 12);
            assert_eq!(bars.iter().map(|bar| bar.count).sum::<u64>(), series.operations());
            assert!(bars.windows(2).all(|pair| pair[0].high == pair[1].low));
            assert!((2..=12).contains(&bars.len()), "{}", bars.len());
        }
        assert!(bars(&Series::new().unwrap(), 12).is_empty());
    }

    #[test]
    fn one_value_is_one_visible_bar() {
        let mut series = Series::new().unwrap();
        series.record(100);
        assert!(histogram("one", &series).contains('█'));
        assert_eq!(blocks(0.000_1, 10), "▏");
        assert_eq!(blocks(0.0, 10), "");
        assert_eq!(blocks(1.0, 3), "███");
    }
}
