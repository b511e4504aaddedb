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
//! * [`portal`]: entries that are written to the device by value.
//! * `ring`: the submission ring's tail and the completion ring's head and phase.
//! * [`slots`]: command slots; a tag is a slot plus a generation, so a stale completion is caught.
//! * [`queue`]: [`Queue`], `Single` mode: one thread at a time (`!Sync`), no locks, no allocation.
//! * [`in_flight`]: futures that own their buffer.
//! * [`wait`]: spin budget and the interrupt hook that a framework supplies.
//! * [`fate`]: why a queue ended, told from another thread.
//!
//! What it does not do: it maps no memory, opens no device, starts no thread, keeps no time, and
//! knows no device's registers. The crate `doorbell` does that. A device without rings has no use for
//! it.
//!
//! # Example
//!
//! A protocol, a queue over ordinary memory, and the least possible device at its other end:
//!
//! ```
//! use std::sync::{Arc, atomic::Ordering};
//! use bytemuck::{Pod, Zeroable};
//! use doorbell_queues::*;
//!
//! #[derive(Clone, Copy, Pod, Zeroable)]
//! #[repr(C)]
//! struct Command { tag: u16, opcode: u16, value: u32 }
//! #[derive(Clone, Copy, Pod, Zeroable)]
//! #[repr(C)]
//! struct Answer { value: u32, tag: u16, phase: u16 }
//!
//! /// A device that doubles a number.
//! struct Doubler;
//! impl QueueProtocol for Doubler {
//!     type Entry = Command;
//!     type Completion = Answer;
//!     type Outcome = u32;
//!     const PHASE_WORD: usize = 4; // `tag` and `phase` are one 32-bit word, written last
//!     fn phase(word: u32) -> bool { word & 1 << 16 != 0 }
//!     fn stamp(entry: &mut Command, tag: Tag) { entry.tag = tag.0; }
//!     fn tag(answer: &Answer) -> Tag { Tag(answer.tag) }
//!     fn submission_head(_: &Answer) -> Option<u16> { None }
//!     fn outcome(answer: &Answer) -> u32 { answer.value }
//! }
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let (sq, cq, bar) = (SharedMem::zeroed(64), SharedMem::zeroed(64), SharedMem::zeroed(8));
//! let queue = Queue::<Doubler, Vec<u8>>::new(QueueParts {
//!     name: QueueName { device: "example".into(), queue: 1 },
//!     submission: sq.clone(),
//!     submission_entries: 8,
//!     entry_stores: EntryStores::Plain,
//!     completion: cq.clone(),
//!     completion_entries: 8,
//!     slots: 4,
//!     submission_doorbell: Doorbell::new(bar.word32(0)?, None),
//!     completion_doorbell: Doorbell::new(bar.word32(4)?, None),
//!     interrupt: Box::new(SpinOnly),
//!     fate: Arc::new(Fate::new()),
//!     spin: SpinBudget::default(),
//! })?;
//!
//! // The host: an entry is built in place, the device is told, and the future keeps the buffer.
//! let buffer = vec![1, 2, 3];
//! let command = |_slot, _buffer: &mut _| Command { tag: 0, opcode: 1, value: 21 };
//! let in_flight = queue.submit(buffer, command).map_err(|rejected| rejected.reason)?;
//! queue.flush();
//!
//! // The device: its doorbell covers one entry; it answers in the first pass, so the phase is 1.
//! assert_eq!(bar.word32(0)?.load(Ordering::Acquire), 1);
//! let Command { tag, value, .. } = sq.cells::<Command>(0, 8)?.read(0);
//! let answer = Answer { value: 2 * value, tag, phase: 1 };
//! cq.cells(0, 8)?.publish(0, &answer, Doubler::PHASE_WORD);
//!
//! // The host: outcome and buffer come back, on any executor.
//! let (outcome, buffer) = pollster::block_on(in_flight).map_err(|lost| lost.error)?;
//! assert_eq!((outcome, buffer), (42, vec![1, 2, 3]));
//! # Ok(())
//! # }
//! ```
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
pub mod portal;
pub mod protocol;
pub mod queue;
mod ring;
pub mod shared;
pub mod slots;
#[cfg(test)]
#[cfg(not(loom))]
mod testing;
pub mod wait;

mod waiters;
pub mod wakes;

pub use doorbell::{Doorbell, Kick, Shadow, Wake};
pub use error::{BadGeometry, Lost, QueueError, RejectReason, Rejected, Violation};
pub use fate::{EndReason, Fate};
pub use in_flight::InFlight;
pub use mem::{Cells, EntryStores, OutOfBounds, SharedMem, Word, Word32};
pub use portal::PortalIntake;
pub use protocol::{DoorbellKind, QueueName, QueueProtocol, Tag};
pub use queue::{Completed, Queue, QueueParts, SlotFree};
pub use shared::{SharedInFlight, SharedQueue, SharedSlotFree};
pub use wait::{Interrupt, NextCompletion, Parked, SpinBudget, SpinOnly, WaitError};
pub use wakes::WakeSet;
