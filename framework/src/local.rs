//! A device for this program alone: the same API without a broker process.
//!
//! ```no_run
//! # use doorbell::{driver::Registry, local};
//! # async fn example(registry: Registry) -> Result<(), Box<dyn std::error::Error>> {
//! let client = local::open("soft:nvme,ram=64M", &registry).await?;
//! println!("{}", client.device().name);
//! # Ok(()) }
//! ```
//!
//! A private broker runs on threads of this process, connected by a socket pair; code and data path
//! are those of a broker process. It ends, and shuts the device down, when the last handle of the
//! client and the last of its queues are dropped. The client is an operator.
//!
//! What it does not do: nothing is isolated from anything here; a process that crashes leaves the
//! device to the kernel.
#![forbid(unsafe_code)]

use tokio::sync::oneshot;

use crate::broker::{Broker, BrokerError, Policy, Rights, Rule, Subject};
use crate::client::{Client, ClientBuilder, ClientError};
use crate::driver::Registry;
use crate::spec::{BadSpec, DeviceSpec};
use crate::wire::socket;

/// A device cannot be opened in this process.
#[derive(Debug, thiserror::Error)]
pub enum LocalError {
    /// The text names no device.
    #[error(transparent)]
    Spec(#[from] BadSpec),
    /// The private broker.
    #[error(transparent)]
    Broker(#[from] BrokerError),
    /// The connection to it.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// A system call failed.
    #[error("{what}: {source}")]
    Os {
        /// What was tried.
        what: &'static str,
        /// The kernel's answer.
        source: std::io::Error,
    },
}

/// Opens a device for this process: `soft:nvme,ram=64M`.
///
/// # Errors
/// [`LocalError`]: the text names no device, the device has no driver or does not come up.
pub async fn open(spec: &str, registry: &Registry) -> Result<Client, LocalError> {
    open_with(spec, registry, Client::builder()).await
}

/// As [`open`], with options of the client.
///
/// # Errors
/// As [`open`].
pub async fn open_with(
    spec: &str,
    registry: &Registry,
    client: ClientBuilder,
) -> Result<Client, LocalError> {
    let spec: DeviceSpec = spec.parse()?;
    let name = format!("inside of this process ({spec})");
    let (ours, theirs) =
        socket::pair().map_err(|source| LocalError::Os { what: "making a socket pair", source })?;
    // Quotas protect clients from each other; here is only one.
    let rights = Rights {
        queues: u32::MAX,
        bytes: u64::MAX,
        mappings: 4096,
        pollers: u32::MAX,
        device_fd: true,
        operator: true,
        ..Rights::default()
    };
    let rule = Rule { subject: Subject::Any, device: "*".to_owned(), rights };
    let builder = Broker::builder(registry.clone())
        .device(spec)
        .policy(Policy::from_rules(vec![rule]))
        .until_idle();
    let (told, started) = oneshot::channel();
    let origin = crate::poll::origin();
    // Bring-up blocks, and the broker's end does: both on a thread of their own.
    std::thread::Builder::new()
        .name("doorbell-local".to_owned())
        .spawn(move || {
            crate::poll::leave_core(origin);
            match builder.start() {
                Ok(broker) => {
                    broker.adopt(theirs);
                    // Whoever opens may have given up: the socket pair's other end is closed then.
                    let _ = told.send(Ok(()));
                    if let Err(error) = broker.wait() {
                        tracing::error!(%error, "the broker of this process");
                    }
                }
                Err(error) => drop(told.send(Err(error))),
            }
        })
        .map_err(|source| LocalError::Os { what: "starting a thread", source })?;
    started.await.map_err(|_| BrokerError::Thread("starting thread"))??;
    Ok(client.from_fd(ours, &name).await?)
}
