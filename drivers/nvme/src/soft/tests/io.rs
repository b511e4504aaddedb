//! I/O commands on memory: data, and the status of every malformed one.

use super::*;
use crate::spec::command::{Dsm11, Rw12};
use crate::spec::{DsmRange, NSID_ALL};

const READ: IoOpcode = IoOpcode::READ;
const WRITE: IoOpcode = IoOpcode::WRITE;

#[test]
fn what_was_written_is_read() {
    let (mut bench, mut pair) = Bench::with_io();
    let (from, to) = (bench.alloc(4096), bench.alloc(4096));
    let data = pattern(1, 4096);
    bench.put(from, &data);
    bench.succeeds(&mut pair, rw(WRITE, 8, 8, from));
    bench.succeeds(&mut pair, rw(READ, 8, 8, to));
    assert_eq!(bench.get(to, 4096), data);
    // A single block in the middle, to the middle of a page.
    bench.succeeds(&mut pair, rw(READ, 11, 1, to + 0x204));
    assert_eq!(bench.get(to + 0x204, 512), data[1536..2048]);
    // Its neighbours are untouched.
    bench.succeeds(&mut pair, rw(READ, 7, 1, to));
    assert_eq!(bench.get(to, 512), [0; 512]);
}

#[test]
fn malformed_commands_have_exact_statuses() {
    let (mut bench, mut pair) = Bench::with_io();
    let at = bench.alloc(4096);
    let field = Status::INVALID_FIELD.dnr();
    let range = Status::LBA_OUT_OF_RANGE.dnr();
    let ns = Status::INVALID_NAMESPACE.dnr();
    for opcode in [READ, WRITE, IoOpcode::COMPARE] {
        let good = rw(opcode, 0, 1, at);
        for (sqe, status) in [
            (Sqe { nsid: 0, ..good }, ns),
            (Sqe { nsid: 2, ..good }, ns),
            (Sqe { nsid: NSID_ALL, ..good }, ns),
            (Sqe { flags: 1, ..good }, field),
            (Sqe { flags: 2, ..good }, field),
            (Sqe { flags: 0x40, ..good }, field),
            (Sqe { flags: 0x80, ..good }, field),
            (rw(opcode, 2048, 1, at), range),
            (rw(opcode, 2047, 2, at), range),
            (rw(opcode, u64::MAX, 1, at), range),
            (rw(opcode, u64::MAX - 1, 4, at), range),
            (rw(opcode, 1 << 55, 8, at), range),
            // MDTS is 128 KiB: 256 blocks.
            (rw(opcode, 0, 257, at), field),
            (rw(opcode, 0, 65536, at), field),
            (rw(opcode, 0, 1, at + 1), Status::INVALID_PRP_OFFSET.dnr()),
            (rw(opcode, 0, 1, at + 2), Status::INVALID_PRP_OFFSET.dnr()),
            (Sqe { prp2: at + 4, ..rw(opcode, 0, 16, at) }, Status::INVALID_PRP_OFFSET.dnr()),
            (Sqe { prp2: at + 4, ..rw(opcode, 0, 64, at) }, Status::INVALID_PRP_OFFSET.dnr()),
            (rw(opcode, 0, 1, UNMAPPED), Status::DATA_TRANSFER_ERROR),
            (rw(opcode, 0, 1, u64::MAX - 3), Status::DATA_TRANSFER_ERROR),
            (Sqe { prp2: UNMAPPED, ..rw(opcode, 0, 16, at) }, Status::DATA_TRANSFER_ERROR),
            (Sqe { prp2: UNMAPPED, ..rw(opcode, 0, 64, at) }, Status::DATA_TRANSFER_ERROR),
        ] {
            bench.refuses(&mut pair, sqe, status);
        }
    }
    for opcode in [0x04, 0x0c, 0x0d, 0x19, 0x7f, 0x80, 0xff] {
        let sqe = Sqe::io(IoOpcode(opcode), 9);
        bench.refuses(&mut pair, sqe, Status::INVALID_OPCODE.dnr());
    }
    // The namespace is as it was, and the queue works.
    bench.put(at, &[0; 512]);
    bench.succeeds(&mut pair, rw(IoOpcode::COMPARE, 0, 1, at));
}

