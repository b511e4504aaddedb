//! From a completion to the task that awaits it, under tokio-uring.
//!
//! The device is a thread on the other core. It sees a command, waits for a fixed time (so that the
//! task has parked, or still spins), reads the clock, and completes. The task reads the clock as soon
//! as it goes on. What is in between is measured, so the way to the device, which is not what waiting
//! costs, is no part of it.
//!
//! The floor is of the same shape: the same thread waits as long, reads the clock, and writes an
//! eventfd that the task awaits with tokio's `AsyncFd` in the same runtime.

use std::cell::RefCell;
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};
use doorbell::wait::{self, Eventfd};
use doorbell_bench::{Placement, Series, clock, cores};
use doorbell_queues::wait::must_signal;
use doorbell_queues::{Queue, SharedMem, SpinBudget, Word32};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::in_thread::{self, Device, SLOTS, read_from};

/// So long does a device take whose task is to have parked: several times what parking takes.
const SLOW: Duration = Duration::from_micros(40);

/// So long does one take whose task is to spin: well within the budget that a queue has by default.
const QUICK: Duration = Duration::from_micros(2);

/// The longest that a whole round may take beyond its time.
const PATIENCE: Duration = Duration::from_secs(10);

/// How the task waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Without a queue: the floor. The device is slow.
    Eventfd,
    /// With a spin budget of 0: each wait parks. The device is slow.
    Interrupt,
    /// With the budget that a queue has by default. The device is quick.
    Hybrid,
}

/// One round.
#[derive(Debug)]
pub struct Wakes {
    /// From completion to task.
    pub latencies: Series,
    /// How often the device signalled the eventfd.
    pub signals: u64,
}

/// What the task and the device's thread share.
#[derive(Debug)]
struct Between {
    epoch: Instant,
    /// When the device completed, in nanoseconds since `epoch`. Stored before the completion is.
    stamp: AtomicU64,
    /// How many commands were sent, without a queue.
    sent: AtomicU32,
    stop: AtomicBool,
    signals: AtomicU64,
    event: Eventfd,
}

impl Between {
    fn now(&self) -> u64 {
        clock::nanos(self.epoch.elapsed())
    }

    /// The device's thread: `look` says whether there is a command, `complete` completes it.
    fn serve(
        &self,
        placement: Option<Placement>,
        delay: Duration,
        mut look: impl FnMut() -> bool,
        mut complete: impl FnMut(),
    ) -> Result<()> {
        if let Some(cores) = placement {
            cores::pin_to(cores.device)?;
        }
        let pause = || {
            if placement.is_none() {
                std::thread::yield_now()
            }
        };
        while !self.stop.load(Ordering::Relaxed) {
            if !look() {
                pause();
                continue;
            }
            let seen = Instant::now();
            while seen.elapsed() < delay {
                pause();
            }
            // Release: a task that reads it after the completion must not find the one before.
            self.stamp.store(self.now(), Ordering::Release);
            complete();
        }
        Ok(())
    }

    fn signal(&self) {
        // Counted first: whoever was woken by it finds it counted.
        self.signals.fetch_add(1, Ordering::Relaxed);
        self.event.signal();
    }

    /// Notes how long ago the device completed.
    fn record(&self, latencies: &mut Series) {
        let now = self.now();
        // Acquire: pairs with the store in `serve`.
        latencies.record(now.saturating_sub(self.stamp.load(Ordering::Acquire)));
    }
}

/// Ends the device's thread however the measuring ends.
struct Stop<'a>(&'a Between);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.stop.store(true, Ordering::Relaxed);
    }
}

/// Measures for about `time`, after a warm-up of a tenth of it. The calling thread is pinned to the
/// client's core already, and outside of any runtime.
///
/// # Errors
/// If there is no eventfd or io_uring, or a wake-up does not come.
pub fn measure(mode: Mode, placement: Option<Placement>, time: Duration) -> Result<Wakes> {
    // tokio-uring panics where it gets no ring.
    io_uring::IoUring::new(8).context("an io_uring for the runtime")?;
    let between = Between {
        epoch: Instant::now(),
        stamp: AtomicU64::new(0),
        sent: AtomicU32::new(0),
        stop: AtomicBool::new(false),
        signals: AtomicU64::new(0),
        event: Eventfd::new().context("making an eventfd")?,
    };
    let latencies = match mode {
        Mode::Eventfd => by_eventfd(&between, placement, time),
        Mode::Interrupt => by_queue(&between, placement, (SpinBudget::adaptive(0), SLOW), time),
        Mode::Hybrid => by_queue(&between, placement, (SpinBudget::default(), QUICK), time),
    }?;
    Ok(Wakes { latencies, signals: between.signals.load(Ordering::Relaxed) })
}

