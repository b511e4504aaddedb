//! NVMe queues on a poller: many at once, with data that is checked.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test may fail by panic"
)]

mod common;

use std::rc::Rc;

use common::{bytes, pattern};
use doorbell::client::{Client, QueueSpec};
use doorbell::local;
use doorbell::poll::{Poller, Pollers, spawn_local};
use doorbell_nvme::{Lba, Nvme};

const QUEUES: u64 = 64;

fn poller() -> Poller {
    Pollers::builder().build().near(None).unwrap()
}

async fn client(options: &str) -> Client {
    let builder = Client::builder().arena_bytes(32 << 20);
    let spec = format!("soft:nvme,{options}");
    local::open_with(&spec, &doorbell_nvme::registry(), builder).await.unwrap()
}

/// Writes and reads back; each round overwrites the last.
async fn exercise(nvme: &Nvme, at: u64, rounds: u64) {
    let ns = nvme.namespace(1).unwrap();
    for round in 0..rounds {
        let seed = at ^ round << 32;
        ns.write(Lba(at), pattern(nvme, 4096, seed)).await.unwrap();
        let read = ns.read(Lba(at), nvme.dma().alloc(4096).unwrap()).await.unwrap();
        assert_eq!(&read[..], bytes(4096, seed));
    }
}

#[test]
fn sixty_four_queues_share_one_poller() {
    let poller = poller();
    let done = poller.spawn(|| async {
        let client = client(&format!("ram=16M,queues={QUEUES}")).await;
        let tasks: Vec<_> = (0..QUEUES)
            .map(|number| {
                let client = client.clone();
                spawn_local(async move {
                    let nvme = Nvme::claim(&client, QueueSpec::depth(4)).await.unwrap();
                    exercise(&nvme, number * 8, 16).await;
                    nvme
                })
            })
            .collect();
        let mut queues = Vec::new();
        for task in tasks {
            queues.push(task.await.unwrap());
        }
        // All of them exist now; one works while the others have nothing to do.
        exercise(&queues[0], 0, 64).await;
        queues.len() as u64
    });
    assert_eq!(pollster::block_on(done).unwrap(), QUEUES);
}

#[test]
fn tasks_of_one_queue_keep_it_full() {
    let poller = poller();
    let done = poller.spawn(|| async {
        let client = client("ram=16M").await;
        let nvme = Rc::new(Nvme::claim(&client, QueueSpec::depth(8)).await.unwrap());
        // More tasks than the queue has slots.
        let tasks: Vec<_> = (0..24)
            .map(|number| {
                let nvme = Rc::clone(&nvme);
                spawn_local(async move { exercise(&nvme, number * 8, 32).await })
            })
            .collect();
        for task in tasks {
            task.await.unwrap();
        }
        assert_eq!(nvme.queue().in_flight(), 0);
    });
    pollster::block_on(done).unwrap();
}

#[test]
fn a_request_of_many_commands_is_whole() {
    let done = poller().spawn(|| async {
        let client = client("ram=16M,mdts=4").await;
        let nvme = Nvme::claim(&client, QueueSpec::depth(4)).await.unwrap();
        let ns = nvme.namespace(1).unwrap();
        let len = 1 << 20;
        ns.write(Lba(0), pattern(&nvme, len, 5)).await.unwrap();
        let read = ns.read(Lba(0), nvme.dma().alloc(len).unwrap()).await.unwrap();
        assert_eq!(&read[..], bytes(len, 5));
    });
    pollster::block_on(done).unwrap();
}

#[test]
fn requests_that_are_dropped_on_a_poller_give_their_buffers_back() {
    let done = poller().spawn(|| async {
        let client = client("ram=16M").await;
        let nvme = Nvme::claim(&client, QueueSpec::depth(8)).await.unwrap();
        let ns = nvme.namespace(1).unwrap();
        for round in 0..200_u64 {
            let mut reads: Vec<_> = (0..4)
                .map(|at| Box::pin(ns.read(Lba(at * 8), nvme.dma().alloc(4096).unwrap())))
                .collect();
            // Polled once, so that they park, and dropped.
            std::future::poll_fn(|cx| {
                for read in &mut reads {
                    let _ = read.as_mut().poll(cx);
                }
                std::task::Poll::Ready(())
            })
            .await;
            drop(reads);
            exercise(&nvme, 64 + round % 8, 1).await;
        }
    });
    pollster::block_on(done).unwrap();
}
