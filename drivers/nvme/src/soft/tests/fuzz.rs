//! Anything a host can do never panics, and every command completes.

use proptest::prelude::*;

use super::*;

/// Entries that are nearly right are worth more than noise.
fn sqe(admin: bool) -> impl Strategy<Value = Sqe> {
    let opcode = if admin {
        prop_oneof![
            Just(0x02u8),
            Just(0x06),
            Just(0x08),
            Just(0x09),
            Just(0x0a),
            Just(0x05),
            any::<u8>()
        ]
        .boxed()
    } else {
        prop_oneof![Just(0u8), Just(1), Just(2), Just(5), Just(8), Just(9), any::<u8>()].boxed()
    };
    let address = prop_oneof![
        (0u64..MEMORY as u64 / 2).prop_map(|at| BASE + (at & !3)),
        (0u64..2048).prop_map(|page| BASE + page * 4096),
        any::<u64>(),
    ];
    let small = prop_oneof![0u32..8, 0u32..4096, any::<u32>()];
    let flags = prop_oneof![9 => Just(0u8), 1 => any::<u8>()];
    let nsid = prop_oneof![6 => Just(1u32), 1 => Just(u32::MAX), 1 => 0u32..5];
    (opcode, flags, nsid, address.clone(), address, prop::array::uniform6(small)).prop_map(
        |(opcode, flags, nsid, prp1, prp2, dw)| Sqe {
            opcode,
            flags,
            nsid,
            prp1,
            prp2,
            cdw10: dw[0],
            cdw11: dw[1],
            cdw12: dw[2],
            cdw13: dw[3],
            cdw14: dw[4],
            cdw15: dw[5],
            ..Sqe::default()
        },
    )
}

/// The queues lie where the entries' addresses do not reach, so that no transfer overwrites them.
fn bench(builder: Builder) -> (Bench, Pair) {
    let mut bench = Bench::cold(builder.queues(4));
    bench.next = BASE + (MEMORY / 2) as u64 + (1 << 20);
    bench.admin = bench.pair(0, 64);
    bench.enable(CC);
    let pair = bench.create_pair(4, 64);
    (bench, pair)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn io_commands_complete(entries in prop::collection::vec(sqe(false), 1..60)) {
        let (mut bench, mut pair) = bench(SoftNvme::builder().ram(1 << 20).null(1 << 20));
        let mut cids: Vec<u16> = entries.iter().map(|sqe| bench.push(&mut pair, *sqe)).collect();
        bench.ring(&pair);
        bench.settle();
        while let Some(cqe) = bench.pop(&mut pair) {
            let at = cids.iter().position(|cid| *cid == cqe.cid);
            prop_assert!(at.is_some());
            cids.swap_remove(at.unwrap_or(0));
        }
        prop_assert!(cids.is_empty());
        prop_assert!(bench.csts().rdy() && !bench.csts().cfs());
    }

    #[test]
    fn io_commands_on_files_complete(entries in prop::collection::vec(sqe(false), 1..60)) {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(1 << 20).unwrap();
        let (mut bench, mut pair) = bench(SoftNvme::builder().image(file.path()));
        entries.iter().for_each(|sqe| {
            bench.push(&mut pair, *sqe);
        });
        bench.ring(&pair);
        bench.settle();
        prop_assert_eq!(std::iter::from_fn(|| bench.pop(&mut pair)).count(), entries.len());
        prop_assert!(bench.csts().rdy() && !bench.csts().cfs());
        prop_assert_eq!(file.as_file().metadata().unwrap().len(), 1 << 20);
    }

    #[test]
    fn admin_commands_complete(entries in prop::collection::vec(sqe(true), 1..60)) {
        let (mut bench, _) = bench(SoftNvme::builder().ram(1 << 20).null(1 << 20));
        let mut admin = bench.admin.clone();
        let mut open = 0usize;
        for sqe in &entries {
            bench.push(&mut admin, *sqe);
            open += 1;
        }
        let parked = entries.iter().filter(|sqe| sqe.opcode == 0x0c).count();
        bench.ring(&admin);
        bench.settle();
        while bench.pop(&mut admin).is_some() {
            open -= 1;
        }
        prop_assert!(open <= parked.min(4));
        prop_assert!(bench.csts().rdy() && !bench.csts().cfs());
    }

    #[test]
    fn register_accesses_never_panic(
        writes in prop::collection::vec((0u64..0x1100, 0u8..4, any::<u64>(), any::<bool>()), 1..80),
    ) {
        let mut bench = Bench::cold(SoftNvme::builder().ram(1 << 20).queues(2));
        for (at, width, value, poll) in writes {
            let width = [Width::B1, Width::B2, Width::B4, Width::B8][usize::from(width)];
            bench.dev.read(&mut bench.cx, 0, at, width);
            bench.dev.write(&mut bench.cx, 0, at, width, value);
            if poll {
                bench.settle();
            }
        }
        bench.dev.reset(&mut bench.cx);
        bench.settle();
        bench.admin = bench.pair(0, 8);
        bench.enable(CC);
        prop_assert!(bench.csts().rdy());
    }
}
