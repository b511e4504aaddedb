//! What the demo has found: the JSON object, the report, and whether all went well.

use std::path::Path;

use doorbell::wire::ReclaimReport;
use doorbell_bench::report::units::{bytes, time, times};
use doorbell_bench::{Floor, Latency, Report, Row, Series};
use serde::Serialize;

use super::role::{Measured, Verified};

/// The ratio to its floor that a figure must not exceed.
const GOAL: f64 = 1.5;

/// Everything that was found.
#[derive(Debug)]
pub(super) struct Findings {
    pub(super) seed: u64,
    pub(super) image: String,
    pub(super) verified: Verified,
    pub(super) measured: Measured,
    pub(super) reclaim: ReclaimReport,
    /// Commands that the victim had in flight when it died.
    pub(super) in_flight: u32,
    pub(super) fsck: Result<(), String>,
    /// Names of files in the image whose checksum is wrong.
    pub(super) damaged_files: Vec<String>,
    /// What else is wrong, in words.
    pub(super) problems: Vec<String>,
}

/// The object of `--json`. Its keys are part of the interface.
#[derive(Debug, Serialize)]
struct Json {
    floors: JsonFloors,
    latency: JsonLatency,
    verified_bytes: u64,
    mismatches: u64,
    reclaim: JsonReclaim,
    surviving_client_errors: u64,
    fsck_clean: bool,
}

#[derive(Debug, Serialize)]
struct JsonFloors {
    shm_ns: u64,
    shm_4k_ns: u64,
    uds_ns: u64,
}

#[derive(Debug, Serialize)]
struct JsonLatency {
    flush_qd1: Percentiles,
    read4k_qd1: Percentiles,
    read4k_qd32: Latency,
}

#[derive(Debug, Serialize)]
struct Percentiles {
    p50_ns: u64,
    p99_ns: u64,
    p999_ns: u64,
}

#[derive(Debug, Serialize)]
struct JsonReclaim {
    queues: u32,
    mappings: u32,
    bytes: u64,
    ms: f64,
}

impl From<&Series> for Percentiles {
    fn from(series: &Series) -> Self {
        let Latency { p50_ns, p99_ns, p999_ns, .. } = series.latency();
        Self { p50_ns, p99_ns, p999_ns }
    }
}

impl Findings {
    /// The object of `--json`.
    pub(super) fn json(&self) -> impl Serialize {
        let Measured { floors, flush, read_1, read_32, .. } = &self.measured;
        let median = |series: &Series| series.latency().p50_ns;
        Json {
            floors: JsonFloors {
                shm_ns: median(&floors.shm),
                shm_4k_ns: median(&floors.shm_4k),
                uds_ns: median(&floors.uds),
            },
            latency: JsonLatency {
                flush_qd1: flush.into(),
                read4k_qd1: read_1.into(),
                read4k_qd32: read_32.latency(),
            },
            verified_bytes: self.verified.bytes,
            mismatches: self.verified.mismatches,
            reclaim: JsonReclaim {
                queues: self.reclaim.queues,
                mappings: self.reclaim.mappings,
                bytes: self.reclaim.bytes,
                ms: self.reclaim.ms(),
            },
            surviving_client_errors: self.verified.errors,
            fsck_clean: self.fsck.is_ok(),
        }
    }

    /// What went wrong, in one line; `None` if nothing did.
    pub(super) fn verdict(&self) -> Option<String> {
        let mut wrong = Vec::new();
        if self.verified.mismatches > 0 {
            let first = self.verified.first.as_deref().unwrap_or("where is not known");
            wrong.push(format!("{} bytes differ, the first: {first}", self.verified.mismatches));
        }
        if self.verified.errors > 0 {
            let first = self.verified.first_error.as_deref().unwrap_or("of an unknown kind");
            wrong.push(format!("{} I/O errors, the first: {first}", self.verified.errors));
        }
        if let Err(said) = &self.fsck {
            wrong.push(format!("e2fsck does not find the image clean: {said}"));
        }
        if !self.damaged_files.is_empty() {
            wrong.push(format!("files with a wrong checksum: {}", self.damaged_files.join(", ")));
        }
        wrong.extend(self.problems.iter().cloned());
        (!wrong.is_empty()).then(|| wrong.join("; "))
    }