fn by_eventfd(between: &Between, placement: Option<Placement>, time: Duration) -> Result<Series> {
    std::thread::scope(|scope| {
        let stop = Stop(between);
        let mut taken = 0;
        let look = move || {
            let sent = between.sent.load(Ordering::Relaxed);
            std::mem::replace(&mut taken, sent) != sent
        };
        let device = scope.spawn(move || between.serve(placement, SLOW, look, || between.signal()));
        let measured = tokio_uring::start(limited(time, async {
            let event = Watched(&between.event);
            let event = watch(event).context("registering an eventfd with the runtime")?;
            repeat(time, async |latencies| {
                between.sent.fetch_add(1, Ordering::Relaxed);
                loop {
                    let mut guard = event.readable().await.context("waiting for an eventfd")?;
                    let fired = between.event.take().context("reading an eventfd")?;
                    guard.clear_ready();
                    if fired {
                        break;
                    }
                }
                between.record(latencies);
                Ok(())
            })
            .await
        }));
        drop(stop);
        joined(device.join(), measured)
    })
}

fn by_queue(
    between: &Between,
    placement: Option<Placement>,
    (budget, delay): (SpinBudget, Duration),
    time: Duration,
) -> Result<Series> {
    let (mut parts, device) = in_thread::parts(SLOTS)?;
    let armed: Word32 = SharedMem::zeroed(64).word32(0)?;
    let event = between.event.as_fd().try_clone_to_owned().context("duplicating an eventfd")?;
    parts.interrupt = wait::interrupt(event, Some(armed.clone()))?;
    parts.spin = budget;
    let queue: Queue<in_thread::Nvme, ()> = Queue::new(parts)?;
    std::thread::scope(|scope| {
        let stop = Stop(between);
        let device = scope.spawn(move || serve_queue(between, placement, delay, device, &armed));
        let measured = tokio_uring::start(limited(time, async {
            let mut lba = 0;
            repeat(time, async |latencies| {
                lba += 8;
                let sent = queue.submit((), |_, ()| read_from(1, lba));
                let sent = sent.map_err(|rejected| anyhow!("{}", rejected.reason))?;
                let (status, ()) = sent.await.map_err(|lost| anyhow!("{}", lost.error))?;
                between.record(latencies);
                ensure!(status == 0, "a command failed: {status:#x}");
                Ok(())
            })
            .await
        }));
        drop(stop);
        joined(device.join(), measured)
    })
}

fn serve_queue(
    between: &Between,
    placement: Option<Placement>,
    delay: Duration,
    device: Device,
    armed: &Word32,
) -> Result<()> {
    let device = RefCell::new(device);
    between.serve(
        placement,
        delay,
        || device.borrow().has_work(),
        || {
            device.borrow_mut().run(|_| ());
            if must_signal(armed) {
                between.signal();
            }
        },
    )
}

/// Runs `once` for a tenth of `time`, then for all of it; the series of the second.
async fn repeat(
    time: Duration,
    mut once: impl AsyncFnMut(&mut Series) -> Result<()>,
) -> Result<Series> {
    let mut series = Series::new()?;
    for time in [time / 10, time] {
        series = Series::new()?;
        let begin = Instant::now();
        loop {
            once(&mut series).await?;
            if begin.elapsed() >= time {
                break;
            }
        }
        series.extend(begin.elapsed(), 0);
    }
    Ok(series)
}

/// One time limit for the whole: one for each operation would be part of what is measured.
async fn limited(time: Duration, work: impl Future<Output = Result<Series>>) -> Result<Series> {
    match tokio::time::timeout(2 * time + PATIENCE, work).await {
        Ok(measured) => measured,
        Err(_) => bail!("a task was not woken within {PATIENCE:?}"),
    }
}

/// The device's own failure explains the task's.
fn joined(device: std::thread::Result<Result<()>>, measured: Result<Series>) -> Result<Series> {
    match device {
        Ok(ended) => ended.and(measured),
        Err(_) => bail!("the device's thread panicked"),
    }
}

/// The descriptor of an [`Eventfd`] that outlives the registration.
struct Watched<'a>(&'a Eventfd);

impl AsRawFd for Watched<'_> {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

#[allow(
    deprecated,
    reason = "its successor is unsafe, for types whose descriptor may change; this one borrows its own"
)]
fn watch(event: Watched<'_>) -> std::io::Result<AsyncFd<Watched<'_>>> {
    AsyncFd::with_interest(event, Interest::READABLE)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test")]
mod tests {
    use super::*;

    const BRIEF: Duration = Duration::from_millis(50);

    #[test]
    fn without_a_budget_each_wake_up_is_an_eventfds() {
        let floor = measure(Mode::Eventfd, None, BRIEF).unwrap();
        assert!(floor.latencies.operations() > 0);
        assert!(floor.signals >= floor.latencies.operations());
        let parked = measure(Mode::Interrupt, None, BRIEF).unwrap();
        assert!(parked.latencies.operations() > 0);
        assert!(parked.signals > 0);
    }

    #[test]
    fn the_budget_by_default_completes_commands_too() {
        let hybrid = measure(Mode::Hybrid, None, BRIEF).unwrap();
        assert!(hybrid.latencies.operations() > 0);
    }
}
