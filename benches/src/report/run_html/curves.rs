//! The plots of a run.

use std::fmt::Write;

use super::super::chart::{Axis, Chart, Curve, Point, Scale, class_of};
use super::super::plots::percentile_curves;
use super::super::svg::escape;
use super::super::units::{count, round_time, time};
use super::{figure, section};
use crate::results::{FloorResult, Measurement, Mode, Results, What};
use crate::series::Series;

/// Curves in one plot; more are hard to tell apart.
const MOST_CURVES: usize = 9;

/// Loads that differ in their depth, or in their rate, only.
fn groups<'r>(
    measurements: impl Iterator<Item = &'r Measurement>,
) -> Vec<(String, Vec<&'r Measurement>)> {
    let mut groups: Vec<(String, Vec<&Measurement>)> = Vec::new();
    for one in measurements {
        let name = group_name(&one.what);
        match groups.iter_mut().find(|(had, _)| *had == name) {
            Some((_, members)) => members.push(one),
            None => groups.push((name, vec![one])),
        }
    }
    groups
}

/// `read 4 KiB, interrupt, 2 clients`.
fn group_name(what: &What) -> String {
    let mut name = what.operation();
    if what.mode != Mode::Spin {
        let _ = write!(name, ", {}", what.mode);
    }
    if what.clients > 1 {
        let _ = write!(name, ", {} clients", what.clients);
    }
    name
}

/// Percentile curves: of closed loops beside the floors, of open loops by what varies the rate.
pub(super) fn percentiles(body: &mut String, results: &Results) {
    let mut text = String::new();
    let closed: Vec<&Measurement> = results.closed().collect();
    for part in closed.chunks(MOST_CURVES) {
        curves_of(&mut text, "closed loops", part, &results.floors);
    }
    for (name, members) in groups(results.open()) {
        for part in members.chunks(MOST_CURVES) {
            curves_of(&mut text, &format!("{name}, open loops"), part, &[]);
        }
    }
    if !text.is_empty() {
        text.insert_str(
            0,
            "<p>How slow the slowest are: read a curve at p99 for what 99 of 100 operations did not \
             exceed. Both scales are logarithmic.</p>\n",
        );
    }
    section(body, "Percentiles", &text);
}

fn curves_of(text: &mut String, heading: &str, part: &[&Measurement], floors: &[FloorResult]) {
    let names: Vec<String> = part.iter().map(|one| one.what.name()).collect();
    let classes: Vec<String> = (0..part.len()).map(class_of).collect();
    let mut lines: Vec<(&str, &str, &Series)> = names
        .iter()
        .zip(&classes)
        .zip(part)
        .map(|((name, class), one)| (name.as_str(), class.as_str(), &one.outcome.response))
        .collect();
    let styles = ["floor f0", "floor f1", "floor f2", "floor f3"].into_iter().cycle();
    lines.extend(
        floors.iter().zip(styles).map(|(floor, class)| (floor.name.as_str(), class, &floor.series)),
    );
    if let Some(plot) = percentile_curves(&lines) {
        let _ = writeln!(text, "<h3>{}</h3>", escape(heading));
        text.push_str(&figure("", &plot));
    }
}

/// Closed loops: operations per second over the depth.
pub(super) fn throughput(body: &mut String, results: &Results) {
    let groups = groups(results.closed());
    if groups.iter().all(|(_, members)| members.len() < 2) {
        return;
    }
    let mut text = String::new();
    for part in groups.chunks(MOST_CURVES) {
        let curve = |(at, (name, members)): (usize, &(String, Vec<&Measurement>))| {
            let point = |one: &&Measurement| Point {
                x: f64::from(one.what.depth),
                y: one.iops(),
                hollow: false,
                tip: format!("{}: {}/s", one.what.name(), count(one.iops())),
            };
            let mut points: Vec<Point> = members.iter().map(point).collect();
            points.sort_by(|one, two| one.x.total_cmp(&two.x));
            Curve { name: name.clone(), class: class_of(at), points }
        };
        let curves: Vec<Curve> = part.iter().enumerate().map(curve).collect();
        let mut ticks: Vec<f64> =
            curves.iter().flat_map(|curve| curve.points.iter().map(|point| point.x)).collect();
        ticks.sort_by(f64::total_cmp);
        ticks.dedup();
        let chart = Chart {
            label: "Operations per second over queue depth".to_owned(),
            x: Axis {
                title: "queue depth: operations in flight, of each client".to_owned(),
                scale: Scale::Log,
                label: |depth| format!("{depth:.0}"),
                ticks,
            },
            y: Axis {
                title: "operations per second".to_owned(),
                scale: Scale::Linear,
                label: count,
                ticks: Vec::new(),
            },
            curves,
        };
        text.push_str(&chart.draw().map(|plot| figure("", &plot)).unwrap_or_default());
    }
    section(body, "Throughput over queue depth", &text);
}

