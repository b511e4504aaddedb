//! The smallest program: write a block to an NVMe device and read it back.
//!
//! With no argument it brings its own device, in software and in this process. With the path of a
//! broker's socket it is a client of that broker; the rest of the program is the same.
//!
//! Run it: `cargo run --release -p doorbell-examples --bin first-io [-- /run/doorbell/nvme0.sock]`
#![forbid(unsafe_code)]
#![allow(clippy::print_stdout, reason = "a program that shows what it does")]

use anyhow::{Result, ensure};
use doorbell::client::{Client, QueueSpec};
use doorbell_nvme::{Lba, Nvme};

fn main() -> Result<()> {
    // Any executor will do: tokio-uring, tokio, or the smallest there is.
    pollster::block_on(write_and_read_back(std::env::args().nth(1)))
}

async fn write_and_read_back(socket: Option<String>) -> Result<()> {
    let nvme = match socket {
        Some(path) => Nvme::claim(&Client::connect(path).await?, QueueSpec::depth(8)).await?,
        None => Nvme::open("soft:nvme,ram=64M").await?,
    };
    // The last namespace: a broker of `doorbell demo` keeps its file system in the first one.
    let nsid = nvme.namespaces().last().map_or(1, |namespace| namespace.nsid);
    let ns = nvme.namespace(nsid)?;
    println!("namespace {nsid}: {} blocks of {} bytes", ns.blocks(), ns.block_size());

    let mut buffer = nvme.dma().alloc(4096)?;
    buffer.fill(0xd0);
    let mut buffer = ns.write(Lba(8), buffer).await?; // the buffer travels with the command
    ns.flush().await?;
    buffer.fill(0);
    let buffer = ns.read(Lba(8), buffer).await?; // and comes back as an ordinary slice
    ensure!(buffer.iter().all(|byte| *byte == 0xd0), "read something else than was written");
    println!("wrote and read back {} bytes: {:02x?}...", buffer.len(), &buffer[..8]);
    Ok(())
}
