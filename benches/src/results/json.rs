//! Results as JSON, and back. What is read may come from anywhere: every number is checked, and the
//! percentiles are computed again from the histogram.
//!
//! ```json
//! { "schema": "doorbell-bench", "version": 2, "device": "...", "namespace": 1,
//!   "machine": { "cpu": "...", "cores": 2, "kernel": "...", "governor": "", "is_virtual": true },
//!   "facts": [ ["seed", "1"] ],
//!   "floors": [ { "key": "shm", "name": "...", "p50_ns": 170, ..., "histogram": "170:5 171:9" } ],
//!   "results": [ { "name": "read 4 KiB, QD 1", "depth": 1, ..., "histogram": "..." } ] }
//! ```
//!
//! A histogram is `latency:count` for each latency that occurred, in nanoseconds, ascending.

use std::fmt::Write;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{Cpu, FloorResult, Measurement, Results, Round, What};
use crate::load::Outcome;
use crate::machine::Machine;
use crate::series::{Percentiles, Series};

/// The word that a file of results begins with.
pub const SCHEMA: &str = "doorbell-bench";

/// The version of the schema. It changes when a field changes its meaning or goes.
pub const VERSION: u32 = 2;

/// More operations than any run has; sums of counts stay far from their limit.
const MOST: u64 = 1 << 50;

/// Why a text is no file of results.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BadJson(String);

impl std::fmt::Display for BadJson {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for BadJson {}

fn bad<T>(why: impl Into<String>) -> Result<T, BadJson> {
    Err(BadJson(why.into()))
}

#[derive(Serialize, Deserialize)]
struct File {
    schema: String,
    version: u32,
    device: String,
    namespace: u32,
    machine: Machine,
    facts: Vec<(String, String)>,
    floors: Vec<FileFloor>,
    results: Vec<FileResult>,
}

/// Enough of any version to tell what it is.
#[derive(Deserialize)]
struct Head {
    schema: Option<String>,
    version: Option<u32>,
}

#[derive(Serialize, Deserialize)]
struct FileFloor {
    key: String,
    name: String,
    #[serde(flatten)]
    series: FileSeries,
    rounds_p50_ns: Vec<f64>,
}

/// A series; the percentiles are for readers.
#[derive(Serialize, Deserialize)]
struct FileSeries {
    operations: u64,
    seconds: f64,
    bytes: u64,
    #[serde(flatten, skip_deserializing)]
    percentiles: Option<Percentiles>,
    histogram: String,
}

#[derive(Serialize, Deserialize)]
struct FileResult {
    #[serde(default)]
    name: String,
    #[serde(flatten)]
    what: What,
    #[serde(flatten)]
    response: FileSeries,
    #[serde(default)]
    iops: f64,
    completed: u64,
    unserved: u64,
    #[serde(default)]
    saturated: bool,
    scheduled_ns: u64,
    cpu: Cpu,
    #[serde(skip_deserializing)]
    cpu_per_operation: FileCpu,
    #[serde(skip_deserializing, skip_serializing_if = "Option::is_none")]
    fairness: Option<f64>,
    floor: Option<String>,
    #[serde(skip_deserializing)]
    floor_ns: Option<u64>,
    #[serde(skip_deserializing)]
    ratio: Option<f64>,
    service: Option<FileSeries>,
    rounds: Vec<Round>,
    clients_each: Vec<FileSeries>,
}

#[derive(Default, Serialize)]
struct FileCpu {
    client_ns: f64,
    device_ns: Option<f64>,
}

impl FileSeries {
    fn of(series: &Series) -> Self {
        let mut histogram = String::new();
        for (ns, count) in series.buckets() {
            let space = if histogram.is_empty() { "" } else { " " };
            // Writing to a String cannot fail.
            let _ = write!(histogram, "{space}{ns}:{count}");
        }
        Self {
            operations: series.operations(),
            seconds: series.elapsed().as_secs_f64(),
            bytes: series.bytes(),
            percentiles: Some(series.percentiles()),
            histogram,
        }
    }

