//! Doorbells that hold what they cannot, and the events they raise.

use super::*;
use crate::spec::command::GetLog10;
use crate::spec::event::{error, kind};
use crate::spec::{AsyncEvent, LogId, NSID_ALL};

/// Enough idle polls for every doorbell to be looked at.
const LONG: u32 = 256 * 64;

fn bench() -> (Bench, Pair) {
    let mut bench = Bench::new(SoftNvme::builder().ram(1 << 20).queues(4));
    let pair = bench.create_pair(1, 16);
    bench.submit_admin(Sqe::admin(AdminOpcode::ASYNC_EVENT_REQUEST));
    (bench, pair)
}

impl Bench {
    /// Polls until an event is reported.
    fn event(&mut self) -> Option<AsyncEvent> {
        (0..LONG).for_each(|_| {
            self.dev.serve(&mut self.cx);
        });
        let cqe = self.pop_admin()?;
        assert_eq!(cqe.status(), Status::SUCCESS);
        let event = AsyncEvent(cqe.dw0);
        assert_eq!((event.kind(), event.log_page()), (kind::ERROR, LogId::ERROR.0));
        Some(event)
    }

    fn tail(&mut self, qid: u16, value: u32) {
        self.ring_raw(self.dev.regs.cap.sq_doorbell(qid), value);
    }

    fn head(&mut self, qid: u16, value: u32) {
        self.ring_raw(self.dev.regs.cap.cq_doorbell(qid), value);
    }
}

#[test]
fn a_tail_outside_of_the_queue() {
    for value in [16, 17, 0xffff, 0x1_0001, u32::MAX] {
        let (mut bench, mut pair) = bench();
        bench.tail(1, value);
        assert_eq!(bench.event().unwrap().info(), error::INVALID_DOORBELL_VALUE);
        assert!(bench.pop(&mut pair).is_none());
        let entry = bench.dev.errors.page()[0];
        assert_eq!((entry.sqid, entry.cid), (0xffff, 0xffff));
        assert_eq!(entry.command_specific, 2 << 32 | u64::from(value));
        // The queue goes on when the doorbell makes sense again.
        bench.succeeds(&mut pair, Sqe::io(IoOpcode::FLUSH, 1));
        assert!(bench.event().is_none());
    }
}

#[test]
fn a_tail_that_goes_backwards() {
    let (mut bench, mut pair) = bench();
    (0..5).for_each(|_| bench.succeeds(&mut pair, Sqe::io(IoOpcode::FLUSH, 1)));
    // From 5 to 4 is a full queue of 15 entries, which a host may have written at once; so it is
    // only an error while commands are outstanding.
    bench.dev.regs.csts = Csts(0);
    bench.tail(1, 10);
    bench.dev.regs.csts = Csts(1);
    let sq = bench.dev.queues.sq(1).unwrap();
    assert_eq!(sq.look(&mut bench.cx), super::super::rings::Look::Work);
    bench.tail(1, 9);
    assert_eq!(
        bench.dev.queues.sq(1).unwrap().look(&mut bench.cx),
        super::super::rings::Look::Bad(9)
    );
}

#[test]
fn a_head_that_passes_what_was_posted() {
    for value in [5, 15, 16, 0xffff, u32::MAX] {
        let (mut bench, mut pair) = bench();
        bench.submit(&mut pair, Sqe::io(IoOpcode::FLUSH, 1));
        bench.head(1, value);
        assert_eq!(bench.event().unwrap().info(), error::INVALID_DOORBELL_VALUE, "{value}");
        assert!(bench.pop(&mut pair).is_some());
        bench.succeeds(&mut pair, Sqe::io(IoOpcode::FLUSH, 1));
    }
}

#[test]
fn a_bad_head_does_not_overwrite_completions() {
    let (mut bench, mut pair) = bench();
    let cids: Vec<u16> =
        (0..15).map(|_| bench.push(&mut pair, Sqe::io(IoOpcode::FLUSH, 1))).collect();
    bench.ring(&pair);
    bench.settle();
    bench.head(1, 99);
    let more = bench.push(&mut pair, Sqe::io(IoOpcode::FLUSH, 1));
    bench.ring(&pair);
    bench.settle();
    let mut seen = Vec::new();
    while let Some(cqe) = bench.pop(&mut pair) {
        seen.push(cqe.cid);
        bench.settle();
    }
    assert_eq!(seen[..15], cids);
    assert_eq!(seen[15..], [more]);
}

