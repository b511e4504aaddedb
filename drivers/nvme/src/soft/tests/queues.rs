//! Create and Delete I/O queues: every status code; sharing, wrapping, full queues.

use super::*;
use crate::spec::FeatureId;
use crate::spec::feature::{Features10, NumberOfQueues};

const SQ: AdminOpcode = AdminOpcode::DELETE_IO_SQ;
const CQ: AdminOpcode = AdminOpcode::DELETE_IO_CQ;

fn bench() -> Bench {
    Bench::new(SoftNvme::builder().ram(1 << 20).queues(4).depth(64))
}

#[test]
fn completion_queues_that_cannot_be() {
    let mut bench = bench();
    let good = create_cq(&bench.pair(1, 16));
    let with10 = |qid: u16, size: u16| Sqe {
        cdw10: CreateQueue10(0).with_qid(qid).with_qsize(size).0,
        ..good
    };
    let with11 = |cdw11: CreateCq11| Sqe { cdw11: cdw11.0, ..good };
    for (sqe, status) in [
        (with10(0, 15), Status::INVALID_QUEUE_ID),
        (with10(5, 15), Status::INVALID_QUEUE_ID),
        (with10(0xffff, 15), Status::INVALID_QUEUE_ID),
        (with10(1, 0), Status::INVALID_QUEUE_SIZE),
        (with10(1, 64), Status::INVALID_QUEUE_SIZE),
        (with10(1, 0xffff), Status::INVALID_QUEUE_SIZE),
        (with11(CreateCq11(good.cdw11).with_pc(false)), Status::INVALID_FIELD),
        (with11(CreateCq11(good.cdw11).with_iv(5)), Status::INVALID_INTERRUPT_VECTOR),
        (Sqe { prp1: good.prp1 + 8, ..good }, Status::INVALID_PRP_OFFSET),
    ] {
        bench.admin_refuses(sqe, status.dnr());
    }
    // The largest size is no error, and a vector does not matter where interrupts are off.
    let quiet = CreateCq11(0).with_pc(true).with_iv(999);
    assert_eq!(bench.admin(Sqe { cdw11: quiet.0, ..with10(2, 63) }).status(), Status::SUCCESS);
    assert_eq!(bench.admin(good).status(), Status::SUCCESS);
    bench.admin_refuses(good, Status::INVALID_QUEUE_ID.dnr());
}

#[test]
fn submission_queues_that_cannot_be() {
    let mut bench = bench();
    let pair = bench.pair(1, 16);
    bench.admin_refuses(create_sq(&pair, 1), Status::INVALID_COMPLETION_QUEUE.dnr());
    assert_eq!(bench.admin(create_cq(&pair)).status(), Status::SUCCESS);
    let good = create_sq(&pair, 1);
    let with10 = |qid: u16, size: u16| Sqe {
        cdw10: CreateQueue10(0).with_qid(qid).with_qsize(size).0,
        ..good
    };
    for (sqe, status) in [
        (with10(0, 15), Status::INVALID_QUEUE_ID),
        (with10(5, 15), Status::INVALID_QUEUE_ID),
        (with10(1, 0), Status::INVALID_QUEUE_SIZE),
        (with10(1, 64), Status::INVALID_QUEUE_SIZE),
        (create_sq(&pair, 0), Status::INVALID_QUEUE_ID),
        (create_sq(&pair, 9), Status::INVALID_QUEUE_ID),
        (create_sq(&pair, 2), Status::INVALID_COMPLETION_QUEUE),
        (Sqe { cdw11: 1 << 16, ..good }, Status::INVALID_FIELD),
        (Sqe { prp1: good.prp1 + 64, ..good }, Status::INVALID_PRP_OFFSET),
    ] {
        bench.admin_refuses(sqe, status.dnr());
    }
    assert_eq!(bench.admin(good).status(), Status::SUCCESS);
    bench.admin_refuses(good, Status::INVALID_QUEUE_ID.dnr());
}

#[test]
fn queues_need_entry_sizes_in_cc() {
    let mut bench = Bench::cold(SoftNvme::builder().ram(1 << 20));
    bench.enable(CC.with_iosqes(0).with_iocqes(0));
    let pair = bench.pair(1, 16);
    bench.admin_refuses(create_cq(&pair), Status::INVALID_QUEUE_SIZE.dnr());
    // Entry sizes may be set while the controller runs.
    bench.write32(offset::CC, CC.with_iosqes(0).0);
    assert_eq!(bench.admin(create_cq(&pair)).status(), Status::SUCCESS);
    bench.admin_refuses(create_sq(&pair, 1), Status::INVALID_QUEUE_SIZE.dnr());
    bench.write32(offset::CC, CC.0);
    assert_eq!(bench.admin(create_sq(&pair, 1)).status(), Status::SUCCESS);
}