    /// The report for the terminal and for HTML.
    pub(super) fn report(&self) -> Report {
        let Measured { floors, flush, read_1, read_32, clock_ns } = &self.measured;
        let mut report = Report {
            title: "Doorbell demo".to_owned(),
            summary: self.sentence(),
            rows: vec![
                Row::floor(Floor::Shm.label(), floors.shm.clone()),
                Row::floor(Floor::Shm4k.label(), floors.shm_4k.clone()),
                Row::floor(Floor::Uds.label(), floors.uds.clone()),
                Row::figure("flush, QD 1", flush.clone()).against(0, Some(GOAL)),
                Row::figure("read 4 KiB, QD 1", read_1.clone()).against(1, Some(GOAL)),
                Row::figure("read 4 KiB, QD 32", read_32.clone()),
            ],
            ..Report::default()
        };
        let differing = match self.verified.mismatches {
            0 => "every one as it should be".to_owned(),
            number => format!("{number} of them wrong"),
        };
        report.fact("bytes compared", format!("{}, {differing}", bytes(self.verified.bytes)));
        report.fact("image", self.image.clone());
        report.fact("e2fsck -fn", if self.fsck.is_ok() { "clean" } else { "NOT clean" });
        let reclaim = &self.reclaim;
        report.fact("killed with", format!("{} commands in flight", self.in_flight));
        report.fact(
            "taken back",
            format!(
                "{} queue, {} mapping, {} in {:.1} ms",
                reclaim.queues,
                reclaim.mappings,
                bytes(reclaim.bytes),
                reclaim.ms()
            ),
        );
        report.fact("errors of the other clients", self.verified.errors.to_string());
        report.fact("seed", self.seed.to_string());
        report.notes = vec![
            "The device is software: a thread of the broker's process. Nothing here is a claim about \
             hardware."
                .to_owned(),
            "Floors and figures were measured in turn, by the same client on the same two cores. \
             Ratios compare medians; they mean more than the times."
                .to_owned(),
            "A 4 KiB read ends when the client has copied the data out of its buffer; so does its \
             floor. Both work on 256 blocks in turn."
                .to_owned(),
            format!("Each latency includes one reading of the clock, about {clock_ns:.0} ns here."),
        ];
        report
    }

    /// The outcome in two sentences.
    fn sentence(&self) -> String {
        let verdict = match self.verdict() {
            None => "Everything was read, written and taken back as it should be.".to_owned(),
            Some(wrong) => format!("NOT as it should be: {wrong}."),
        };
        format!("{verdict} {}", self.against_socket())
    }

    /// What a client is spared that need not go through the broker.
    pub(super) fn against_socket(&self) -> String {
        let socket = self.measured.floors.uds.latency().p50_ns as f64;
        let flush = self.measured.flush.latency().p50_ns.max(1) as f64;
        format!(
            "A command that moves no data takes {}; a round trip over a Unix socket, {}: {} as long.",
            time(flush),
            time(socket),
            times(socket / flush)
        )
    }
}

/// How a path is shown to a person: absolute, where that can be found out.
pub(super) fn shown(path: &Path) -> String {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned()).display().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use doorbell::wire::ReclaimCause;
    use doorbell_bench::Floors;

    fn findings() -> Findings {
        let series = |ns: u64| {
            let mut series = Series::new().unwrap();
            series.record(ns);
            series
        };
        Findings {
            seed: 1,
            image: "256 MiB".to_owned(),
            verified: Verified { bytes: 1 << 20, ..Verified::default() },
            measured: Measured {
                floors: Floors { shm: series(100), shm_4k: series(400), uds: series(10_000) },
                flush: series(150),
                read_1: series(500),
                read_32: series(5_000),
                clock_ns: 30.0,
            },
            reclaim: ReclaimReport {
                session: 4,
                pid: 17,
                cause: ReclaimCause::Died,
                queues: 1,
                mappings: 1,
                bytes: 16 << 20,
                micros: 1_250,
                quarantined: 0,
            },
            in_flight: 63,
            fsck: Ok(()),
            damaged_files: vec![],
            problems: vec![],
        }
    }

    #[test]
    fn the_json_object_has_exactly_the_promised_keys() {
        let json = serde_json::to_value(findings().json()).unwrap();
        let keys = |value: &serde_json::Value| {
            let mut keys: Vec<_> = value.as_object().unwrap().keys().cloned().collect();
            keys.sort();
            keys.join(" ")
        };
        assert_eq!(
            keys(&json),
            "floors fsck_clean latency mismatches reclaim surviving_client_errors verified_bytes"
        );
        assert_eq!(keys(&json["floors"]), "shm_4k_ns shm_ns uds_ns");
        assert_eq!(keys(&json["latency"]), "flush_qd1 read4k_qd1 read4k_qd32");
        assert_eq!(keys(&json["latency"]["flush_qd1"]), "p50_ns p999_ns p99_ns");
        assert_eq!(keys(&json["latency"]["read4k_qd1"]), "p50_ns p999_ns p99_ns");
        assert_eq!(keys(&json["latency"]["read4k_qd32"]), "iops p50_ns p999_ns p99_ns");
        assert_eq!(keys(&json["reclaim"]), "bytes mappings ms queues");
        assert_eq!(json["reclaim"]["ms"], 1.25);
        assert_eq!(json["floors"]["shm_ns"], 100);
    }

    #[test]
    fn all_well_has_no_verdict_and_everything_wrong_is_named() {
        let mut found = findings();
        assert_eq!(found.verdict(), None);
        assert!(found.report().summary.contains("66.7×"));
        found.verified.mismatches = 3;
        found.verified.first = Some("byte 0x10 is 0x00 instead of 0x01".to_owned());
        found.fsck = Err("bad inode".to_owned());
        found.damaged_files = vec!["./a".to_owned()];
        found.problems.push("the heir got queue 9".to_owned());
        let verdict = found.verdict().unwrap();
        for part in ["byte 0x10", "bad inode", "./a", "queue 9"] {
            assert!(verdict.contains(part), "{part}: {verdict}");
        }
    }
}
