//! Admin commands in general: opcodes, flags, Abort, Asynchronous Event Request.

use super::*;
use crate::soft::{InjectKind, Injection};
use crate::spec::command::Abort10;

fn bench() -> Bench {
    Bench::new(SoftNvme::builder().ram(1 << 20))
}

fn abort(sqid: u16, cid: u16) -> Sqe {
    let cdw10 = Abort10(0).with_sqid(sqid).with_cid(cid).0;
    Sqe { cdw10, ..Sqe::admin(AdminOpcode::ABORT) }
}

const AER: AdminOpcode = AdminOpcode::ASYNC_EVENT_REQUEST;

#[test]
fn opcodes_that_are_not_offered() {
    let mut bench = bench();
    for opcode in [
        AdminOpcode::FIRMWARE_COMMIT,
        AdminOpcode::FIRMWARE_DOWNLOAD,
        AdminOpcode::NAMESPACE_MANAGEMENT,
        AdminOpcode::NAMESPACE_ATTACHMENT,
        AdminOpcode::DEVICE_SELF_TEST,
        AdminOpcode::KEEP_ALIVE,
        AdminOpcode::DOORBELL_BUFFER_CONFIG,
        AdminOpcode::VIRTUALIZATION_MANAGEMENT,
        AdminOpcode::SECURITY_SEND,
        AdminOpcode::SECURITY_RECEIVE,
        AdminOpcode::SANITIZE,
        AdminOpcode(0x03),
        AdminOpcode(0x7f),
        AdminOpcode(0xc0),
        AdminOpcode(0xff),
    ] {
        bench.admin_refuses(Sqe::admin(opcode), Status::INVALID_OPCODE.dnr());
        // The opcode is looked at first.
        let odd = Sqe { flags: 0xff, nsid: 99, ..Sqe::admin(opcode) };
        bench.admin_refuses(odd, Status::INVALID_OPCODE.dnr());
    }
}

#[test]
fn fused_operations_and_sgls_are_refused() {
    let mut bench = bench();
    let identify = Sqe { prp1: BASE + 0x8000, cdw10: 1, ..Sqe::admin(AdminOpcode::IDENTIFY) };
    for (flags, location) in [(1, 1), (2, 1), (3, 1), (0x40, 6 << 8 | 1), (0x80, 6 << 8 | 1)] {
        bench.admin_refuses(Sqe { flags, ..identify }, Status::INVALID_FIELD.dnr());
        assert_eq!(bench.dev.errors.page()[0].location, location);
    }
    // Reserved bits are ignored.
    assert_eq!(bench.admin(Sqe { flags: 0x3c, ..identify }).status(), Status::SUCCESS);
}

#[test]
fn an_abort_of_nothing_says_so() {
    let mut bench = bench();
    for (sqid, cid) in [(0, 0x7777), (1, 1), (0xffff, 0xffff)] {
        let cqe = bench.admin(abort(sqid, cid));
        assert_eq!((cqe.status(), cqe.dw0), (Status::SUCCESS, 1));
    }
}

#[test]
fn an_event_request_can_be_aborted_and_too_many_are_refused() {
    let mut bench = bench();
    let cids: Vec<u16> = (0..4).map(|_| bench.submit_admin(Sqe::admin(AER))).collect();
    assert!(bench.pop_admin().is_none());
    bench.admin_refuses(Sqe::admin(AER), Status::ASYNC_EVENT_LIMIT_EXCEEDED.dnr());
    bench.submit_admin(abort(0, cids[2]));
    let aborted = bench.pop_admin().unwrap();
    assert_eq!((aborted.cid, aborted.status()), (cids[2], Status::ABORT_REQUESTED.more()));
    let done = bench.pop_admin().unwrap();
    assert_eq!((done.status(), done.dw0), (Status::SUCCESS, 0));
    bench.submit_admin(Sqe::admin(AER));
    assert!(bench.pop_admin().is_none());
}

#[test]
fn event_requests_hold_no_completion_entries() {
    let mut bench = Bench::cold(SoftNvme::builder().ram(1 << 20));
    bench.admin = bench.pair(0, 3);
    bench.enable(CC);
    (0..4).for_each(|_| {
        bench.submit_admin(Sqe::admin(AER));
    });
    for _ in 0..10 {
        bench.admin(abort(0, 0x7777));
    }
}

#[test]
fn a_command_that_hangs_is_aborted() {
    let fault = Injection { kind: InjectKind::Timeout, at: 1 };
    let mut bench = Bench::new(SoftNvme::builder().ram(1 << 20).inject(fault));
    let mut pair = bench.create_pair(1, 16);
    let cid = bench.submit(&mut pair, Sqe::io(IoOpcode::FLUSH, 1));
    assert!(bench.pop(&mut pair).is_none());
    let cqe = bench.admin(abort(1, cid));
    assert_eq!((cqe.status(), cqe.dw0), (Status::SUCCESS, 0));
    let aborted = bench.pop(&mut pair).unwrap();
    assert_eq!((aborted.cid, aborted.status()), (cid, Status::ABORT_REQUESTED.more()));
}

#[test]
fn a_command_that_hangs_does_not_hold_up_the_deletion_of_its_queue() {
    let fault = Injection { kind: InjectKind::Timeout, at: 1 };
    let mut bench = Bench::new(SoftNvme::builder().ram(1 << 20).inject(fault));
    let mut pair = bench.create_pair(1, 16);
    let cid = bench.submit(&mut pair, Sqe::io(IoOpcode::FLUSH, 1));
    assert_eq!(bench.admin(delete(AdminOpcode::DELETE_IO_SQ, 1)).status(), Status::SUCCESS);
    let aborted = bench.pop(&mut pair).unwrap();
    assert_eq!((aborted.cid, aborted.status()), (cid, Status::ABORTED_SQ_DELETION.more()));
    assert_eq!(bench.admin(delete(AdminOpcode::DELETE_IO_CQ, 1)).status(), Status::SUCCESS);
}

#[test]
fn data_that_cannot_be_sent_is_a_transfer_error() {
    let mut bench = bench();
    let identify = Sqe { prp1: UNMAPPED, cdw10: 1, ..Sqe::admin(AdminOpcode::IDENTIFY) };
    bench.admin_refuses(identify, Status::DATA_TRANSFER_ERROR);
    assert_eq!(bench.cx.iommu().fault_count(), 1);
}