#[test]
fn doorbells_of_queues_that_do_not_exist() {
    for qid in [2, 4] {
        let (mut bench, _) = bench();
        bench.tail(qid, 1);
        assert_eq!(bench.event().unwrap().info(), error::INVALID_DOORBELL_REGISTER);
        let entry = bench.dev.errors.page()[0];
        assert_eq!(entry.command_specific, u64::from(2 * qid) << 32 | 1);
        bench.submit_admin(Sqe::admin(AdminOpcode::ASYNC_EVENT_REQUEST));
        // Reading the log without RAE makes the type known again.
        let log = Sqe {
            nsid: NSID_ALL,
            prp1: BASE + (8 << 20),
            cdw10: GetLog10(0).with_lid(1).with_numdl(15).0,
            ..Sqe::admin(AdminOpcode::GET_LOG_PAGE)
        };
        assert_eq!(bench.admin(log).status(), Status::SUCCESS);
        bench.head(qid, 7);
        assert_eq!(bench.event().unwrap().info(), error::INVALID_DOORBELL_REGISTER);
    }
}

#[test]
fn a_reported_type_is_masked_until_the_log_is_read() {
    let (mut bench, _) = bench();
    bench.submit_admin(Sqe::admin(AdminOpcode::ASYNC_EVENT_REQUEST));
    bench.tail(1, 99);
    assert!(bench.event().is_some());
    bench.tail(1, 98);
    assert!(bench.event().is_none());
    let log = |rae| Sqe {
        prp1: BASE + (8 << 20),
        cdw10: GetLog10(0).with_lid(1).with_numdl(15).with_rae(rae).0,
        ..Sqe::admin(AdminOpcode::GET_LOG_PAGE)
    };
    assert_eq!(bench.admin(log(true)).status(), Status::SUCCESS);
    assert!(bench.event().is_none());
    bench.submit_admin(log(false));
    assert_eq!(bench.pop_admin().unwrap().status(), Status::SUCCESS);
    assert!(bench.event().is_some());
}

#[test]
fn deleting_a_queue_leaves_no_doorbell_behind() {
    let (mut bench, mut pair) = bench();
    (0..3).for_each(|_| bench.succeeds(&mut pair, Sqe::io(IoOpcode::FLUSH, 1)));
    for opcode in [AdminOpcode::DELETE_IO_SQ, AdminOpcode::DELETE_IO_CQ] {
        assert_eq!(bench.admin(delete(opcode, 1)).status(), Status::SUCCESS);
    }
    assert!(bench.event().is_none());
    let mut pair = bench.create_pair(1, 16);
    bench.succeeds(&mut pair, Sqe::io(IoOpcode::FLUSH, 1));
}

#[test]
fn garbage_on_all_doorbells_for_long_is_bounded() {
    let (mut bench, mut pair) = bench();
    let mut noise = pattern(9, 4096).into_iter();
    for _ in 0..400 {
        let (at, value) = (noise.next().unwrap(), noise.next().unwrap());
        let index = u64::from(at % 10);
        if index != 0 && index != 1 {
            bench.ring_raw(0x1000 + index * 64, u32::from(value) << 3);
        }
        (0..300).for_each(|_| {
            bench.dev.serve(&mut bench.cx);
        });
    }
    assert!(bench.csts().rdy() && !bench.csts().cfs());
    // The admin queue and, once deleted and created anew, the I/O queue work.
    while bench.pop_admin().is_some() {}
    while bench.pop(&mut pair).is_some() {}
    for opcode in [AdminOpcode::DELETE_IO_SQ, AdminOpcode::DELETE_IO_CQ] {
        assert_eq!(bench.admin(delete(opcode, 1)).status(), Status::SUCCESS);
    }
    let mut pair = bench.create_pair(1, 16);
    bench.succeeds(&mut pair, Sqe::io(IoOpcode::FLUSH, 1));
}