/// Open loops: latency over the rate.
pub(super) fn load(body: &mut String, results: &Results) {
    let mut text = String::new();
    for (name, mut members) in groups(results.open()) {
        let rate = |one: &Measurement| one.what.offered.map_or(0.0, |offered| offered.rate);
        members.sort_by(|one, two| rate(one).total_cmp(&rate(two)));
        let curve = |label: &str, class: String, of: &dyn Fn(&Measurement) -> Option<u64>| {
            let point = |one: &&Measurement| {
                let ns = of(one)? as f64;
                let tip = format!("{label} at {}/s: {}", count(rate(one)), time(ns));
                Some(Point { x: rate(one), y: ns, hollow: one.outcome.is_saturated(), tip })
            };
            let points = members.iter().filter_map(point).collect();
            Curve { name: label.to_owned(), class, points }
        };
        let quantile =
            |share: f64| move |one: &Measurement| Some(one.outcome.response.quantile_ns(share));
        let service = |one: &Measurement| Some(one.outcome.service.as_ref()?.quantile_ns(0.99));
        let curves = vec![
            curve("p50", class_of(0), &quantile(0.5)),
            curve("p99", class_of(1), &quantile(0.99)),
            curve("p99.9", class_of(3), &quantile(0.999)),
            curve("p99 from its start", "quietly".to_owned(), &service),
        ];
        let chart = Chart {
            label: format!("Latency over offered load: {name}"),
            x: Axis {
                title: "offered load: arrivals per second, of all clients".to_owned(),
                scale: Scale::Linear,
                label: count,
                ticks: Vec::new(),
            },
            y: Axis {
                title: "latency from the intended arrival".to_owned(),
                scale: Scale::Log,
                label: round_time,
                ticks: Vec::new(),
            },
            curves,
        };
        if let Some(plot) = chart.draw() {
            let _ = writeln!(text, "<h3>{}</h3>", escape(&name));
            text.push_str(&figure("", &plot));
        }
    }
    if !text.is_empty() {
        text.insert_str(
            0,
            "<p>Open loop: operations arrive at a given rate whatever the device does, and wait if no \
             slot is free. Rings are saturated: more arrived than was served, and the latencies are \
             those of a queue that grows for as long as the run lasts. The dashed line leaves out the \
             wait before the start, as a program sees that stops asking while it waits.</p>\n",
        );
    }
    section(body, "Latency over offered load", &text);
}

/// CPU time per operation of every load.
pub(super) fn cpu(body: &mut String, results: &Results) {
    let rows: Vec<super::bars::Row> = results
        .results
        .iter()
        .map(|one| {
            let (client, device) = one.cpu_per_operation();
            super::bars::Row { name: one.what.name(), client, device }
        })
        .collect();
    let text = "CPU time per operation. Client: all clients' processes (for a device in the same \
                process, the thread that runs the load). Device: the broker's process with the \
                software device in it, or the other threads; a device that looks for work all the \
                time uses its core whether it is asked or not.";
    let plots: String =
        rows.chunks(24).filter_map(super::bars::draw).map(|plot| figure("", &plot)).collect();
    if !plots.is_empty() {
        section(body, "CPU time per operation", &format!("<p>{text}</p>\n{plots}"));
    }
}
