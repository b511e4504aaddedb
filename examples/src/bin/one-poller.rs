//! One thread drives several queues: a poller, pinned near the device, with a task for each queue.
//!
//! With no argument it brings its own device, in software and in this process, and uses four queues. The
//! first argument is another number of queues, the second the path of a broker's socket.
//!
//! Run it: `cargo run --release -p doorbell-examples --bin one-poller [-- 16 [/run/doorbell/nvme0.sock]]`
#![forbid(unsafe_code)]
#![allow(clippy::print_stdout, reason = "a program that shows what it does")]

use std::rc::Rc;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use doorbell::client::{Client, ClientBuilder, QueueSpec};
use doorbell::local;
use doorbell::poll::{Pollers, spawn_local};
use doorbell_nvme::{Lba, Nvme, NvmeError};

/// Commands in flight on each queue: a task for each.
const DEPTH: u64 = 8;
/// Reads of each task.
const READS: u64 = 2_000;

fn main() -> Result<()> {
    let mut words = std::env::args().skip(1);
    let queues = words.next().map_or(Ok(4), |word| word.parse()).context("how many queues?")?;
    pollster::block_on(run(queues, words.next()))
}

async fn run(queues: u64, socket: Option<String>) -> Result<()> {
    let options: ClientBuilder = Client::builder().arena_bytes(64 << 20);
    let client = match socket {
        Some(path) => options.connect(path).await?,
        None => {
            let device = format!("soft:nvme,ram=64M,queues={queues}");
            local::open_with(&device, &doorbell_nvme::registry(), options).await?
        }
    };
    let pollers = Pollers::builder().per_node(1).build();
    let poller = pollers.near_device(client.device())?;
    println!("poller {}: {:?}", poller.name(), poller.placement());

    let begin = Instant::now();
    let tasks: Vec<_> = (0..queues)
        .map(|_| {
            let client = client.clone();
            poller.spawn(move || one_queue(client))
        })
        .collect();
    for task in tasks {
        task.await??;
    }
    let (reads, seconds) = (queues * DEPTH * READS, begin.elapsed().as_secs_f64());
    ensure!(reads > 0, "no queue, no reads");
    println!(
        "{queues} queues, {reads} reads in {seconds:.3} s, {:.0} a second",
        reads as f64 / seconds
    );
    let counters = poller.counters();
    println!(
        "{} polls of tasks, {} % of its turns busy, {} sleeps",
        counters.polls,
        counters.busy_percent(),
        counters.sleeps
    );
    Ok(())
}

/// On the poller's thread: a queue that its tasks share by `Rc`.
async fn one_queue(client: Client) -> Result<(), NvmeError> {
    let nvme = Rc::new(Nvme::claim(&client, QueueSpec::depth(DEPTH as u32)).await?);
    let readers: Vec<_> =
        (0..DEPTH).map(|task| spawn_local(read(Rc::clone(&nvme), task))).collect();
    for reader in readers {
        // A task that panicked would have said so; its error is the device's.
        if let Ok(result) = reader.await {
            result?;
        }
    }
    Ok(())
}

async fn read(nvme: Rc<Nvme>, task: u64) -> Result<(), NvmeError> {
    let ns = nvme.namespace(1)?;
    let mut buffer = nvme.dma().alloc(4096)?;
    for round in 0..READS {
        buffer = ns.read(Lba((task * READS + round) * 8 % 4096), buffer).await?;
    }
    Ok(())
}