#[test]
fn the_number_of_queues_limits_identifiers() {
    let mut bench = bench();
    let set = |nsq, ncq| Sqe {
        cdw10: Features10(0).with_fid(FeatureId::NUMBER_OF_QUEUES.0).0,
        cdw11: NumberOfQueues(0).with_nsq(nsq).with_ncq(ncq).0,
        ..Sqe::admin(AdminOpcode::SET_FEATURES)
    };
    bench.admin_refuses(set(0xffff, 0), Status::INVALID_FIELD.dnr());
    assert_eq!(bench.admin(set(100, 100)).dw0, NumberOfQueues(0).with_nsq(3).with_ncq(3).0);
    assert_eq!(bench.admin(set(0, 1)).dw0, NumberOfQueues(0).with_nsq(0).with_ncq(1).0);
    bench.create_pair(1, 8);
    let second = bench.pair(2, 8);
    assert_eq!(bench.admin(create_cq(&second)).status(), Status::SUCCESS);
    bench.admin_refuses(create_sq(&second, 2), Status::INVALID_QUEUE_ID.dnr());
    bench.admin_refuses(set(3, 3), Status::SEQUENCE_ERROR.dnr());
}

#[test]
fn deletions() {
    let mut bench = bench();
    for qid in [0, 1, 9, 0xffff] {
        bench.admin_refuses(delete(SQ, qid), Status::INVALID_QUEUE_ID.dnr());
        bench.admin_refuses(delete(CQ, qid), Status::INVALID_QUEUE_ID.dnr());
    }
    for _ in 0..3 {
        let mut pair = bench.create_pair(1, 16);
        bench.succeeds(&mut pair, Sqe::io(IoOpcode::FLUSH, 1));
        bench.admin_refuses(delete(CQ, 1), Status::INVALID_QUEUE_DELETION.dnr());
        assert_eq!(bench.admin(delete(SQ, 1)).status(), Status::SUCCESS);
        assert_eq!(bench.admin(delete(CQ, 1)).status(), Status::SUCCESS);
    }
}

#[test]
fn a_deleted_queue_does_nothing_any_more() {
    let mut bench = bench();
    let mut pair = bench.create_pair(1, 16);
    assert_eq!(bench.admin(delete(SQ, 1)).status(), Status::SUCCESS);
    bench.submit(&mut pair, Sqe::io(IoOpcode::FLUSH, 1));
    assert!(bench.pop(&mut pair).is_none());
}

#[test]
fn queues_may_share_a_completion_queue() {
    let mut bench = bench();
    let mut first = bench.create_pair(1, 16);
    let mut second = bench.pair(3, 16);
    assert_eq!(bench.admin(create_sq(&second, 1)).status(), Status::SUCCESS);
    let a = bench.submit(&mut first, Sqe::io(IoOpcode::FLUSH, 1));
    let b = bench.submit(&mut second, Sqe::io(IoOpcode::FLUSH, 1));
    let (one, two) = (bench.pop(&mut first).unwrap(), bench.pop(&mut first).unwrap());
    assert_eq!(((one.cid, one.sqid), (two.cid, two.sqid)), ((a, 1), (b, 3)));
    assert_eq!(bench.admin(delete(SQ, 1)).status(), Status::SUCCESS);
    bench.admin_refuses(delete(CQ, 1), Status::INVALID_QUEUE_DELETION.dnr());
    assert_eq!(bench.admin(delete(SQ, 3)).status(), Status::SUCCESS);
    assert_eq!(bench.admin(delete(CQ, 1)).status(), Status::SUCCESS);
}

#[test]
fn rings_wrap_and_phases_flip() {
    let mut bench = bench();
    let mut pair = bench.create_pair(1, 3);
    for _ in 0..20 {
        bench.succeeds(&mut pair, Sqe::io(IoOpcode::FLUSH, 1));
    }
}