    fn series(&self) -> Result<Series, BadJson> {
        let mut series = Series::new().map_err(|error| BadJson(error.to_string()))?;
        let mut sum = 0_u64;
        for part in self.histogram.split_whitespace() {
            let pair = part.split_once(':').and_then(|(ns, count)| {
                Some((ns.parse::<u64>().ok()?, count.parse::<u64>().ok()?))
            });
            let Some((ns, count)) = pair else {
                return bad("a histogram is no list of latency:count");
            };
            sum = sum.saturating_add(count);
            if sum > MOST {
                return bad("a histogram counts more operations than can be");
            }
            series.record_many(ns, count);
        }
        if sum != self.operations || self.bytes > 1 << 60 {
            return bad("a histogram does not count what `operations` says");
        }
        // A year; and not a NaN.
        if !(0.0..3.2e7).contains(&self.seconds) {
            return bad("`seconds` is no possible time");
        }
        series.extend(Duration::from_secs_f64(self.seconds), self.bytes);
        Ok(series)
    }
}

impl FileResult {
    fn of(results: &Results, one: &Measurement) -> Self {
        let (client_ns, device_ns) = one.cpu_per_operation();
        Self {
            name: one.what.name(),
            what: one.what.clone(),
            response: FileSeries::of(&one.outcome.response),
            iops: one.iops(),
            completed: one.completed(),
            unserved: one.outcome.unserved,
            saturated: one.outcome.is_saturated(),
            scheduled_ns: one.outcome.scheduled_ns,
            cpu: one.cpu,
            cpu_per_operation: FileCpu { client_ns, device_ns },
            fairness: one.fairness(),
            floor: one.floor.clone(),
            floor_ns: results.floor_of(one).map(FloorResult::p50_ns),
            ratio: results.ratio(one),
            service: one.outcome.service.as_ref().map(FileSeries::of),
            rounds: one.rounds.clone(),
            clients_each: one.shares.iter().map(FileSeries::of).collect(),
        }
    }

    fn measurement(self) -> Result<Measurement, BadJson> {
        let numbers = self.rounds.iter().flat_map(|round| {
            [round.p50_ns, round.p99_ns, round.p999_ns, round.iops, round.cpu_ns]
        });
        let rate = self.what.offered.map_or(1.0, |offered| offered.rate);
        if !numbers.chain([rate]).all(is_possible) || self.rounds.len() > 10_000 {
            return bad("a figure of a round, or a rate, is no possible number");
        }
        if self.what.offered.is_some() != self.service.is_some() || self.unserved > MOST {
            return bad("an open loop has a rate and `service`, a closed one neither");
        }
        let service = self.service.as_ref().map(FileSeries::series).transpose()?;
        let shares: Result<_, _> = self.clients_each.iter().map(FileSeries::series).collect();
        let outcome = Outcome {
            response: self.response.series()?,
            service,
            unserved: self.unserved,
            scheduled_ns: self.scheduled_ns,
        };
        Ok(Measurement {
            what: self.what,
            outcome,
            cpu: self.cpu,
            rounds: self.rounds,
            shares: shares?,
            floor: self.floor,
        })
    }
}

/// Neither negative, nor endless, nor beyond what any clock or counter says.
fn is_possible(number: f64) -> bool {
    (0.0..1e18).contains(&number)
}

impl Results {
    fn file(&self) -> File {
        let floor = |floor: &FloorResult| FileFloor {
            key: floor.key.clone(),
            name: floor.name.clone(),
            series: FileSeries::of(&floor.series),
            rounds_p50_ns: floor.rounds.clone(),
        };
        File {
            schema: SCHEMA.to_owned(),
            version: VERSION,
            device: self.device.clone(),
            namespace: self.namespace,
            machine: self.machine.clone(),
            facts: self.facts.clone(),
            floors: self.floors.iter().map(floor).collect(),
            results: self.results.iter().map(|one| FileResult::of(self, one)).collect(),
        }
    }

    /// The results as one JSON object.
    ///
    /// # Errors
    /// Never in practice: nothing in it is foreign to JSON.
    pub fn to_json(&self) -> serde_json::Result<String> {
        serde_json::to_string_pretty(&self.file())
    }

