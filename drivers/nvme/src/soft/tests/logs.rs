//! Get Log Page.

use super::*;
use crate::spec::command::{GetLog10, GetLog11, GetLog14};
use crate::spec::log::{ChangedNamespaces, EffectsLog, FirmwareSlotLog, LogSupport};
use crate::spec::{ErrorLogEntry, LogId, NSID_ALL, SmartLog};

fn bench() -> Bench {
    Bench::new(SoftNvme::builder().ram(1 << 20))
}

fn get_log(page: LogId, len: u32, prp1: u64) -> Sqe {
    let dwords = len / 4 - 1;
    Sqe {
        nsid: NSID_ALL,
        prp1,
        cdw10: GetLog10(0).with_lid(page.0).with_numdl(dwords as u16).0,
        cdw11: GetLog11(0).with_numdu((dwords >> 16) as u16).0,
        ..Sqe::admin(AdminOpcode::GET_LOG_PAGE)
    }
}

impl Bench {
    fn log<T: Pod>(&mut self, page: LogId) -> T {
        let at = self.alloc(4096);
        let sqe = get_log(page, size_of::<T>() as u32, at);
        assert_eq!(self.admin(sqe).status(), Status::SUCCESS);
        self.get_as(at)
    }
}

#[test]
fn the_error_log_names_command_and_place() {
    let mut bench = bench();
    let mut pair = bench.create_pair(1, 16);
    let bad = rw(IoOpcode::READ, 5000, 1, BASE);
    bench.refuses(&mut pair, bad, Status::LBA_OUT_OF_RANGE.dnr());
    let cid = bench.cid;
    let log: [ErrorLogEntry; 64] = bench.log(LogId::ERROR);
    let entry = log[0];
    assert_eq!((entry.error_count, entry.sqid, entry.cid, entry.nsid), (1, 1, cid, 1));
    assert_eq!((entry.lba, entry.location), (5000, 40));
    assert_eq!(entry.status_phase >> 1, Status::LBA_OUT_OF_RANGE.dnr().more().0);
    assert_eq!(log[1], ErrorLogEntry::default());
    bench.admin_refuses(Sqe::admin(AdminOpcode(0x7f)), Status::INVALID_OPCODE.dnr());
    let log: [ErrorLogEntry; 64] = bench.log(LogId::ERROR);
    assert_eq!((log[0].error_count, log[1].error_count), (2, 1));
}

#[test]
fn smart_counts_what_hosts_do() {
    let mut bench = bench();
    let mut pair = bench.create_pair(1, 16);
    let at = bench.alloc(8192);
    (0..3).for_each(|_| bench.succeeds(&mut pair, rw(IoOpcode::WRITE, 0, 8, at)));
    (0..2).for_each(|_| bench.succeeds(&mut pair, rw(IoOpcode::READ, 0, 8, at)));
    let log: SmartLog = bench.log(LogId::SMART);
    let wide = |bytes: [u8; 16]| u128::from_le_bytes(bytes);
    assert_eq!((wide(log.host_reads), wide(log.host_writes)), (2, 3));
    assert_eq!((wide(log.data_units_read), wide(log.data_units_written)), (1, 1));
    assert_eq!((log.critical_warning, log.available_spare), (0, 100));
    assert_eq!(u16::from_le_bytes(log.temperature), 303);
}

#[test]
fn firmware_effects_and_supported_pages() {
    let mut bench = bench();
    let log: FirmwareSlotLog = bench.log(LogId::FIRMWARE_SLOT);
    assert_eq!((log.afi, &log.revisions[0][..5]), (1, &b"0.1.0"[..]));
    let log: EffectsLog = bench.log(LogId::EFFECTS);
    assert!(log.admin[6].csupp() && !log.admin[0x10].csupp());
    assert!(log.io[1].lbcc() && log.io[2].csupp() && !log.io[2].lbcc() && !log.io[4].csupp());
    assert!(log.admin[0x80].ncc() && log.admin[0x80].lbcc());
    let log: [LogSupport; 256] = bench.log(LogId::SUPPORTED);
    let pages: Vec<usize> = (0..256).filter(|page| log[*page].lsupp()).collect();
    assert_eq!(pages, [0, 1, 2, 3, 4, 5, 0x12, 0x13]);
    let log: [u32; 256] = bench.log(LogId::FEATURE_EFFECTS);
    assert_eq!((log[7] & 1, log[6] & 1, log[0x0d] & 1), (1, 0, 0));
    let log: ChangedNamespaces = bench.log(LogId::CHANGED_NAMESPACES);
    assert_eq!(log.nsid[0], 0);
}

#[test]
fn offsets_and_lengths() {
    let mut bench = bench();
    let whole: SmartLog = bench.log(LogId::SMART);
    let whole = bytemuck::bytes_of(&whole);
    let at = bench.alloc(8192);
    let part = Sqe { cdw12: 32, ..get_log(LogId::SMART, 64, at) };
    assert_eq!(bench.admin(part).status(), Status::SUCCESS);
    assert_eq!(bench.get(at, 64), whole[32..96]);
    // Beyond the end of the page there are zeroes.
    bench.put(at, &[0xaa; 2048]);
    let long = Sqe { cdw12: 448, ..get_log(LogId::SMART, 1024, at) };
    assert_eq!(bench.admin(long).status(), Status::SUCCESS);
    assert_eq!(bench.get(at + 64, 960), vec![0; 960]);
    assert_eq!(bench.get(at + 1024, 1), [0xaa]);
    let end = Sqe { cdw12: 512, ..get_log(LogId::SMART, 4, at) };
    assert_eq!(bench.admin(end).status(), Status::SUCCESS);
}

#[test]
fn what_cannot_be_read() {
    let mut bench = bench();
    let at = bench.alloc(4096);
    let smart = get_log(LogId::SMART, 512, at);
    for (sqe, status) in [
        (get_log(LogId(0x06), 512, at), Status::INVALID_LOG_PAGE),
        (get_log(LogId(0xc0), 512, at), Status::INVALID_LOG_PAGE),
        (Sqe { nsid: 1, ..smart }, Status::INVALID_FIELD),
        (Sqe { cdw12: 2, ..smart }, Status::INVALID_FIELD),
        (Sqe { cdw12: 516, ..smart }, Status::INVALID_FIELD),
        (Sqe { cdw13: 1, ..smart }, Status::INVALID_FIELD),
        (Sqe { cdw14: GetLog14(0).with_ot(true).0, ..smart }, Status::INVALID_FIELD),
        (get_log(LogId::SMART, (128 << 10) + 4, at), Status::INVALID_FIELD),
        (Sqe { cdw11: 0xffff, ..smart }, Status::INVALID_FIELD),
    ] {
        bench.admin_refuses(sqe, status.dnr());
    }
}
