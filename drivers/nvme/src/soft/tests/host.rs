//! What a virtual machine asks of the controller: memory in thousands of small maps, pin interrupts.

use super::*;

/// A controller whose host memory is mapped page by page.
fn scattered() -> Bench {
    let mut bench = Bench::cold(SoftNvme::builder().ram(4 << 20).queues(2).depth(4096));
    bench.cx.iommu_mut().unmap(PartitionId(0), BASE, MEMORY as u64).unwrap();
    for at in (0..MEMORY).step_by(4096) {
        let page = bench.mem.slice(at, 4096).unwrap();
        let iova = BASE + at as u64;
        bench.cx.iommu_mut().map(PartitionId(0), iova, page, Access::ReadWrite).unwrap();
    }
    bench.enable(CC);
    assert!(bench.csts().rdy());
    bench
}

#[test]
fn queues_lists_and_data_lie_across_many_maps() {
    let mut bench = scattered();
    // 16 pages of commands, 4 of completions.
    let mut pair = bench.create_pair(1, 1024);
    let (list, data, back) = (bench.alloc(4096), bench.alloc(128 << 10), bench.alloc(128 << 10));
    // Twice around the rings.
    for round in 0..2_100_u64 {
        let len = 128 << 10;
        let bytes = pattern(round, len);
        if round % 100 == 0 {
            bench.put(data, &bytes);
        }
        for (opcode, at) in [(IoOpcode::WRITE, data), (IoOpcode::READ, back)] {
            if round % 100 != 0 {
                bench.succeeds(&mut pair, rw(opcode, 8, 8, at));
                continue;
            }
            let pages: Vec<u64> = (1..32).map(|page| at + page * 4096).collect();
            bench.put(list, bytemuck::cast_slice(&pages));
            bench.succeeds(&mut pair, Sqe { prp2: list, ..rw(opcode, 0, 256, at) });
        }
        if round % 100 == 0 {
            assert_eq!(bench.get(back, len), bytes, "round {round}");
        }
    }
}

#[test]
fn the_pin_is_asserted_until_completions_are_consumed_or_masked() {
    let (mut bench, mut pair) = Bench::with_io();
    // The admin queue's completions are consumed.
    assert!(!bench.dev.asserts_pin(&mut bench.cx));
    bench.submit(&mut pair, Sqe::io(IoOpcode::FLUSH, 1));
    bench.submit(&mut pair, Sqe::io(IoOpcode::FLUSH, 1));
    assert!(bench.dev.asserts_pin(&mut bench.cx));
    bench.write32(offset::INTMS, 1 << 1);
    assert!(!bench.dev.asserts_pin(&mut bench.cx), "its vector is masked");
    bench.write32(offset::INTMC, 1 << 1);
    bench.write32(offset::INTMS, 1);
    assert!(bench.dev.asserts_pin(&mut bench.cx), "another vector is masked");
    bench.pop(&mut pair).unwrap();
    assert!(bench.dev.asserts_pin(&mut bench.cx), "one is left");
    bench.pop(&mut pair).unwrap();
    assert!(!bench.dev.asserts_pin(&mut bench.cx));
    bench.submit(&mut pair, Sqe::io(IoOpcode::FLUSH, 1));
    assert!(bench.dev.asserts_pin(&mut bench.cx));
    bench.write32(offset::CC, 0);
    bench.settle();
    assert!(!bench.dev.asserts_pin(&mut bench.cx), "no queue is left");
}
