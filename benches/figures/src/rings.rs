//! Submit plus complete in one thread, with the device in that thread.

use std::hint::black_box;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use doorbell_bench::clock;
use doorbell_queues::Queue;

use crate::counting;
use crate::in_thread::{self, Bench, Buffer, Kind, Nvme, SLOTS, Side};
use crate::median;

/// Operations of one sample: so many that the two readings of the clock do not show.
const OPERATIONS: usize = 3200;

/// The deepest of [`scaling`].
pub const DEEPEST: usize = 256;

/// One round of submit plus complete at `depth` (at most 64): adds nanoseconds per operation to
/// `samples`. The first tenth of the time is a warm-up.
///
/// # Errors
/// If a command fails.
pub fn in_one_thread(
    kind: Kind,
    depth: usize,
    time: Duration,
    samples: &mut Vec<f64>,
) -> Result<()> {
    let (queue, mut side) = in_thread::queue(SLOTS)?;
    measure(&queue, &mut side, kind, depth, time, samples)
}

fn measure(
    queue: &Queue<Nvme, Buffer>,
    side: &mut Side,
    kind: Kind,
    depth: usize,
    time: Duration,
    samples: &mut Vec<f64>,
) -> Result<()> {
    let mut bench = Bench::new(queue, depth);
    // Once around the rings, so that all of their memory was touched.
    for _ in 0..(2 * queue.capacity()).div_ceil(depth) {
        bench.batch(side, Kind::Direct);
    }
    let batches = (OPERATIONS / depth).max(1);
    let (begin, warm_up) = (Instant::now(), time / 10);
    loop {
        let sample = Instant::now();
        for _ in 0..batches {
            bench.batch(side, kind);
        }
        let ns = clock::nanos(sample.elapsed()) as f64 / (batches * depth) as f64;
        if sample.duration_since(begin) >= warm_up {
            samples.push(ns);
        }
        if begin.elapsed() >= warm_up + time && !samples.is_empty() {
            break;
        }
    }
    ensure!(bench.failed() == 0, "{} commands in one thread failed", bench.failed());
    black_box(side.sum());
    Ok(())
}

/// The depths of [`scaling`].
pub fn depths() -> impl Iterator<Item = usize> {
    (0..=DEEPEST.ilog2()).map(|power| 1 << power)
}

/// Nanoseconds per operation by callback at 1, 2, 4, ... 256 in flight, each with the same rings:
/// what changes is only how many commands are in them. `rounds` passes over all depths, the median
/// of each.
///
/// # Errors
/// If a command fails.
pub fn scaling(time: Duration, rounds: u32) -> Result<Vec<(usize, f64)>> {
    let each = time / (rounds * depths().count() as u32);
    let mut samples: Vec<(usize, Vec<f64>)> = depths().map(|depth| (depth, vec![])).collect();
    let (queue, mut side) = in_thread::queue(DEEPEST as u16)?;
    for _ in 0..rounds {
        for (depth, samples) in &mut samples {
            measure(&queue, &mut side, Kind::Direct, *depth, each, samples)?;
        }
    }
    Ok(samples.into_iter().map(|(depth, samples)| (depth, median(samples))).collect())
}

/// Allocations of this thread per operation at `depth`, once everything has its memory. The
/// program's allocator must be [`counting::Counting`].
///
/// # Errors
/// If a command fails, or the allocator does not count.
pub fn allocations_per_op(kind: Kind, depth: usize, operations: usize) -> Result<f64> {
    let before = counting::allocations();
    let (queue, mut side) = in_thread::queue(SLOTS)?;
    let mut bench = Bench::new(&queue, depth);
    bench.batch(&mut side, kind);
    let warm = counting::allocations();
    ensure!(warm > before, "this program's allocator does not count");
    let batches = operations.div_ceil(depth);
    for _ in 0..batches {
        bench.batch(&mut side, kind);
    }
    let after = counting::allocations();
    ensure!(bench.failed() == 0, "{} commands in one thread failed", bench.failed());
    Ok((after - warm) as f64 / (batches * depth) as f64)
}
