//! The copy of the payload: what a device that is made of software cannot do without.

use std::hint::black_box;
use std::time::{Duration, Instant};

use super::{BLOCK, WORKING_SET};
use crate::clock::nanos;
use crate::page::Page;

/// Copies between two readings of the clock.
const BATCH: u32 = 1024;

/// Copies [`BLOCK`] bytes for about `time`, from [`WORKING_SET`] page-aligned blocks in turn to one:
/// nanoseconds of one copy, the mean of each batch.
#[must_use]
pub fn copy_ns(time: Duration) -> Vec<f64> {
    let blocks: Vec<Box<Page>> = (0..WORKING_SET).map(|_| Page::new()).collect();
    let mut to = Page::new();
    let mut copied = 0;
    let mut batch = |blocks: &[Box<Page>]| {
        let begin = Instant::now();
        for _ in 0..BATCH {
            if let Some(from) = blocks.get(copied % WORKING_SET) {
                to.take(black_box(&from.bytes()[..BLOCK]));
            }
            copied += 1;
        }
        nanos(begin.elapsed()) as f64 / f64::from(BATCH)
    };
    // Every block was touched before anything counts.
    batch(&blocks);
    let begin = Instant::now();
    let mut samples = vec![batch(&blocks)];
    while begin.elapsed() < time {
        samples.push(batch(&blocks));
    }
    samples
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_measures_at_least_once() {
        let samples = copy_ns(Duration::ZERO);
        assert!(!samples.is_empty() && samples.iter().all(|ns| *ns > 0.0), "{samples:?}");
    }
}
