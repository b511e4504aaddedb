//! No wake-up is lost: a device thread completes at random moments while the host parks each time.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use doorbell::queues::SpinBudget;

use crate::protocol::Command;
use crate::rig::{Random, rig, within_deadline};

/// Waits per run.
const WAITS: usize = 20_000;

/// Commands of a device that takes between no time and a few times what parking takes, one to four
/// at once, awaited in the order of their submission while they complete in any.
fn stress(run: impl FnOnce(Pin<Box<dyn Future<Output = ()>>>)) {
    let mut random = Random::new();
    let (queue, mut device) = rig(SpinBudget::adaptive(0), |interrupt| interrupt);
    let stop = Arc::new(AtomicBool::new(false));
    let stopped = Arc::clone(&stop);
    let mut theirs = Random::new();
    let device = thread::spawn(move || {
        while !stopped.load(Ordering::Relaxed) {
            device.fetch();
            if device.held.is_empty() {
                thread::yield_now();
                continue;
            }
            // Short, around the moment in which the host arms, or long.
            let longest = [20, 200, 1_000][theirs.below(3)];
            (0..theirs.below(longest)).for_each(|_| std::hint::spin_loop());
            device.complete(theirs.below(device.held.len()));
        }
    });
    run(Box::pin(async move {
        let mut waits = 0;
        while waits < WAITS {
            let commands: Vec<_> = (0..=random.below(4))
                .map(|_| queue.submit((), |_, ()| Command::Nop.entry()).unwrap())
                .collect();
            waits += commands.len();
            for command in commands {
                command.await.unwrap();
            }
        }
    }));
    stop.store(true, Ordering::Relaxed);
    device.join().unwrap();
}

#[test]
fn outside_of_a_runtime() {
    within_deadline(|| stress(pollster::block_on));
}

#[test]
fn under_tokio() {
    within_deadline(|| {
        stress(|body| {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.unwrap().block_on(body);
        });
    });
}

#[test]
fn under_tokio_uring() {
    within_deadline(|| stress(tokio_uring::start));
}
