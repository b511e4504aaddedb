//! Futures: dropped at any point, more of them than slots, batches; and memory that comes back.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test may fail by panic"
)]

mod common;

use std::future::Future;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker};

use common::{Rig, bytes, everywhere, pattern};
use doorbell::client::QueueSpec;
use doorbell_nvme::{Io, Lba, Nvme};

/// Polls once, without a task to wake.
fn poll_once<F: Future + Unpin>(future: &mut F) -> Poll<F::Output> {
    Pin::new(future).poll(&mut Context::from_waker(Waker::noop()))
}

/// Waits until the queue has nothing in flight, orphans included.
async fn drained(nvme: &Nvme) {
    while nvme.queue().in_flight() > 0 {
        nvme.queue().poll(usize::MAX).unwrap();
        std::hint::spin_loop();
    }
}

#[test]
fn a_batch_is_one_doorbell_and_any_order() {
    let rig = Rig::new("ram=1M");
    everywhere(async || {
        let nvme = rig.nvme().await;
        let ns = nvme.namespace(1).unwrap();
        let write = |at: u64| ns.write(Lba(at * 8), pattern(&nvme, 4096, at));
        let writes: Vec<Io<'_>> = (0..16).map(write).collect();
        assert_eq!(nvme.queue().in_flight(), 16, "placed when they are made");
        for io in writes.into_iter().rev() {
            io.await.unwrap();
        }
        for at in 0..16 {
            let read = ns.read(Lba(at * 8), nvme.dma().alloc(4096).unwrap()).await.unwrap();
            assert_eq!(&read[..], bytes(4096, at));
        }
    });
}

#[test]
fn dropped_before_the_first_poll() {
    let rig = Rig::new("ram=1M");
    everywhere(async || {
        let nvme = rig.nvme().await;
        let ns = nvme.namespace(1).unwrap();
        let before = nvme.dma().stats();
        for _ in 0..100 {
            drop(ns.write(Lba(0), pattern(&nvme, 4096, 1)));
            drained(&nvme).await;
        }
        assert_eq!(nvme.dma().stats(), before, "every buffer is back");
        let read = ns.read(Lba(0), nvme.dma().alloc(4096).unwrap()).await.unwrap();
        assert_eq!(&read[..], bytes(4096, 1), "the device executes it all the same");
    });
}

#[test]
fn dropped_in_the_middle() {
    let rig = Rig::new("ram=8M,mdts=1");
    everywhere(async || {
        let nvme = rig.nvme().await;
        let ns = nvme.namespace(1).unwrap();
        let before = nvme.dma().stats();
        for polls in 0..20 {
            // 32 parts, four in flight at a time.
            let mut io = ns.write(Lba(0), pattern(&nvme, 256 << 10, polls));
            for _ in 0..polls {
                if poll_once(&mut io).is_ready() {
                    break;
                }
            }
            drop(io);
            drained(&nvme).await;
            assert_eq!(nvme.dma().stats(), before, "after {polls} polls");
        }
    });
}

#[test]
fn more_requests_than_slots_wait_their_turn() {
    let rig = Rig::new("ram=1M,mdts=1");
    everywhere(async || {
        let nvme = rig.nvme_with(8 << 20, QueueSpec::depth(3)).await;
        let ns = nvme.namespace(1).unwrap();
        let write = |at: u64| ns.write(Lba(at * 32), pattern(&nvme, 16 << 10, at));
        let mut writes: Vec<_> = (0..12).map(|at| Some(write(at))).collect();
        assert_eq!(nvme.queue().in_flight(), 3);
        let mut left = writes.len();
        std::future::poll_fn(|cx| {
            for slot in &mut writes {
                let Some(io) = slot else { continue };
                if let Poll::Ready(result) = Pin::new(io).poll(cx) {
                    result.unwrap();
                    *slot = None;
                    left -= 1;
                }
            }
            if left == 0 { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
        for at in 0..12 {
            let read = ns.read(Lba(at * 32), nvme.dma().alloc(16 << 10).unwrap()).await.unwrap();
            assert_eq!(&read[..], bytes(16 << 10, at));
        }
    });
}

#[test]
fn dropped_while_it_waits_for_a_slot() {
    let rig = Rig::new("ram=1M");
    everywhere(async || {
        let nvme = rig.nvme_with(1 << 20, QueueSpec::depth(1)).await;
        let ns = nvme.namespace(1).unwrap();
        let before = nvme.dma().stats();
        let first = ns.read(Lba(0), nvme.dma().alloc(512).unwrap());
        let second = ns.read(Lba(1), nvme.dma().alloc(512).unwrap());
        let mut third = ns.read(Lba(2), nvme.dma().alloc(512).unwrap());
        drop(second);
        assert!(poll_once(&mut third).is_pending());
        drop(first.await.unwrap());
        drop(third.await.unwrap());
        assert_eq!(nvme.dma().stats(), before);
    });
}

#[test]
fn futures_of_many_tasks_share_a_queue() {
    let rig = Rig::new("ram=4M");
    let run = async || {
        let nvme = std::rc::Rc::new(rig.nvme().await);
        let task = |number: u64| {
            let nvme = std::rc::Rc::clone(&nvme);
            tokio::task::spawn_local(async move {
                let ns = nvme.namespace(1).unwrap();
                for round in 0..20 {
                    let lba = Lba(number * 8);
                    ns.write(lba, pattern(&nvme, 4096, number + round)).await.unwrap();
                    let read = ns.read(lba, nvme.dma().alloc(4096).unwrap()).await.unwrap();
                    assert_eq!(&read[..], bytes(4096, number + round));
                }
            })
        };
        let tasks: Vec<_> = (0..64).map(task).collect();
        for task in tasks {
            task.await.unwrap();
        }
    };
    let tokio = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    tokio::task::LocalSet::new().block_on(&tokio, run());
    tokio_uring::start(run());
}

#[test]
fn a_queue_moves_to_another_thread_with_its_client() {
    let rig = Rig::new("ram=1M");
    let nvme = pollster::block_on(rig.nvme());
    std::thread::spawn(move || {
        pollster::block_on(async {
            let ns = nvme.namespace(1).unwrap();
            ns.write(Lba(0), pattern(&nvme, 512, 3)).await.unwrap();
            nvme.release().await.unwrap();
        });
    })
    .join()
    .unwrap();
}

#[test]
fn a_queue_given_up_with_commands_in_flight_keeps_their_memory_until_the_device_is_done() {
    let rig = Rig::new("ram=1M");
    everywhere(async || {
        let client = rig.client().await;
        let before = client.dma().stats();
        for _ in 0..20 {
            let nvme = Nvme::claim(&client, QueueSpec::depth(8)).await.unwrap();
            let ns = nvme.namespace(1).unwrap();
            for at in 0..8 {
                ns.post_write(Lba(at), pattern(&nvme, 512, at)).unwrap();
            }
            nvme.flush();
            nvme.release().await.unwrap();
            assert_eq!(client.dma().stats(), before, "rings, lists and buffers are back");
        }
    });
}

#[test]
fn output_is_given_once() {
    let rig = Rig::new("ram=1M");
    everywhere(async || {
        let nvme = rig.nvme().await;
        let ns = nvme.namespace(1).unwrap();
        let mut io = pin!(ns.read(Lba(0), pattern(&nvme, 1, 0)));
        assert!(poll_once(&mut io).is_ready());
        let Poll::Ready(Err(error)) = poll_once(&mut io) else { panic!("ready once more") };
        assert!(error.to_string().contains("polled after it was ready"));
    });
}
