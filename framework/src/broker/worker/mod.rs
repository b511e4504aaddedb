//! The worker: one thread per device that owns the bus, the driver and the records.
//!
//! Requests come by a channel and each runs as a task of its own on this thread's local executor,
//! so a long admin operation of one client delays no other's request. The records are plain data
//! behind a `RefCell` that is never held across an `await`.
//!
//! | file | what |
//! |---|---|
//! | `unit` | a function of the device: bus, driver, records |
//! | `records` | who holds what on a unit |
//! | `arena`, `claim` | giving memory and queues |
//! | `end`, `teardown` | taking them back, by the proof chain |
//! | `functions`, `handover` | a virtual function for one client |
//! | `pollers` | what clients say of their pollers |
//! | `events`, `report`, `revoke` | faults and removal, `status`, the operator's revoke |

use std::cell::RefCell;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use tokio::sync::{mpsc, oneshot};
use tokio::task::LocalSet;

use self::functions::Functions;
use self::records::Session;
use self::unit::{Common, Unit};
use super::closer::Closer;
use super::outgoing::Outgoing;
use super::peer::Peer;
use super::policy::Rights;
use super::{BrokerError, MAX_PENDING, Timeouts};
use crate::bus::Device;
use crate::driver::Registry;
use crate::spec::DeviceSpec;
use crate::wire::{DeviceInfo, ReclaimCause, Refusal, Reply, Request};

mod arena;
mod claim;
mod end;
mod events;
mod functions;
mod handover;
mod pages;
mod pollers;
mod records;
mod report;
mod revoke;
mod teardown;
mod unit;

/// The most characters that a bus may say about itself.
const ABOUT: usize = 1000;

/// A client that was let in.
pub(super) struct Attach {
    pub(super) session: u64,
    /// The request to answer with [`Reply::Welcome`].
    pub(super) id: u32,
    pub(super) peer: Peer,
    pub(super) rights: Rights,
    pub(super) out: Outgoing,
}

/// What sessions and the broker ask of the worker.
pub(super) enum ToWorker {
    /// A client said hello.
    Attach(Box<Attach>),
    /// A client's request.
    Request { session: u64, id: u32, request: Request, fds: Vec<OwnedFd> },
    /// A client is gone.
    Detach { session: u64, cause: ReclaimCause },
    /// The broker ends: take everything back, shut the device down, answer.
    Shutdown { done: oneshot::Sender<Result<(), BrokerError>> },
}

/// A device in service.
pub(super) struct Worker {
    /// The device itself.
    primary: Rc<Unit>,
    /// Its virtual functions.
    functions: RefCell<Functions>,
    registry: Registry,
    common: Rc<Common>,
}

/// What the worker tells when the device is up.
pub(super) type Ready = std::sync::mpsc::SyncSender<Result<String, BrokerError>>;

/// Brings the device up and serves it until it is told to shut down, or the device is gone and must be
/// let go of. Runs on a thread of its own.
pub(super) fn run(
    registry: &Registry,
    spec: DeviceSpec,
    timeouts: Timeouts,
    closer: Closer,
    requests: mpsc::UnboundedReceiver<ToWorker>,
    ready: &Ready,
) -> Result<(), BrokerError> {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(source) => {
            let error = BrokerError::Os { what: "starting the device's runtime", source };
            // Whoever starts the broker waits for this.
            let _ = ready.send(Err(error));
            return Ok(());
        }
    };
    LocalSet::new().block_on(&runtime, async {
        match Worker::open(registry, spec, timeouts, closer).await {
            Ok(worker) => {
                let _ = ready.send(Ok(worker.common.info.name.clone()));
                Rc::new(worker).serve(requests).await
            }
            Err(error) => {
                // Told to whoever starts the broker, who reports it.
                drop(ready.send(Err(error)));
                Ok(())
            }
        }
    })
}

