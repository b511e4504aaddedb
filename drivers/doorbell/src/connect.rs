//! Connecting to a broker, and waiting for it with a deadline.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use doorbell::client::Client;

use crate::cli::Target;
use crate::sockets;

/// The longest that a broker may take to answer a command of an operator.
const PATIENCE: Duration = Duration::from_secs(10);

/// Runs one future to its end, on this thread.
///
/// # Errors
/// What the future says, or that there is no runtime to be had.
pub(crate) fn block_on<T>(future: impl Future<Output = Result<T>>) -> Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("starting a tokio runtime")?;
    runtime.block_on(future)
}

/// Connects without memory: to look and to command.
///
/// # Errors
/// If there is no such broker, or it refuses.
pub(crate) async fn to_look(socket: &Path) -> Result<Client> {
    Ok(Client::builder().arena_bytes(0).deadline(PATIENCE).connect(socket).await?)
}

/// Connects to the broker that is meant, with `bytes` of memory for I/O.
///
/// # Errors
/// If there is no such broker, or it refuses.
pub(crate) async fn to_work(target: &Target, bytes: usize) -> Result<Client> {
    connect_to(&sockets::find(target)?, bytes).await
}

/// Connects to the broker at a socket, with `bytes` of memory for I/O.
///
/// # Errors
/// As [`to_work`].
pub(crate) async fn connect_to(socket: &Path, bytes: usize) -> Result<Client> {
    Ok(Client::builder().arena_bytes(bytes).deadline(PATIENCE).connect(socket).await?)
}
