//! A run as one page that needs nothing else: see [`super::html`] for its rules.

use std::fmt::Write;

use super::chart::{Axis, Chart, Curve, Point, Scale, class_of};
use super::html::document;
use super::plots::percentile_curves;
use super::svg::escape;
use super::units::{bytes, change, count, percent, round_time, time, times};
use crate::results::{Change, Comparison, FloorResult, Measurement, Mode, Results, Verdict, What};
use crate::series::Series;

mod bars;

/// Curves in one plot; more are hard to tell apart.
const MOST_CURVES: usize = 6;

/// The page.
#[must_use]
pub fn run_page(results: &Results, comparison: Option<&Comparison>) -> String {
    let mut body = format!(
        "<h1>Doorbell bench</h1>\n<p class=\"summary\">Latency, throughput and CPU time of {}, \
         namespace {}.</p>\n",
        escape(&results.device),
        results.namespace
    );
    latencies(&mut body, results);
    rates(&mut body, results);
    if let Some(comparison) = comparison {
        compared(&mut body, comparison);
    }
    percentiles(&mut body, results);
    throughput(&mut body, results);
    load(&mut body, results);
    cpu(&mut body, results);
    clients(&mut body, results);
    machine(&mut body, results);
    notes(&mut body, results);
    document("Doorbell bench", &body)
}

/// A section with a heading; nothing if it has no content.
fn section(body: &mut String, heading: &str, content: &str) {
    if !content.is_empty() {
        // Writing to a String cannot fail.
        let _ = writeln!(body, "<section class=\"long\">\n<h2>{heading}</h2>\n{content}</section>");
    }
}

fn figure(text: &str, plot: &str) -> String {
    let caption =
        if text.is_empty() { String::new() } else { format!("<figcaption>{text}</figcaption>\n") };
    format!("<figure>\n{caption}{plot}</figure>\n")
}

/// A table from its headings and its rows, which are markup already.
fn table(label: &str, heads: &[&str], rows: &str) -> String {
    let heads: String = heads.iter().map(|head| format!("<th scope=\"col\">{head}</th>")).collect();
    format!(
        "<div class=\"scroll wide\"><table aria-label=\"{label}\">\n<thead><tr><td></td>{heads}</tr>\
         </thead>\n{rows}</table></div>\n"
    )
}

fn row(name: &str, mark: &str, cells: &[String]) -> String {
    let cells: String = cells.iter().map(|cell| format!("<td>{cell}</td>")).collect();
    let mark = if mark.is_empty() {
        String::new()
    } else {
        format!(" <span class=\"mark\">{mark}</span>")
    };
    format!("<tr><th scope=\"row\">{}{mark}</th>{cells}</tr>\n", escape(name))
}

fn bodies(floors: &str, figures: &str) -> String {
    let part = |class: &str, rows: &str| match rows {
        "" => String::new(),
        rows => format!("<tbody class=\"{class}\">\n{rows}</tbody>\n"),
    };
    part("floors", floors) + &part("figures", figures)
}

fn mark(one: &Measurement) -> &'static str {
    if one.outcome.is_saturated() { "saturated" } else { "" }
}

fn latencies(body: &mut String, results: &Results) {
    let cells = |series: &Series, floor: Option<&FloorResult>, ratio: Option<f64>| {
        let all = series.percentiles();
        let whole = [all.p50_ns, all.p90_ns, all.p99_ns, all.p999_ns, all.p9999_ns, all.max_ns];
        let mut cells: Vec<String> = whole.iter().map(|ns| time(*ns as f64)).collect();
        cells.insert(0, time(all.mean_ns));
        cells.push(floor.map(|floor| time(floor.p50_ns() as f64)).unwrap_or_default());
        cells.push(ratio.map(times).unwrap_or_default());
        cells
    };
    let floors: String = results
        .floors
        .iter()
        .map(|floor| row(&floor.name, "", &cells(&floor.series, None, None)))
        .collect();
    let figures: String = results
        .results
        .iter()
        .map(|one| {
            let cells = cells(&one.outcome.response, results.floor_of(one), results.ratio(one));
            row(&one.what.name(), mark(one), &cells)
        })
        .collect();
    let heads = ["mean", "p50", "p90", "p99", "p99.9", "p99.99", "max", "floor p50", "ratio"];
    let text = table("Latency of each load", &heads, &bodies(&floors, &figures));
    section(body, "Latency", &text);
}

