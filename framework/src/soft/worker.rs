//! The device's thread: polls, serves requests, sleeps, wakes.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender};
use rustix::buffer::spare_capacity;
use rustix::event::{PollFd, PollFlags, Timespec, epoll, poll};

use super::control::{Job, Shared};
use super::{HarnessOptions, Progress, SoftCx, SoftDevice};

/// Idle polls between two looks at the clock.
const CLOCK_EVERY: u32 = 64;
/// Idle polls before the loop begins to yield: to a sibling hyper-thread, and to other threads.
const EAGER: u32 = 256;
/// The first nap of a device whose peer cannot kick.
const SHORTEST_NAP: Duration = Duration::from_micros(50);
/// The longest.
const LONGEST_NAP: Duration = Duration::from_millis(4);

pub(super) struct Worker {
    device: Box<dyn SoftDevice>,
    cx: SoftCx,
    jobs: Receiver<Job>,
    shared: Arc<Shared>,
    options: HarnessOptions,
    nap: Duration,
}

/// Tells the others that the thread has ended, also when the model panics.
struct Alive(Arc<Shared>);

impl Drop for Alive {
    fn drop(&mut self) {
        self.0.alive.store(false, Ordering::Release);
    }
}

impl Worker {
    pub(super) fn new(
        device: Box<dyn SoftDevice>,
        cx: SoftCx,
        jobs: Receiver<Job>,
        shared: Arc<Shared>,
        options: HarnessOptions,
    ) -> Self {
        let mut worker = Self { device, cx, jobs, shared, options, nap: SHORTEST_NAP };
        worker.cx.remote.interruptible = worker.device.repeats_dma();
        worker
    }

    /// The thread's main function. `_running` is dropped last: whoever waits for it knows that the
    /// model, its mappings and its descriptors are gone.
    pub(super) fn run(mut self, _running: Sender<()>) {
        let _alive = Alive(Arc::clone(&self.shared));
        let device = Arc::clone(&self.shared.identity.name);
        let placed = match self.options.cpu {
            Some(cpu) => crate::topology::pin_thread(cpu),
            None => crate::topology::place_thread(self.shared.identity.numa_node).map(drop),
        };
        if let Err(error) = placed {
            tracing::warn!(%device, %error, "the device's thread is not placed");
        }
        // A panic ends this thread only. The model is not used again, so its state does not matter.
        let ended = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| self.work()));
        if ended.is_err() {
            tracing::error!(%device, "the device's model panicked; the device is gone");
        }
        drop(self);
    }

    fn work(&mut self) {
        let mut idle = 0u32;
        let mut since = None;
        loop {
            if self.shared.pending.load(Ordering::Relaxed) {
                if !self.serve() {
                    return;
                }
                idle = 0;
            }
            if self.poll() == Progress::Busy {
                idle = 0;
                continue;
            }
            idle = idle.saturating_add(1);
            if idle == 1 {
                since = None;
            }
            if idle.is_multiple_of(CLOCK_EVERY) {
                let now = Instant::now();
                if now.duration_since(*since.get_or_insert(now)) >= self.options.spin {
                    self.sleep();
                    idle = 0;
                } else if idle > EAGER {
                    // A client on the same core has work for us only if it runs. Alone on a core this
                    // is one short system call in some microseconds without work.
                    std::thread::yield_now();
                }
            } else if idle > EAGER {
                std::hint::spin_loop();
            }
        }
    }

    /// Runs the requests; false if the thread is to end.
    fn serve(&mut self) -> bool {
        // Acquire: pairs with the Release of whoever sent a job or asked for the end.
        self.shared.pending.swap(false, Ordering::AcqRel);
        if self.shared.stop.load(Ordering::Acquire) {
            return false;
        }
        while let Ok(job) = self.jobs.try_recv() {
            job(&mut *self.device, &mut self.cx);
        }
        self.look_at_pin();
        true
    }

    /// One poll, and what follows from it: the interrupt pin.
    #[inline]
    fn poll(&mut self) -> Progress {
        let raised = self.cx.begin();
        let progress = self.device.poll(&mut self.cx);
        if progress == Progress::Idle && !raised {
            return Progress::Idle;
        }
        self.nap = SHORTEST_NAP;
        self.look_at_pin();
        Progress::Busy
    }

    #[inline]
    fn look_at_pin(&mut self) {
        // Data first: when the writes under way have arrived this thread is nudged.
        if self.cx.pin.is_listened_to() && self.cx.remote.arrived() && self.device.pin(&mut self.cx)
        {
            self.cx.pin.fire();
        }
    }

    /// Sleeps until something happens. Returns at once if something has happened already. A device
    /// whose peer cannot kick looks at its doorbells between naps, and goes on napping.
    fn sleep(&mut self) {
        self.cx.raise_late();
        for vector in &self.cx.vectors {
            vector.fall_asleep();
        }
        self.device.doze(&mut self.cx);
        // From here on a doorbell kicks; one that was rung before is seen by this poll.
        while !self.shared.pending.load(Ordering::Acquire) && self.poll() == Progress::Idle {
            self.block();
            if !self.options.unkicked {
                break;
            }
        }
        for vector in &self.cx.vectors {
            vector.wake_up();
        }
    }

    fn block(&mut self) {
        let idle = self.device.idle();
        let until = idle.until.map(|at| at.saturating_duration_since(Instant::now()));
        let nap = self.options.unkicked.then_some(self.nap);
        self.nap = (self.nap + self.nap / 4).min(LONGEST_NAP);
        let limit = match (until, nap) {
            (Some(until), Some(nap)) => Some(until.min(nap)),
            (until, nap) => until.or(nap),
        };
        let limit = limit.map(|limit| Timespec {
            tv_sec: limit.as_secs().try_into().unwrap_or(i64::MAX),
            tv_nsec: limit.subsec_nanos().into(),
        });
        let waited = if idle.fds.is_empty() {
            drain(&self.shared, limit.as_ref())
        } else {
            let mut fds = vec![PollFd::new(&self.shared.epoll, PollFlags::IN)];
            fds.extend(idle.fds.iter().map(|fd| PollFd::from_borrowed_fd(*fd, PollFlags::IN)));
            let now = Timespec { tv_sec: 0, tv_nsec: 0 };
            poll(&mut fds, limit.as_ref()).and_then(|_| drain(&self.shared, Some(&now)))
        };
        match waited {
            // A signal is a wake-up like any other.
            Ok(()) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => {
                let device = &self.shared.identity.name;
                tracing::error!(%device, %error, "a device cannot sleep; it polls");
            }
        }
    }
}

/// Waits for a kick or a request, and takes the edges back. The eventfds are not read.
fn drain(shared: &Shared, limit: Option<&Timespec>) -> rustix::io::Result<()> {
    let mut events = Vec::with_capacity(16);
    epoll::wait(&shared.epoll, spare_capacity(&mut events), limit)?;
    Ok(())
}
