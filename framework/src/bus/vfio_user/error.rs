//! What can go wrong between this process and a device server.

use std::sync::Arc;
use std::time::Duration;

use crate::bus::BusError;
use crate::deadline::TimedOut;
use crate::vfio_user::{Command, ProtocolError, SocketError};

/// A request was not answered as it should have been, or the connection is over.
#[derive(Debug, Clone, thiserror::Error)]
pub enum LinkError {
    /// The server is gone, or wants no more of us.
    #[error("the device server closed the connection")]
    Closed,
    /// What came is no message, or the socket failed.
    #[error("the connection to the device server: {0}")]
    Socket(Arc<SocketError>),
    /// A reply that answers nothing.
    #[error("the device server sent a reply (id {id}, command {number}) to a request never made")]
    Unasked {
        /// Its id.
        id: u16,
        /// The number of its command.
        number: u16,
    },
    /// A reply to another command than the request with its id.
    #[error("the device server answered {sent} (id {id}) with a reply to command {number}")]
    OtherCommand {
        /// The id.
        id: u16,
        /// What was asked.
        sent: Command,
        /// What was answered.
        number: u16,
    },
    /// Too much is unanswered.
    #[error("{0} requests are unanswered: the device server does not serve them")]
    Unanswered(usize),
    /// No answer in time. An answer that still comes is thrown away.
    #[error("waited {:.3} s for the device server to answer {command}", after.as_secs_f64())]
    TimedOut {
        /// What was asked.
        command: Command,
        /// The limit.
        after: Duration,
    },
    /// The server refuses.
    #[error("the device server refused {command}: {}", errno_text(*errno))]
    Refused {
        /// What was asked.
        command: Command,
        /// Its errno; 0 if it gave none.
        errno: u32,
    },
    /// The answer says what cannot be.
    #[error("the device server's answer to {command}: {problem}")]
    Answer {
        /// What was asked.
        command: Command,
        /// What is wrong.
        problem: String,
    },
    /// The bus is being closed.
    #[error("the connection was closed from here")]
    Stopped,
}

fn errno_text(errno: u32) -> String {
    match i32::try_from(errno) {
        Ok(0) | Err(_) => "it gives no reason".to_owned(),
        Ok(errno) => std::io::Error::from_raw_os_error(errno).to_string(),
    }
}

impl LinkError {
    pub(super) fn protocol(command: Command, error: &ProtocolError) -> Self {
        Self::Answer { command, problem: error.to_string() }
    }

    pub(super) fn answer(command: Command, problem: impl Into<String>) -> Self {
        Self::Answer { command, problem: problem.into() }
    }

    /// In a word, for [`BusError::Gone`].
    fn how(&self) -> &'static str {
        match self {
            Self::Closed => "the device server closed the connection",
            Self::Socket(_) => "the connection to the device server failed",
            Self::Unasked { .. } => "the device server answered a request never made",
            Self::OtherCommand { .. } => "the device server answered another command",
            Self::Unanswered(_) => "the device server leaves requests unanswered",
            Self::Answer { .. } => "the device server broke the protocol",
            Self::Stopped => "the connection was closed from here",
            Self::TimedOut { .. } | Self::Refused { .. } => "the device server does not serve it",
        }
    }

    /// The same for users of the bus. What ended the connection means that the device is gone.
    pub(super) fn on(self, device: &Arc<str>) -> BusError {
        let device = Arc::clone(device);
        match self {
            Self::TimedOut { command, after } => {
                let what = format!("the device server to answer {command}");
                BusError::TimedOut { device, source: TimedOut { what, after } }
            }
            Self::Refused { errno, .. } => {
                let kind = i32::try_from(errno).ok().filter(|errno| *errno != 0);
                let kind = kind.map_or(std::io::ErrorKind::Other, |errno| {
                    std::io::Error::from_raw_os_error(errno).kind()
                });
                let source = std::io::Error::new(kind, self);
                BusError::Os { device, what: "a request to the device server", source }
            }
            Self::Answer { .. } => {
                let source = std::io::Error::new(std::io::ErrorKind::InvalidData, self);
                BusError::Os { device, what: "a request to the device server", source }
            }
            other => BusError::Gone { device, how: other.how() },
        }
    }

    /// The same while the device is being opened.
    pub(super) fn opening(self, device: &Arc<str>, step: &'static str) -> BusError {
        let device = Arc::clone(device);
        let hint = match &self {
            Self::TimedOut { command: Command::Version, .. } => {
                "; is another client connected to it, or is it no vfio-user server?"
            }
            Self::Closed => "; look at what the server says",
            _ => "",
        };
        BusError::Open { device, step, problem: format!("{self}{hint}") }
    }
}
