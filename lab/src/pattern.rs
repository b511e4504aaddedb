//! Data that both sides can make for themselves: every 512 bytes differ, and say where they belong.

/// The size of the unit that a pattern is made of, and of the blocks of the lab's disks.
pub const BLOCK: usize = 512;

/// Block `lba` of the pattern that `seed` gives.
#[must_use]
pub fn block(seed: u64, lba: u64) -> [u8; BLOCK] {
    let mut bytes = [0; BLOCK];
    let mut state = seed ^ lba.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    for word in bytes.chunks_exact_mut(8) {
        word.copy_from_slice(&splitmix(&mut state).to_le_bytes());
    }
    bytes
}

/// `blocks` blocks of the pattern from `lba` on.
#[must_use]
pub fn blocks(seed: u64, lba: u64, blocks: u64) -> Vec<u8> {
    (lba..lba + blocks).flat_map(|lba| block(seed, lba)).collect()
}

/// The number of the first block of `data` (which begins at block `lba`) that is not the pattern's.
#[must_use]
pub fn first_difference(seed: u64, lba: u64, data: &[u8]) -> Option<u64> {
    (lba..).zip(data.chunks(BLOCK)).find(|(lba, have)| *have != block(seed, *lba)).map(|row| row.0)
}

/// SplitMix64 (Steele, Lea, Flood 2014): passes BigCrush, needs eight bytes of state.
fn splitmix(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_depends_on_its_seed_and_its_place() {
        assert_eq!(block(1, 2), block(1, 2));
        assert_ne!(block(1, 2), block(1, 3));
        assert_ne!(block(1, 2), block(2, 2));
    }

    #[test]
    fn a_difference_is_found_where_it_is() {
        let mut data = blocks(7, 100, 4);
        assert_eq!(first_difference(7, 100, &data), None);
        data[2 * BLOCK + 5] ^= 1;
        assert_eq!(first_difference(7, 100, &data), Some(102));
        assert_eq!(first_difference(7, 101, &blocks(7, 100, 1)), Some(101));
    }
}
