//! The worker: one thread per device that owns the bus, the driver and the records.
//!
//! Requests come by a channel and each runs as a task of its own on this thread's local executor,
//! so a long admin operation of one client delays no other's request. The records are plain data
//! behind a `RefCell` that is never held across an `await`.

use std::cell::RefCell;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Mutex, Notify, mpsc, oneshot};
use tokio::task::LocalSet;

use self::events::Bell;
use self::records::{Records, Session};
use super::closer::Closer;
use super::outgoing::Outgoing;
use super::peer::Peer;
use super::policy::Rights;
use super::{BrokerError, MAX_PENDING, Timeouts};
use crate::bus::{Bus, Device, Recovered};
use crate::driver::{DynDriver, Plan, Registry};
use crate::spec::DeviceSpec;
use crate::wire::{DeviceInfo, ReclaimCause, Refusal, Reply, Request};

mod arena;
mod claim;
mod end;
mod events;
mod pages;
mod records;
mod report;
mod teardown;

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
    bus: Arc<dyn Bus>,
    /// Knows which pages the driver has doorbells of its own in.
    device: Device,
    driver: Box<dyn DynDriver>,
    records: RefCell<Records>,
    /// Rung when a queue or a session changes, for whoever waits for that.
    changed: Notify,
    /// Only one reset at a time; holds the proof of the last.
    reset: Mutex<Option<Recovered>>,
    /// Rung when the device must be let go of.
    given_back: Notify,
    plan: Plan,
    info: DeviceInfo,
    spec: DeviceSpec,
    name: Arc<str>,
    timeouts: Timeouts,
    closer: Closer,
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
                let _ = ready.send(Ok(worker.info.name.clone()));
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
        let name = Arc::clone(&identity.name);
        let (device, iova) = Device::attach(Arc::clone(&bus), entry.address_bits)?;
        tracing::info!(device = %name, driver = entry.name, "bringing the device up");
        let probe = tokio::time::timeout(timeouts.probe, entry.probe(device.clone()));
        let driver = match probe.await {
            Ok(Ok(driver)) => driver,
            Ok(Err(source)) => return Err(BrokerError::Probe { device: name, source }),
            Err(_) => {
                return Err(BrokerError::ProbeTimedOut { device: name, after: timeouts.probe });
            }
        };
        let plan = driver.plan();
        let info = DeviceInfo {
            name: name.to_string(),
            driver: entry.name.to_owned(),
            vendor: identity.vendor,
            device: identity.device,
            class: identity.class,
            numa_node: identity.numa_node,
            bus: bus.kind().to_owned(),
            about_bus: bus.about().chars().take(ABOUT).collect(),
            queues: plan.queues,
            max_entries: plan.max_entries,
            submission_entry: plan.submission_entry,
            completion_entry: plan.completion_entry,
        };
        Ok(Self {
            bus,
            device,
            driver,
            records: RefCell::new(Records::new(iova, plan.queues)),
            changed: Notify::new(),
            reset: Mutex::new(None),
            given_back: Notify::new(),
            plan,
            info,
            spec,
            name,
            timeouts,
            closer,
        })
    }

    async fn serve(
        self: Rc<Self>,
        mut requests: mpsc::UnboundedReceiver<ToWorker>,
    ) -> Result<(), BrokerError> {
        let bell = Bell::of(&*self.bus);
        let mut events = tokio::time::interval(self.timeouts.events);
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
                            tracing::error!(device = %self.name, %error, "shutdown");
                        }
                        return Ok(());
                    }
                },
                _ = events.tick() => self.look_for_events(),
                () = bell.rung() => self.look_for_events(),
                () = self.given_back.notified() => return Err(self.give_back().await),
            }
        }
    }

    fn attach(&self, attach: Attach) {
        let Attach { session, id, peer, rights, out } = attach;
        let records = &mut *self.records.borrow_mut();
        if records.shutting_down {
            out.reply(id, Reply::Refused(Refusal::ShuttingDown), Vec::new());
            return out.close();
        }
        let reply = Reply::Welcome { session, max_pending: MAX_PENDING, device: self.info.clone() };
        out.reply(id, reply, Vec::new());
        records.sessions.insert(
            session,
            Session {
                peer,
                rights,
                out,
                partition: None,
                arenas: std::collections::BTreeMap::new(),
                next_arena: 0,
                queues: std::collections::BTreeMap::new(),
                closing: false,
                pending: 0,
                creating: 0,
            },
        );
    }

    /// Runs one request to its reply.
    async fn request(&self, session: u64, id: u32, request: Request, fds: Vec<OwnedFd>) {
        let Some(out) = self.records.borrow().out(session) else {
            return self.closer.close(fds);
        };
        self.count(session, 1);
        let name = request.name();
        let (reply, fds) = match self.execute(session, request, fds).await {
            Ok(done) => done,
            Err(refusal) => {
                // At a level that is off by default: a client can ask for any number of refusals.
                tracing::debug!(device = %self.name, session, what = name, %refusal, "refused");
                (Reply::Refused(refusal), Vec::new())
            }
        };
        self.count(session, -1);
        out.reply(id, reply, fds);
    }

    fn count(&self, session: u64, change: i32) {
        if let Some(session) = self.records.borrow_mut().sessions.get_mut(&session) {
            session.pending = session.pending.saturating_add_signed(change);
        }
    }

    async fn execute(
        &self,
        session: u64,
        request: Request,
        fds: Vec<OwnedFd>,
    ) -> Result<(Reply, Vec<OwnedFd>), Refusal> {
        let plain = |reply| (reply, Vec::new());
        match request {
            Request::Hello { .. } => Err(Refusal::Protocol("'hello' comes once".to_owned())),
            Request::DonateArena { len } => self.donate(session, len, fds).map(plain),
            Request::ReleaseArena { arena } => self.release_arena(session, arena).map(plain),
            Request::Claim { entries, at_least, submission, completion } => {
                let wanted = claim::Wanted { entries, at_least, submission, completion };
                self.claim(session, wanted).await
            }
            Request::ReleaseQueue { queue } => self.release_queue(session, queue).await.map(plain),
            Request::TimedOut { queue, tag, last } => {
                self.timed_out(session, queue, tag, last).await.map(plain)
            }
            Request::Admin { operation } => self.admin(session, &operation).await.map(plain),
            Request::Status => Ok(plain(Reply::Status(Box::new(self.status(session))))),
            Request::Revoke { target } => self.revoke(session, target).await.map(plain),
        }
    }

    async fn admin(&self, session: u64, operation: &[u8]) -> Result<Reply, Refusal> {
        let who = self.records.borrow_mut().granting(session, &self.info.name)?.who();
        let limit = self.timeouts.admin;
        match tokio::time::timeout(limit, self.driver.admin(&who, operation)).await {
            Ok(Ok(reply)) => Ok(Reply::Admin { reply }),
            Ok(Err(error)) => Err(Refusal::Driver(error.to_string())),
            Err(_) => Err(self.late("an admin operation", limit)),
        }
    }

    fn late(&self, what: &str, after: Duration) -> Refusal {
        let device = &self.name;
        Refusal::TimedOut(format!(
            "device {device}: waited {:.3} s for {what}",
            after.as_secs_f64()
        ))
    }

    /// Waits until `done`, which only changes when [`Worker::changed`] is rung.
    async fn until(&self, limit: Duration, done: impl Fn(&Records) -> bool) -> bool {
        let wait = async {
            loop {
                // Registered before the look, so that no ring is missed.
                let changed = self.changed.notified();
                tokio::pin!(changed);
                changed.as_mut().enable();
                if done(&self.records.borrow()) {
                    return;
                }
                changed.await;
            }
        };
        tokio::time::timeout(limit, wait).await.is_ok()
    }
}

impl Session {
    fn who(&self) -> crate::driver::Who {
        crate::driver::Who {
            pid: self.peer.pid,
            uid: self.peer.uid,
            gid: self.peer.gid,
            operator: self.rights.operator,
            queues: self.queues.keys().copied().collect(),
        }
    }
}
