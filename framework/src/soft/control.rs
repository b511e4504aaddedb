//! [`Control`]: how other threads talk to a device's thread.
//!
//! A request is a closure that the device's thread runs between two polls. So the model needs no
//! lock, and a request that was answered is complete: after an unmap was answered no access of the
//! model can reach the memory.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};
use rustix::event::epoll;

use super::signals::{VectorPage, signal};
use super::{SoftCx, SoftDevice};
use crate::bus::{BusError, Identity, Region, Signals};
use crate::deadline::Deadline;
use crate::dma::map::Exchangeable;
use crate::dma::{DmaError, Fault, Memfd};

/// How long a model may take to answer a register access, a map or an unmap.
pub(crate) const ANSWER: Duration = Duration::from_secs(5);

/// A request, as the device's thread runs it.
pub(super) type Job = Box<dyn FnOnce(&mut dyn SoftDevice, &mut SoftCx) + Send>;

/// What a caller that gave up and the device's thread agree on.
const WAITING: u8 = 0;
const STARTED: u8 = 1;
const ABANDONED: u8 = 2;

/// The memory of one BAR.
#[derive(Debug)]
pub(crate) struct BarMemory {
    /// The whole BAR.
    pub(crate) memfd: Memfd,
    /// The device's mapping of it, in which pages can be exchanged.
    pub(crate) device_side: Exchangeable,
    /// True if a page can be given to one client alone.
    pub(crate) exclusive_pages: bool,
}

/// What the device's thread and its callers share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) identity: Identity,
    pub(super) regions: Vec<Region>,
    pub(super) vectors: u16,
    /// BAR number to its memory.
    pub(super) bars: [Option<BarMemory>; 6],
    pub(super) jobs: Sender<Job>,
    /// Set after a job was sent; the thread takes it back before it looks at the jobs.
    pub(super) pending: AtomicBool,
    pub(super) stop: AtomicBool,
    /// False once the thread has ended, whatever the reason.
    pub(super) alive: AtomicBool,
    /// Disconnected after that.
    pub(super) ended: Receiver<()>,
    /// Wakes the thread for `pending` and `stop`.
    pub(super) bell: OwnedFd,
    /// What wakes the thread: `bell` and the kicks of all vectors in use, edge-triggered.
    pub(super) epoll: OwnedFd,
    pub(super) pages: Mutex<Vec<Option<VectorPage>>>,
    pub(super) faults: Arc<AtomicU64>,
    pub(super) faults_reported: AtomicU64,
    pub(super) removal_reported: AtomicBool,
    pub(super) failed: Arc<AtomicBool>,
}

impl Shared {
    pub(super) fn wake(&self) {
        signal(&self.bell);
    }

    /// Watches an eventfd that wakes the thread.
    pub(super) fn watch(&self, fd: impl AsFd) -> Result<(), DmaError> {
        let flags = epoll::EventFlags::IN | epoll::EventFlags::ET;
        epoll::add(&self.epoll, fd, epoll::EventData::new_u64(0), flags)
            .map_err(|errno| DmaError::Os { what: "epoll_ctl(ADD)", source: errno.into() })
    }
}

/// A handle of a device's thread. Cloning it gives another handle.
#[derive(Debug, Clone)]
pub struct Control {
    pub(super) shared: Arc<Shared>,
}

