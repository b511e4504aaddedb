//! The socket loop: accepts clients, starts their sessions, and ends the broker.

use std::cell::RefCell;
use std::future::pending;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;

use super::closer::Closer;
use super::listen::{Listener, accept};
use super::policy::Policy;
use super::readable::{Readiness, block_on};
use super::session::{Session, Shared};
use super::worker::ToWorker;
use super::{BrokerError, MAX_SESSIONS, Timeouts};

/// What the broker's owner asks of the loop.
#[derive(Debug)]
pub(super) enum Control {
    /// Serve this connection too.
    Adopt(OwnedFd),
    /// End.
    Stop,
}

/// What the loop starts with.
pub(super) struct Service {
    /// Told once signals are caught and clients can come.
    pub(super) up: std::sync::mpsc::SyncSender<()>,
    pub(super) listener: Option<Listener>,
    pub(super) commands: mpsc::UnboundedReceiver<Control>,
    pub(super) worker: mpsc::UnboundedSender<ToWorker>,
    pub(super) closer: Closer,
    pub(super) policy: Policy,
    pub(super) device: String,
    pub(super) timeouts: Timeouts,
    pub(super) signals: bool,
    pub(super) until_idle: bool,
}

/// Connections that are accepted before sessions get their turn.
const BURST: usize = 16;

/// How long sessions may take to end once the device is shut down.
const LINGER: Duration = Duration::from_secs(2);

struct Sessions {
    tasks: JoinSet<()>,
    shared: Rc<Shared>,
    next: u64,
}

impl Sessions {
    fn start(&mut self, socket: OwnedFd, operator: bool) {
        if self.tasks.len() >= MAX_SESSIONS {
            tracing::warn!(MAX_SESSIONS, "too many clients: refusing a connection");
            return;
        }
        let session = Session::new(self.next, socket, Rc::clone(&self.shared));
        self.next += 1;
        self.tasks.spawn_local(session.run(operator));
    }
}

impl Service {
    /// Runs until the end, and waits for the worker's.
    pub(super) fn run(
        self,
        worker: JoinHandle<Result<(), BrokerError>>,
    ) -> Result<(), BrokerError> {
        let what = "starting the socket loop's runtime";
        let result = block_on(self.serve())
            .map_err(|source| BrokerError::Os { what, source })
            .and_then(|result| result);
        match worker.join() {
            Ok(Ok(())) => result,
            // It ended by itself: why is more than that it ended.
            Ok(Err(error)) => Err(error),
            Err(_) => Err(BrokerError::Thread("worker")),
        }
    }

    async fn serve(self) -> Result<(), BrokerError> {
        let Self { listener, mut commands, worker, closer, policy, device, timeouts, .. } = self;
        tracing::info!(%device, "serving");
        let shared = Shared {
            worker: worker.clone(),
            closer,
            policy,
            device,
            timeouts,
            buffer: RefCell::new(Vec::new()),
        };
        let mut sessions = Sessions { tasks: JoinSet::new(), shared: Rc::new(shared), next: 1 };
        let (mut terminate, mut interrupt) = if self.signals { signals()? } else { (None, None) };
        let (listener, guard) = split(listener)?;
        let mut arriving = listener.as_ref().map(Readiness::readable);
        // Nobody listens any more only if the broker's owner is gone.
        let _ = self.up.send(());
        loop {
            tokio::select! {
                command = commands.recv() => match command {
                    Some(Control::Adopt(socket)) => sessions.start(socket, true),
                    Some(Control::Stop) | None => break,
                },
                () = arrival(&mut arriving) => accept_some(listener.as_deref(), &mut sessions).await,
                Some(_) = sessions.tasks.join_next(), if !sessions.tasks.is_empty() => {
                    if self.until_idle && sessions.tasks.is_empty() {
                        break;
                    }
                }
                () = received(&mut terminate) => break,
                () = received(&mut interrupt) => break,
                () = worker.closed() => break,
            }
        }
        tracing::info!("shutting down");
        drop((arriving, listener, guard));
        let (done, result) = oneshot::channel();
        // Fails only if the worker is gone, and then nobody answers.
        let _ = worker.send(ToWorker::Shutdown { done });
        let result = result.await.unwrap_or(Err(BrokerError::Thread("worker")));
        let all = async { while sessions.tasks.join_next().await.is_some() {} };
        if tokio::time::timeout(LINGER, all).await.is_err() {
            sessions.tasks.abort_all();
        }
        result
    }
}

type Signals = (Option<Signal>, Option<Signal>);

fn signals() -> Result<Signals, BrokerError> {
    let what = "waiting for SIGTERM and SIGINT";
    let os = |source| BrokerError::Os { what, source };
    let terminate = signal(SignalKind::terminate()).map_err(os)?;
    let interrupt = signal(SignalKind::interrupt()).map_err(os)?;
    Ok((Some(terminate), Some(interrupt)))
}

async fn received(signal: &mut Option<Signal>) {
    match signal {
        Some(signal) => drop(signal.recv().await),
        None => pending().await,
    }
}

/// The descriptor to wait for, and what removes the socket in the end.
fn split(
    listener: Option<Listener>,
) -> Result<(Option<Rc<OwnedFd>>, Option<Listener>), BrokerError> {
    let Some(listener) = listener else { return Ok((None, None)) };
    let what = "duplicating the listening socket";
    let fd = listener.fd.try_clone().map_err(|source| BrokerError::Os { what, source })?;
    Ok((Some(Rc::new(fd)), Some(listener)))
}

async fn arrival(arriving: &mut Option<Readiness>) {
    match arriving {
        Some(arriving) => {
            if let Err(error) = arriving.ready().await {
                tracing::error!(%error, "waiting for connections");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
        None => pending().await,
    }
}

async fn accept_some(listener: Option<&OwnedFd>, sessions: &mut Sessions) {
    let Some(listener) = listener else { return };
    for _ in 0..BURST {
        match accept(listener) {
            Ok(Some(socket)) => sessions.start(socket, false),
            Ok(None) => return,
            Err(error) => {
                // Out of descriptors, most likely: others may be closed meanwhile.
                tracing::error!(%error, "a connection cannot be accepted");
                return tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}
