//! One line per load, for spreadsheets and scripts.

use std::fmt::Write;

use super::{Measurement, Results};

/// Columns, in order. Times are nanoseconds; what does not apply is empty.
const HEAD: &str = "device,namespace,mix,block,depth,mode,clients,offered_per_s,arrivals,operations,\
unserved,saturated,seconds,iops,bytes_per_s,mean_ns,p50_ns,p90_ns,p99_ns,p999_ns,p9999_ns,max_ns,\
client_cpu_ns_per_op,device_cpu_ns_per_op,fairness,floor,floor_p50_ns,ratio";

/// The loads of a run as CSV (RFC 4180 quoting, lines ended by a line feed). Without histograms and
/// rounds, which JSON has.
#[must_use]
pub fn to_csv(results: &Results) -> String {
    let mut text = format!("{HEAD}\n");
    for one in &results.results {
        line(&mut text, results, one);
    }
    text
}

fn line(text: &mut String, results: &Results, one: &Measurement) {
    let (what, latency) = (&one.what, one.outcome.response.percentiles());
    let (client, device) = one.cpu_per_operation();
    let floor = results.floor_of(one);
    let number = |value: Option<f64>| value.map(|value| format!("{value:.3}")).unwrap_or_default();
    let pattern = what.offered.map(|offered| format!("{:?}", offered.pattern).to_lowercase());
    let cells = [
        quoted(&results.device),
        results.namespace.to_string(),
        quoted(&what.mix),
        what.block.to_string(),
        what.depth.to_string(),
        what.mode.word().to_owned(),
        what.clients.to_string(),
        number(what.offered.map(|offered| offered.rate)),
        pattern.unwrap_or_default(),
        one.completed().to_string(),
        one.outcome.unserved.to_string(),
        one.outcome.is_saturated().to_string(),
        format!("{:.6}", one.outcome.response.elapsed().as_secs_f64()),
        number(Some(one.iops())),
        number(Some(one.bytes_per_second())),
        number(Some(latency.mean_ns)),
        latency.p50_ns.to_string(),
        latency.p90_ns.to_string(),
        latency.p99_ns.to_string(),
        latency.p999_ns.to_string(),
        latency.p9999_ns.to_string(),
        latency.max_ns.to_string(),
        number(Some(client)),
        number(device),
        number(one.fairness()),
        floor.map(|floor| quoted(&floor.name)).unwrap_or_default(),
        floor.map(|floor| floor.p50_ns().to_string()).unwrap_or_default(),
        number(results.ratio(one)),
    ];
    // Writing to a String cannot fail.
    let _ = writeln!(text, "{}", cells.join(","));
}

/// A text with a comma, a quote or a line break stands in quotes.
fn quoted(text: &str) -> String {
    if text.contains([',', '"', '\n', '\r']) {
        format!("\"{}\"", text.replace('"', "\"\""))
    } else {
        text.to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::sample;
    use super::*;

    /// The cells of a line.
    fn cells(line: &str) -> Vec<String> {
        let (mut cells, mut inside) = (vec![String::new()], false);
        for letter in line.chars() {
            match letter {
                '"' => inside = !inside,
                ',' if !inside => cells.push(String::new()),
                other => cells.last_mut().unwrap().push(other),
            }
        }
        cells
    }

    #[test]
    fn every_load_is_a_line_with_every_column() {
        let results = sample();
        let text = to_csv(&results);
        let lines: Vec<Vec<String>> = text.lines().map(cells).collect();
        assert_eq!(lines.len(), 1 + results.results.len());
        let column = |name: &str| lines[0].iter().position(|head| head == name).unwrap();
        for (line, one) in lines[1..].iter().zip(&results.results) {
            assert_eq!(line.len(), lines[0].len());
            assert_eq!(line[column("device")], results.device);
            let latency = one.outcome.response.percentiles();
            assert_eq!(line[column("p999_ns")], latency.p999_ns.to_string());
            assert_eq!(line[column("operations")], one.completed().to_string());
            assert_eq!(line[column("offered_per_s")].is_empty(), one.what.offered.is_none());
            assert_eq!(line[column("ratio")].is_empty(), one.floor.is_none());
        }
    }
}
