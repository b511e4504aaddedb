//! PRP entries and lists: any layout against a flat buffer.

use proptest::prelude::*;

use super::*;

/// Scatters a transfer of `len` bytes over host memory: shuffled pages, and lists that begin at
/// `list_entry` of a page and chain. Gives PRP1, PRP2 and the pieces.
fn scatter(
    bench: &mut Bench,
    page: u64,
    len: u64,
    head: u64,
    list_entry: u64,
    shuffle: u64,
) -> (u64, u64, Vec<(u64, u64)>) {
    let count = (head + len).div_ceil(page);
    let mut pages: Vec<u64> = (0..count).map(|_| bench.alloc_page(page)).collect();
    for i in (1..pages.len()).rev() {
        pages.swap(i, (shuffle.rotate_left(i as u32) % (i as u64 + 1)) as usize);
    }
    let mut pieces = Vec::new();
    let mut left = len;
    for (i, at) in pages.iter().enumerate() {
        let skip = if i == 0 { head } else { 0 };
        let part = left.min(page - skip);
        pieces.push((at + skip, part));
        left -= part;
    }
    let prp1 = pieces[0].0;
    let prp2 = match pieces.len() {
        1 => 0xdead_beef_0001,
        2 => pieces[1].0,
        _ => bench.list(page, &pages[1..], list_entry),
    };
    (prp1, prp2, pieces)
}

impl Bench {
    fn alloc_page(&mut self, page: u64) -> u64 {
        self.next = self.next.next_multiple_of(page);
        self.alloc(page as usize)
    }

    /// Lists of entries, the first from `entry` of its page on; each full list's last entry is the
    /// address of the next list.
    fn list(&mut self, page: u64, entries: &[u64], entry: u64) -> u64 {
        let at = self.alloc_page(page) + entry * 8;
        let room = (page / 8 - entry) as usize;
        if entries.len() <= room {
            self.put(at, bytemuck::cast_slice(entries));
            return at;
        }
        let (now, later) = entries.split_at(room - 1);
        let next = self.list(page, later, 0);
        self.put(at, bytemuck::cast_slice(now));
        self.put(at + now.len() as u64 * 8, &next.to_le_bytes());
        at
    }
}

fn check(mps: u8, blocks: u32, head: u64, entry: u64, shuffle: u64) {
    let mut bench = Bench::cold(SoftNvme::builder().ram(2 << 20).mdts(8));
    let page = 4096u64 << mps;
    bench.next = BASE;
    let base = bench.alloc(2 << 16);
    bench.admin = Pair { sq: base, cq: base + (1 << 16), ..bench.admin };
    bench.enable(CC.with_mps(mps));
    bench.next = bench.next.next_multiple_of(1 << 16);
    let (sq, cq) = (bench.alloc(1 << 16), bench.alloc(1 << 16));
    let mut pair = Pair { qid: 1, sq, cq, entries: 16, tail: 0, head: 0, phase: true };
    assert_eq!(bench.admin(create_cq(&pair)).status(), Status::SUCCESS);
    assert_eq!(bench.admin(create_sq(&pair, 1)).status(), Status::SUCCESS);

    let len = u64::from(blocks) * 512;
    let data = pattern(shuffle, len as usize);
    let (prp1, prp2, pieces) = scatter(&mut bench, page, len, head * 4 % page, entry, shuffle);
    let mut at = 0;
    for (iova, part) in &pieces {
        let part = *part as usize;
        bench.put(*iova, &data[at..at + part]);
        at += part;
    }
    bench.succeeds(&mut pair, Sqe { prp2, ..rw(IoOpcode::WRITE, 3, blocks, prp1) });
    // The namespace holds the flat data.
    let mut stored = vec![0; len as usize];
    let super::super::backend::Backend::Ram(ram) = &bench.dev.namespaces.get(1).unwrap().backend
    else {
        panic!("memory")
    };
    ram.memory.copy_out(3 * 512, &mut stored).unwrap();
    assert!(stored == data);

    bench.succeeds(&mut pair, Sqe { prp2, ..rw(IoOpcode::COMPARE, 3, blocks, prp1) });
    pieces.iter().for_each(|(iova, part)| bench.put(*iova, &vec![0; *part as usize]));
    bench.succeeds(&mut pair, Sqe { prp2, ..rw(IoOpcode::READ, 3, blocks, prp1) });
    let read: Vec<u8> = pieces.iter().flat_map(|(at, len)| bench.get(*at, *len as usize)).collect();
    assert!(read == data);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_layout_moves_the_same_bytes(
        blocks in 1u32..=2048,
        head in 0u64..1024,
        entry in 0u64..512,
        shuffle: u64,
    ) {
        check(0, blocks, head, entry, shuffle);
    }

    #[test]
    fn any_layout_in_larger_pages(
        mps in 1u8..=4,
        blocks in 1u32..=2048,
        head in 0u64..16384,
        entry in 0u64..1024,
        shuffle: u64,
    ) {
        check(mps, blocks, head, entry % (512 << mps), shuffle);
    }
}

#[test]
fn a_list_that_begins_with_its_last_entry_chains_at_once() {
    // The list's first page has room for one entry only, which then is a pointer.
    check(0, 2048, 0, 511, 1);
    check(0, 2048, 1, 511, 2);
    // Exactly full, with no chain: two data pages, entries 510 and 511.
    check(0, 24, 0, 510, 3);
    // One more than fits.
    check(0, 32, 0, 510, 4);
}

#[test]
fn lists_with_wrong_entries() {
    let (mut bench, mut pair) = Bench::with_io();
    let (data, list) = (bench.alloc(8 * 4096), bench.alloc(4096));
    let offset = Status::INVALID_PRP_OFFSET.dnr();
    let read = Sqe { prp2: list, ..rw(IoOpcode::READ, 0, 32, data) };
    for (entries, status) in [
        ([data + 4096, data + 8192 + 4, data + 12288], offset),
        ([data + 4096, data + 8192, data + 12288 + 512], offset),
        ([data + 4096, UNMAPPED, data + 12288], Status::DATA_TRANSFER_ERROR),
        ([u64::MAX - 4095, 0, 0], Status::DATA_TRANSFER_ERROR),
    ] {
        bench.put(list, bytemuck::cast_slice(&entries));
        bench.refuses(&mut pair, read, status);
    }
    // A chain pointer with an offset, and one to nowhere.
    let tail = Sqe { prp2: list + 4088, ..read };
    for (next, status) in [(list + 8, offset), (UNMAPPED, Status::DATA_TRANSFER_ERROR)] {
        bench.put(list + 4088, &next.to_le_bytes());
        bench.refuses(&mut pair, tail, status);
    }
    // A chain that points to itself ends with the transfer.
    bench.put(list, &[0; 4088]);
    bench.put(list, bytemuck::cast_slice(&[data; 4]));
    bench.put(list + 4088, &list.to_le_bytes());
    bench.succeeds(&mut pair, tail);
}
