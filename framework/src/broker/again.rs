//! A broker whose device may go and come back: [`Builder::run_again`].

use std::time::Duration;

use tokio::runtime::Runtime;
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::{Broker, BrokerError, Builder};
use crate::deadline::Deadline;

/// Between two looks for a device that went.
const LOOK_AGAIN: Duration = Duration::from_millis(250);

/// What [`Builder::run_again`] tells.
#[derive(Debug)]
pub enum Turn<'a> {
    /// Clients can connect.
    Serving {
        /// The device.
        device: &'a str,
    },
    /// The device went; its clients were told, and it is waited for.
    Waiting {
        /// The device.
        device: &'a str,
    },
}

/// SIGTERM and SIGINT, while no broker is there to take them.
struct Signals {
    runtime: Runtime,
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn new() -> std::io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (terminate, interrupt) = {
            let _inside = runtime.enter();
            (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?)
        };
        Ok(Self { runtime, terminate, interrupt })
    }

    /// True if one came within `limit`, or before.
    fn within(&mut self, limit: Duration) -> bool {
        let Self { runtime, terminate, interrupt } = self;
        runtime.block_on(async {
            tokio::select! {
                _ = terminate.recv() => true,
                _ = interrupt.recv() => true,
                () = tokio::time::sleep(limit) => false,
            }
        })
    }
}

impl Builder {
    /// As [`Builder::run`], and when the device goes ([`BrokerError::Removed`]) waits until it can be
    /// brought up again, at most `limit` each time (`None`: however long that takes). Clients of the
    /// device that went were told so; they find its successor at the same socket.
    ///
    /// # Errors
    /// As [`Builder::run`]; [`BrokerError::NotBack`] if the device stays away.
    pub fn run_again(
        self,
        limit: Option<Duration>,
        mut tell: impl FnMut(Turn<'_>),
    ) -> Result<(), BrokerError> {
        let builder = self.until_signal();
        let mut signals = Signals::new()
            .map_err(|source| BrokerError::Os { what: "waiting for SIGTERM", source })?;
        let mut broker = builder.clone().start()?;
        loop {
            let device = broker.device().to_owned();
            tell(Turn::Serving { device: &device });
            match broker.wait() {
                Err(BrokerError::Removed { .. }) => tell(Turn::Waiting { device: &device }),
                other => return other,
            }
            match builder.come_back(&device, limit, &mut signals)? {
                Some(next) => broker = next,
                None => return Ok(()),
            }
        }
    }

    /// Waits for the device; `None` if a signal ends the waiting.
    fn come_back(
        &self,
        device: &str,
        limit: Option<Duration>,
        signals: &mut Signals,
    ) -> Result<Option<Broker>, BrokerError> {
        let deadline = limit.map(Deadline::after);
        loop {
            if signals.within(LOOK_AGAIN) {
                return Ok(None);
            }
            match self.clone().start() {
                Ok(broker) => return Ok(Some(broker)),
                Err(error) => {
                    tracing::debug!(device, %error, "not back yet");
                    if let Some(deadline) = deadline.filter(Deadline::expired) {
                        let (device, after) = (device.into(), deadline.limit());
                        let source = Box::new(error);
                        return Err(BrokerError::NotBack { device, after, source });
                    }
                }
            }
        }
    }
}
