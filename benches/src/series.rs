//! [`Series`]: the latencies of many operations, without loss of the rare ones.

use std::time::Duration;

use anyhow::Context;
use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

use crate::clock::nanos;

/// The longest latency that is told apart: a minute. Longer ones count as a minute.
const LONGEST_NS: u64 = 60_000_000_000;

/// The figures of a series.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Latency {
    /// Half of the operations took at most this many nanoseconds.
    pub p50_ns: u64,
    /// 99 of 100 operations took at most this.
    pub p99_ns: u64,
    /// 999 of 1000 operations took at most this.
    pub p999_ns: u64,
    /// Operations per second.
    pub iops: f64,
}

/// Mean, percentiles and maximum of a series. They are computed from the whole histogram: percentiles
/// of parts have no mean.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Percentiles {
    /// The mean, in nanoseconds.
    pub mean_ns: f64,
    /// 50 of 100 operations took at most this many nanoseconds.
    pub p50_ns: u64,
    /// 90 of 100.
    pub p90_ns: u64,
    /// 99 of 100.
    pub p99_ns: u64,
    /// 999 of 1000.
    pub p999_ns: u64,
    /// 9999 of 10,000.
    pub p9999_ns: u64,
    /// The slowest.
    pub max_ns: u64,
}

/// The latencies of a series of operations in nanoseconds, how many bytes they moved, and how long
/// the whole took.
///
/// Values are kept to three digits (an HDR histogram). Recording allocates nothing.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(try_from = "Wire", into = "Wire")]
pub struct Series {
    histogram: Histogram<u64>,
    elapsed: Duration,
    bytes: u64,
}

impl Series {
    /// A series of no operation yet.
    ///
    /// # Errors
    /// Never in practice: the bounds are constants that the histogram accepts.
    pub fn new() -> anyhow::Result<Self> {
        let histogram = Histogram::new_with_bounds(1, LONGEST_NS, 3)
            .context("making a histogram of latencies")?;
        Ok(Self { histogram, elapsed: Duration::ZERO, bytes: 0 })
    }

    /// Notes the latency of one operation.
    #[inline]
    pub fn record(&mut self, ns: u64) {
        self.histogram.saturating_record(ns);
    }

    /// Adds to how long the series took and how many bytes it moved.
    pub fn extend(&mut self, elapsed: Duration, bytes: u64) {
        self.elapsed += elapsed;
        self.bytes += bytes;
    }

    /// Adds a series that ran after this one, under the same conditions.
    pub fn append(&mut self, later: &Self) {
        self.extend(later.elapsed, later.bytes);
        for (value, count) in later.buckets() {
            self.histogram.saturating_record_n(value, count);
        }
    }

    /// Adds a series of another client that ran at the same time: it adds no time of its own.
    pub fn join(&mut self, beside: &Self) {
        let elapsed = self.elapsed.max(beside.elapsed);
        self.append(beside);
        self.elapsed = elapsed;
    }

    /// How many operations there were.
    #[must_use]
    pub fn operations(&self) -> u64 {
        self.histogram.len()
    }

    /// How long they took together.
    #[must_use]
    pub fn elapsed(&self) -> Duration {
        self.elapsed
    }

    /// Bytes that they moved.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The latency that `quantile` (0 to 1) of the operations did not exceed, in nanoseconds; 0 for
    /// an empty series.
    #[must_use]
    pub fn quantile_ns(&self, quantile: f64) -> u64 {
        self.histogram.value_at_quantile(quantile)
    }

    /// The mean of the middle half of the operations, in nanoseconds; 0 for an empty series. As little
    /// moved by the slow ones as the median, and finer where the clock counts in steps.
    #[must_use]
    pub fn midmean_ns(&self) -> f64 {
        let quarter = self.operations() / 4;
        let middle = quarter..self.operations() - quarter;
        let (mut before, mut sum) = (0, 0.0);
        for (value, count) in self.buckets() {
            let inside = (before + count).min(middle.end).saturating_sub(before.max(middle.start));
            sum += value as f64 * inside as f64;
            before += count;
        }
        sum / ((middle.end - middle.start).max(1)) as f64
    }

    /// The slowest operation, in nanoseconds.
    #[must_use]
    pub fn slowest_ns(&self) -> u64 {
        self.histogram.max()
    }