#[test]
fn a_write_that_faults_changes_nothing() {
    let (mut bench, mut pair) = Bench::with_io();
    let (data, list, check) = (bench.alloc(8192), bench.alloc(4096), bench.alloc(8192));
    bench.put(data, &pattern(3, 8192));
    let entries = [data + 4096, UNMAPPED];
    bench.put(list, bytemuck::cast_slice(&entries));
    // Three pages, of which the last is not mapped.
    let bad = Sqe { prp2: list, ..rw(WRITE, 0, 24, data) };
    bench.refuses(&mut pair, bad, Status::DATA_TRANSFER_ERROR);
    assert_eq!(bench.cx.iommu_mut().take_faults().last().unwrap().iova, UNMAPPED);
    bench.succeeds(&mut pair, Sqe { prp2: check + 4096, ..rw(READ, 0, 16, check) });
    assert_eq!(bench.get(check, 8192), vec![0; 8192]);
}

#[test]
fn flushes() {
    let (mut bench, mut pair) = Bench::with_io();
    bench.succeeds(&mut pair, Sqe::io(IoOpcode::FLUSH, 1));
    bench.succeeds(&mut pair, Sqe::io(IoOpcode::FLUSH, NSID_ALL));
    for nsid in [0, 2] {
        let sqe = Sqe::io(IoOpcode::FLUSH, nsid);
        bench.refuses(&mut pair, sqe, Status::INVALID_NAMESPACE.dnr());
    }
}

#[test]
fn compares() {
    let (mut bench, mut pair) = Bench::with_io();
    let at = bench.alloc(3 * 4096);
    let data = pattern(5, 3 * 4096);
    bench.put(at, &data);
    let list = bench.alloc(4096);
    bench.put(list, bytemuck::cast_slice(&[at + 4096, at + 8192]));
    let whole = |opcode| Sqe { prp2: list, ..rw(opcode, 100, 24, at) };
    bench.succeeds(&mut pair, whole(WRITE));
    bench.succeeds(&mut pair, whole(IoOpcode::COMPARE));
    bench.put(at + 12287, &[data[12287] ^ 1]);
    bench.refuses(&mut pair, whole(IoOpcode::COMPARE), Status::COMPARE_FAILURE.dnr());
    assert_eq!(bench.dev.stats.media_errors, 0);
}

#[test]
fn write_zeroes_small_and_large() {
    let (mut bench, mut pair) = Bench::with_io();
    let at = bench.alloc(4096);
    for blocks in [1, 9, 128, 2048] {
        for lba in (0..2048).step_by(8) {
            bench.put(at, &[0xff; 4096]);
            bench.succeeds(&mut pair, rw(WRITE, lba, 8, at));
        }
        let deac = Rw12(blocks - 1).with_deac(blocks > 1).0;
        bench.succeeds(&mut pair, Sqe { cdw12: deac, ..rw(IoOpcode::WRITE_ZEROES, 0, 1, 0) });
        for lba in (0..2048).step_by(8) {
            bench.succeeds(&mut pair, rw(READ, lba, 8, at));
            let zeroes = 512 * (u64::from(blocks).saturating_sub(lba).min(8) as usize);
            let page = bench.get(at, 4096);
            assert!(page[..zeroes].iter().all(|byte| *byte == 0), "{blocks} {lba}");
            assert!(page[zeroes..].iter().all(|byte| *byte == 0xff), "{blocks} {lba}");
        }
    }
    let beyond = rw(IoOpcode::WRITE_ZEROES, 1, 2048, 0);
    bench.refuses(&mut pair, beyond, Status::LBA_OUT_OF_RANGE.dnr());
}