impl Control {
    /// Runs `work` on the device's thread and waits for its result.
    ///
    /// # Errors
    /// [`BusError::TimedOut`] if the thread did not begin it in time: then it will not run.
    /// [`BusError::Gone`] if the thread has ended, or began it and did not finish.
    pub(crate) fn call<R: Send + 'static>(
        &self,
        what: &'static str,
        deadline: Deadline,
        work: impl FnOnce(&mut dyn SoftDevice, &mut SoftCx) -> R + Send + 'static,
    ) -> Result<R, BusError> {
        let (answer, result) = bounded(1);
        let claim = Arc::new(AtomicU8::new(WAITING));
        let theirs = Arc::clone(&claim);
        let job: Job = Box::new(move |device, cx| {
            if take(&theirs, STARTED) {
                // The caller waits for the answer of a job that was started, or has gone for good.
                let _ = answer.send(work(device, cx));
            }
        });
        self.shared.jobs.send(job).map_err(|_| self.gone("its thread has ended"))?;
        // Release: the thread that takes the flag back finds the job.
        self.shared.pending.store(true, Ordering::Release);
        self.shared.wake();
        match result.recv_timeout(deadline.remaining()) {
            Ok(result) => return Ok(result),
            Err(RecvTimeoutError::Disconnected) => {
                // The thread is ending: after it nothing of the device is left.
                let _ = self.shared.ended.recv_timeout(ANSWER);
                return Err(self.gone("its model failed"));
            }
            Err(RecvTimeoutError::Timeout) => {}
        }
        if take(&claim, ABANDONED) {
            let source = deadline.timed_out(format!("the device's thread: {what}"));
            return Err(BusError::TimedOut { device: self.name(), source });
        }
        // Started just now: its effect is either complete or unknown, so it must be waited for.
        result.recv_timeout(ANSWER).map_err(|_| self.gone("its model does not answer"))
    }

    /// The device's name.
    #[must_use]
    pub fn name(&self) -> Arc<str> {
        Arc::clone(&self.shared.identity.name)
    }

    /// What the device says it is.
    #[must_use]
    pub fn identity(&self) -> &Identity {
        &self.shared.identity
    }

    /// Its BARs.
    #[must_use]
    pub fn regions(&self) -> &[Region] {
        &self.shared.regions
    }

    /// The memory of a BAR that has a mappable part; its offsets are the BAR's. To be sent to a peer
    /// that maps doorbells.
    #[must_use]
    pub fn bar(&self, region: u8) -> Option<&Memfd> {
        self.bar_memory(region).map(|bar| &bar.memfd)
    }

    pub(crate) fn bar_memory(&self, region: u8) -> Option<&BarMemory> {
        self.shared.bars.get(usize::from(region))?.as_ref()
    }

    /// How many interrupt vectors there are.
    #[must_use]
    pub fn vectors(&self) -> u16 {
        self.shared.vectors
    }

    /// False once the device's thread has ended: its model panicked, or the harness was dropped.
    #[must_use]
    pub fn alive(&self) -> bool {
        self.shared.alive.load(Ordering::Acquire)
    }

    /// DMA accesses refused since the device started.
    #[must_use]
    pub fn fault_count(&self) -> u64 {
        self.shared.faults.load(Ordering::Relaxed)
    }

    /// Faults since the last call, oldest first; at most [`super::iommu::FAULT_LOG`] of the latest.
    /// Without new ones it costs two loads.
    #[must_use]
    pub fn take_faults(&self) -> Vec<Fault> {
        let count = self.fault_count();
        if self.shared.faults_reported.swap(count, Ordering::Relaxed) == count {
            return Vec::new();
        }
        let taken =
            self.call("its faults", Deadline::after(ANSWER), |_, cx| cx.iommu.take_faults());
        taken.unwrap_or_default()
    }

    /// True once after each failure that the model reported.
    pub(crate) fn take_failure(&self) -> bool {
        self.shared.failed.swap(false, Ordering::Acquire)
    }

    /// True once, after the device's thread has ended.
    pub(crate) fn take_removal(&self) -> bool {
        !self.alive() && !self.shared.removal_reported.swap(true, Ordering::Relaxed)
    }

    /// Resets the device: mappable ranges read zero, then the model resets itself. Mappings and
    /// interrupts stay.
    ///
    /// # Errors
    /// [`BusError::TimedOut`], [`BusError::Gone`].
    pub fn reset(&self, deadline: Deadline) -> Result<(), BusError> {
        let regions = self.shared.regions.clone();
        self.call("reset", deadline, move |device, cx| {
            for region in &regions {
                let Some(memory) = cx.doorbells(region.index) else { continue };
                for range in &region.mappable {
                    let len = (range.end - range.start) as usize;
                    // Checked when the device was started: the range lies inside.
                    let _ = memory.fill(range.start as usize, len, 0);
                }
            }
            device.reset(cx);
        })
    }

    /// The signals of one vector, with an arm word and an asleep word: duplicates.
    ///
    /// # Errors
    /// [`BusError::Vector`]; [`BusError::Os`] if there is no descriptor left.
    pub fn signals(&self, vector: u16) -> Result<Signals, BusError> {
        let (mut pages, vectors) = (self.pages(), self.vectors());
        let slot = pages.get_mut(usize::from(vector));
        let slot = slot.ok_or_else(|| BusError::Vector { device: self.name(), vector, vectors })?;
        let page = match slot {
            Some(page) => page,
            None => slot.insert(self.install(vector)?),
        };
        page.signals().map_err(|source| BusError::Os {
            device: self.name(),
            what: "duplicating a vector's descriptors",
            source,
        })
    }

    fn install(&self, vector: u16) -> Result<VectorPage, BusError> {
        let dma = |source| BusError::Dma { device: self.name(), source };
        let page = VectorPage::new(&format!("{}-vector{vector}", self.name())).map_err(dma)?;
        let device_side = page.device_side().map_err(dma)?;
        self.shared.watch(&*device_side.kick).map_err(dma)?;
        self.call("installing an interrupt", Deadline::after(ANSWER), move |_, cx| {
            if let Some(signals) = cx.vectors.get_mut(usize::from(vector)) {
                signals.words = Some(device_side);
            }
        })?;
        Ok(page)
    }

    /// Gives a vector up: whoever holds its signals can neither wake the device nor be signalled
    /// any more, and the next [`Control::signals`] makes new ones.
    pub fn retire_signals(&self, vector: u16) {
        // Held to the end, so that new signals are installed after the old ones are gone.
        let mut pages = self.pages();
        let Some(page) = pages.get_mut(usize::from(vector)).and_then(Option::take) else { return };
        if let Err(error) = epoll::delete(&self.shared.epoll, page.kick()) {
            tracing::warn!(device = %self.name(), vector, %error, "a kick is still watched");
        }
        let removed = self.call("retiring an interrupt", Deadline::after(ANSWER), move |_, cx| {
            if let Some(signals) = cx.vectors.get_mut(usize::from(vector)) {
                signals.words = None;
            }
        });
        if let Err(error) = removed {
            tracing::warn!(vector, %error, "retiring an interrupt");
        }
    }

    /// Installs an eventfd that is signalled at every interrupt of a vector: for peers that have no
    /// arm word (a virtual machine). `None` takes it away.
    ///
    /// # Errors
    /// [`BusError::Vector`], [`BusError::TimedOut`], [`BusError::Gone`].
    pub fn install_interrupt(&self, vector: u16, fd: Option<OwnedFd>) -> Result<(), BusError> {
        let vectors = self.vectors();
        if vector >= vectors {
            return Err(BusError::Vector { device: self.name(), vector, vectors });
        }
        self.call("installing an interrupt", Deadline::after(ANSWER), move |_, cx| {
            if let Some(signals) = cx.vectors.get_mut(usize::from(vector)) {
                signals.always = fd;
            }
        })
    }

    fn pages(&self) -> MutexGuard<'_, Vec<Option<VectorPage>>> {
        self.shared.pages.lock().unwrap_or_else(PoisonError::into_inner)
    }

    #[cold]
    pub(crate) fn gone(&self, how: &'static str) -> BusError {
        BusError::Gone { device: self.name(), how }
    }
}

/// Moves a claim from `WAITING` to `to`; false if the other side was first.
fn take(claim: &AtomicU8, to: u8) -> bool {
    claim.compare_exchange(WAITING, to, Ordering::AcqRel, Ordering::Acquire).is_ok()
}