    /// The usual figures.
    #[must_use]
    pub fn latency(&self) -> Latency {
        let seconds = self.elapsed.as_secs_f64();
        Latency {
            p50_ns: self.quantile_ns(0.5),
            p99_ns: self.quantile_ns(0.99),
            p999_ns: self.quantile_ns(0.999),
            iops: if seconds > 0.0 { self.operations() as f64 / seconds } else { 0.0 },
        }
    }

    /// The whole distribution, as a report shows it.
    #[must_use]
    pub fn percentiles(&self) -> Percentiles {
        Percentiles {
            mean_ns: self.histogram.mean(),
            p50_ns: self.quantile_ns(0.5),
            p90_ns: self.quantile_ns(0.9),
            p99_ns: self.quantile_ns(0.99),
            p999_ns: self.quantile_ns(0.999),
            p9999_ns: self.quantile_ns(0.9999),
            max_ns: self.slowest_ns(),
        }
    }

    /// Notes `count` operations of the same latency.
    pub fn record_many(&mut self, ns: u64, count: u64) {
        self.histogram.saturating_record_n(ns, count);
    }

    /// Latencies (in nanoseconds, ascending) that occurred, and how often.
    pub fn buckets(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        self.histogram
            .iter_recorded()
            .map(|step| (step.value_iterated_to(), step.count_since_last_iteration()))
    }

    /// How many operations took `low..high` nanoseconds.
    #[must_use]
    pub fn count_between(&self, low: u64, high: u64) -> u64 {
        self.buckets().filter(|(ns, _)| (low..high).contains(ns)).map(|(_, count)| count).sum()
    }
}

/// How a series travels from one process to another.
#[derive(Serialize, Deserialize)]
struct Wire {
    elapsed_ns: u64,
    bytes: u64,
    buckets: Vec<(u64, u64)>,
}

impl From<Series> for Wire {
    fn from(series: Series) -> Self {
        Self {
            elapsed_ns: nanos(series.elapsed),
            bytes: series.bytes,
            buckets: series.buckets().collect(),
        }
    }
}

impl TryFrom<Wire> for Series {
    type Error = anyhow::Error;

    fn try_from(wire: Wire) -> Result<Self, Self::Error> {
        let mut series = Self::new()?;
        series.extend(Duration::from_nanos(wire.elapsed_ns), wire.bytes);
        for (value, count) in wire.buckets {
            series.histogram.saturating_record_n(value, count);
        }
        Ok(series)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Series {
        let mut series = Series::new().unwrap();
        for ns in 1..=1000 {
            series.record(ns);
        }
        series.record(70_000_000_000);
        series.extend(Duration::from_secs(2), 4096);
        series
    }

    #[test]
    fn figures_of_a_known_series() {
        let latency = sample().latency();
        assert_eq!((latency.p50_ns, latency.p99_ns, latency.p999_ns), (501, 991, 1000));
        assert!((latency.iops - 500.5).abs() < 1e-9);
    }

    #[test]
    fn the_middle_half_has_a_mean() {
        let mut series = Series::new().unwrap();
        assert!(series.midmean_ns().abs() < f64::EPSILON);
        for ns in [1, 2, 10, 20, 20, 30, 500, 1_000_000] {
            series.record(ns);
        }
        assert!((series.midmean_ns() - 20.0).abs() < 1e-9, "{}", series.midmean_ns());
    }

    #[test]
    fn what_is_too_long_counts_as_the_longest() {
        let slowest = sample().slowest_ns();
        assert!((LONGEST_NS..LONGEST_NS + LONGEST_NS / 500).contains(&slowest), "{slowest}");
    }

    #[test]
    fn an_empty_series_has_figures() {
        let latency = Series::new().unwrap().latency();
        assert_eq!(latency, Latency { p50_ns: 0, p99_ns: 0, p999_ns: 0, iops: 0.0 });
    }

    #[test]
    fn a_series_survives_the_way_between_processes() {
        let sent = sample();
        let text = serde_json::to_string(&sent).unwrap();
        let got: Series = serde_json::from_str(&text).unwrap();
        assert_eq!(got.latency(), sent.latency());
        assert_eq!(got.bytes(), 4096);
        assert!(got.buckets().eq(sent.buckets()));
    }

    #[test]
    fn appending_adds_everything() {
        let (mut all, other) = (sample(), sample());
        all.append(&other);
        assert_eq!(all.operations(), 2002);
        assert_eq!(all.elapsed(), Duration::from_secs(4));
        assert_eq!(all.count_between(10, 20), 20);
    }
}
