//! Doorbell queues over device-shared memory.
//!
//! A device queue is a **submission queue** (entries that the host writes), a **completion queue**
//! (entries that the device writes) and two **doorbells**. This crate holds that pair and nothing
//! of an operating system or an executor:
//!
//! * [`mem`]: bounds-checked views of memory that a device or another process can write. The only
//!   module with `unsafe` code.
//! * [`protocol`]: [`QueueProtocol`], what a driver's author says about entries and completions.
//! * [`doorbell`]: one aligned 32-bit store, and the wake-up of a software device that sleeps.
//! * `ring`: the submission ring's tail and the completion ring's head and phase.
//! * [`slots`]: command slots; a tag is a slot plus a generation, so a stale completion is caught.
//! * [`queue`]: [`Queue`], `Single` mode: one thread at a time (`!Sync`), no locks, no allocation.
//! * [`in_flight`]: futures that own their buffer.
//! * [`wait`]: spin budget and the interrupt hook that a framework supplies.
//! * [`fate`]: why a queue ended, told from another thread.
//!
//! What it does not do: it maps no memory, opens no device, starts no thread, and knows no device's
//! registers. The crate `doorbell` does that.
#![cfg_attr(not(test), no_std)]
#![deny(unsafe_code)]

extern crate alloc;

pub mod doorbell;
pub mod error;
pub mod fate;
pub mod in_flight;
#[cfg(test)]
#[cfg(loom)]
mod loom_models;
#[allow(unsafe_code, reason = "raw views of device-shared memory: each site lists its obligations")]
pub mod mem;
pub mod protocol;
pub mod queue;
mod ring;
pub mod slots;
#[cfg(test)]
#[cfg(not(loom))]
mod testing;
pub mod wait;
mod waiters;

pub use doorbell::{Doorbell, Kick, Wake};
pub use error::{BadGeometry, Lost, QueueError, RejectReason, Rejected, Violation};
pub use fate::{EndReason, Fate};
pub use in_flight::InFlight;
pub use mem::{Cells, OutOfBounds, SharedMem, Word, Word32};
pub use protocol::{QueueName, QueueProtocol, Tag};
pub use queue::{Completed, Queue, QueueParts, SlotFree};
pub use wait::{Interrupt, Parked, SpinBudget, SpinOnly, WaitError};
