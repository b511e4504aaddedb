//! The data path allocates nothing: a counting allocator watches the thread that submits.
//!
//! One test in this binary, so that nothing else runs on its threads.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test may fail by panic"
)]

mod common;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::future::Future;
use std::pin::Pin;
use std::task::Poll;

use common::Rig;
use doorbell::client::QueueSpec;
use doorbell::dma::DmaBox;
use doorbell_nvme::{Io, Lba, Namespace, Nvme};
use doorbell_queues::SpinBudget;

struct Counting;

thread_local! {
    static CALLS: Cell<u64> = const { Cell::new(0) };
}

fn count() {
    // Fails only while the thread ends.
    let _ = CALLS.try_with(|calls| calls.set(calls.get() + 1));
}

// SAFETY: every call is the system allocator's, with the caller's arguments.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller's obligations are the same.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        count();
        // SAFETY: as above.
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Allocations and frees of this thread meanwhile.
async fn calls(work: impl AsyncFnOnce()) -> u64 {
    let before = CALLS.get();
    work().await;
    CALLS.get() - before
}

async fn one_by_one(ns: &Namespace<'_>, mut buffer: DmaBox<[u8]>) -> DmaBox<[u8]> {
    for at in 0..500 {
        buffer = ns.write(Lba(at % 64), buffer).await.unwrap();
        buffer = ns.read(Lba(at % 64), buffer).await.unwrap();
        ns.flush().await.unwrap();
    }
    ns.write_zeroes(Lba(0), 64).await.unwrap();
    ns.deallocate(&[doorbell_nvme::Range { lba: Lba(0), blocks: 8 }]).await.unwrap();
    buffer
}

/// Sixteen futures at a time, in an array.
async fn batches(ns: &Namespace<'_>, buffers: &mut [Option<DmaBox<[u8]>>; 16]) {
    for round in 0..100 {
        let mut futures: [Option<Io<'_>>; 16] = std::array::from_fn(|at| {
            let lba = Lba((round + at as u64) % 64);
            buffers[at].take().map(|buffer| ns.read(lba, buffer))
        });
        std::future::poll_fn(|cx| {
            let mut left = false;
            for (at, slot) in futures.iter_mut().enumerate() {
                let Some(io) = slot else { continue };
                match Pin::new(io).poll(cx) {
                    Poll::Ready(result) => {
                        buffers[at] = Some(result.unwrap());
                        *slot = None;
                    }
                    Poll::Pending => left = true,
                }
            }
            if left { Poll::Pending } else { Poll::Ready(()) }
        })
        .await;
    }
}

fn loops(nvme: &Nvme, ns: &Namespace<'_>, buffers: &mut [Option<DmaBox<[u8]>>; 16]) {
    for _ in 0..100 {
        for buffer in buffers.iter_mut() {
            ns.post_read(Lba(0), buffer.take().unwrap()).unwrap();
        }
        nvme.flush();
        let mut back = 0;
        while back < buffers.len() {
            nvme.reap(usize::MAX, |done| {
                buffers[back] = done.buffer;
                back += 1;
            })
            .unwrap();
        }
    }
}

async fn measure(rig: &Rig) {
    // Every wait parks, so that the warm-up has met all there is to a first wait.
    let spec = QueueSpec::depth(16).spin(SpinBudget::adaptive(0));
    let nvme = rig.nvme_with(8 << 20, spec).await;
    let ns = nvme.namespace(1).unwrap();
    let alloc = |len| nvme.dma().alloc(len).unwrap();
    let mut small = Some(alloc(512));
    // Sixteen commands of one request, four at a time, with PRP lists.
    let mut long = Some(alloc(16 * ns.max_transfer()));
    let mut buffers = std::array::from_fn(|_| Some(alloc(4096)));
    for round in ["warm-up", "measured"] {
        let single =
            calls(async || small = Some(one_by_one(&ns, small.take().unwrap()).await)).await;
        let split = calls(async || {
            long = Some(ns.read(Lba(0), long.take().unwrap()).await.unwrap());
        })
        .await;
        let batch = calls(async || batches(&ns, &mut buffers).await).await;
        let direct = calls(async || loops(&nvme, &ns, &mut buffers)).await;
        if round == "measured" {
            assert_eq!((single, split, batch, direct), (0, 0, 0, 0));
        }
    }
}

#[test]
fn the_data_path_allocates_nothing() {
    let rig = Rig::new("ram=8M,mdts=2");
    pollster::block_on(measure(&rig));
    let tokio = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    tokio.block_on(measure(&rig));
    tokio_uring::start(measure(&rig));
}
