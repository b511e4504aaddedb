//! [`Harness`]: runs a model on a thread of its own.
//!
//! The thread polls the model while there is work and for a short time after. Then it sleeps: it
//! sets the asleep word of every vector in use, looks at everything once more, and blocks until a
//! kick, a request, a descriptor or a point in time that the model named. The words and their fences
//! are those of [`doorbell_queues::doorbell`], where a loom model shows that no wake-up is lost.
//!
//! A model that panics ends its thread and nothing else: requests are then answered with
//! [`BusError::Gone`], and doorbells do nothing.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use crossbeam_channel::{RecvTimeoutError, bounded, unbounded};
use rustix::event::epoll;

use super::control::{BarMemory, Control, Shared};
use super::signals::new_eventfd;
use super::worker::Worker;
use super::{SoftCx, SoftDevice};
use crate::bus::{BusError, Identity, Region};
use crate::dma::map::{Exchangeable, PAGE};
use crate::dma::{DmaError, HugePages, Memfd};

/// How long the end of a device's thread is waited for.
const STOP: Duration = Duration::from_secs(5);

/// How a device is run.
#[derive(Debug, Clone)]
pub struct HarnessOptions {
    /// The device's name, as the operator writes it: `soft:nvme`.
    pub name: Arc<str>,
    /// How long the thread spins without work before it sleeps.
    pub spin: Duration,
    /// The CPU to pin the thread to (an OS index, see [`crate::topology`]). If `None`, the thread keeps
    /// to the cores near the NUMA node that the model names, if it names one.
    pub cpu: Option<usize>,
    /// Doorbells may be written by a peer that cannot kick (a virtual machine): the thread then naps
    /// for bounded, growing intervals instead of sleeping until it is woken.
    pub unkicked: bool,
}

impl Default for HarnessOptions {
    fn default() -> Self {
        let spin = Duration::from_micros(100);
        Self { name: "soft".into(), spin, cpu: None, unkicked: false }
    }
}

/// A software device that runs. Dropping it stops the thread (with a deadline).
#[derive(Debug)]
pub struct Harness {
    control: Control,
    thread: Option<JoinHandle<()>>,
}

impl Harness {
    /// Starts a thread that runs `device`.
    ///
    /// # Errors
    /// [`BusError::OutOfRegion`] if the model describes a BAR that cannot be: its number is above 5,
    /// or a mappable range is not whole pages inside of it. [`BusError::Dma`] or [`BusError::Os`] if
    /// memory, descriptors or the thread could not be had.
    pub fn start(device: Box<dyn SoftDevice>, options: HarnessOptions) -> Result<Self, BusError> {
        let name = Arc::clone(&options.name);
        let identity = Identity { name: Arc::clone(&name), ..device.identity() };
        let dma = |source| BusError::Dma { device: Arc::clone(&name), source };
        let (regions, vectors) = (device.regions(), device.vectors());
        let mut bars: [Option<BarMemory>; 6] = Default::default();
        for region in &regions {
            if !possible(region) {
                let (device, len) = (name, region.size);
                return Err(BusError::OutOfRegion { device, region: region.index, offset: 0, len });
            }
            if !region.mappable.is_empty() {
                let exclusive_pages = device.exclusive_pages(region.index);
                let bar = bar_memory(&name, region, exclusive_pages).map_err(dma)?;
                bars[usize::from(region.index)] = Some(bar);
            }
        }
        let device_side =
            |bar: &Option<BarMemory>| Some(bar.as_ref()?.device_side.memory().clone());
        let device_bars = bars.each_ref().map(device_side);
        let cx = SoftCx::new(device_bars, vectors);
        let (jobs, todo) = unbounded();
        let (running, ended) = bounded(0);
        let shared = Arc::new(Shared {
            identity,
            regions,
            vectors,
            bars,
            jobs,
            pending: AtomicBool::new(false),
            stop: AtomicBool::new(false),
            alive: AtomicBool::new(true),
            ended,
            bell: new_eventfd().map_err(dma)?,
            epoll: new_epoll().map_err(dma)?,
            pages: (0..vectors).map(|_| None).collect::<Vec<_>>().into(),
            faults: cx.iommu.shared_fault_count(),
            faults_reported: AtomicU64::new(0),
            removal_reported: AtomicBool::new(false),
            failed: Arc::clone(&cx.failed),
        });
        shared.watch(&shared.bell).map_err(dma)?;
        let worker = Worker::new(device, cx, todo, Arc::clone(&shared), options);
        let thread = std::thread::Builder::new()
            .name(name.chars().take(15).collect())
            .spawn(move || worker.run(running))
            .map_err(|source| BusError::Os { device: name, what: "starting a thread", source })?;
        Ok(Self { control: Control { shared }, thread: Some(thread) })
    }

    /// How to talk to the device's thread.
    #[must_use]
    pub fn control(&self) -> &Control {
        &self.control
    }
}

impl Drop for Harness {
    fn drop(&mut self) {
        let shared = &self.control.shared;
        shared.stop.store(true, Ordering::Release);
        shared.pending.store(true, Ordering::Release);
        shared.wake();
        match shared.ended.recv_timeout(STOP) {
            Err(RecvTimeoutError::Timeout) => {
                let device = &shared.identity.name;
                tracing::error!(%device, "the device's thread does not end; it is left behind");
            }
            _ => {
                if let Some(thread) = self.thread.take() {
                    // A panic of the model was logged when it happened.
                    let _ = thread.join();
                }
            }
        }
    }
}

fn bar_memory(name: &str, region: &Region, exclusive: bool) -> Result<BarMemory, DmaError> {
    let title = format!("{name}-bar{}", region.index);
    let memfd = Memfd::create(&title, region.size as usize, HugePages::No)?;
    let device_side = Exchangeable::map(&memfd)?;
    Ok(BarMemory { memfd, device_side, exclusive_pages: exclusive })
}

fn new_epoll() -> Result<std::os::fd::OwnedFd, DmaError> {
    epoll::create(epoll::CreateFlags::CLOEXEC)
        .map_err(|errno| DmaError::Os { what: "epoll_create", source: errno.into() })
}

/// A region that can be: BAR 0 to 5, and mappable ranges of whole pages inside of it.
fn possible(region: &Region) -> bool {
    let page = PAGE as u64;
    let whole = |at: u64| at.is_multiple_of(page);
    region.index < 6
        && isize::try_from(region.size).is_ok()
        && region.mappable.iter().all(|range| {
            range.start < range.end
                && whole(range.start)
                && whole(range.end)
                && range.end <= region.size.next_multiple_of(page)
        })
}