    /// Reads what [`to_json`](Self::to_json) wrote.
    ///
    /// # Errors
    /// If the text is something else, of another version, or contradicts itself.
    pub fn from_json(text: &str) -> Result<Self, BadJson> {
        let head: Head = serde_json::from_str(text).map_err(not_json)?;
        if head.schema.as_deref() != Some(SCHEMA) {
            return bad("it is not a report of `doorbell bench`");
        }
        if head.version != Some(VERSION) {
            let has = head.version.map_or("no version".to_owned(), |has| format!("version {has}"));
            return bad(format!(
                "it has {has} of the format; this program reads version {VERSION}"
            ));
        }
        let file: File = serde_json::from_str(text).map_err(not_json)?;
        let floor = |floor: FileFloor| -> Result<FloorResult, BadJson> {
            if !floor.rounds_p50_ns.iter().copied().all(is_possible) {
                return bad("a floor's round is no possible number");
            }
            let series = floor.series.series()?;
            Ok(FloorResult {
                key: floor.key,
                name: floor.name,
                series,
                rounds: floor.rounds_p50_ns,
            })
        };
        Ok(Self {
            device: file.device,
            namespace: file.namespace,
            machine: file.machine,
            facts: file.facts,
            floors: file.floors.into_iter().map(floor).collect::<Result<_, _>>()?,
            results: file
                .results
                .into_iter()
                .map(FileResult::measurement)
                .collect::<Result<_, _>>()?,
        })
    }
}

#[expect(clippy::needless_pass_by_value, reason = "used as a function for map_err")]
fn not_json(error: serde_json::Error) -> BadJson {
    BadJson(format!("it cannot be read: {error}"))
}

#[cfg(test)]
mod tests {
    use super::super::tests::sample;
    use super::*;

    #[test]
    fn what_is_written_is_read_again() {
        let written = sample();
        let read = Results::from_json(&written.to_json().unwrap()).unwrap();
        assert_eq!((&read.device, read.namespace), (&written.device, written.namespace));
        assert_eq!((&read.machine, &read.facts), (&written.machine, &written.facts));
        assert_eq!(read.floors.len(), written.floors.len());
        assert_eq!(read.results.len(), written.results.len());
        for (read, written) in read.results.iter().zip(&written.results) {
            assert_eq!((&read.what, &read.rounds), (&written.what, &written.rounds));
            assert_eq!((read.cpu, &read.floor), (written.cpu, &written.floor));
            let (new, old) = (&read.outcome, &written.outcome);
            assert!(new.response.buckets().eq(old.response.buckets()));
            assert_eq!(new.response.percentiles(), old.response.percentiles());
            assert_eq!(new.response.elapsed(), old.response.elapsed());
            assert_eq!(new.is_saturated(), old.is_saturated());
            assert_eq!(read.shares.len(), written.shares.len());
        }
        assert_eq!(read.to_json().unwrap(), written.to_json().unwrap());
    }

    #[test]
    fn foreign_files_are_refused_in_one_line() {
        let good = sample().to_json().unwrap();
        let old = good.replace("\"version\": 2", "\"version\": 1");
        let counts = good.replacen("\"histogram\": \"", "\"histogram\": \"7:1125899906842625 ", 1);
        let text = good.replacen("\"histogram\": \"", "\"histogram\": \"x ", 1);
        let time = good.replacen("\"seconds\": ", "\"seconds\": 1e300, \"was\": ", 1);
        let rate = good.replacen("\"rate\": ", "\"rate\": -1.0, \"was\": ", 1);
        for (file, says) in [
            ("", "cannot be read"),
            ("[1, 2]", "cannot be read"),
            ("{}", "not a report"),
            ("{\"schema\": \"other\", \"version\": 2}", "not a report"),
            ("{\"schema\": \"doorbell-bench\"}", "no version"),
            ("{\"schema\": \"doorbell-bench\", \"version\": 2}", "cannot be read"),
            (&good[..good.len() / 2], "cannot be read"),
            (&old, "version 1"),
            (&counts, "more operations"),
            (&text, "no list"),
            (&time, "no possible time"),
            (&rate, "no possible number"),
        ] {
            let error = Results::from_json(file).unwrap_err().to_string();
            assert!(error.contains(says) && error.lines().count() == 1, "{says}: {error}");
        }
    }
}
