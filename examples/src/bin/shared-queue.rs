//! Many threads, one hardware queue: each writes blocks and reads them back.
//!
//! With no argument it brings its own device, in software and in this process. With the path of a
//! broker's socket it is a client of that broker.
//!
//! Run it: `cargo run --release -p doorbell-examples --bin shared-queue [-- /run/doorbell/nvme0.sock]`
#![forbid(unsafe_code)]
#![allow(clippy::print_stdout, reason = "a program that shows what it does")]

use anyhow::{Result, ensure};
use doorbell::client::{Client, QueueSpec};
use doorbell_nvme::{Lba, SharedNvme};

const THREADS: u64 = 4;
const BLOCKS: u64 = 200;

fn main() -> Result<()> {
    let nvme = pollster::block_on(claim(std::env::args().nth(1)))?;
    let results: Vec<Result<u64>> = std::thread::scope(|scope| {
        // No lock: the queue is shared as it is.
        let threads: Vec<_> = (0..THREADS)
            .map(|thread| (thread, &nvme))
            .map(|(thread, nvme)| scope.spawn(move || pollster::block_on(work(nvme, thread))))
            .collect();
        let ended = || Err(anyhow::anyhow!("a thread has panicked"));
        threads.into_iter().map(|thread| thread.join().unwrap_or_else(|_| ended())).collect()
    });
    let mut bytes = 0;
    for result in results {
        bytes += result?;
    }
    println!("{THREADS} threads wrote and read back {bytes} bytes through {}", nvme.queue().name());
    Ok(())
}

async fn claim(socket: Option<String>) -> Result<SharedNvme> {
    Ok(match socket {
        Some(path) => {
            SharedNvme::claim_shared(&Client::connect(path).await?, QueueSpec::depth(32)).await?
        }
        None => SharedNvme::open_shared("soft:nvme,ram=64M").await?,
    })
}

async fn work(nvme: &SharedNvme, thread: u64) -> Result<u64> {
    // The last namespace: a broker of `doorbell demo` keeps its file system in the first one.
    let nsid = nvme.namespaces().last().map_or(1, |namespace| namespace.nsid);
    let ns = nvme.namespace(nsid)?;
    let mut buffer = nvme.dma().alloc(ns.block_size())?;
    let mut bytes = 0;
    for n in 0..BLOCKS {
        let (lba, byte) = (Lba(n * THREADS + thread), (n + thread * 64) as u8);
        buffer.fill(byte);
        buffer = ns.write(lba, buffer).await?;
        buffer.fill(!byte);
        buffer = ns.read(lba, buffer).await?;
        ensure!(buffer.iter().all(|seen| *seen == byte), "{lba} holds what another thread wrote");
        bytes += buffer.len() as u64;
    }
    Ok(bytes)
}
