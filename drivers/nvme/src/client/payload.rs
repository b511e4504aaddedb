//! What a command's slot keeps while the device works on it.

use doorbell::dma::{DmaBox, DmaShared};
use doorbell_queues::{Cells, OutOfBounds};

use crate::prp::{PageSize, Prps, describe, describe_short};
use crate::spec::DsmRange;

/// The memory that a command names: it stays allocated until the command has completed, whatever
/// became of the future. One pointer, so that it goes through the queue in registers. (The slots'
/// pages are the queue's to keep: [`Claimed::keep`](doorbell::client::Claimed::keep).)
///
/// A command without data has none. One of several commands that work on parts of a buffer has a
/// share: the future holds the buffer itself, and the shares keep its memory allocated should the
/// future be dropped.
#[derive(Debug)]
pub struct Payload(Option<DmaShared<[u8]>>);

impl Payload {
    /// For a command without data.
    #[inline]
    pub(crate) fn nothing() -> Self {
        Self(None)
    }

    /// For a command that moves a whole buffer.
    #[inline]
    pub(crate) fn whole(buffer: DmaShared<[u8]>) -> Self {
        Self(Some(buffer))
    }

    /// For one of several commands that move parts of a buffer.
    pub(crate) fn share(buffer: &DmaShared<[u8]>) -> Self {
        Self(Some(buffer.share()))
    }

    /// The device's address of the buffer.
    #[inline]
    pub(crate) fn iova(&self) -> Option<u64> {
        self.0.as_ref().map(DmaShared::iova)
    }

    /// The buffer in CPU hands, unless another command has a share of it. Call it only when the device
    /// is done with it.
    #[inline]
    pub(crate) fn into_buffer(self) -> Option<DmaBox<[u8]>> {
        match self.0?.into_box() {
            Ok(buffer) => Some(buffer),
            Err(shared) => {
                part_with(shared);
                None
            }
        }
    }
}

#[cold]
#[inline(never)]
fn part_with(share: DmaShared<[u8]>) {
    drop(share);
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

    /// The PRP entries of `slot`'s command for `len` bytes at `iova`; they may name the slot's page.
    #[inline]
    pub(crate) fn prps(&self, slot: u16, iova: u64, len: u64) -> Prps {
        describe_short(self.page, iova, len).unwrap_or_else(|| self.listed(slot, iova, len))
    }

    /// As [`SlotPages::prps`], with a list.
    #[inline(never)]
    fn listed(&self, slot: u16, iova: u64, len: u64) -> Prps {
        let first = usize::from(slot) * self.page.list_entries();
        describe(self.page, iova, len, self.iova_of(slot), |index, entry| {
            self.cells.write(first + index, &entry);
        })
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
