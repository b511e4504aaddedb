//! The plots of a report: medians beside their floors, percentile curves, histograms.

use super::chart::{WIDTH, legend, legend_height};
use super::svg::{Anchor, LogScale, Svg};
use super::terminal::bars;
use super::units::{percent, round_time, time, times};
use super::{Kind, Report, Row};
use crate::series::Series;

/// Colours there are; further rows begin again.
const COLOURS: usize = 4;

/// The class of a row's colour: its number among the rows of its kind.
fn colour(report: &Report, row: &Row) -> String {
    let number = report.of_kind(row.kind).position(|other| std::ptr::eq(other, row)).unwrap_or(0);
    match row.kind {
        Kind::Floor => format!("floor f{}", number % COLOURS),
        Kind::Figure => format!("figure c{}", number % COLOURS),
    }
}

/// Bars of the medians of all figures that have a floor, each above its floor's. `None` if there is
/// no such figure.
#[must_use]
pub fn medians(report: &Report) -> Option<String> {
    let pairs: Vec<(&Row, &Row)> = report
        .of_kind(Kind::Figure)
        .filter_map(|row| report.floor_of(row).map(|floor| (row, floor)))
        .collect();
    let p50 = |row: &Row| row.series.latency().p50_ns as f64;
    let goal = |row: &Row, floor: &Row| row.goal.map(|goal| goal * p50(floor));
    let most = pairs
        .iter()
        .flat_map(|(row, floor)| [p50(row), p50(floor), goal(row, floor).unwrap_or(0.0)])
        .fold(0.0, f64::max);
    if most <= 0.0 {
        return None;
    }
    let (left, right, group) = (160.0, 170.0, 66.0);
    let mut svg =
        Svg::new(WIDTH, group * pairs.len() as f64, "Medians of the figures beside their floors");
    let length = |ns: f64| ns / most * (WIDTH - left - right);
    let column = WIDTH - right + 18.0;
    for (at, (row, floor)) in pairs.iter().enumerate() {
        let top = at as f64 * group + 6.0;
        let (figure, least) = (p50(row), p50(floor));
        svg.text("label strong", (left - 12.0, top + 16.0), Anchor::End, &row.name);
        svg.text("label quiet", (left - 12.0, top + 40.0), Anchor::End, "floor");
        let tip = format!("{}: {}", row.name, time(figure));
        svg.bar(
            &format!("fill {}", colour(report, row)),
            (left, top),
            (length(figure), 22.0),
            &tip,
        );
        let tip = format!("{}: {}", floor.name, time(least));
        svg.bar("fill floor f0", (left, top + 25.0), (length(least), 22.0), &tip);
        if let Some(goal) = goal(row, floor) {
            let x = left + length(goal);
            svg.line("goal", (x, top - 3.0), (x, top + 50.0));
        }
        let ratio = report.ratio(row).map(times).unwrap_or_default();
        svg.text("label strong", (column + 62.0, top + 16.0), Anchor::End, &time(figure));
        svg.text("label strong", (column + 76.0, top + 16.0), Anchor::Start, &ratio);
        svg.text("label quiet", (column + 62.0, top + 40.0), Anchor::End, &time(least));
    }
    Some(svg.finish())
}

/// The share of operations that took longer, as a power of ten: 0 for all, 1 for a tenth, ...
fn nines(series: &Series, scale: impl Fn(f64) -> f64) -> Vec<(f64, u64)> {
    let total = series.operations() as f64;
    let mut seen = 0;
    let mut points: Vec<(f64, u64)> = Vec::new();
    for (ns, count) in series.buckets() {
        let before = seen as f64 / total;
        seen += count;
        // The step: from the share that was faster to the share that is at most as slow.
        for share in [before, seen as f64 / total] {
            // The slowest one is drawn where one operation of all is slower.
            let x = scale(-(1.0 - share).max(1.0 / total).log10());
            let far_enough = points.last().is_none_or(|(last, _)| x - last >= 1.0);
            if far_enough {
                points.push((x, ns));
            }
        }
    }
    if let Some(last) = points.last_mut() {
        last.1 = series.slowest_ns();
    }
    points
}

/// Percentile curves of every row: how slow the slowest tenth, hundredth, thousandth, ... are.
#[must_use]
pub fn percentiles(report: &Report) -> Option<String> {
    let classes: Vec<String> = report.rows.iter().map(|row| colour(report, row)).collect();
    let lines: Vec<(&str, &str, &Series)> = report
        .rows
        .iter()
        .zip(&classes)
        .map(|(row, class)| (row.name.as_str(), class.as_str(), &row.series))
        .collect();
    percentile_curves(&lines)
}

