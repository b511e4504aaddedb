//! Many threads on one hardware queue: each reads what it wrote, on plain threads and in a tokio
//! runtime with several of its own.
#![cfg(all(feature = "driver", feature = "client", feature = "soft"))]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test may fail by panic"
)]

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use doorbell::client::{Client, QueueSpec};
use doorbell::dma::DmaBox;
use doorbell_nvme::{Lba, SharedNvme};

const WORKERS: u64 = 6;
const ROUNDS: u64 = 150;
/// Blocks that a worker has to itself.
const OWN: u64 = 256;

/// Nothing here takes a tenth of it, on a busy machine.
const DEADLINE: Duration = Duration::from_secs(120);

async fn open(depth: u32) -> Arc<SharedNvme> {
    let client: Client =
        doorbell::local::open("soft:nvme,ram=16M", &doorbell_nvme::registry()).await.unwrap();
    Arc::new(SharedNvme::claim_shared(&client, QueueSpec::depth(depth)).await.unwrap())
}

fn send<T: Send + Sync>(value: T) -> T {
    value
}

/// Which bytes `worker` writes at its block `block` in `round`.
fn byte(worker: u64, block: u64, round: u64) -> u8 {
    (worker * 37 + block * 11 + round) as u8
}

fn fill(buffer: &mut DmaBox<[u8]>, worker: u64, block: u64, round: u64) {
    for (at, block_bytes) in (block..).zip(buffer.chunks_mut(512)) {
        block_bytes.fill(byte(worker, at, round));
    }
}

fn check(buffer: &DmaBox<[u8]>, worker: u64, block: u64, round: u64) {
    for (at, block_bytes) in (block..).zip(buffer.chunks(512)) {
        let expected = byte(worker, at, round);
        assert!(
            block_bytes.iter().all(|seen| *seen == expected),
            "worker {worker}, block {at}, round {round}: {:02x?} is not {expected:02x}",
            &block_bytes[..4]
        );
    }
}

/// Two writes and two reads at once, a cancelled read beside them, and now and then a long request
/// that is cut into several commands.
async fn work(nvme: Arc<SharedNvme>, worker: u64) {
    let ns = nvme.namespace(1).unwrap();
    let first = worker * OWN;
    let alloc = |len| nvme.dma().alloc(len).unwrap();
    let (mut a, mut b) = (alloc(4096), alloc(1024));
    for round in 0..ROUNDS {
        let (at_a, at_b) = (round % 100, 200 + round % 50);
        fill(&mut a, worker, at_a, round);
        fill(&mut b, worker, at_b, round);
        let writes = (ns.write(Lba(first + at_a), a), ns.write(Lba(first + at_b), b));
        (a, b) = (writes.0.await.unwrap(), writes.1.await.unwrap());
        a.fill(0);
        b.fill(0);
        drop(ns.read(Lba(first), alloc(512)));
        let reads = (ns.read(Lba(first + at_a), a), ns.read(Lba(first + at_b), b));
        (b, a) = (reads.1.await.unwrap(), reads.0.await.unwrap());
        check(&a, worker, at_a, round);
        check(&b, worker, at_b, round);
        if round % 32 == worker {
            let mut long = alloc(OWN as usize * 512);
            fill(&mut long, worker, 0, round);
            let mut long = ns.write(Lba(first), long).await.unwrap();
            ns.flush().await.unwrap();
            long.fill(0);
            let long = ns.read(Lba(first), long).await.unwrap();
            check(&long, worker, 0, round);
        }
    }
}

/// Runs `test` on a thread of its own, and fails if it does not end in time.
fn in_time(test: impl FnOnce() + Send + 'static) {
    let (done, wait) = std::sync::mpsc::channel();
    let thread = std::thread::spawn(move || {
        test();
        let _ = done.send(());
    });
    match wait.recv_timeout(DEADLINE) {
        Err(std::sync::mpsc::RecvTimeoutError::Timeout) => panic!("not done in {DEADLINE:?}"),
        // Done, or the thread has panicked.
        _ => thread.join().unwrap(),
    }
}

fn on_plain_threads(depth: u32) {
    in_time(move || {
        let nvme = send(pollster::block_on(open(depth)));
        std::thread::scope(|scope| {
            for worker in 0..WORKERS {
                let nvme = Arc::clone(&nvme);
                scope.spawn(move || pollster::block_on(work(nvme, worker)));
            }
        });
        release(nvme, pollster::block_on);
    });
}

fn release(nvme: Arc<SharedNvme>, run: impl Fn(std::pin::Pin<Box<dyn Future<Output = ()>>>)) {
    let nvme = Arc::into_inner(nvme).expect("the workers are done");
    run(Box::pin(async move { nvme.release().await.unwrap() }));
}

#[test]
fn plain_threads_read_what_they_wrote() {
    on_plain_threads(64);
}

/// Fewer slots than there are commands: threads wait for them, in line.
#[test]
fn plain_threads_share_few_slots() {
    on_plain_threads(5);
}

#[test]
fn tasks_of_a_multi_thread_runtime_read_what_they_wrote() {
    in_time(|| {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(3)
            .enable_all()
            .build()
            .unwrap();
        let nvme = runtime.block_on(open(32));
        let tasks: Vec<_> =
            (0..WORKERS).map(|worker| runtime.spawn(work(Arc::clone(&nvme), worker))).collect();
        for task in tasks {
            runtime.block_on(task).unwrap();
        }
        release(nvme, |future| runtime.block_on(future));
    });
}

/// Each thread has a runtime of its own, and all share the queue.
#[test]
fn runtimes_of_one_thread_each_share_a_queue() {
    in_time(|| {
        let nvme = pollster::block_on(open(32));
        std::thread::scope(|scope| {
            for worker in 0..WORKERS {
                let nvme = Arc::clone(&nvme);
                scope.spawn(move || {
                    let mut runtime = tokio::runtime::Builder::new_current_thread();
                    runtime.enable_all().build().unwrap().block_on(work(nvme, worker));
                });
            }
        });
        release(nvme, pollster::block_on);
    });
}
