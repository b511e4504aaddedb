//! A unit: a function of the device that the broker holds, with its driver and its records.
//!
//! Unit of the device itself: every client is there until it asks for isolation. Each virtual function
//! that was given to a client is a unit of its own: another bus, another address space, another driver
//! instance, other queue ids. The teardown chain and its quarantine are per unit, so a function that
//! does not let go concerns nobody else.

use std::cell::{Cell, RefCell};
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Mutex, Notify};

use super::events;
use super::records::{Records, Session};
use crate::broker::closer::Closer;
use crate::broker::{BrokerError, Timeouts};
use crate::bus::{Bus, Device, Recovered};
use crate::dma::IovaAllocator;
use crate::driver::registry::DriverEntry;
use crate::driver::{DynDriver, Plan, rt};
use crate::spec::DeviceSpec;
use crate::wire::{DeviceInfo, Limit, Refusal, Reply};

/// What all units of a device share.
pub(super) struct Common {
    pub(super) info: DeviceInfo,
    pub(super) spec: DeviceSpec,
    pub(super) timeouts: Timeouts,
    pub(super) closer: Closer,
    /// Rung when a queue, a session or a unit changes, for whoever waits for that.
    pub(super) changed: Notify,
    /// Rung when a function must be let go of.
    pub(super) given_back: Notify,
    /// Every unit that is open. The first is the device itself.
    units: RefCell<Vec<Weak<Unit>>>,
}

/// A function in service.
pub(super) struct Unit {
    pub(super) bus: Arc<dyn Bus>,
    /// Knows which pages the driver has doorbells of its own in.
    pub(super) device: Device,
    pub(super) driver: Box<dyn DynDriver>,
    pub(super) records: RefCell<Records>,
    /// Only one reset at a time; holds the proof of the last.
    pub(super) reset: Mutex<Option<Recovered>>,
    pub(super) plan: Plan,
    pub(super) name: Arc<str>,
    /// Which virtual function this is; `None` is the device itself.
    pub(super) function: Option<u16>,
    /// It was removed, and must be let go of.
    pub(super) removed: Cell<bool>,
    /// Looks for its events.
    watch: RefCell<Option<rt::Task>>,
    pub(super) common: Rc<Common>,
}

impl Common {
    pub(super) fn new(
        info: DeviceInfo,
        spec: DeviceSpec,
        timeouts: Timeouts,
        closer: Closer,
    ) -> Self {
        let (changed, given_back, units) = (Notify::new(), Notify::new(), RefCell::default());
        Self { info, spec, timeouts, closer, changed, given_back, units }
    }

    /// The units that are open.
    pub(super) fn units(&self) -> Vec<Rc<Unit>> {
        self.units.borrow().iter().filter_map(Weak::upgrade).collect()
    }
}

/// Has a driver bring its device up.
pub(super) async fn probe(
    entry: &DriverEntry,
    device: Device,
    limit: Duration,
) -> Result<Box<dyn DynDriver>, BrokerError> {
    let name = device.name();
    tracing::info!(device = %name, driver = entry.name, "bringing the device up");
    match tokio::time::timeout(limit, entry.probe(device)).await {
        Ok(Ok(driver)) => Ok(driver),
        Ok(Err(source)) => Err(BrokerError::Probe { device: name, source }),
        Err(_) => Err(BrokerError::ProbeTimedOut { device: name, after: limit }),
    }
}

impl Unit {
    /// A function whose driver is up, as a unit of its device.
    pub(super) fn new(
        common: &Rc<Common>,
        device: Device,
        driver: Box<dyn DynDriver>,
        iova: IovaAllocator,
        function: Option<u16>,
    ) -> Rc<Self> {
        let plan = driver.plan();
        let unit = Rc::new(Self {
            name: device.name(),
            bus: Arc::clone(device.bus()),
            device,
            driver,
            records: RefCell::new(Records::new(iova, plan.queues)),
            reset: Mutex::new(None),
            plan,
            function,
            removed: Cell::new(false),
            watch: RefCell::new(None),
            common: Rc::clone(common),
        });
        *unit.watch.borrow_mut() = Some(events::watch(&unit));
        let units = &mut *common.units.borrow_mut();
        units.retain(|unit| unit.strong_count() > 0);
        units.push(Rc::downgrade(&unit));
        unit
    }

    /// Checks that a client may have `asked` more of something. What its process holds in other
    /// units counts too.
    ///
    /// The records are passed, for the caller has borrowed them.
    pub(super) fn check_quota(
        &self,
        records: &Records,
        session: u64,
        limit: Limit,
        asked: u64,
    ) -> Result<(), Refusal> {
        let Some(me) = records.sessions.get(&session) else { return Ok(()) };
        let units = self.common.units();
        let others = units.iter().filter(|unit| !std::ptr::eq(Rc::as_ptr(unit), self));
        let elsewhere = others.map(|unit| unit.records.borrow().held_by(me.peer.pid, limit)).sum();
        records.check_quota(session, limit, asked, elsewhere)
    }

    /// Counts an operation of a session that begins (1) or ends (-1).
    pub(super) fn count(&self, session: u64, change: i32) {
        if let Some(session) = self.records.borrow_mut().sessions.get_mut(&session) {
            session.pending = session.pending.saturating_add_signed(change);
        }
    }

    pub(super) async fn admin(&self, session: u64, operation: &[u8]) -> Result<Reply, Refusal> {
        let who = self.records.borrow_mut().granting(session, &self.name)?.who();
        let limit = self.common.timeouts.admin;
        match tokio::time::timeout(limit, self.driver.admin(&who, operation)).await {
            Ok(Ok(reply)) => Ok(Reply::Admin { reply }),
            Ok(Err(error)) => Err(Refusal::Driver(error.to_string())),
            Err(_) => Err(self.late("an admin operation", limit)),
        }
    }

    pub(super) fn late(&self, what: &str, after: Duration) -> Refusal {
        let device = &self.name;
        Refusal::TimedOut(format!(
            "device {device}: waited {:.3} s for {what}",
            after.as_secs_f64()
        ))
    }

    /// Waits until `done`, which only changes when [`Common::changed`] is rung.
    pub(super) async fn until(&self, limit: Duration, done: impl Fn(&Records) -> bool) -> bool {
        let wait = async {
            loop {
                // Registered before the look, so that no ring is missed.
                let changed = self.common.changed.notified();
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
