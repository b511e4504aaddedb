//! A device with portals, in one program: descriptors are written to the device by value.
//!
//! * `protocol.rs`: what client and device say to each other on a queue.
//! * `driver.rs`: the control plane, which a broker runs.
//! * `model.rs`: the device itself, in software.
//! * `main.rs`: a client that has buffers filled and copied, in the same process as a private broker.
//!
//! It is the copy engine of `copy-engine` without a submission ring: compare the two drivers.
//!
//! Run it: `cargo run --release -p doorbell-examples --bin portal-engine`
#![forbid(unsafe_code)]
#![allow(clippy::print_stdout, reason = "a program that shows what it does")]
#![allow(unreachable_pub, reason = "the modules read as they would in a crate of their own")]

mod driver;
mod model;
mod protocol;
#[cfg(test)]
mod tests;

use anyhow::{Result, ensure};
use doorbell::client::{Client, QueueSpec};
use doorbell::dma::DmaShared;
use doorbell::driver::Registry;
use doorbell::local;

use driver::PortalEngine;
use model::PortalModel;
use protocol::{COPY, DONE, Descriptor, FILL, PortalProtocol};

fn main() -> Result<()> {
    pollster::block_on(fill_and_copy())
}

/// A private broker with the engine.
async fn open() -> Result<Client> {
    let registry = Registry::new()
        .driver::<PortalEngine>()
        .model("portal-engine", |_options| Ok(Box::new(PortalModel::new())));
    Ok(local::open("soft:portal-engine", &registry).await?)
}

fn fill(target: &DmaShared<[u8]>, byte: u8) -> Descriptor {
    let (target, len) = (target.iova(), target.len() as u32);
    Descriptor { operation: FILL, target, len, pattern: byte.into(), ..Descriptor::default() }
}

fn copy(source: &DmaShared<[u8]>, target: &DmaShared<[u8]>) -> Descriptor {
    let (source, target, len) = (source.iova(), target.iova(), source.len() as u32);
    Descriptor { operation: COPY, source, target, len, ..Descriptor::default() }
}

async fn fill_and_copy() -> Result<()> {
    let client = open().await?;
    let queue = client.claim::<PortalProtocol>(QueueSpec::depth(16)).await?.into_queue()?;
    println!("queue {} of {}, tier {}", queue.id(), client.device().name, queue.tier());

    for round in 1..=4_u8 {
        let source = client.dma().alloc(64 << 10)?.into_shared();
        let target = client.dma().alloc(source.len())?.into_shared();
        // The descriptor is with the device when this returns: no tail is rung.
        let filled = queue.submit((source, target), |_slot, (source, _)| fill(source, round));
        let (status, buffers) = filled.map_err(|r| r.reason)?.await.map_err(|l| l.error)?;
        ensure!(status == DONE, "the engine answered status {status}");
        let copied = queue.submit(buffers, |_slot, (source, target)| copy(source, target));
        let (status, (_, target)) = copied.map_err(|r| r.reason)?.await.map_err(|l| l.error)?;
        ensure!(status == DONE, "the engine answered status {status}");
        let Ok(target) = target.into_box() else { anyhow::bail!("the buffer is still shared") };
        ensure!(target.iter().all(|byte| *byte == round), "round {round}: wrong bytes");
        println!("round {round}: {} bytes filled, copied and checked", target.len());
    }
    queue.release().await?;
    Ok(())
}