/// The same of any series, each with a name and the classes of its curve. Empty ones are left out;
/// `None` if all are.
#[must_use]
pub fn percentile_curves(lines: &[(&str, &str, &Series)]) -> Option<String> {
    let rows: Vec<_> = lines.iter().filter(|(_, _, series)| series.operations() > 0).collect();
    let all = || rows.iter().map(|(_, _, series)| series);
    let most = all().map(|series| series.operations()).max()? as f64;
    let fastest = all().map(|series| series.quantile_ns(0.001)).min()?.max(1) as f64;
    let slowest = all().map(|series| series.slowest_ns()).max()? as f64;
    let entries: Vec<(&str, &str)> = rows.iter().map(|(name, class, _)| (*name, *class)).collect();
    let names: Vec<&str> = entries.iter().map(|(name, _)| *name).collect();
    let (left, right) = (64.0, WIDTH - 12.0);
    let height = 412.0 + legend_height(&names);
    let mut svg =
        Svg::new(WIDTH, height, "Percentile curves: latency over the share of operations");
    let top = legend(&mut svg, &entries) + 26.0;
    svg.text("tick", (4.0, top - 10.0), Anchor::Start, "latency");
    let bottom = top + 336.0;
    // What is rarer than one in a million is beyond the edge: few were seen.
    let x_max = most.log10().clamp(2.0, 6.0).ceil();
    let x_of = |nines: f64| left + nines.min(x_max) / x_max * (right - left);
    let y = LogScale::new(fastest * 0.8, slowest * 1.1, bottom, top);
    for value in y.ticks(4) {
        let at = y.place(value);
        svg.line("grid", (left, at), (right, at));
        svg.text("tick", (left - 8.0, at + 4.0), Anchor::End, &round_time(value));
    }
    let names = ["", "p90", "p99", "p99.9", "p99.99", "p99.999", "p99.9999"];
    let half = (2.0_f64).log10();
    let marks = names.iter().enumerate().skip(1).map(|(nines, name)| (nines as f64, *name));
    for (nines, name) in [(half, "p50")].into_iter().chain(marks) {
        if nines <= x_max {
            let anchor = if nines < x_max { Anchor::Middle } else { Anchor::End };
            svg.line("grid", (x_of(nines), top), (x_of(nines), bottom));
            svg.text("tick", (x_of(nines), bottom + 20.0), anchor, name);
        }
    }
    let middle = f64::midpoint(left, right);
    let text = "share of operations at most this slow";
    svg.text("tick", (middle, bottom + 42.0), Anchor::Middle, text);
    for (_, class, series) in rows {
        let points: Vec<(f64, f64)> =
            nines(series, x_of).into_iter().map(|(x, ns)| (x, y.place(ns as f64))).collect();
        svg.path(&format!("curve {class}"), &points);
    }
    Some(svg.finish())
}

/// A histogram of one row, on a scale of equal ratio.
#[must_use]
pub fn histogram(report: &Report, row: &Row) -> Option<String> {
    let all = bars(&row.series, 32);
    let (first, last) = (all.first()?, all.last()?);
    let total = row.series.operations() as f64;
    let (left, right, top, bottom) = (2.0, 248.0, 46.0, 160.0);
    let x = LogScale::new(first.low as f64, last.low as f64 * 1.03, left, right);
    let most = all.iter().map(|bar| bar.count).max()?.max(1) as f64;
    let mut svg = Svg::new(250.0, 186.0, &format!("Histogram of {}", row.name));
    svg.text("label strong", (left, 14.0), Anchor::Start, &row.name);
    let class = format!("fill {}", colour(report, row));
    for bar in all.iter().filter(|bar| bar.count > 0) {
        let from = x.place(bar.low as f64);
        let to = if bar.high == u64::MAX { right } else { x.place(bar.high as f64) };
        let height = (bar.count as f64 / most * (bottom - top)).max(1.0);
        let size = ((to - from - 1.0).max(1.0), height);
        let range = if bar.high == u64::MAX {
            format!("{} and more", time(bar.low as f64))
        } else {
            format!("{} to {}", time(bar.low as f64), time(bar.high as f64))
        };
        let tip = format!("{range}: {}", percent(bar.count as f64 / total));
        svg.bar(&class, (from, bottom - height), size, &tip);
    }
    svg.line("axis", (left, bottom), (right, bottom));
    let mut free_from = left;
    for value in x.ticks(3) {
        let at = x.place(value).clamp(left + 20.0, right - 20.0);
        if at >= free_from {
            svg.line("axis", (x.place(value), bottom), (x.place(value), bottom + 4.0));
            svg.text("tick", (at, bottom + 20.0), Anchor::Middle, &round_time(value));
            free_from = at + 56.0;
        }
    }
    let p50 = x.place(row.series.latency().p50_ns as f64);
    svg.line("median", (p50, top - 14.0), (p50, bottom));
    let anchor = if p50 > right - 90.0 { Anchor::End } else { Anchor::Start };
    let shift = if anchor == Anchor::End { -4.0 } else { 4.0 };
    let text = format!("median {}", time(row.series.latency().p50_ns as f64));
    svg.text("tick", (p50 + shift, top - 4.0), anchor, &text);
    Some(svg.finish())
}

#[cfg(test)]
mod tests {
    use super::super::tests::sample;
    use super::*;

    #[test]
    fn every_row_has_a_curve_and_every_figure_a_histogram() {
        let report = sample();
        let curves = percentiles(&report).unwrap();
        assert_eq!(curves.matches("<path").count(), 2 * report.rows.len(), "with the legend");
        for row in &report.rows {
            assert!(histogram(&report, row).unwrap().contains("<rect"));
        }
        let bars = medians(&report).unwrap();
        assert_eq!(bars.matches("<rect").count(), 4);
        assert!(!curves.contains("NaN") && !bars.contains("NaN"));
    }

    #[test]
    fn nothing_measured_means_no_plot() {
        let report = Report::default();
        assert!(percentiles(&report).is_none() && medians(&report).is_none());
        let row = Row::figure("empty", Series::new().unwrap());
        assert!(histogram(&report, &row).is_none());
    }
}