fn rates(body: &mut String, results: &Results) {
    let line = |one: &Measurement| {
        let (client, device) = one.cpu_per_operation();
        let offered = one.what.offered.map(|offered| format!("{}/s", count(offered.rate)));
        let cells = [
            offered.unwrap_or_default(),
            format!("{}/s", count(one.iops())),
            format!("{}/s", bytes(one.bytes_per_second() as u64)),
            count(one.completed() as f64),
            count(one.outcome.unserved as f64),
            time(client),
            device.map(time).unwrap_or_default(),
        ];
        row(&one.what.name(), mark(one), &cells)
    };
    let rows: String = results.results.iter().map(line).collect();
    let heads = ["offered", "served", "data", "operations", "unserved", "CPU/IO", "device CPU/IO"];
    let text = table("Throughput and CPU time of each load", &heads, &bodies("", &rows));
    section(body, "Throughput and CPU time", &text);
}

fn compared(body: &mut String, comparison: &Comparison) {
    let (better, worse) = comparison.counts();
    let of = comparison.changes.len();
    let mut text = format!(
        "<p>{better} figures are better and {worse} worse, of {of}. A figure has changed if no round \
         of one run lies among the rounds of the other, and by more than 2 %. Times marked with \
         ÷ are judged as multiples of their floor in the same round; the others must also have \
         changed by more than any floor did.</p>\n"
    );
    for note in &comparison.notes {
        let _ = writeln!(text, "<p>{}</p>", escape(note));
    }
    let mut rows = String::new();
    for (name, old, new) in &comparison.floors {
        let share = if *old > 0.0 { change(new / old - 1.0) } else { String::new() };
        let cells = ["p50".to_owned(), time(*old), time(*new), share, String::new()];
        rows.push_str(&row(name, "floor", &cells));
    }
    let mut all = bodies(&rows, "");
    for load in comparison.changes.chunk_by(|one, two| one.name == two.name) {
        all.push_str("<tbody class=\"load\">\n");
        load.iter().enumerate().for_each(|(at, one)| all.push_str(&change_row(one, at == 0)));
        all.push_str("</tbody>\n");
    }
    text.push_str(&table("Old run and new run", &["figure", "old", "new", "change", ""], &all));
    section(body, "Against the old run", &text);
}

fn change_row(one: &Change, first: bool) -> String {
    let show = |value: f64| if one.figure.is_time() { time(value) } else { count(value) };
    let class = match one.verdict {
        Verdict::Better => "better",
        Verdict::Worse => "worse",
        Verdict::Noise => "noise",
        Verdict::TooFew => "few",
    };
    let name = if first { escape(&one.name) } else { String::new() };
    let by = if one.by_floor { " ÷" } else { "" };
    format!(
        "<tr><th scope=\"row\">{name}</th><td>{}{by}</td><td>{}</td><td>{}</td><td>{}</td>\
         <td class=\"{class}\">{}</td></tr>\n",
        one.figure.label(),
        show(one.old),
        show(one.new),
        one.share().map(change).unwrap_or_default(),
        one.verdict.label()
    )
}

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