#[test]
fn a_full_completion_queue_holds_commands_back() {
    let mut bench = bench();
    let mut pair = bench.pair(1, 64);
    let small = Pair { entries: 4, ..pair.clone() };
    assert_eq!(bench.admin(create_cq(&small)).status(), Status::SUCCESS);
    assert_eq!(bench.admin(create_sq(&pair, 1)).status(), Status::SUCCESS);
    let cids: Vec<u16> =
        (0..40).map(|_| bench.push(&mut pair, Sqe::io(IoOpcode::FLUSH, 1))).collect();
    bench.ring(&pair);
    bench.settle();
    // Three entries, and not a fourth before the host took one.
    assert!(bench.dev.idle().until.is_some());
    pair.entries = 4;
    let mut seen = Vec::new();
    while let Some(cqe) = bench.pop(&mut pair) {
        seen.push(cqe.cid);
        bench.settle();
    }
    assert_eq!(seen, cids);
    assert!(bench.dev.idle().until.is_none());
}

#[test]
fn a_batch_is_served_in_order_and_every_queue_gets_its_turn() {
    let mut bench = Bench::new(SoftNvme::builder().ram(1 << 20));
    let mut pairs: Vec<Pair> = (1..=4).map(|qid| bench.create_pair(qid, 256)).collect();
    for pair in &mut pairs {
        (0..200).for_each(|_| {
            bench.push(pair, Sqe::io(IoOpcode::FLUSH, 1));
        });
        bench.ring(pair);
    }
    bench.dev.serve(&mut bench.cx);
    for pair in &mut pairs {
        let mut count = 0;
        while bench.pop(pair).is_some() {
            count += 1;
        }
        assert_eq!(count, super::super::BURST);
    }
}

#[test]
fn the_arbitration_burst_and_long_transfers_end_a_turn() {
    let (mut bench, mut pair) = Bench::with_io();
    let arbitration = |ab| Sqe { cdw10: 1, cdw11: ab, ..Sqe::admin(AdminOpcode::SET_FEATURES) };
    assert_eq!(bench.admin(arbitration(2)).status(), Status::SUCCESS);
    let mut turn = |bench: &mut Bench, sqe: Sqe| {
        (0..10).for_each(|_| {
            bench.push(&mut pair, sqe);
        });
        bench.ring(&pair);
        bench.dev.serve(&mut bench.cx);
        let turn = std::iter::from_fn(|| bench.pop(&mut pair)).count();
        bench.settle();
        turn + std::iter::from_fn(|| bench.pop(&mut pair)).count() * 100
    };
    assert_eq!(turn(&mut bench, Sqe::io(IoOpcode::FLUSH, 1)), 4 + 6 * 100);
    assert_eq!(bench.admin(arbitration(7)).status(), Status::SUCCESS);
    assert_eq!(turn(&mut bench, Sqe::io(IoOpcode::FLUSH, 1)), 10);
    let (at, list) = (bench.alloc(128 << 10), bench.alloc(4096));
    let pages: Vec<u64> = (1..32).map(|page| at + page * 4096).collect();
    bench.put(list, bytemuck::cast_slice(&pages));
    let long = Sqe { prp2: list, ..rw(IoOpcode::READ, 0, 256, at) };
    assert_eq!(turn(&mut bench, long), 2 + 8 * 100);
}

#[test]
fn queue_memory_that_goes_away_concerns_its_owner_only() {
    let mut bench = bench();
    let far = SharedMem::zeroed(1 << 16);
    let partition = PartitionId(1);
    let at = BASE + (1 << 32);
    bench.cx.iommu_mut().map(partition, at, far, Access::ReadWrite).unwrap();
    let pair = Pair { sq: at, cq: at + 4096, ..bench.pair(1, 16) };
    assert_eq!(bench.admin(create_cq(&pair)).status(), Status::SUCCESS);
    assert_eq!(bench.admin(create_sq(&pair, 1)).status(), Status::SUCCESS);
    let mut other = bench.create_pair(2, 16);
    bench.cx.iommu_mut().unmap(partition, at, 1 << 16).unwrap();
    bench.ring_raw(bench.dev.regs.cap.sq_doorbell(1), 1);
    bench.settle();
    assert!(!bench.csts().cfs());
    bench.succeeds(&mut other, Sqe::io(IoOpcode::FLUSH, 1));
    assert_eq!(bench.admin(delete(SQ, 1)).status(), Status::SUCCESS);
    assert_eq!(bench.admin(delete(CQ, 1)).status(), Status::SUCCESS);
    bench.create_pair(1, 16);
}
