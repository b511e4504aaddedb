//! What a command's slot keeps while the device works on it.

use std::sync::Arc;

use doorbell::dma::{DmaBox, DmaKeep, DmaShared};
use doorbell_queues::{Cells, OutOfBounds};

use crate::prp::{PageSize, Prps, describe};
use crate::spec::DsmRange;

/// The memory that a command names: it stays allocated until the command has completed, whatever
/// became of the future.
#[derive(Debug)]
pub struct Payload {
    data: Data,
    /// Set if the command names its slot's page.
    pages: Option<Arc<SlotPages>>,
}

#[derive(Debug)]
enum Data {
    /// A command without data of its own.
    Nothing,
    /// The whole buffer.
    Whole(DmaShared<[u8]>),
    /// A share of a buffer that several commands work on. The future holds the buffer itself; the
    /// shares keep its memory allocated should the future be dropped.
    Share { _kept: DmaKeep },
}

impl Payload {
    /// For a command without data.
    #[inline]
    pub(crate) fn nothing() -> Self {
        Self { data: Data::Nothing, pages: None }
    }

    /// For a command that moves a whole buffer.
    #[inline]
    pub(crate) fn whole(buffer: DmaShared<[u8]>) -> Self {
        Self { data: Data::Whole(buffer), pages: None }
    }

    /// For one of several commands that move parts of a buffer.
    pub(crate) fn share(buffer: &DmaShared<[u8]>) -> Self {
        Self { data: Data::Share { _kept: buffer.keep() }, pages: None }
    }

    /// The device's address of the whole buffer.
    #[inline]
    pub(crate) fn iova(&self) -> Option<u64> {
        match &self.data {
            Data::Whole(shared) => Some(shared.iova()),
            Data::Nothing | Data::Share { .. } => None,
        }
    }

    /// Keeps the slots' pages too: the command names its own.
    #[inline]
    pub(crate) fn keep(&mut self, pages: &Arc<SlotPages>) {
        self.pages = Some(Arc::clone(pages));
    }

    /// The buffer in CPU hands. Call it only when the device is done with it.
    #[inline]
    pub(crate) fn into_buffer(self) -> Option<DmaBox<[u8]>> {
        match self.data {
            Data::Whole(shared) => shared.into_box().ok(),
            Data::Nothing | Data::Share { .. } => None,
        }
    }
}

/// One page per command slot: its PRP list, or the ranges of its Dataset Management command.
///
/// # Invariants
/// * `cells` covers `slots * page.list_entries()` words, and `iova`, aligned to `page`, is the
///   device's address of the first.
/// * A slot's page is written only while its command is being built, when the device has no command
///   that names it.
#[derive(Debug)]
pub(crate) struct SlotPages {
    cells: Cells<u64>,
    iova: u64,
    page: PageSize,
}

impl SlotPages {
    /// Bytes that [`SlotPages::new`] needs: one page more than there are slots, for the alignment of
    /// pages larger than 4 KiB.
    pub(crate) fn bytes(page: PageSize, slots: usize) -> usize {
        let slack = if page == PageSize::KIB_4 { 0 } else { 1 };
        (slots + slack) * page.bytes() as usize
    }

    pub(crate) fn new(
        memory: &DmaShared<[u8]>,
        page: PageSize,
        slots: usize,
    ) -> Result<Self, OutOfBounds> {
        let iova = memory.iova().next_multiple_of(page.bytes());
        let skip = (iova - memory.iova()) as usize;
        let cells = memory.mem().cells(skip, slots * page.list_entries())?;
        // The cells keep the memory allocated.
        Ok(Self { cells, iova, page })
    }

    #[inline]
    fn iova_of(&self, slot: u16) -> u64 {
        self.iova + u64::from(slot) * self.page.bytes()
    }

    /// The PRP entries of `slot`'s command for `len` bytes at `iova`, and whether they name the
    /// slot's page.
    #[inline]
    pub(crate) fn prps(&self, slot: u16, iova: u64, len: u64) -> (Prps, bool) {
        let first = usize::from(slot) * self.page.list_entries();
        let mut listed = false;
        let prps = describe(self.page, iova, len, self.iova_of(slot), |index, entry| {
            listed = true;
            self.cells.write(first + index, &entry);
        });
        (prps, listed)
    }

    /// Writes the ranges of `slot`'s Dataset Management command; at most as many as a page holds.
    pub(crate) fn ranges(&self, slot: u16, ranges: impl Iterator<Item = DsmRange>) -> Prps {
        let first = usize::from(slot) * self.page.list_entries();
        let most = self.page.list_entries() / 2;
        for (index, range) in ranges.take(most).enumerate() {
            let [low, high]: [u64; 2] = bytemuck::cast(range);
            self.cells.write(first + 2 * index, &low);
            self.cells.write(first + 2 * index + 1, &high);
        }
        Prps { prp1: self.iova_of(slot), prp2: 0 }
    }
}
