//! Where a software device's BARs, MSI-X table and PBA lie.

use crate::bus::Region;

/// Pages of the table and of the PBA.
const PAGE: u64 = 4096;
/// Most vectors of MSI-X (PCIe base 5.0, 7.7.2.2).
const MOST_VECTORS: u16 = 2048;
/// Bytes of a table entry.
pub(super) const ENTRY: u64 = 16;

/// One BAR.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BarLayout {
    /// BAR number; a wide one also takes the next.
    pub index: u8,
    /// Bytes: a power of two, at least a page.
    pub size: u64,
    /// 64 bits wide.
    pub wide: bool,
}

/// MSI-X.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MsixLayout {
    /// The BAR with the table and the PBA.
    pub bar: u8,
    /// Offset of the table in it.
    pub table: u64,
    /// Offset of the PBA in it.
    pub pba: u64,
    /// Vectors, 1 to 2048.
    pub vectors: u16,
}

impl MsixLayout {
    /// Bytes of the table.
    #[must_use]
    pub fn table_len(&self) -> u64 {
        u64::from(self.vectors) * ENTRY
    }

    /// Bytes of the PBA: a bit for each vector, in whole quadwords.
    #[must_use]
    pub fn pba_len(&self) -> u64 {
        u64::from(self.vectors).div_ceil(64) * 8
    }
}

/// A device that PCI has no room for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadLayout {
    /// A BAR of this size cannot be.
    #[error(
        "BAR{index} of {size:#x} bytes: a BAR has 1 byte to 2^47, or 2^31 where the next BAR is used"
    )]
    Bar {
        /// BAR number.
        index: u8,
        /// Bytes asked for.
        size: u64,
    },
    /// Two regions with one number, or a number above 5.
    #[error("BAR{0}: there is one BAR of each number from 0 to 5")]
    Number(u8),
    /// More vectors than MSI-X has.
    #[error("{0} interrupt vectors: MSI-X has at most 2048")]
    Vectors(u16),
}

/// Where everything lies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    bars: Vec<BarLayout>,
    msix: Option<MsixLayout>,
}

impl Layout {
    /// Lays out a device with these regions and MSI-X vectors.
    ///
    /// # Errors
    /// [`BadLayout`].
    pub fn new(regions: &[Region], vectors: u16) -> Result<Self, BadLayout> {
        if vectors > MOST_VECTORS {
            return Err(BadLayout::Vectors(vectors));
        }
        let mut sizes = [0u64; 6];
        for region in regions {
            let number = BadLayout::Number(region.index);
            let slot = sizes.get_mut(usize::from(region.index)).ok_or(number.clone())?;
            if *slot != 0 {
                return Err(number);
            }
            *slot = size(region.index, region.size)?;
        }
        let msix = if vectors > 0 { Some(place(&mut sizes, vectors)?) } else { None };
        let mut bars = Vec::new();
        let mut index = 0u8;
        while let Some(bytes) = sizes.get(usize::from(index)).copied() {
            let wide = sizes.get(usize::from(index) + 1) == Some(&0);
            if bytes == 0 {
                index += 1;
                continue;
            }
            if !wide && bytes > 1 << 31 {
                return Err(BadLayout::Bar { index, size: bytes });
            }
            bars.push(BarLayout { index, size: bytes, wide });
            index += if wide { 2 } else { 1 };
        }
        Ok(Self { bars, msix })
    }

    /// The BARs, in order.
    #[must_use]
    pub fn bars(&self) -> &[BarLayout] {
        &self.bars
    }

    /// One BAR.
    #[must_use]
    pub fn bar(&self, index: u8) -> Option<&BarLayout> {
        self.bars.iter().find(|bar| bar.index == index)
    }

    /// MSI-X, if the device has vectors.
    #[must_use]
    pub fn msix(&self) -> Option<&MsixLayout> {
        self.msix.as_ref()
    }
}

/// The size of a BAR for so many bytes.
fn size(index: u8, bytes: u64) -> Result<u64, BadLayout> {
    let bad = BadLayout::Bar { index, size: bytes };
    let size = bytes.max(PAGE).checked_next_power_of_two();
    size.filter(|size| bytes > 0 && *size <= 1 << 47).ok_or(bad)
}

/// Finds room for the table and the PBA.
fn place(sizes: &mut [u64; 6], vectors: u16) -> Result<MsixLayout, BadLayout> {
    let table_len = (u64::from(vectors) * ENTRY).next_multiple_of(PAGE);
    // Behind an even BAR number a wide BAR before it is not narrowed.
    let free = [2, 4, 0, 5, 3, 1].into_iter().find(|index| {
        let before = index % 2 == 1 && sizes.get(index - 1).is_some_and(|size| *size > 1 << 31);
        sizes.get(*index) == Some(&0) && !before
    });
    // Without a free one: behind the registers of the last.
    let last = || sizes.iter().rposition(|size| *size != 0);
    let bar = free.or_else(last).unwrap_or(0);
    let slot = sizes.get_mut(bar).ok_or(BadLayout::Number(5))?;
    let table = *slot;
    *slot = size(bar as u8, table + table_len + PAGE)?;
    Ok(MsixLayout { bar: bar as u8, table, pba: table + table_len, vectors })
}