impl Worker {
    async fn open(
        registry: &Registry,
        spec: DeviceSpec,
        timeouts: Timeouts,
        closer: Closer,
    ) -> Result<Self, BrokerError> {
        let bus = registry.open_bus(&spec)?;
        // The device's admin queue is served from near it. A broker that may not be placed works too.
        if let Err(error) = crate::topology::place_thread(bus.identity().numa_node) {
            tracing::warn!(device = %bus.identity().name, %error, "the worker is not placed");
        }
        let identity = bus.identity().clone();
        let entry = *registry.find(&identity)?;
        let (device, iova) = Device::attach(Arc::clone(&bus), entry.address_bits)?;
        let driver = unit::probe(&entry, device.clone(), timeouts.probe).await?;
        let plan = driver.plan();
        let info = DeviceInfo {
            name: identity.name.to_string(),
            driver: entry.name.to_owned(),
            vendor: identity.vendor,
            device: identity.device,
            class: identity.class,
            numa_node: identity.numa_node,
            bus: bus.kind().to_owned(),
            about_bus: bus.about().chars().take(ABOUT).collect(),
            queues: plan.queues,
            max_entries: plan.max_entries,
            portal: plan.portal,
            submission_entry: plan.submission_entry,
            completion_entry: plan.completion_entry,
        };
        let common = Rc::new(Common::new(info, spec, timeouts, closer));
        let primary = Unit::new(&common, device, driver, iova, None);
        let (functions, registry) = (RefCell::default(), registry.clone());
        Ok(Self { primary, functions, registry, common })
    }

