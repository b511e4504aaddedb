//! PRP entries: where a command's data lies (NVM Express base 2.0, 4.1.1).
//!
//! Buffers here are contiguous in IOVA space, so the pages of a transfer follow from its first
//! address and its length: nothing is walked. A transfer of up to two pages needs no list; a longer
//! one uses a list in one memory page, which its command slot owns (SPDK's `nvme_tracker` has the
//! same idea). The list's address is computed once, when the slot is made.

/// The two PRP entries of a command (base 2.0, figure 87).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Prps {
    /// PRP entry 1: the first byte of the data.
    pub prp1: u64,
    /// PRP entry 2: the second page, or the PRP list, or 0.
    pub prp2: u64,
}

/// The memory page size that the controller was told in CC.MPS (base 2.0, 3.1.3.5).
///
/// Invariant: a power of two from 4 KiB to 128 MiB.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PageSize(u32);

impl PageSize {
    /// The size that every controller of today has as its minimum.
    pub const KIB_4: Self = Self(4096);

    /// `bytes` must be a power of two from 4 KiB to 128 MiB (CC.MPS 0 to 15).
    #[must_use]
    pub fn new(bytes: u32) -> Option<Self> {
        (bytes.is_power_of_two() && (4096..=(4096 << 15)).contains(&bytes)).then_some(Self(bytes))
    }

    /// In bytes.
    #[must_use]
    #[inline]
    pub fn bytes(self) -> u64 {
        u64::from(self.0)
    }

    /// Entries of a PRP list that fills one page.
    #[must_use]
    #[inline]
    pub fn list_entries(self) -> usize {
        self.0 as usize / size_of::<u64>()
    }

    /// The most bytes that one command with one list page can move, wherever in its page the data
    /// begins.
    #[must_use]
    pub fn most_bytes(self) -> u64 {
        self.bytes() * self.list_entries() as u64
    }
}

/// As [`describe`], if it takes no list: data in one or two pages.
#[must_use]
#[inline]
pub fn describe_short(page: PageSize, iova: u64, len: u64) -> Option<Prps> {
    let size = page.bytes();
    let first = size - (iova & (size - 1));
    if len <= first {
        return Some(Prps { prp1: iova, prp2: 0 });
    }
    (len <= first + size).then(|| Prps { prp1: iova, prp2: iova + first })
}

/// The PRP entries for `len` bytes at `iova`. Entries of the list, if one is needed, go to `list` by
/// index; `list_iova` is where the list lies, aligned to the page size.
///
/// `iova` must be aligned to 4 bytes (base 2.0, 4.1.1), and `len` at most
/// [`PageSize::most_bytes`]: the caller has split longer transfers.
#[inline]
pub fn describe(
    page: PageSize,
    iova: u64,
    len: u64,
    list_iova: u64,
    mut list: impl FnMut(usize, u64),
) -> Prps {
    debug_assert!(len <= page.most_bytes(), "transfers are split before they are described");
    if let Some(prps) = describe_short(page, iova, len) {
        return prps;
    }
    let size = page.bytes();
    let first = size - (iova & (size - 1));
    let second = iova + first;
    let pages = (len - first).div_ceil(size);
    for index in 0..pages {
        list(index as usize, second + index * size);
    }
    Prps { prp1: iova, prp2: list_iova }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Walks PRPs as a controller does: the bytes they cover, in order, as page-bounded pieces.
    fn walk(page: PageSize, prps: Prps, len: u64, list_iova: u64, list: &[u64]) -> Vec<(u64, u64)> {
        let size = page.bytes();
        let mut pieces = vec![];
        let first = (size - prps.prp1 % size).min(len);
        pieces.push((prps.prp1, first));
        let mut left = len - first;
        if left == 0 {
            assert_eq!(prps.prp2, 0);
        } else if left <= size {
            assert_eq!(prps.prp2 % size, 0);
            pieces.push((prps.prp2, left));
        } else {
            assert_eq!(prps.prp2, list_iova);
            for &entry in list {
                assert_eq!(entry % size, 0);
                let piece = left.min(size);
                pieces.push((entry, piece));
                left -= piece;
            }
            assert_eq!(left, 0);
        }
        pieces
    }

    proptest! {
        #[test]
        fn prps_cover_exactly_the_buffer(
            mps in 0u32..3,
            first_page in 1u64..1 << 36,
            dwords_in in 0u64..4096,
            len in 1u64..=(2 << 20),
        ) {
            let page = PageSize::new(4096 << mps).unwrap();
            let iova = first_page * page.bytes() + (dwords_in * 4) % page.bytes();
            let list_iova = 0xabc_0000_0000;
            let mut list = vec![];
            let prps = describe(page, iova, len, list_iova, |index, entry| {
                assert_eq!(index, list.len());
                list.push(entry);
            });
            prop_assert!(list.len() <= page.list_entries());
            let mut at = iova;
            for (start, bytes) in walk(page, prps, len, list_iova, &list) {
                prop_assert_eq!(start, at);
                at += bytes;
            }
            prop_assert_eq!(at, iova + len);
        }
    }

    #[test]
    fn the_longest_transfer_fits_one_list_page_at_any_offset() {
        let page = PageSize::KIB_4;
        for offset in [0, 4, 512, 4092] {
            let mut used = 0;
            describe(page, 0x10_0000 + offset, page.most_bytes(), 0, |index, _| used = index + 1);
            assert!(used <= page.list_entries(), "offset {offset} uses {used}");
        }
    }

    #[test]
    fn page_sizes_are_those_of_cc_mps() {
        assert_eq!(PageSize::new(4096), Some(PageSize::KIB_4));
        assert!(PageSize::new(128 << 20).is_some());
        for bad in [0, 2048, 4097, 256 << 20] {
            assert_eq!(PageSize::new(bad), None);
        }
    }
}
