//! What an admin command can come to, and how that is told to the framework.

use std::sync::Arc;

use doorbell::deadline::TimedOut;
use doorbell::dma::DmaError;
use doorbell::driver::DriverError;
use doorbell_queues::QueueError;
use thiserror::Error;

use crate::spec::{AdminOpcode, Status};

/// An admin command did not succeed.
#[derive(Debug, Error)]
pub(super) enum AdminError {
    /// The controller completed it with an error status.
    #[error("{opcode:?}: {status}")]
    Status { opcode: AdminOpcode, status: Status },
    /// It was not submitted in time: too many commands are in flight.
    #[error("{0}: too many admin commands are in flight; try again later")]
    Busy(TimedOut),
    /// It did not complete in time; the controller gave it up when asked to abort it.
    #[error("{0}, and was aborted")]
    Aborted(TimedOut),
    /// It did not complete in time, and not when asked to abort it either: the controller must be
    /// reset.
    #[error("{0}; an abort did not help: the controller must be reset")]
    Stuck(TimedOut),
    /// The admin queue has ended.
    #[error(transparent)]
    Queue(#[from] QueueError),
    /// No memory for its data.
    #[error(transparent)]
    Dma(#[from] DmaError),
    /// The framework's own rules were broken: a buffer is still in use.
    #[error("{0}")]
    Defect(&'static str),
}

impl AdminError {
    /// The status, if the controller completed the command.
    pub(super) fn status(&self) -> Option<Status> {
        match self {
            Self::Status { status, .. } => Some(*status),
            _ => None,
        }
    }

    /// As the framework wants it: with the device and what was being done.
    pub(super) fn during(self, device: &Arc<str>, step: &'static str) -> DriverError {
        match self {
            Self::Queue(error) => error.into(),
            Self::Dma(error) => error.into(),
            Self::Status { .. }
            | Self::Busy(_)
            | Self::Aborted(_)
            | Self::Stuck(_)
            | Self::Defect(_) => broken(device, step, self.to_string()),
        }
    }
}

/// The device reported something that cannot be, or that this driver does not support.
pub(super) fn broken(
    device: &Arc<str>,
    step: &'static str,
    problem: impl Into<String>,
) -> DriverError {
    DriverError::Device { device: device.to_string(), step, problem: problem.into() }
}