    async fn serve(
        self: Rc<Self>,
        mut requests: mpsc::UnboundedReceiver<ToWorker>,
    ) -> Result<(), BrokerError> {
        let mut events = tokio::time::interval(self.common.timeouts.events);
        events.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                message = requests.recv() => match message {
                    Some(ToWorker::Attach(attach)) => self.attach(*attach),
                    Some(ToWorker::Request { session, id, request, fds }) => {
                        let worker = Rc::clone(&self);
                        tokio::task::spawn_local(async move {
                            worker.request(session, id, request, fds).await;
                        });
                    }
                    Some(ToWorker::Detach { session, cause }) => {
                        let worker = Rc::clone(&self);
                        tokio::task::spawn_local(async move {
                            worker.teardown(session, cause).await;
                        });
                    }
                    Some(ToWorker::Shutdown { done }) => {
                        // Whoever asked may have given up.
                        let _ = done.send(self.shut_down().await);
                        return Ok(());
                    }
                    None => {
                        if let Err(error) = self.shut_down().await {
                            tracing::error!(device = %self.primary.name, %error, "shutdown");
                        }
                        return Ok(());
                    }
                },
                _ = events.tick() => {
                    self.common.units().iter().for_each(Unit::look_for_events);
                }
                () = self.common.given_back.notified() => {
                    if self.primary.removed.get() {
                        return Err(self.give_back().await);
                    }
                    let worker = Rc::clone(&self);
                    tokio::task::spawn_local(async move { worker.give_functions_back().await });
                }
            }
        }
    }

    fn attach(&self, attach: Attach) {
        let Attach { session, id, peer, rights, out } = attach;
        let records = &mut *self.primary.records.borrow_mut();
        if records.shutting_down {
            out.reply(id, Reply::Refused(Refusal::ShuttingDown), Vec::new());
            return out.close();
        }
        let device = self.common.info.clone();
        let reply = Reply::Welcome { session, max_pending: MAX_PENDING, device };
        out.reply(id, reply, Vec::new());
        records.sessions.insert(session, Session::new(peer, rights, out));
    }

    /// The unit that a session is on.
    fn unit_of(&self, session: u64) -> Rc<Unit> {
        let own = self.functions.borrow().of(session);
        own.unwrap_or_else(|| Rc::clone(&self.primary))
    }

    /// Runs one request to its reply.
    async fn request(&self, session: u64, id: u32, request: Request, fds: Vec<OwnedFd>) {
        let unit = self.unit_of(session);
        let Some(out) = unit.records.borrow().out(session) else {
            return self.common.closer.close(fds);
        };
        unit.count(session, 1);
        let name = request.name();
        let (reply, fds) = match self.execute(unit, session, request, fds).await {
            Ok(done) => done,
            Err(refusal) => {
                // At a level that is off by default: a client can ask for any number of refusals.
                let device = &self.primary.name;
                tracing::debug!(%device, session, what = name, %refusal, "refused");
                (Reply::Refused(refusal), Vec::new())
            }
        };
        // It may be on another unit now.
        self.unit_of(session).count(session, -1);
        out.reply(id, reply, fds);
    }

    async fn execute(
        &self,
        unit: Rc<Unit>,
        session: u64,
        request: Request,
        fds: Vec<OwnedFd>,
    ) -> Result<(Reply, Vec<OwnedFd>), Refusal> {
        let plain = |reply| (reply, Vec::new());
        match request {
            Request::Hello { .. } => Err(Refusal::Protocol("'hello' comes once".to_owned())),
            Request::DonateArena { len } => unit.donate(session, len, fds).map(plain),
            Request::ReleaseArena { arena } => unit.release_arena(session, arena).map(plain),
            Request::Claim { entries, at_least, submission, completion } => {
                // So that a function can be closed while a claim waits for it.
                drop(unit);
                let wanted = claim::Wanted { entries, at_least, submission, completion };
                let unit = self.unit_for_claim(session, at_least).await?;
                unit.claim(session, wanted).await
            }
            Request::ReleaseQueue { queue } => unit.release_queue(session, queue).await.map(plain),
            Request::ReportPoller { poller, about } => {
                unit.report_poller(session, poller, about, fds).map(plain)
            }
            Request::PolledBy { queue, poller } => {
                unit.polled_by(session, queue, poller).map(plain)
            }
            Request::TimedOut { queue, tag, last } => {
                unit.timed_out(session, queue, tag, last).await.map(plain)
            }
            Request::Admin { operation } => unit.admin(session, &operation).await.map(plain),
            Request::Status => Ok(plain(Reply::Status(Box::new(self.status(session))))),
            Request::Revoke { target } => self.revoke(session, target).await.map(plain),
            Request::Reset => self.reset(session).await.map(plain),
        }
    }

    /// Takes back everything of a session, its virtual function too. Returns how many queues ended;
    /// `None` if someone else is at it or the session is unknown.
    async fn teardown(&self, session: u64, cause: ReclaimCause) -> Option<u32> {
        let started = Instant::now();
        let report = self.unit_of(session).teardown(session, cause).await?;
        let queues = report.queues;
        self.session_left(session, started, report).await;
        Some(queues)
    }

    /// The orderly end: every grant is taken back, the device is shut down.
    async fn shut_down(&self) -> Result<(), BrokerError> {
        let units = self.common.units();
        units.iter().for_each(|unit| unit.records.borrow_mut().shutting_down = true);
        self.teardown_all(units, ReclaimCause::Shutdown).await;
        // A function that is being made ready finds its client gone, and is turned off.
        let limit = self.common.timeouts.probe * 2;
        if !self.primary.until(limit, |_| self.functions.borrow().settled()).await {
            tracing::error!(device = %self.primary.name, "a virtual function is still changing");
        }
        self.primary.shut_down().await
    }

    /// Takes back everything of everyone on some units, and ends their connections.
    async fn teardown_all(&self, units: Vec<Rc<Unit>>, cause: ReclaimCause) {
        let mut sessions = Vec::new();
        for unit in units {
            let records = unit.records.borrow();
            sessions.extend(records.sessions.iter().map(|(number, s)| (*number, s.out.clone())));
        }
        for (session, out) in sessions {
            self.teardown(session, cause).await;
            out.close();
        }
    }

    /// The device's owner waits for this process to let go of it: every session ends.
    async fn give_back(&self) -> BrokerError {
        let units = self.common.units();
        units.iter().for_each(|unit| unit.records.borrow_mut().shutting_down = true);
        self.teardown_all(units, ReclaimCause::DeviceGone).await;
        BrokerError::Removed { device: self.primary.name.clone() }
    }

    /// The owner of virtual functions waits for this process to let go of them: their clients end.
    async fn give_functions_back(&self) {
        let mut units = self.common.units();
        units.retain(|unit| unit.removed.get());
        self.teardown_all(units, ReclaimCause::DeviceGone).await;
    }
}
