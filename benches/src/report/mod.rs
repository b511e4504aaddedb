//! Reports: the same figures as a table and histogram for a terminal, as one HTML file that needs
//! nothing else, and as JSON.

use serde::{Deserialize, Serialize};

use crate::series::Series;

pub use run_html::run_page;
pub use run_text::run_text;

pub mod chart;
pub mod html;
pub mod plots;
mod run_html;
mod run_text;
pub mod svg;
pub mod terminal;
pub mod units;

/// What a row stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Kind {
    /// The best that the machine can do: see [`crate::floors`].
    Floor,
    /// Measured with the device.
    Figure,
}

/// One series of a report.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Row {
    /// What was measured: `read 4 KiB, QD 1`. Short: it must fit beside the numbers.
    pub name: String,
    /// Floor or figure.
    pub kind: Kind,
    /// The latencies.
    pub series: Series,
    /// The row that this one is compared with, by its place in the report.
    pub floor: Option<usize>,
    /// The ratio to the floor that is aimed at, at most.
    pub goal: Option<f64>,
}

impl Row {
    /// A floor.
    #[must_use]
    pub fn floor(name: impl Into<String>, series: Series) -> Self {
        Self { name: name.into(), kind: Kind::Floor, series, floor: None, goal: None }
    }

    /// A figure with nothing to compare it with.
    #[must_use]
    pub fn figure(name: impl Into<String>, series: Series) -> Self {
        Self { name: name.into(), kind: Kind::Figure, series, floor: None, goal: None }
    }

    /// Compares the row with the one at `floor`; `goal` is the ratio aimed at.
    #[must_use]
    pub fn against(mut self, floor: usize, goal: Option<f64>) -> Self {
        self.floor = Some(floor);
        self.goal = goal;
        self
    }
}

/// Something worth knowing beside the figures: the machine, the seed, what was verified.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fact {
    /// What it is.
    pub name: String,
    /// Its value, ready to be shown.
    pub value: String,
}

/// A report.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Report {
    /// The heading.
    pub title: String,
    /// One or two sentences: what was done, with the outcome.
    pub summary: String,
    /// Facts, in order.
    pub facts: Vec<Fact>,
    /// The series, floors first.
    pub rows: Vec<Row>,
    /// What a reader must know to judge the numbers.
    pub notes: Vec<String>,
}

impl Report {
    /// Adds a fact.
    pub fn fact(&mut self, name: impl Into<String>, value: impl Into<String>) {
        self.facts.push(Fact { name: name.into(), value: value.into() });
    }

    /// The floor of a row, if it has one that was measured.
    #[must_use]
    pub fn floor_of(&self, row: &Row) -> Option<&Row> {
        row.floor.and_then(|at| self.rows.get(at)).filter(|floor| floor.series.operations() > 0)
    }

    /// How many times its floor's median a row's median is.
    #[must_use]
    pub fn ratio(&self, row: &Row) -> Option<f64> {
        let floor = self.floor_of(row)?.series.latency().p50_ns;
        (floor > 0).then(|| row.series.latency().p50_ns as f64 / floor as f64)
    }

    /// The rows of one kind.
    pub fn of_kind(&self, kind: Kind) -> impl Iterator<Item = &Row> {
        self.rows.iter().filter(move |row| row.kind == kind)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use std::time::Duration;

    /// A series around `typical` nanoseconds, with a tail.
    pub(crate) fn series(typical: u64) -> Series {
        let mut series = Series::new().unwrap();
        let mut state = typical;
        for _ in 0..20_000 {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            let dice = state >> 33;
            let tail = if dice.is_multiple_of(500) { typical * (dice % 40) } else { 0 };
            let spread = typical * (dice % 97 + dice / 128 % 89) / 400;
            series.record(typical + spread + tail);
        }
        series.extend(Duration::from_nanos(typical * 20_000), 20_000 * 4096);
        series
    }

    pub(crate) fn sample() -> Report {
        let mut report = Report {
            title: "Doorbell <demo> & more".to_owned(),
            summary: "Everything that was read is right.".to_owned(),
            rows: vec![
                Row::floor("shared-memory ping-pong", series(130)),
                Row::floor("the same with 4 KiB", series(480)),
                Row::floor("Unix-socket ping-pong", series(13_700)),
                Row::figure("flush, QD 1", series(180)).against(0, Some(1.5)),
                Row::figure("read 4 KiB, QD 1", series(600)).against(1, Some(1.5)),
                Row::figure("read 4 KiB, QD 32", series(9_000)),
            ],
            ..Report::default()
        };
        report.fact("seed", "12345");
        report.notes.push("Numbers of emulated hardware are no performance claims.".to_owned());
        report
    }

    #[test]
    fn ratios_are_of_medians_and_only_where_there_is_a_floor() {
        let report = sample();
        let ratio = report.ratio(&report.rows[3]).unwrap();
        assert!((1.3..1.45).contains(&ratio), "{ratio}");
        assert_eq!(report.ratio(&report.rows[5]), None);
        let mut empty = report.clone();
        empty.rows[0].series = Series::new().unwrap();
        assert_eq!(empty.ratio(&empty.rows[3]), None);
    }
}
