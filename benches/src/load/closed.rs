//! Closed loops: a fixed number of operations in flight, each completion followed at once by the
//! next operation. One reading of the clock for each look that found completions.

use std::pin::Pin;
use std::task::{Context as TaskContext, Poll, Waker};
use std::time::Instant;

use anyhow::{Result, ensure};

use super::{LOOKS_PER_CHECK, Stop, Work, check_patience};
use crate::clock::{Laps, nanos};
use crate::series::Series;

/// Runs `work` at a queue depth until `stop`, then waits for what is in flight.
///
/// # Errors
/// What `work` reports, or that nothing completes for seconds.
pub fn run(work: &mut impl Work, depth: usize, stop: Stop) -> Result<Series> {
    ensure!(depth > 0, "a queue depth of 0 does nothing");
    let mut series = Series::new()?;
    let mut done = Vec::with_capacity(depth);
    let mut laps = Laps::start();
    let begin = laps.began();
    let mut started_at = vec![begin; depth];
    let (mut started, mut bytes) = (0, 0);
    done.extend(0..depth);
    let mut in_flight = 0;
    loop {
        let mut posted = false;
        for slot in done.drain(..) {
            if !stop.is_due(started, laps.began().duration_since(begin)) {
                bytes += work.start(slot)?;
                started_at[slot] = laps.began();
                started += 1;
                in_flight += 1;
                posted = true;
            }
        }
        if posted {
            work.flush();
        }
        if in_flight == 0 {
            break;
        }
        reap_some(work, &mut done)?;
        laps.lap();
        for slot in &done {
            series.record(nanos(laps.began().duration_since(started_at[*slot])));
        }
        in_flight -= done.len();
    }
    series.extend(laps.began().duration_since(begin), bytes);
    Ok(series)
}

/// Spins until something has completed.
#[inline]
fn reap_some(work: &mut impl Work, done: &mut Vec<usize>) -> Result<()> {
    let mut looks = 0_u32;
    let mut since = None;
    loop {
        work.reap(done)?;
        if !done.is_empty() {
            return Ok(());
        }
        looks = looks.wrapping_add(1);
        if looks.is_multiple_of(LOOKS_PER_CHECK) {
            check_patience(&mut since)?;
        }
    }
}

/// Runs futures at a depth until `stop`, then waits for those in flight. `make` starts one from a
/// buffer, which the future gives back. The oldest is polled first, so the others are as good as
/// done when their turn comes; there is no executor between.
///
/// # Errors
/// What a future reports, or that none becomes ready for seconds.
pub fn run_futures<B, F>(
    buffers: Vec<B>,
    stop: Stop,
    bytes_each: u64,
    mut make: impl FnMut(B) -> F,
) -> Result<Series>
where
    F: Future<Output = Result<B>>,
{
    let mut series = Series::new()?;
    let mut laps = Laps::start();
    let begin = laps.began();
    let mut started = buffers.len() as u64;
    // The futures lie where they are for good: the loop allocates nothing.
    let mut tasks: Vec<(Pin<Box<Option<F>>>, Instant)> =
        buffers.into_iter().map(|buffer| (Box::pin(Some(make(buffer))), begin)).collect();
    let mut cx = TaskContext::from_waker(Waker::noop());
    loop {
        let mut running = false;
        for (task, since) in &mut tasks {
            let Some(future) = task.as_mut().as_pin_mut() else { continue };
            running = true;
            let buffer = finish(future, &mut cx)?;
            laps.lap();
            series.record(nanos(laps.began().duration_since(*since)));
            let due = stop.is_due(started, laps.began().duration_since(begin));
            task.as_mut().set(if due { None } else { Some(make(buffer)) });
            if !due {
                *since = laps.began();
                started += 1;
            }
        }
        if !running {
            break;
        }
    }
    series.extend(laps.began().duration_since(begin), started * bytes_each);
    Ok(series)
}

/// Polls one future until it is ready.
#[inline]
fn finish<F, T>(mut future: Pin<&mut F>, cx: &mut TaskContext<'_>) -> Result<T>
where
    F: Future<Output = Result<T>>,
{
    let mut polls = 0_u32;
    let mut since = None;
    loop {
        if let Poll::Ready(outcome) = future.as_mut().poll(cx) {
            return outcome;
        }
        polls = polls.wrapping_add(1);
        if polls.is_multiple_of(64) {
            check_patience(&mut since)?;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::bail;
    use std::collections::VecDeque;
    use std::time::Duration;

    /// Completes everything at the second look after the flush.
    #[derive(Default)]
    struct Later {
        started: Vec<usize>,
        told: VecDeque<usize>,
        looks: usize,
        most: usize,
    }

    impl Work for Later {
        fn start(&mut self, slot: usize) -> Result<u64> {
            assert!(!self.told.contains(&slot) && !self.started.contains(&slot));
            self.started.push(slot);
            Ok(10)
        }

        fn flush(&mut self) {
            self.told.extend(self.started.drain(..));
            self.most = self.most.max(self.told.len());
        }

        fn reap(&mut self, done: &mut Vec<usize>) -> Result<()> {
            self.looks += 1;
            if self.looks.is_multiple_of(2) {
                done.extend(self.told.pop_front());
            }
            Ok(())
        }
    }

    #[test]
    fn the_depth_is_kept_and_every_operation_counted() {
        let mut work = Later::default();
        let series = run(&mut work, 8, Stop::Operations(100)).unwrap();
        assert_eq!((series.operations(), series.bytes(), work.most), (100, 1000, 8));
        assert!(work.told.is_empty());
    }

    #[test]
    fn fewer_operations_than_the_depth() {
        let series = run(&mut Later::default(), 8, Stop::Operations(3)).unwrap();
        assert_eq!(series.operations(), 3);
        assert!(run(&mut Later::default(), 0, Stop::Operations(3)).is_err());
    }

    #[test]
    fn it_ends_after_its_time() {
        let stop = Stop::After(Duration::from_millis(5));
        let series = run(&mut Later::default(), 4, stop).unwrap();
        assert!(series.elapsed() >= Duration::from_millis(5));
    }

    #[test]
    fn futures_give_their_buffers_back() {
        let mut made = 0;
        let series = run_futures(vec![0_u32; 4], Stop::Operations(50), 2, |buffer| {
            made += 1;
            async move {
                yield_once().await;
                Ok(buffer + 1)
            }
        });
        let series = series.unwrap();
        assert_eq!((series.operations(), series.bytes(), made), (50, 100, 50));
    }

    #[test]
    fn a_failed_future_ends_the_loop() {
        let failed = run_futures(vec![()], Stop::Operations(5), 0, |()| async { bail!("no") });
        assert_eq!(failed.unwrap_err().to_string(), "no");
    }

    async fn yield_once() {
        let mut yielded = false;
        std::future::poll_fn(|_| {
            if std::mem::replace(&mut yielded, true) { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
    }
}
