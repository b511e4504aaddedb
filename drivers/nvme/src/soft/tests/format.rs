//! Format NVM.

use super::*;
use crate::soft::backend::Backend;
use crate::spec::command::{Format10, GetLog10};
use crate::spec::event::{kind, notice};
use crate::spec::feature::Features10;
use crate::spec::{AsyncEvent, Cns, FeatureId, IdentifyNamespace, LogId, NSID_ALL};

fn format(nsid: u32, cdw10: Format10) -> Sqe {
    Sqe { nsid, cdw10: cdw10.0, ..Sqe::admin(AdminOpcode::FORMAT_NVM) }
}

impl Bench {
    fn namespace(&mut self, nsid: u32) -> IdentifyNamespace {
        let at = self.alloc(4096);
        let sqe = Sqe {
            nsid,
            prp1: at,
            cdw10: Cns::NAMESPACE.0.into(),
            ..Sqe::admin(AdminOpcode::IDENTIFY)
        };
        assert_eq!(self.admin(sqe).status(), Status::SUCCESS);
        self.get_as(at)
    }
}

#[test]
fn a_format_erases_and_switches_the_block_size() {
    let (mut bench, mut pair) = Bench::with_io();
    let at = bench.alloc(4096);
    bench.put(at, &[0xff; 4096]);
    bench.succeeds(&mut pair, rw(IoOpcode::WRITE, 2040, 8, at));
    let done = bench.admin(format(1, Format10(0).with_lbafl(1).with_ses(1)));
    assert_eq!(done.status(), Status::SUCCESS);
    let id = bench.namespace(1);
    assert_eq!((id.nsze, id.format().lbads, id.fpi), (256, 12, 0x80));
    bench.succeeds(&mut pair, rw(IoOpcode::READ, 255, 1, at));
    assert_eq!(bench.get(at, 4096), [0; 4096]);
    bench.refuses(&mut pair, rw(IoOpcode::READ, 256, 1, at), Status::LBA_OUT_OF_RANGE.dnr());
    assert_eq!(bench.admin(format(1, Format10(0))).status(), Status::SUCCESS);
    assert_eq!(bench.namespace(1).nsze, 2048);
}

#[test]
fn all_namespaces_at_once() {
    let mut bench = Bench::new(SoftNvme::builder().ram(1 << 20).null(1 << 20).ram(1 << 20));
    assert_eq!(bench.admin(format(NSID_ALL, Format10(1))).status(), Status::SUCCESS);
    for nsid in 1..=3 {
        assert_eq!(bench.namespace(nsid).format().lbads, 12);
    }
}

#[test]
fn what_cannot_be_formatted() {
    let mut bench = Bench::new(SoftNvme::builder().ram(1 << 20).ram(512 * 9));
    for (sqe, status) in [
        (format(0, Format10(0)), Status::INVALID_NAMESPACE),
        (format(3, Format10(0)), Status::INVALID_NAMESPACE),
        (format(1, Format10(0).with_lbafl(2)), Status::INVALID_FORMAT),
        (format(1, Format10(0).with_lbafu(1)), Status::INVALID_FORMAT),
        (format(1, Format10(0).with_pi(1)), Status::INVALID_FORMAT),
        (format(1, Format10(0).with_mset(true)), Status::INVALID_FORMAT),
        // Its size is no multiple of 4096.
        (format(2, Format10(1)), Status::INVALID_FORMAT),
        (format(NSID_ALL, Format10(1)), Status::INVALID_FORMAT),
        (format(1, Format10(0).with_ses(2)), Status::INVALID_FIELD),
        (format(1, Format10(0).with_ses(7)), Status::INVALID_FIELD),
    ] {
        bench.admin_refuses(sqe, status.dnr());
    }
    assert_eq!(bench.namespace(1).format().lbads, 9);
    let mut bench = Bench::new(SoftNvme::builder().ram(1 << 20).readonly(true));
    let protected = Status::NAMESPACE_WRITE_PROTECTED.dnr();
    bench.admin_refuses(format(1, Format10(0)), protected);
}

#[test]
fn a_format_goes_slice_by_slice_and_refuses_io_meanwhile() {
    let mut bench = Bench::new(SoftNvme::builder().ram(512 << 20).ram(1 << 20));
    let mut pair = bench.create_pair(1, 16);
    let at = bench.alloc(4096);
    let mut admin = bench.admin.clone();
    bench.push(&mut admin, format(1, Format10(1)));
    bench.ring(&admin);
    (0..32).for_each(|_| {
        bench.dev.serve(&mut bench.cx);
    });
    assert!(bench.pop(&mut admin).is_none());
    let left = bench.dev.namespaces.get(1).unwrap().formatting.unwrap();
    assert!((1..100).contains(&left));
    // Another format, reads and writes are refused; the other namespace works.
    bench.push(&mut admin, format(1, Format10(0)));
    bench.ring(&admin);
    let first = bench.push(&mut pair, rw(IoOpcode::READ, 0, 1, at));
    let second = bench.push(&mut pair, Sqe { nsid: 2, ..rw(IoOpcode::WRITE, 0, 1, at) });
    bench.ring(&pair);
    bench.dev.serve(&mut bench.cx);
    let refused = bench.pop(&mut admin).unwrap();
    assert!(refused.status().is(Status::FORMAT_IN_PROGRESS) && !refused.status().is_dnr());
    let (one, two) = (bench.pop(&mut pair).unwrap(), bench.pop(&mut pair).unwrap());
    assert_eq!((one.cid, two.cid), (first, second));
    assert!(one.status().is(Status::FORMAT_IN_PROGRESS) && two.status().is_success());
    bench.settle();
    assert_eq!(bench.pop(&mut admin).unwrap().status(), Status::SUCCESS);
    bench.admin = admin;
    assert_eq!(bench.namespace(1).format().lbads, 12);
}

