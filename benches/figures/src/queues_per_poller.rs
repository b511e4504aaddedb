//! The cost of an operation over the queues that one poller serves.
//!
//! As many commands are in flight whatever the number of queues, each awaited by a task of its own on
//! the poller, so only how they are spread over queues changes. The devices are those of
//! [`crate::in_thread`], run by one more task of the same poller: no other core takes part, and what
//! is measured is what the poller, its tasks and the queues cost. Every wait parks, and the poller
//! finds the completion.

use std::cell::Cell;
use std::future::poll_fn;
use std::os::fd::AsFd;
use std::rc::Rc;
use std::task::Poll;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};
use doorbell::poll::{Poller, Pollers, TaskHandle, spawn_local};
use doorbell::wait::{self, Eventfd};
use doorbell_bench::clock;
use doorbell_queues::{Queue, SharedMem, SpinBudget};

use crate::in_thread::{self, Device, Nvme, SLOTS, read_from};
use crate::median;

/// The most queues.
pub const MOST: usize = 64;

/// Commands in flight, over all queues.
const IN_FLIGHT: usize = MOST;

/// Turns of the devices between two readings of the clock.
const TURNS: u32 = 64;

/// The longest that tasks may take to end.
const PATIENCE: Duration = Duration::from_secs(10);

/// Nanoseconds of one operation with 1, 2, 4, ... 64 queues: the median of `rounds` passes over all
/// of them.
///
/// # Errors
/// If there is no poller, or a command fails.
pub fn measure(time: Duration, rounds: u32) -> Result<Vec<(usize, f64)>> {
    let counts = || (0..=MOST.ilog2()).map(|power| 1_usize << power);
    let each = time / (rounds * counts().count() as u32);
    let poller = Pollers::builder().per_node(1).build().near(None).context("starting a poller")?;
    let mut samples: Vec<(usize, Vec<f64>)> = counts().map(|queues| (queues, vec![])).collect();
    for _ in 0..rounds {
        for (queues, samples) in &mut samples {
            samples.push(once(&poller, *queues, each)?);
        }
    }
    Ok(samples.into_iter().map(|(queues, samples)| (queues, median(samples))).collect())
}

fn once(poller: &Poller, queues: usize, time: Duration) -> Result<f64> {
    pollster::block_on(poller.spawn(move || serve(queues, time))).context("a task of the poller")?
}

/// What the tasks of one measurement share.
#[derive(Debug, Default)]
struct Tasks {
    operations: Cell<u64>,
    running: Cell<usize>,
    stop: Cell<bool>,
}

/// Runs the devices until it is time, and counts what the tasks have done meanwhile.
async fn serve(queues: usize, time: Duration) -> Result<f64> {
    let tasks = Rc::new(Tasks::default());
    let (mut devices, mut handles) = (Vec::new(), Vec::new());
    for _ in 0..queues {
        devices.push(queue(&tasks, IN_FLIGHT / queues, &mut handles)?);
    }
    turn(&mut devices, &tasks, time / 10).await;
    let (before, begin) = (tasks.operations.get(), Instant::now());
    turn(&mut devices, &tasks, time).await;
    let (operations, took) = (tasks.operations.get() - before, begin.elapsed());
    tasks.stop.set(true);
    let begin = Instant::now();
    while tasks.running.get() > 0 {
        turn(&mut devices, &tasks, Duration::ZERO).await;
        ensure!(begin.elapsed() < PATIENCE, "{} tasks do not end", tasks.running.get());
    }
    for handle in handles {
        handle.await.context("a task")??;
    }
    ensure!(operations > 0, "no operation of {queues} queues has completed");
    Ok(clock::nanos(took) as f64 / operations as f64)
}

/// A queue and the tasks that use it; returns its device.
fn queue(
    tasks: &Rc<Tasks>,
    count: usize,
    handles: &mut Vec<TaskHandle<Result<()>>>,
) -> Result<Device> {
    let (mut parts, device) = in_thread::parts(SLOTS)?;
    let armed = SharedMem::zeroed(64).word32(0)?;
    let event = Eventfd::new().context("making an eventfd")?;
    let event = event.as_fd().try_clone_to_owned().context("duplicating an eventfd")?;
    parts.interrupt = wait::interrupt(event, Some(armed))?;
    // As a claim on a poller has it: the poller looks for all.
    parts.spin = SpinBudget::adaptive(0);
    let queue: Rc<Queue<Nvme, ()>> = Rc::new(Queue::new(parts)?);
    for _ in 0..count {
        let (queue, tasks) = (Rc::clone(&queue), Rc::clone(tasks));
        tasks.running.set(tasks.running.get() + 1);
        handles.push(spawn_local(async move {
            let worked = work(&queue, &tasks).await;
            tasks.running.set(tasks.running.get() - 1);
            worked
        }));
    }
    Ok(device)
}

/// One command after the other.
async fn work(queue: &Queue<Nvme, ()>, tasks: &Tasks) -> Result<()> {
    while !tasks.stop.get() {
        let sent = queue.submit((), |_, ()| read_from(1, 8));
        let sent = sent.map_err(|rejected| anyhow!("{}", rejected.reason))?;
        match sent.await {
            Ok((0, ())) => tasks.operations.set(tasks.operations.get() + 1),
            Ok((status, ())) => bail!("a command failed: {status:#x}"),
            Err(lost) => bail!("{}", lost.error),
        }
    }
    Ok(())
}

/// Runs the devices for about `time`, once for each turn of the poller.
async fn turn(devices: &mut [Device], tasks: &Tasks, time: Duration) {
    let (begin, mut turns) = (Instant::now(), 0_u32);
    loop {
        for device in &mut *devices {
            if device.has_work() {
                device.run(|_| ());
            }
        }
        let_others_run().await;
        turns = turns.wrapping_add(1);
        let over = turns.is_multiple_of(TURNS) && begin.elapsed() >= time;
        if over || (tasks.stop.get() && tasks.running.get() == 0) {
            return;
        }
    }
}

/// Ready at the second poll, for which it asks at once.
async fn let_others_run() {
    let mut asked = false;
    poll_fn(|cx| {
        if std::mem::replace(&mut asked, true) {
            return Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test")]
mod tests {
    use super::*;

    #[test]
    fn every_number_of_queues_completes_operations() {
        let points = measure(Duration::from_millis(70), 1).unwrap();
        let queues: Vec<_> = points.iter().map(|(queues, _)| *queues).collect();
        assert_eq!(queues, [1, 2, 4, 8, 16, 32, 64]);
        assert!(points.iter().all(|(_, ns)| *ns > 0.0), "{points:?}");
    }
}
