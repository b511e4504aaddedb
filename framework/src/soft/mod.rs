//! Software devices: what the author of a model implements, and the harness that runs it.
//!
//! A model is a [`SoftDevice`]: registers, a `poll` that looks at its doorbells, DMA through
//! [`SoftCx`]. The [`harness`] runs it on a thread of its own: doorbells lie in a memfd that clients
//! map, so the bytes on the data path are the same as with hardware. An idle harness sleeps and the
//! doorbell wakes it (see [`doorbell_queues::doorbell`]).
//!
//! The model is owned by its thread: register accesses, map and unmap requests come to it as
//! messages, so a model needs no locks, and an unmap that was answered is complete.

use std::os::fd::BorrowedFd;
use std::time::Instant;

use crate::bus::{Identity, Region, Width};

pub(crate) mod bar;
pub mod control;
pub mod cx;
pub mod harness;
pub mod iommu;
#[cfg(test)]
mod iommu_tests;
mod late;
pub(crate) mod remote;
pub mod signals;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
mod worker;

pub use control::Control;
pub use cx::SoftCx;
pub use harness::{Harness, HarnessOptions};
pub use iommu::{Piece, SoftIommu};

/// Whether a poll found work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// Something was done: poll again at once.
    Busy,
    /// Nothing to do now.
    Idle,
}

/// What a sleeping model must be woken for besides doorbells and register accesses.
#[derive(Debug, Default)]
pub struct Idle<'a> {
    /// Readable descriptors that mean work: the eventfd of an io_uring, a socket.
    pub fds: Vec<BorrowedFd<'a>>,
    /// A point in time at which `poll` must run again.
    pub until: Option<Instant>,
}

/// A software model of a device. All calls come from one thread; none may block for long.
pub trait SoftDevice: Send + 'static {
    /// Vendor, device and class; the harness fills in the name.
    fn identity(&self) -> Identity;

    /// Its BARs. Mappable ranges are page-aligned and lie in shared memory: [`SoftCx::doorbells`].
    fn regions(&self) -> Vec<Region>;

    /// True if each page of the region's mappable ranges belongs to at most one queue (NVMe:
    /// CAP.DSTRD >= 10), so that a page can be given to one client alone.
    fn exclusive_pages(&self, region: u8) -> bool {
        let _ = region;
        false
    }

    /// How many interrupt vectors it has.
    fn vectors(&self) -> u16;

    /// A register read outside of the mappable ranges.
    fn read(&mut self, cx: &mut SoftCx, region: u8, offset: u64, width: Width) -> u64;

    /// A register write outside of the mappable ranges. (A message that writes into a mappable range
    /// is stored there by the harness, and seen by the next `poll`.)
    fn write(&mut self, cx: &mut SoftCx, region: u8, offset: u64, width: Width, value: u64);

    /// Looks at the doorbells, fetches and executes a bounded number of entries, posts completions.
    fn poll(&mut self, cx: &mut SoftCx) -> Progress;

    /// The thread is about to sleep: what a device must announce to its host for that, such as the
    /// EventIdx of shadow doorbells ([`doorbell_queues::doorbell::shadow`]). A poll follows, and the
    /// thread sleeps only if that is idle; the asleep words are set already.
    fn doze(&mut self, cx: &mut SoftCx) {
        let _ = cx;
    }

    /// What must wake the thread when it sleeps. Called only when `poll` was idle.
    fn idle(&self) -> Idle<'_> {
        Idle::default()
    }

    /// True if the device can interrupt by its pin (INTx): see [`SoftDevice::pin`].
    fn has_pin(&self) -> bool {
        false
    }

    /// True while the device asserts its interrupt pin. Asked for only while someone listens to it,
    /// after everything that can change it, and again whenever the host has unmasked it.
    fn pin(&mut self, cx: &mut SoftCx) -> bool {
        let _ = cx;
        false
    }

    /// True if the model makes a DMA read again, in a later poll, after it failed and
    /// [`SoftCx::interrupted`] said so. Then a host that waits for a register read may keep a DMA
    /// read of its memory waiting without harm.
    fn repeats_dma(&self) -> bool {
        false
    }

    /// How many virtual functions it has, all of them enabled.
    fn virtual_functions(&self) -> u16 {
        0
    }

    /// The model of a virtual function, as after power-on, to be run on a thread of its own with an
    /// address space of its own; `None` if there is none of this index. The one that was handed out
    /// before for the same index does no DMA any more.
    fn open_virtual_function(&mut self, index: u16) -> Option<Box<dyn SoftDevice>> {
        let _ = index;
        None
    }

    /// Makes what the device keeps durable; it is about to be stopped. May take long: nothing else
    /// is asked of it meanwhile.
    ///
    /// # Errors
    /// What the medium says; the data may not be durable then.
    fn flush(&mut self, cx: &mut SoftCx) -> std::io::Result<()> {
        let _ = cx;
        Ok(())
    }

    /// Function-level reset: as after power-on. I/O under way to a backend may finish, but no DMA
    /// and no interrupt may follow.
    fn reset(&mut self, cx: &mut SoftCx);
}
