//! Which blocks a request names, and every check of them before anything reaches the device.

use std::fmt;

use super::error::BadRange;

/// A logical block address: the number of a block from the start of its namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Lba(pub u64);

impl fmt::Display for Lba {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LBA {}", self.0)
    }
}

/// The shape of a namespace: what the checks need.
///
/// Invariant: `block_shift` is 9 to 31; `blocks << block_shift` does not overflow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Geometry {
    pub(crate) blocks: u64,
    pub(crate) block_shift: u32,
}

/// Checked blocks of a namespace: at least one, and all inside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Extent {
    pub(crate) lba: Lba,
    pub(crate) blocks: u64,
}

impl Geometry {
    /// `None` if a namespace cannot have this shape (an LBA data size below 512 bytes is reserved,
    /// NVM command set 1.0, figure 98; 2^31 and more cannot be moved by one command).
    pub(crate) fn new(blocks: u64, block_shift: u32) -> Option<Self> {
        let sane = (9..32).contains(&block_shift) && blocks <= u64::MAX >> block_shift;
        sane.then_some(Self { blocks, block_shift })
    }

    #[inline]
    pub(crate) fn block_size(self) -> u64 {
        1 << self.block_shift
    }

    #[inline]
    pub(crate) fn bytes(self) -> u64 {
        self.blocks << self.block_shift
    }

    /// `blocks` blocks from `lba`.
    #[inline]
    pub(crate) fn extent(self, lba: Lba, blocks: u64) -> Result<Extent, BadRange> {
        if blocks == 0 {
            return Err(BadRange::Empty);
        }
        if lba.0 >= self.blocks || blocks > self.blocks - lba.0 {
            return Err(BadRange::OutOfRange { lba: lba.0, blocks, capacity: self.blocks });
        }
        Ok(Extent { lba, blocks })
    }

    /// The blocks from `lba` that `len` bytes fill.
    #[inline]
    pub(crate) fn at_lba(self, lba: Lba, len: usize) -> Result<Extent, BadRange> {
        let len = len as u64;
        if len & (self.block_size() - 1) != 0 {
            return Err(BadRange::Length { len, block_size: self.block_size() });
        }
        self.extent(lba, len >> self.block_shift)
    }

    /// The blocks that `len` bytes from byte `offset` fill.
    #[inline]
    pub(crate) fn at_byte(self, offset: u64, len: usize) -> Result<Extent, BadRange> {
        if offset & (self.block_size() - 1) != 0 {
            return Err(BadRange::Offset { offset, block_size: self.block_size() });
        }
        self.at_lba(Lba(offset >> self.block_shift), len)
    }
}

/// One command of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Part {
    pub(crate) lba: Lba,
    /// 1 to 65,536.
    pub(crate) blocks: u32,
    /// Blocks of the request before this part.
    pub(crate) before: u64,
}

/// The most blocks a command can name: the field is 16 bits and 0's based (NVM command set 1.0,
/// figure 39).
pub(crate) const MOST_BLOCKS: u64 = 65_536;

impl Extent {
    /// Part number `index` (from 0) of this extent, cut into parts of `most` blocks, the last one
    /// shorter; `None` past the end. `most` is 1 to [`MOST_BLOCKS`].
    #[inline]
    pub(crate) fn part(self, index: u64, most: u64) -> Option<Part> {
        let before = index.checked_mul(most).filter(|before| *before < self.blocks)?;
        let blocks = (self.blocks - before).min(most);
        Some(Part { lba: Lba(self.lba.0 + before), blocks: blocks as u32, before })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn shapes_that_cannot_be_are_none() {
        assert!(Geometry::new(1 << 20, 9).is_some());
        assert!(Geometry::new(0, 12).is_some());
        for (blocks, shift) in [(1, 8), (1, 0), (1, 32), (u64::MAX, 9), (1 << 55, 9)] {
            assert_eq!(Geometry::new(blocks, shift), None, "{blocks} << {shift}");
        }
    }

    #[test]
    fn each_bad_range_is_told_apart() {
        let shape = Geometry::new(100, 9).unwrap();
        assert_eq!(shape.at_lba(Lba(0), 0), Err(BadRange::Empty));
        assert_eq!(shape.at_lba(Lba(0), 511), Err(BadRange::Length { len: 511, block_size: 512 }));
        assert_eq!(shape.at_byte(1, 512), Err(BadRange::Offset { offset: 1, block_size: 512 }));
        for (lba, blocks) in [(100, 1), (99, 2), (u64::MAX, 1), (0, 101), (1, u64::MAX)] {
            assert_eq!(
                shape.extent(Lba(lba), blocks),
                Err(BadRange::OutOfRange { lba, blocks, capacity: 100 })
            );
        }
        assert_eq!(shape.at_byte(99 * 512, 512), Ok(Extent { lba: Lba(99), blocks: 1 }));
    }

    proptest! {
        #[test]
        fn parts_tile_the_extent(
            lba in 0u64..1 << 40, blocks in 1u64..300_000, most in 1u64..=MOST_BLOCKS,
        ) {
            let extent = Extent { lba: Lba(lba), blocks };
            let mut at = 0;
            for part in (0..).map_while(|index| extent.part(index, most)) {
                prop_assert_eq!(part.before, at);
                prop_assert_eq!(part.lba, Lba(lba + at));
                prop_assert!((1..=most).contains(&u64::from(part.blocks)));
                at += u64::from(part.blocks);
            }
            prop_assert_eq!(at, blocks);
            prop_assert_eq!(extent.part(u64::MAX, most), None);
        }

        #[test]
        fn whatever_is_accepted_lies_inside(
            blocks in 0u64..1000, shift in 9u32..13, offset in any::<u64>(), len in any::<usize>(),
        ) {
            let shape = Geometry::new(blocks, shift).unwrap();
            for offset in [offset, offset % (2 << 20), (offset % 2000) << shift] {
                for len in [len, len % (1 << 20), (len % 2000) << shift] {
                    if let Ok(extent) = shape.at_byte(offset, len) {
                        prop_assert!(extent.blocks > 0);
                        prop_assert!(extent.lba.0 + extent.blocks <= blocks);
                        prop_assert_eq!(extent.blocks << shift, len as u64);
                        prop_assert_eq!(extent.lba.0 << shift, offset);
                    }
                }
            }
        }
    }
}