fn percentiles(body: &mut String, results: &Results) {
    let mut text = String::new();
    for (kind, heading) in [(false, "closed loop"), (true, "open loop")] {
        let wanted = results.results.iter().filter(|one| one.what.offered.is_some() == kind);
        let all: Vec<&Measurement> = wanted.collect();
        for part in all.chunks(MOST_CURVES) {
            let names: Vec<String> = part.iter().map(|one| one.what.name()).collect();
            let classes: Vec<String> = (0..part.len()).map(class_of).collect();
            let mut lines: Vec<(&str, &str, &Series)> = names
                .iter()
                .zip(&classes)
                .zip(part)
                .map(|((name, class), one)| (name.as_str(), class.as_str(), &one.outcome.response))
                .collect();
            let styles = ["floor f0", "floor f1", "floor f2", "floor f3"];
            if !kind {
                let floors = results.floors.iter().zip(styles);
                lines.extend(
                    floors.map(|(floor, class)| (floor.name.as_str(), class, &floor.series)),
                );
            }
            if let Some(plot) = percentile_curves(&lines) {
                let _ = writeln!(text, "<h3>{heading}</h3>");
                text.push_str(&figure("", &plot));
            }
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

fn throughput(body: &mut String, results: &Results) {
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

fn load(body: &mut String, results: &Results) {
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

fn cpu(body: &mut String, results: &Results) {
    let rows: Vec<bars::Row> = results
        .results
        .iter()
        .map(|one| {
            let (client, device) = one.cpu_per_operation();
            bars::Row { name: one.what.name(), client, device }
        })
        .collect();
    let text = "CPU time per operation. Client: all clients' processes (for a device in the same \
                process, the thread that runs the load). Device: the broker's process with the \
                software device in it, or the other threads; a device that looks for work all the \
                time uses its core whether it is asked or not.";
    let plots: String =
        rows.chunks(24).filter_map(bars::draw).map(|plot| figure("", &plot)).collect();
    if !plots.is_empty() {
        section(body, "CPU time per operation", &format!("<p>{text}</p>\n{plots}"));
    }
}

fn clients(body: &mut String, results: &Results) {
    let mut text = String::new();
    for one in &results.results {
        let Some(fairness) = one.fairness() else { continue };
        let all = one.completed().max(1) as f64;
        let line = |(at, share): (usize, &Series)| {
            let latency = share.percentiles();
            let cells = [
                percent(share.operations() as f64 / all),
                format!("{}/s", count(share.latency().iops)),
                time(latency.p50_ns as f64),
                time(latency.p99_ns as f64),
                time(latency.p999_ns as f64),
                time(latency.max_ns as f64),
            ];
            row(&format!("client {}", at + 1), "", &cells)
        };
        let rows: String = one.shares.iter().enumerate().map(line).collect();
        let heads = ["share", "served", "p50", "p99", "p99.9", "max"];
        let name = escape(&one.what.name());
        let table = table("Each client", &heads, &bodies("", &rows));
        let _ = writeln!(
            text,
            "<div class=\"client\"><h3>{name}: fairness {fairness:.3}</h3>\n{table}</div>"
        );
    }
    section(body, "Each client", &text);
}

fn machine(body: &mut String, results: &Results) {
    let machine = &results.machine;
    let unknown = |text: &str, otherwise: &str| match text {
        "" => otherwise.to_owned(),
        text => text.to_owned(),
    };
    let kind = if machine.is_virtual { " (virtual machine)" } else { "" };
    let mut facts = vec![
        ("processor", unknown(&machine.cpu, "unknown") + kind),
        ("cores online", machine.cores.to_string()),
        ("kernel", unknown(&machine.kernel, "unknown")),
        ("frequency governor", unknown(&machine.governor, "none")),
    ];
    let moved: u64 = results.results.iter().map(|one| one.outcome.response.bytes()).sum();
    facts.push(("data moved", bytes(moved)));
    let more = results.facts.iter().map(|(name, value)| (name.as_str(), value.clone()));
    facts.extend(more);
    let mut text = String::from("<dl>\n");
    for (name, value) in facts {
        let (name, value) = (escape(name), escape(&value));
        let _ = writeln!(text, "<div><dt>{name}</dt><dd>{value}</dd></div>");
    }
    text.push_str("</dl>\n");
    section(body, "The run", &text);
}

fn notes(body: &mut String, results: &Results) {
    let mut notes = vec![
        "A floor is what this machine does at best: the same exchange over bare shared memory, or \
         over a Unix socket, measured in the same run. Compare ratios: absolute times move with the \
         machine.",
        "Closed loop (QD): each completion is followed at once by the next command. It finds the \
         most that the device can do, and hides stalls: while the device stands still it is asked \
         nothing.",
        "A read ends when its data was copied out of the buffer. Each latency includes a reading of \
         the clock.",
        "Figures of emulated devices say nothing about hardware.",
    ];
    if results.open().next().is_some() {
        notes.insert(
            2,
            "Open loop (at a rate): latency counts from the intended arrival, so a stall is seen by \
             everything that arrived during it. Arrivals that were never started count with how \
             long they had waited at the end.",
        );
    }
    let list: String = notes.iter().map(|note| format!("<li>{note}</li>\n")).collect();
    let _ = write!(
        body,
        "<section class=\"notes\">\n<h2>How to read this</h2>\n<ul>\n{list}</ul>\n</section>\n"
    );
}

#[cfg(test)]
mod tests;
