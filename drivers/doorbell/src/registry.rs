//! The drivers and software models that this program bundles.

use anyhow::Result;
use doorbell::client::Client;
use doorbell::driver::Registry;
use doorbell::local;

/// Everything there is.
pub(crate) fn all() -> Registry {
    doorbell_nvme::registry().and(doorbell_edu::registry())
}

/// Opens a device in this process, without a broker.
///
/// # Errors
/// If the device cannot be opened.
pub(crate) async fn open(device: &str, arena: usize) -> Result<Client> {
    Ok(local::open_with(device, &all(), Client::builder().arena_bytes(arena)).await?)
}
