//! Injected faults do what their names say.

use super::*;
use crate::soft::{InjectKind, Injection};

fn bench(kind: InjectKind, at: u64) -> (Bench, Pair) {
    let builder = SoftNvme::builder().ram(1 << 20).inject(Injection { kind, at });
    let mut bench = Bench::new(builder);
    let pair = bench.create_pair(1, 16);
    (bench, pair)
}

const FLUSH: IoOpcode = IoOpcode::FLUSH;

#[test]
fn a_timeout_hits_its_command_only() {
    let (mut bench, mut pair) = bench(InjectKind::Timeout, 2);
    bench.succeeds(&mut pair, Sqe::io(FLUSH, 1));
    bench.submit(&mut pair, Sqe::io(FLUSH, 1));
    assert!(bench.pop(&mut pair).is_none());
    let third = bench.submit(&mut pair, Sqe::io(FLUSH, 1));
    assert_eq!(bench.pop(&mut pair).unwrap().cid, third);
    // A reset clears it.
    bench.write32(offset::CC, CC.with_en(false).0);
    bench.settle();
    assert!(!bench.csts().rdy());
}

#[test]
fn fatal_status_and_removal() {
    let (mut bench, mut pair) = bench(InjectKind::Fatal, 1);
    bench.submit(&mut pair, Sqe::io(FLUSH, 1));
    assert!(bench.pop(&mut pair).is_none() && bench.csts().cfs());
    let (mut bench, mut pair) = bench_gone();
    bench.submit(&mut pair, Sqe::io(FLUSH, 1));
    assert!(bench.pop(&mut pair).is_none());
    assert_eq!(bench.read32(offset::CSTS), u32::MAX);
    assert_eq!(bench.dev.read(&mut bench.cx, 0, 0, Width::B8), u64::MAX);
}

fn bench_gone() -> (Bench, Pair) {
    bench(InjectKind::AllOnes, 1)
}

#[test]
fn from_the_beginning() {
    for kind in [InjectKind::Fatal, InjectKind::AllOnes, InjectKind::NeverReady] {
        let builder = SoftNvme::builder().ram(1 << 20).inject(Injection { kind, at: 0 });
        let mut bench = Bench::cold(builder);
        bench.enable(CC);
        let csts = bench.csts();
        let expected = match kind {
            InjectKind::Fatal => Csts(0).with_cfs(true),
            InjectKind::AllOnes => Csts(u32::MAX),
            _ => Csts(0),
        };
        assert_eq!(csts, expected, "{kind:?}");
    }
}

#[test]
fn damaged_completions() {
    let (mut b, mut pair) = bench(InjectKind::Phase, 1);
    b.submit(&mut pair, Sqe::io(FLUSH, 1));
    assert!(b.pop(&mut pair).is_none());
    for (kind, wrong) in [(InjectKind::UnknownId, 0x8000), (InjectKind::StaleId, 1)] {
        let (mut bench, mut pair) = bench(kind, 1);
        let cid = bench.submit(&mut pair, Sqe::io(FLUSH, 1));
        let cqe = bench.pop(&mut pair).unwrap();
        let expected = if wrong == 1 { cid - 1 } else { cid ^ wrong };
        assert_eq!(cqe.cid, expected);
    }
    let (mut b, mut pair) = bench(InjectKind::Duplicate, 1);
    b.submit(&mut pair, Sqe::io(FLUSH, 1));
    let (one, two) = (b.pop(&mut pair).unwrap(), b.pop(&mut pair).unwrap());
    assert_eq!(one.cid, two.cid);
    let (mut b, mut pair) = bench(InjectKind::Head, 1);
    b.submit(&mut pair, Sqe::io(FLUSH, 1));
    assert!(u32::from(b.pop(&mut pair).unwrap().sqhd) >= pair.entries);
}

#[test]
fn faults_of_dma_and_medium() {
    let (mut bench_dma, mut pair) = bench(InjectKind::Dma, 1);
    bench_dma.refuses(&mut pair, Sqe::io(FLUSH, 1), Status::DATA_TRANSFER_ERROR);
    assert_eq!(bench_dma.cx.iommu().fault_count(), 1);
    bench_dma.succeeds(&mut pair, Sqe::io(FLUSH, 1));
    let (mut bench, mut pair) = bench(InjectKind::Media, 1);
    bench.refuses(&mut pair, Sqe::io(FLUSH, 1), Status::UNRECOVERED_READ_ERROR);
    assert_eq!(bench.dev.stats.media_errors, 1);
}
