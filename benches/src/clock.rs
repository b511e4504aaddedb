//! Time, read once per operation.

use std::time::{Duration, Instant};

/// Consecutive laps: each one ends where the next begins, so that timing an operation costs one
/// reading of the clock and not two. What is left of that cost is part of every lap; a floor that is
/// measured by laps as well carries the same.
#[derive(Debug)]
pub struct Laps {
    last: Instant,
}

impl Laps {
    /// The first lap begins now.
    #[must_use]
    pub fn start() -> Self {
        Self { last: Instant::now() }
    }

    /// Ends a lap and begins the next: its nanoseconds.
    #[inline]
    pub fn lap(&mut self) -> u64 {
        let now = Instant::now();
        let lap = now.duration_since(self.last);
        self.last = now;
        nanos(lap)
    }

    /// When the current lap began.
    #[must_use]
    #[inline]
    pub fn began(&self) -> Instant {
        self.last
    }
}

/// Whole nanoseconds; 584 years at most.
#[must_use]
#[inline]
pub fn nanos(duration: Duration) -> u64 {
    duration.as_secs().wrapping_mul(1_000_000_000).wrapping_add(u64::from(duration.subsec_nanos()))
}

/// What one reading of the clock costs here, in nanoseconds: the mean of the best of ten series.
/// It is inside each figure that was measured by [`Laps`].
#[must_use]
pub fn reading_costs_ns() -> f64 {
    const READINGS: u32 = 2_000;
    let series = || {
        let mut laps = Laps::start();
        let begin = laps.began();
        for _ in 0..READINGS {
            std::hint::black_box(laps.lap());
        }
        nanos(laps.began().duration_since(begin)) as f64 / f64::from(READINGS)
    };
    (0..10).map(|_| series()).fold(f64::INFINITY, f64::min)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn laps_are_consecutive() {
        let mut laps = Laps::start();
        let begin = laps.began();
        let sum: u64 = (0..100).map(|_| laps.lap()).sum();
        assert_eq!(sum, nanos(laps.began().duration_since(begin)));
    }
}
