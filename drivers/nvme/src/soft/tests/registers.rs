//! Registers and the enable, disable, shutdown state machine.

use super::*;
use crate::spec::regs::{shn, shst};
use crate::spec::{Cap, Version};

fn cold() -> Bench {
    Bench::cold(SoftNvme::builder().ram(1 << 20).queues(8).depth(256))
}

#[test]
fn capabilities_read_alike_in_every_width() {
    let mut bench = cold();
    let cap = Cap(bench.dev.read(&mut bench.cx, 0, 0, Width::B8));
    assert_eq!((cap.mqes(), cap.cqr(), cap.dstrd(), cap.nssrs()), (255, true, 4, false));
    assert_eq!((cap.css(), cap.mpsmin(), cap.cmbs(), cap.crms()), (1, 0, false, 1));
    assert!(cap.to() > 0);
    let halves = u64::from(bench.read32(0)) | u64::from(bench.read32(4)) << 32;
    assert_eq!(halves, cap.0);
    let bytes: Vec<u8> =
        (0..8).map(|at| bench.dev.read(&mut bench.cx, 0, at, Width::B1) as u8).collect();
    assert_eq!(bytes, cap.0.to_le_bytes());
    assert_eq!(bench.read32(offset::VS), Version::V2_0.0);
    assert_eq!(bench.read32(offset::NSSR), 0);
    assert_eq!(bench.read32(offset::CMBLOC), 0);
}

#[test]
fn read_only_registers_ignore_writes_and_wide_registers_take_halves() {
    let mut bench = cold();
    let cap = bench.read32(0);
    bench.write32(0, !cap);
    bench.write32(offset::CSTS, u32::MAX);
    bench.write32(offset::NSSR, 0x4e56_4d65);
    assert_eq!((bench.read32(0), bench.csts().0), (cap, 0));
    bench.write32(offset::ASQ, 0x1234_5000);
    bench.write32(offset::ASQ + 4, 0x7);
    assert_eq!(bench.dev.read(&mut bench.cx, 0, offset::ASQ, Width::B8), 0x7_1234_5000);
    bench.write32(offset::INTMS, 0b110);
    bench.write32(offset::INTMC, 0b010);
    assert_eq!((bench.read32(offset::INTMS), bench.read32(offset::INTMC)), (0b100, 0b100));
    // Not a width that the specification allows.
    bench.dev.write(&mut bench.cx, 0, offset::ASQ, Width::B2, 0);
    assert_eq!(bench.read32(offset::ASQ), 0x1234_5000);
}

#[test]
fn the_bar_is_a_power_of_two_and_holds_every_doorbell() {
    for (dstrd, queues) in [(0, 1), (4, 32), (10, 8), (0, 1023), (2, 100)] {
        let builder = SoftNvme::builder().ram(4096).dstrd(dstrd).queues(queues);
        let dev = builder.build().unwrap();
        let region = &dev.regions()[0];
        let last = dev.regs.cap.cq_doorbell(queues) + 4;
        assert!(region.size.is_power_of_two() && region.size >= 16384);
        assert_eq!(region.mappable[0].start, 0x1000);
        assert!(last <= region.mappable[0].end && region.mappable[0].end <= region.size);
        assert!(region.mappable[0].end.is_multiple_of(4096));
    }
}

#[test]
fn enable_and_disable() {
    let mut bench = cold();
    assert!(!bench.csts().rdy());
    bench.enable(CC);
    assert!(bench.csts().rdy() && !bench.csts().cfs());
    bench.write32(offset::CC, CC.with_en(false).0);
    bench.settle();
    assert_eq!(bench.csts().0, 0);
    // The admin queue registers survive a controller reset.
    assert_eq!(bench.dev.read(&mut bench.cx, 0, offset::ASQ, Width::B8), bench.admin.sq);
    bench.write32(offset::CC, CC.0);
    bench.settle();
    assert!(bench.csts().rdy());
}

#[test]
fn configurations_that_cannot_run_are_fatal_and_a_reset_helps() {
    for (what, cc) in [
        ("page size", CC.with_mps(5)),
        ("command set", CC.with_css(0b110)),
        ("arbitration", CC.with_ams(1)),
    ] {
        let mut bench = cold();
        bench.enable(cc);
        assert!(bench.csts().cfs() && !bench.csts().rdy(), "{what}");
        bench.write32(offset::CC, cc.with_en(false).0);
        bench.settle();
        assert_eq!(bench.csts().0, 0, "{what}");
        bench.enable(CC);
        assert!(bench.csts().rdy(), "{what}");
    }
}

