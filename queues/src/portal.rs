//! Portals: entries that are written by value to the device, one cell of its BAR after the other.
//!
//! A device with a portal has no submission ring in memory to fetch from, and no tail: an entry is
//! submitted by the store that writes it. The cells of the portal are used in turn, so on the host's
//! side it is a ring like the other one, and slots, completions and futures are the same
//! ([`DoorbellKind::Portal`] in a protocol is all that differs).
//!
//! Hardware takes an entry as **one transaction**: a 64-byte store of its own (Intel's MOVDIR64B and
//! ENQCMD, Data Streaming Accelerator specification, 3.3) arrives whole, at whichever address of the
//! portal's page, and nothing of it can be read back. A software device in another thread or process
//! has no such transaction: it sees memory, eight bytes at a time. So an entry has a **valid word**, the
//! last to be stored, with the number of the lap around the cells, from 1. The device looks at the cell
//! that comes next until its valid word has the lap that it waits for ([`PortalIntake`]), and then reads
//! the rest. A host that tells hardware apart would issue the 64-byte store there and have no need of
//! the word; this crate does not.
//!
//! No cell is overwritten before its entry was taken: the device takes them in order, and fewer commands
//! are in flight than there are cells, so the entry that was a lap ago in this cell was taken, because
//! one that came after it has completed.
//!
//! One word publishes, as a completion's phase does: the valid word is stored with `Release`, and loaded
//! with `Acquire` before the rest. A device that sleeps is woken as with doorbells, the valid word in the
//! doorbell's place: [`crate::doorbell`]. Both are modelled in loom.

use core::cell::Cell;
use core::fmt;
use core::marker::PhantomData;
use core::sync::atomic::Ordering;

use crate::mem::{CellArray, CellCursor, CellHere, CellWords, Cells};
use crate::protocol::{DoorbellKind, QueueProtocol};

/// The device's end of a portal, over any cells. See [`PortalIntake`].
///
/// # Invariants
/// `lap` is what the valid word of the cell at `next` will hold.
#[derive(Debug)]
pub(crate) struct Intake<P: QueueProtocol, C: CellArray = Cells<<P as QueueProtocol>::Entry>> {
    next: C::Cursor,
    lap: Cell<u32>,
    _protocol: PhantomData<fn(P)>,
}

impl<P: QueueProtocol, C: CellArray> Intake<P, C> {
    const VALID: usize = match P::DOORBELL {
        DoorbellKind::Portal { valid } => valid,
        DoorbellKind::Tail => panic!("the protocol has no portal"),
    };

    pub(crate) fn new(cells: C) -> Self {
        Self { next: cells.into_cursor(), lap: Cell::new(1), _protocol: PhantomData }
    }

    #[inline]
    pub(crate) fn take(&self) -> Option<P::Entry> {
        let cell = self.next.here();
        // Acquire: pairs with the release that published the word; the rest of the entry was written
        // before it.
        let word = u32::from_le(cell.load_u32(Self::VALID, Ordering::Acquire));
        if word != self.lap.get() {
            return None;
        }
        let entry = cell.read();
        if cell.advance() {
            self.lap.set(self.lap.get().wrapping_add(1));
        }
        Some(entry)
    }
}

/// The device's end of a portal, for a software device: takes the entries in the order of their cells.
///
/// What it does not do: it trusts nothing that lies in the portal. A host that writes to its cells out
/// of turn, or an entry while it is being taken, gets garbage taken, or nothing: an entry is a copy, to
/// be checked as one that was fetched by DMA.
///
/// ```
/// # use bytemuck::{Pod, Zeroable};
/// # use doorbell_queues::*;
/// # #[derive(Debug, Clone, Copy, PartialEq, Pod, Zeroable)]
/// # #[repr(C)]
/// # struct Pair { value: u32, word: u32 }
/// # struct Portal;
/// # impl QueueProtocol for Portal {
/// #     type Entry = Pair;
/// #     type Completion = Pair;
/// #     type Outcome = u32;
/// #     const DOORBELL: DoorbellKind = DoorbellKind::Portal { valid: 4 };
/// #     const PHASE_WORD: usize = 4;
/// #     fn phase(word: u32) -> bool { word & 1 != 0 }
/// #     fn stamp(_: &mut Pair, _: Tag) {}
/// #     fn tag(_: &Pair) -> Tag { Tag(0) }
/// #     fn submission_head(_: &Pair) -> Option<u16> { None }
/// #     fn outcome(pair: &Pair) -> u32 { pair.value }
/// # }
/// let bar = SharedMem::zeroed(4096);
/// let mut intake = PortalIntake::<Portal>::new(&bar, 64, 8)?; // eight cells from byte 64
/// assert_eq!(intake.take(), None);
/// bar.cells(64, 8)?.publish(0, &Pair { value: 7, word: 1 }, 4); // what a queue does, on its first lap
/// assert_eq!(intake.take().map(|entry| entry.value), Some(7));
/// assert_eq!(intake.take(), None);
/// # Ok::<(), OutOfBounds>(())
/// ```
pub struct PortalIntake<P: QueueProtocol>(Intake<P>);

impl<P: QueueProtocol> PortalIntake<P> {
    /// A portal of `entries` cells, one or more, from byte `offset` of the device's BAR. They are
    /// emptied: whatever a former host left there would be taken for an entry of the new one.
    ///
    /// # Errors
    /// [`OutOfBounds`](crate::OutOfBounds) if they do not lie in `bar`.
    pub fn new(
        bar: &crate::SharedMem,
        offset: usize,
        entries: usize,
    ) -> Result<Self, crate::OutOfBounds> {
        let cells = bar.cells::<P::Entry>(offset, entries.max(1))?;
        let empty = bytemuck::Zeroable::zeroed();
        (0..cells.count()).for_each(|index| cells.write(index, &empty));
        Ok(Self(Intake::new(cells)))
    }

    /// The next entry, if it is there: a copy.
    #[inline]
    pub fn take(&mut self) -> Option<P::Entry> {
        self.0.take()
    }
}

impl<P: QueueProtocol> fmt::Debug for PortalIntake<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PortalIntake").field("lap", &self.0.lap).finish_non_exhaustive()
    }
}
