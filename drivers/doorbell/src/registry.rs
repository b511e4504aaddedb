//! The drivers and software models that this program bundles.

use anyhow::Result;
use doorbell::client::{Client, QueueSpec};
use doorbell::driver::Registry;
use doorbell::local;
use doorbell_nvme::Nvme;

/// Everything there is.
pub(crate) fn all() -> Registry {
    doorbell_nvme::registry().and(doorbell_edu::registry())
}

/// Opens a device in this process, without a broker, and claims a queue of it.
///
/// # Errors
/// If the device cannot be opened.
pub(crate) async fn open(device: &str, queue: QueueSpec, arena: usize) -> Result<Nvme> {
    let client = local::open_with(device, &all(), Client::builder().arena_bytes(arena)).await?;
    Ok(Nvme::claim(&client, queue).await?)
}
