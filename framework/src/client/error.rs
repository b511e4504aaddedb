//! What can go wrong between a client and its broker.

use std::io;
use std::sync::Arc;

use doorbell_queues::BadGeometry;

use crate::deadline::TimedOut;
use crate::dma::DmaError;
use crate::wire::{Refusal, WireError};

/// An operation of a client failed. Every error names the broker's socket or the device.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody can be reached at the socket.
    #[error("broker {socket}: {}", connect_advice(source))]
    Connect {
        /// The socket.
        socket: Arc<str>,
        /// The kernel's answer.
        source: io::Error,
    },
    /// Client and broker are of different versions.
    #[error(
        "broker {socket} speaks version {theirs} of the control protocol, this program {ours}; \
         use the same release of doorbell on both sides"
    )]
    Version {
        /// The socket.
        socket: Arc<str>,
        /// Version of the broker.
        theirs: u16,
        /// Version of this program.
        ours: u16,
    },
    /// The broker refused.
    #[error("broker {socket}: {what}: {refusal}")]
    Refused {
        /// The socket.
        socket: Arc<str>,
        /// What was asked for.
        what: &'static str,
        /// Why not.
        refusal: Refusal,
    },
    /// The broker did not answer in time.
    #[error("broker {socket}: {source}; is it stopped or overloaded?")]
    TimedOut {
        /// The socket.
        socket: Arc<str>,
        /// What was waited for.
        source: TimedOut,
    },
    /// The connection is lost: the broker ended, or closed it.
    #[error("broker {socket} is gone ({why}); connect again once it is back")]
    BrokerGone {
        /// The socket.
        socket: Arc<str>,
        /// How that was noticed.
        why: Arc<str>,
    },
    /// The broker's answer breaks the protocol.
    #[error("broker {socket}: {source}")]
    Wire {
        /// The socket.
        socket: Arc<str>,
        /// What is wrong with it.
        source: WireError,
    },
    /// The broker's answer does not fit the question, or names what cannot be.
    #[error("broker {socket}: {what}: unusable answer: {why}")]
    Answer {
        /// The socket.
        socket: Arc<str>,
        /// What was asked for.
        what: &'static str,
        /// What is wrong.
        why: String,
    },
    /// The operation or its reply cannot be encoded or decoded: client and broker have different
    /// versions of the driver.
    #[error(
        "broker {socket}: operation of the driver {driver}: {why}; \
             use the same version of it on both sides"
    )]
    Codec {
        /// The socket.
        socket: Arc<str>,
        /// The driver.
        driver: String,
        /// What is wrong.
        why: String,
    },
    /// The device has no queues.
    #[error("device {device}: it has no queues; use the operations of its driver, {driver}")]
    NoQueues {
        /// The device.
        device: String,
        /// Its driver.
        driver: String,
    },
    /// A queue of that depth is not possible.
    #[error("device {device}: a queue of depth {depth} cannot be had; 1 to {max} are possible")]
    Depth {
        /// The device.
        device: String,
        /// What was asked for.
        depth: u32,
        /// The most.
        max: u32,
    },
    /// The queue protocol is not the device's.
    #[error(
        "device {device}: its driver has entries of {theirs} bytes and this protocol of {ours}: \
             it is not for this device"
    )]
    Protocol {
        /// The device.
        device: String,
        /// Bytes of the device's submission and completion entries.
        theirs: String,
        /// Bytes of the protocol's.
        ours: String,
    },
    /// The parts of a grant make no queue.
    #[error(transparent)]
    Geometry(#[from] BadGeometry),
    /// DMA memory.
    #[error(transparent)]
    Dma(#[from] DmaError),
    /// A system call failed.
    #[error("{what}: {source}")]
    Os {
        /// What was tried.
        what: &'static str,
        /// The kernel's answer.
        source: io::Error,
    },
}

fn connect_advice(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::NotFound => {
            "no such socket; start a broker there with `doorbell serve`".to_owned()
        }
        io::ErrorKind::ConnectionRefused => {
            "the broker that made this socket is dead; start it again with `doorbell serve`".to_owned()
        }
        io::ErrorKind::PermissionDenied => {
            "permission denied by the socket's mode; the broker needs a policy file that names this \
             user, or run as the broker's user"
                .to_owned()
        }
        io::ErrorKind::WouldBlock => {
            "too many connections wait there; is the broker stopped?".to_owned()
        }
        _ => error.to_string(),
    }
}