#[test]
fn deallocate() {
    let (mut bench, mut pair) = Bench::with_io();
    let (at, list) = (bench.alloc(4096), bench.alloc(8192));
    bench.put(at, &[0xff; 4096]);
    (0..64).for_each(|page| bench.succeeds(&mut pair, rw(WRITE, page * 8, 8, at)));
    let range = |slba, nlb| DsmRange { cattr: 0, nlb, slba };
    let dsm = |count: u32, ad, prp1| Sqe {
        prp1,
        prp2: list + 4096,
        cdw10: count - 1,
        cdw11: Dsm11(0).with_ad(ad).0,
        ..Sqe::io(IoOpcode::DATASET_MANAGEMENT, 1)
    };
    let ranges = [range(1, 2), range(0, 0), range(256, 256), range(u64::MAX, 0)];
    // The list may cross a page.
    bench.put(list + 4096 - 16, bytemuck::cast_slice(&ranges));
    bench.succeeds(&mut pair, dsm(4, false, list + 4096 - 16));
    bench.succeeds(&mut pair, rw(IoOpcode::COMPARE, 0, 8, at));
    bench.succeeds(&mut pair, dsm(4, true, list + 4096 - 16));
    let expect = |lba: u64| if lba == 1 || lba == 2 || lba >= 256 { 0 } else { 0xff };
    for lba in 0..512 {
        bench.succeeds(&mut pair, rw(READ, lba, 1, at));
        assert_eq!(bench.get(at, 512), [expect(lba); 512], "{lba}");
    }
    bench.put(list, bytemuck::cast_slice(&[range(0, 1), range(2048, 1)]));
    bench.refuses(&mut pair, dsm(2, true, list), Status::LBA_OUT_OF_RANGE.dnr());
    bench.refuses(&mut pair, dsm(256, true, UNMAPPED), Status::DATA_TRANSFER_ERROR);
    let nowhere = Sqe { nsid: 7, ..dsm(1, true, list) };
    bench.refuses(&mut pair, nowhere, Status::INVALID_NAMESPACE.dnr());
}

#[test]
fn write_protection() {
    let mut bench = Bench::new(SoftNvme::builder().ram(1 << 20).readonly(true));
    let mut pair = bench.create_pair(1, 16);
    let at = bench.alloc(4096);
    let status = Status::NAMESPACE_WRITE_PROTECTED.dnr();
    bench.refuses(&mut pair, rw(WRITE, 0, 1, at), status);
    bench.refuses(&mut pair, rw(IoOpcode::WRITE_ZEROES, 0, 1, 0), status);
    let deallocate = Sqe { prp1: at, cdw11: 4, ..Sqe::io(IoOpcode::DATASET_MANAGEMENT, 1) };
    bench.refuses(&mut pair, deallocate, status);
    bench.succeeds(&mut pair, rw(READ, 0, 1, at));
}

#[test]
fn a_null_namespace_moves_no_data() {
    let mut bench = Bench::new(SoftNvme::builder().null(1 << 20).lba(4096));
    let mut pair = bench.create_pair(1, 16);
    let at = bench.alloc(4096);
    bench.put(at, &[7; 4096]);
    for opcode in [READ, WRITE, IoOpcode::COMPARE, IoOpcode::WRITE_ZEROES] {
        bench.succeeds(&mut pair, rw(opcode, 255, 1, at));
        bench.refuses(&mut pair, rw(opcode, 256, 1, at), Status::LBA_OUT_OF_RANGE.dnr());
    }
    bench.succeeds(&mut pair, Sqe::io(IoOpcode::FLUSH, 1));
    assert_eq!(bench.get(at, 4096), [7; 4096]);
}

#[test]
fn namespaces_are_apart() {
    let mut bench = Bench::new(SoftNvme::builder().ram(1 << 20).ram(1 << 20));
    let mut pair = bench.create_pair(1, 16);
    let at = bench.alloc(4096);
    bench.put(at, &[1; 4096]);
    bench.succeeds(&mut pair, rw(WRITE, 0, 8, at));
    bench.succeeds(&mut pair, Sqe { nsid: 2, ..rw(READ, 0, 8, at) });
    assert_eq!(bench.get(at, 4096), [0; 4096]);
}

#[test]
fn a_reset_in_the_middle_of_a_long_command_ends_it() {
    let mut bench = Bench::new(SoftNvme::builder().ram(32 << 20));
    let mut pair = bench.create_pair(1, 16);
    bench.push(&mut pair, rw(IoOpcode::WRITE_ZEROES, 0, 65536, 0));
    bench.ring(&pair);
    bench.dev.serve(&mut bench.cx);
    assert!(!bench.dev.jobs.idle());
    bench.write32(offset::CC, CC.with_en(false).0);
    bench.settle();
    assert!(bench.dev.jobs.idle() && !bench.csts().rdy());
    assert!(bench.pop(&mut pair).is_none());
    bench.admin = bench.pair(0, 32);
    bench.enable(CC);
    let mut pair = bench.create_pair(1, 16);
    bench.succeeds(&mut pair, Sqe::io(IoOpcode::FLUSH, 1));
}
