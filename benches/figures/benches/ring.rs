//! Submit plus complete in one thread, at depth 1 and 32, by callback and as futures, with the work
//! of the device in the same thread; and that device alone. By callback also with entries stored past
//! the caches, which a device on the same core then reads from memory: what that costs at worst. A
//! time is of 3,200 operations, the
//! throughput is per operation: a quiet machine should show at least 50 million a second direct (20
//! ns each) and 33 million as futures (30 ns) at depth 32.

#![allow(missing_docs, reason = "criterion_group! makes a public function without any")]
#![allow(clippy::print_stderr, reason = "a benchmark that cannot run says why")]

use criterion::{Criterion, Throughput, criterion_group, criterion_main};

use doorbell_figures::in_thread::{self, Bench, Kind, SLOTS};
use doorbell_queues::EntryStores;

/// Operations per iteration, so that criterion's own cost per iteration does not show.
const OPERATIONS: usize = 3200;

fn ring(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("ring");
    group.throughput(Throughput::Elements(OPERATIONS as u64));
    for depth in [1, 32] {
        for (name, kind, stores) in [
            ("device", Kind::Device, EntryStores::Plain),
            ("direct", Kind::Direct, EntryStores::Plain),
            ("direct-non-temporal", Kind::Direct, EntryStores::NonTemporal),
            ("futures", Kind::Futures, EntryStores::Plain),
        ] {
            let (queue, mut side) = match in_thread::queue_storing(SLOTS, stores) {
                Ok(parts) => parts,
                Err(error) => return eprintln!("ring: {error}"),
            };
            let mut bench = Bench::new(&queue, depth);
            // Once around the rings, so that all of their memory was touched.
            for _ in 0..256 / depth {
                bench.batch(&mut side, Kind::Direct);
            }
            group.bench_function(format!("{name}/qd{depth}"), |bencher| {
                bencher.iter(|| {
                    for _ in 0..OPERATIONS / depth {
                        bench.batch(&mut side, kind);
                    }
                });
            });
            assert_eq!(bench.failed(), 0, "every command succeeded");
            std::hint::black_box(side.sum());
        }
    }
    group.finish();
}

criterion_group!(benches, ring);
criterion_main!(benches);