#[test]
fn admin_queues_that_cannot_be_are_fatal() {
    for (aqa, asq_offset, mps) in [
        (Aqa(0).with_asqs(0).with_acqs(31), 0, 0),
        (Aqa(0).with_asqs(31).with_acqs(0), 0, 0),
        (Aqa(0).with_asqs(31).with_acqs(31), 0x40, 0),
        // A page of 8 KiB, and a queue that begins in the middle of one.
        (Aqa(0).with_asqs(31).with_acqs(31), 0x1000, 1),
    ] {
        let mut bench = cold();
        bench.write32(offset::AQA, aqa.0);
        bench.write64(offset::ASQ, BASE + asq_offset);
        bench.write64(offset::ACQ, BASE + 0x8000);
        bench.write32(offset::CC, CC.with_mps(mps).0);
        bench.settle();
        assert!(bench.csts().cfs() && !bench.csts().rdy(), "{aqa:?} {asq_offset:#x} {mps}");
    }
}

#[test]
fn fields_that_only_count_while_disabled_do_not_change_while_enabled() {
    let mut bench = cold();
    bench.enable(CC);
    bench.write32(offset::CC, CC.with_mps(3).with_css(6).with_ams(1).0);
    assert_eq!(Cc(bench.read32(offset::CC)), CC);
    assert!(bench.csts().rdy());
}

#[test]
fn shutdown_completes_and_stops_the_queues() {
    for notice in [shn::NORMAL, shn::ABRUPT] {
        let mut bench = cold();
        bench.enable(CC);
        bench.write32(offset::CC, CC.with_shn(notice).0);
        bench.settle();
        assert_eq!(bench.csts().shst(), shst::COMPLETE);
        bench.submit_admin(Sqe { prp1: BASE, cdw10: 1, ..Sqe::admin(AdminOpcode::IDENTIFY) });
        assert!(bench.pop_admin().is_none());
        bench.write32(offset::CC, CC.with_en(false).0);
        bench.settle();
        assert_eq!(bench.csts().0, 0);
    }
    // Also while disabled.
    let mut bench = cold();
    bench.write32(offset::CC, CC.with_en(false).with_shn(shn::NORMAL).0);
    bench.settle();
    assert_eq!(bench.csts().shst(), shst::COMPLETE);
}

#[test]
fn a_function_level_reset_is_a_power_on() {
    let (mut bench, mut pair) = Bench::with_io();
    bench.push(&mut pair, Sqe::io(IoOpcode::FLUSH, 1));
    bench.ring(&pair);
    bench.dev.reset(&mut bench.cx);
    bench.settle();
    assert!(bench.pop(&mut pair).is_none());
    for at in [offset::CC, offset::CSTS, offset::AQA, offset::ASQ, offset::ACQ, offset::INTMS] {
        assert_eq!(bench.read32(at), 0, "{at:#x}");
    }
    bench.admin = bench.pair(0, 8);
    bench.enable(CC);
    bench.create_pair(1, 16);
}

#[test]
fn admin_queues_may_be_of_different_sizes_and_in_larger_pages() {
    let mut bench = cold();
    bench.admin = Pair { sq: BASE + 0x10000, cq: BASE + 0x20000, ..bench.pair(0, 4) };
    bench.enable(CC.with_mps(4));
    assert!(bench.csts().rdy());
    for _ in 0..20 {
        let identify = Sqe { prp1: BASE + 0x30000, cdw10: 1, ..Sqe::admin(AdminOpcode::IDENTIFY) };
        assert_eq!(bench.admin(identify).status(), Status::SUCCESS);
    }
}

#[test]
fn an_admin_queue_outside_of_host_memory_is_fatal() {
    for (asq, acq) in [(UNMAPPED, BASE), (BASE, UNMAPPED)] {
        let mut bench = cold();
        (bench.admin.sq, bench.admin.cq) = (asq, acq);
        bench.enable(CC);
        assert!(bench.csts().rdy());
        bench.ring_raw(bench.dev.regs.cap.sq_doorbell(0), 1);
        bench.settle();
        assert!(bench.csts().cfs());
    }
}
