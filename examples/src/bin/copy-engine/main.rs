//! A whole driver in one program: a DMA copy engine, in software.
//!
//! * `protocol.rs`: what client and device say to each other on a queue.
//! * `driver.rs`: the control plane, which a broker runs.
//! * `model.rs`: the device itself. With real hardware this file would not exist.
//! * `main.rs`: a client that copies a few buffers, in the same process as a private broker.
//!
//! Run it: `cargo run --release -p doorbell-examples --bin copy-engine`
#![forbid(unsafe_code)]
#![allow(clippy::print_stdout, reason = "a program that shows what it does")]
#![allow(unreachable_pub, reason = "the modules read as they would in a crate of their own")]

mod driver;
mod model;
mod protocol;

use anyhow::{Result, ensure};
use doorbell::client::QueueSpec;
use doorbell::driver::Registry;
use doorbell::local;

use driver::CopyEngine;
use model::CopyModel;
use protocol::{CopyProtocol, Descriptor};

fn main() -> Result<()> {
    pollster::block_on(copy_a_few())
}

// ANCHOR: client
async fn copy_a_few() -> Result<()> {
    let registry = Registry::new()
        .driver::<CopyEngine>()
        .model("copy-engine", |_options| Ok(Box::new(CopyModel::new())));
    let client = local::open("soft:copy-engine", &registry).await?;
    let queue = client.claim::<CopyProtocol>(QueueSpec::depth(16)).await?.into_queue()?;
    println!("queue {} of {}, tier {}", queue.id(), client.device().name, queue.tier());

    for round in 0..4_u8 {
        let mut source = client.dma().alloc(64 << 10)?;
        source.fill(round + 1);
        let target = client.dma().alloc(source.len())?;
        // The buffers belong to the command until it completes; then they come back.
        let buffers = (source.into_shared(), target.into_shared());
        let copy = queue.submit(buffers, |_slot, (source, target)| Descriptor {
            source: source.iova(),
            target: target.iova(),
            len: source.len() as u32,
            ..Descriptor::default()
        });
        let (status, (_, target)) = copy.map_err(|r| r.reason)?.await.map_err(|l| l.error)?;
        ensure!(status == 0, "the engine answered status {status}");
        let Ok(target) = target.into_box() else { anyhow::bail!("the buffer is still shared") };
        ensure!(target.iter().all(|byte| *byte == round + 1), "round {round}: wrong bytes");
        println!("round {round}: {} bytes copied by the device and checked", target.len());
    }
    queue.release().await?;
    Ok(())
}
// ANCHOR_END: client