#[test]
fn a_format_can_be_aborted() {
    let mut bench = Bench::new(SoftNvme::builder().ram(64 << 20));
    let mut admin = bench.admin.clone();
    let cid = bench.push(&mut admin, format(1, Format10(1)));
    bench.ring(&admin);
    bench.dev.serve(&mut bench.cx);
    let abort = Sqe { cdw10: u32::from(cid) << 16, ..Sqe::admin(AdminOpcode::ABORT) };
    bench.push(&mut admin, abort);
    bench.ring(&admin);
    bench.settle();
    let aborted = bench.pop(&mut admin).unwrap();
    assert_eq!((aborted.cid, aborted.status()), (cid, Status::ABORT_REQUESTED.more()));
    assert_eq!(bench.pop(&mut admin).unwrap().dw0, 0);
    bench.admin = admin;
    assert_eq!(bench.namespace(1).format().lbads, 9);
}

#[test]
fn the_host_is_told_if_it_wants_to_know() {
    let mut bench = Bench::new(SoftNvme::builder().ram(1 << 20).ram(1 << 20));
    bench.submit_admin(Sqe::admin(AdminOpcode::ASYNC_EVENT_REQUEST));
    let enable = Sqe {
        cdw10: Features10(0).with_fid(FeatureId::ASYNC_EVENT_CONFIG.0).0,
        cdw11: 1 << 8,
        ..Sqe::admin(AdminOpcode::SET_FEATURES)
    };
    assert_eq!(bench.admin(enable).status(), Status::SUCCESS);
    bench.submit_admin(format(2, Format10(1)));
    assert_eq!(bench.pop_admin().unwrap().status(), Status::SUCCESS);
    let event = AsyncEvent(bench.pop_admin().unwrap().dw0);
    assert_eq!((event.kind(), event.info()), (kind::NOTICE, notice::NAMESPACE_ATTRIBUTE_CHANGED));
    let at = bench.alloc(4096);
    let log = |rae| Sqe {
        prp1: at,
        cdw10: GetLog10(0).with_lid(LogId::CHANGED_NAMESPACES.0).with_numdl(1023).with_rae(rae).0,
        ..Sqe::admin(AdminOpcode::GET_LOG_PAGE)
    };
    for (rae, first) in [(true, 2), (false, 2), (false, 0)] {
        assert_eq!(bench.admin(log(rae)).status(), Status::SUCCESS);
        assert_eq!(bench.get_as::<u32>(at), first);
    }
}

#[test]
fn the_memory_of_a_namespace_is_really_erased() {
    let (mut bench, mut pair) = Bench::with_io();
    let at = bench.alloc(4096);
    bench.put(at, b"secret");
    bench.succeeds(&mut pair, rw(IoOpcode::WRITE, 77, 1, at));
    assert_eq!(bench.admin(format(1, Format10(0))).status(), Status::SUCCESS);
    let Backend::Ram(ram) = &bench.dev.namespaces.get(1).unwrap().backend else { panic!("memory") };
    let mut all = vec![0xff; 1 << 20];
    ram.memory.copy_out(0, &mut all).unwrap();
    assert!(all.iter().all(|byte| *byte == 0));
}

#[test]
fn erased_memory_goes_back_to_the_system() {
    let (mut bench, mut pair) = Bench::with_io();
    let at = bench.alloc(4096);
    bench.put(at, &[1; 4096]);
    let resident = |bench: &Bench| {
        let Backend::Ram(ram) = &bench.dev.namespaces.get(1).unwrap().backend else {
            panic!("memory")
        };
        ram.resident()
    };
    (0..256).for_each(|page| bench.succeeds(&mut pair, rw(IoOpcode::WRITE, page * 8, 8, at)));
    assert_eq!(resident(&bench), 1 << 20);
    // Blocks 1 to 16 hold one whole page; zeroes alone take none back.
    let zeroes = rw(IoOpcode::WRITE_ZEROES, 1, 16, 0);
    bench.succeeds(&mut pair, zeroes);
    assert_eq!(resident(&bench), 1 << 20);
    bench.succeeds(&mut pair, Sqe { cdw12: zeroes.cdw12 | 1 << 25, ..zeroes });
    assert_eq!(resident(&bench), (1 << 20) - 4096);
    assert_eq!(bench.admin(format(1, Format10(0))).status(), Status::SUCCESS);
    assert_eq!(resident(&bench), 0);
}
