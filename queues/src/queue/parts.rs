//! What goes into a queue, and what comes out of it.

use alloc::boxed::Box;
use alloc::sync::Arc;
use core::fmt;

use crate::doorbell::Doorbell;
use crate::error::BadGeometry;
use crate::fate::Fate;
use crate::mem::{Cells, EntryStores, SharedMem};
use crate::protocol::{DoorbellKind, QueueName, QueueProtocol, Tag};
use crate::slots::MAX_SLOTS;
use crate::wait::{Interrupt, SpinBudget};

/// What a queue is made of. A framework fills this from a grant.
///
/// The queue drops the two memories with itself, whether the device is done with them or not. An
/// [`Owner`](crate::mem::Owner) of memory that a device reaches by DMA keeps it in place until it
/// is.
pub struct QueueParts {
    /// Which queue this is, for errors.
    pub name: QueueName,
    /// Memory of the submission ring, zeroed; entry 0 at offset 0. Of a portal, its cells in the
    /// device's BAR.
    pub submission: SharedMem,
    /// Entries of the submission ring, or cells of the portal, 2 to 65,536.
    pub submission_entries: u32,
    /// How entries are stored: what the bus says. Those of a portal are stored plainly in any case.
    pub entry_stores: EntryStores,
    /// Memory of the completion ring, zeroed; entry 0 at offset 0.
    pub completion: SharedMem,
    /// Entries of the completion ring, 2 to 65,536.
    pub completion_entries: u32,
    /// Commands that can be in flight, 1 to 4,096; fewer than the entries of either ring.
    pub slots: u16,
    /// The tail doorbell; it wakes a device that sleeps. Of a portal only the waking is used; the
    /// register is any word of it, and is never stored to.
    pub submission_doorbell: Doorbell,
    /// The head doorbell; it brings no new work, so it need not wake the device.
    pub completion_doorbell: Doorbell,
    /// How to sleep until a completion.
    pub interrupt: Box<dyn Interrupt>,
    /// Set by whoever ends the queue from outside.
    pub fate: Arc<Fate>,
    /// How long a future spins before it parks.
    pub spin: SpinBudget,
}

impl fmt::Debug for QueueParts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("QueueParts")
            .field("name", &self.name)
            .field("submission_entries", &self.submission_entries)
            .field("completion_entries", &self.completion_entries)
            .field("slots", &self.slots)
            .finish_non_exhaustive()
    }
}

/// The cells of both rings.
type Rings<P> = (Cells<<P as QueueProtocol>::Entry>, Cells<<P as QueueProtocol>::Completion>);

impl QueueParts {
    /// Checks the numbers against each other and the memory.
    pub(crate) fn rings<P: QueueProtocol>(&self) -> Result<Rings<P>, BadGeometry> {
        const {
            assert!(
                P::PHASE_WORD.is_multiple_of(4) && P::PHASE_WORD < size_of::<P::Completion>(),
                "the phase word is an aligned word of the completion"
            );
            if let DoorbellKind::Portal { valid } = P::DOORBELL {
                assert!(
                    valid.is_multiple_of(4) && valid < size_of::<P::Entry>(),
                    "the valid word is an aligned word of the entry"
                );
            }
        }
        let queue = || self.name.clone();
        for entries in [self.submission_entries, self.completion_entries] {
            if !(2..=65_536).contains(&entries) {
                return Err(BadGeometry::Entries { queue: queue(), entries });
            }
        }
        let fewest = self.submission_entries.min(self.completion_entries);
        if self.slots == 0 || self.slots > MAX_SLOTS || u32::from(self.slots) >= fewest {
            return Err(BadGeometry::Slots { queue: queue(), slots: self.slots });
        }
        let memory = |error| BadGeometry::Memory { queue: queue(), error };
        let submission = self.submission.cells(0, self.submission_entries as usize);
        let completion = self.completion.cells(0, self.completion_entries as usize);
        Ok((submission.map_err(memory)?, completion.map_err(memory)?))
    }
}

/// A completion handed to the callback of [`Queue::reap`](crate::Queue::reap).
#[derive(Debug)]
pub struct Completed<P: QueueProtocol, B> {
    /// The command that [`Queue::post`](crate::Queue::post) returned.
    pub tag: Tag,
    /// Status and results.
    pub outcome: P::Outcome,
    /// The buffer, back from the device.
    pub buffer: B,
}
