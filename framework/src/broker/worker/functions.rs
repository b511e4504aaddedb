//! Virtual functions: which are free, which client has which, and how one is opened and closed.
//!
//! A client that asks for [`Tier::Isolated`] gets a function of its own: the physical function's driver
//! makes it ready, its bus is opened, its driver probed like any device's, and the client's arenas move
//! into its address space. When the client is gone its queues end by the proof chain like all queues,
//! the function is reset and turned off, and its index can be given out again. A function that does not
//! let go is never used again.

use std::collections::BTreeSet;
use std::ops::Range;
use std::rc::Rc;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use super::Worker;
use super::unit::{Unit, probe};
use crate::bus::{Bus, Device};
use crate::deadline::Deadline;
use crate::dma::Partition;
use crate::driver::VirtualResources;
use crate::tier::Tier;
use crate::wire::{FunctionState, FunctionStatus, Limit, ReclaimReport, Refusal};

/// One virtual function.
enum Function {
    /// It can be given to a client.
    Free,
    /// It is being made ready, or turned off.
    Changing,
    /// A client has it.
    Given(u64, Rc<Unit>),
    /// Never used again.
    Lost {
        why: String,
        /// What the function may still reach stays mapped, and so does its address space.
        _kept: Option<Rc<Unit>>,
    },
}

/// All virtual functions, by index.
#[derive(Default)]
pub(super) struct Functions(Vec<Function>);

impl Functions {
    /// Takes the first free one of `count` that is not in `except`.
    fn take(&mut self, count: u16, except: &BTreeSet<u16>) -> Option<u16> {
        while self.0.len() < usize::from(count) {
            self.0.push(Function::Free);
        }
        let free = |(index, function): &(u16, &mut Function)| {
            matches!(function, Function::Free) && !except.contains(index)
        };
        let (index, function) = (0..count).zip(&mut self.0).find(free)?;
        *function = Function::Changing;
        Some(index)
    }

    fn set(&mut self, index: u16, to: Function) {
        if let Some(function) = self.0.get_mut(usize::from(index)) {
            *function = to;
        }
    }

    /// The unit of a session that has a function.
    pub(super) fn of(&self, session: u64) -> Option<Rc<Unit>> {
        self.0.iter().find_map(|function| match function {
            Function::Given(owner, unit) if *owner == session => Some(Rc::clone(unit)),
            _ => None,
        })
    }

    /// True if none is being made ready or turned off.
    pub(super) fn settled(&self) -> bool {
        !self.0.iter().any(|function| matches!(function, Function::Changing))
    }

    /// For `status`.
    pub(super) fn status(&self, bus: &Arc<dyn Bus>) -> Vec<FunctionStatus> {
        (0..bus.virtual_functions().max(self.0.len() as u16))
            .map(|index| match self.0.get(usize::from(index)) {
                None | Some(Function::Free) => FunctionState::Free,
                Some(Function::Changing) => FunctionState::Changing,
                Some(Function::Given(session, unit)) => {
                    FunctionState::Given { session: *session, name: unit.name.to_string() }
                }
                Some(Function::Lost { why, .. }) => FunctionState::Lost { why: why.clone() },
            })
            .zip(0..)
            .map(|(state, index)| FunctionStatus { index, state })
            .collect()
    }
}

impl Worker {
    /// The unit that a session's next queue comes from. The first claim of a session that wants more
    /// than the device itself can give gets it a virtual function.
    pub(super) async fn unit_for_claim(
        &self,
        session: u64,
        at_least: Tier,
    ) -> Result<Rc<Unit>, Refusal> {
        let limit = self.common.timeouts.probe * 2;
        let settled = self.primary.until(limit, |records| {
            records.sessions.get(&session).is_none_or(|session| !session.moving)
        });
        if !settled.await {
            return Err(self.primary.late("a virtual function to be made ready", limit));
        }
        // From here to the mark that `begin_move` sets nothing is awaited.
        let unit = self.unit_of(session);
        if unit.function.is_some() {
            return Ok(unit);
        }
        let Some(partition) = self.primary.begin_move(session, at_least)? else { return Ok(unit) };
        let given = self.give_function(session, partition).await;
        if let Some(session) = self.primary.records.borrow_mut().sessions.get_mut(&session) {
            session.moving = false;
        }
        self.common.changed.notify_waiters();
        given
    }

    async fn give_function(
        &self,
        session: u64,
        partition: Range<u64>,
    ) -> Result<Rc<Unit>, Refusal> {
        let count = self.primary.bus.virtual_functions();
        let mut tried = BTreeSet::new();
        let mut refusal = none_left(&self.primary.name, count);
        loop {
            let Some(index) = self.functions.borrow_mut().take(count, &tried) else {
                return Err(refusal);
            };
            tried.insert(index);
            match self.open_function(index, count, partition.clone()).await {
                Ok((unit, partition)) => {
                    let moved = self.hand_over(session, &unit, partition);
                    let Err(refusal) = moved else {
                        let given = Function::Given(session, Rc::clone(&unit));
                        self.functions.borrow_mut().set(index, given);
                        tracing::info!(device = %unit.name, session, "virtual function given");
                        return Ok(unit);
                    };
                    self.close_function(index, unit).await;
                    return Err(refusal);
                }
                Err(why) => {
                    tracing::warn!(device = %self.primary.name, index, %why, "virtual function");
                    refusal = why;
                }
            }
        }
    }

    /// Makes a function ready. If that fails it is turned off again.
    async fn open_function(
        &self,
        index: u16,
        of: u16,
        client: Range<u64>,
    ) -> Result<(Rc<Unit>, Partition), Refusal> {
        // First of all, for it fails if anybody else has the function.
        let bus = match self.primary.bus.open_virtual_function(index) {
            Ok(bus) => bus,
            Err(error) => return Err(self.not_opened(index, &error)),
        };
        let limit = self.common.timeouts.probe;
        let asked = self.primary.driver.prepare_virtual_function(index, of);
        let opened = match tokio::time::timeout(limit, asked).await {
            Ok(Ok(resources)) => self.bring_up(index, bus, resources, client).await,
            // The driver says that it is off.
            Ok(Err(error)) => return Err(self.not_opened(index, &error)),
            Err(_) => {
                Err(self.primary.late(&format!("virtual function {index} to be prepared"), limit))
            }
        };
        if opened.is_err() {
            let state = match self.turn_off(index).await {
                Ok(()) => Function::Free,
                Err(why) => Function::Lost { why, _kept: None },
            };
            self.functions.borrow_mut().set(index, state);
            self.common.changed.notify_waiters();
        }
        opened
    }

    /// Nothing was done to a function, or all of it was undone.
    fn not_opened(&self, index: u16, error: &dyn std::error::Error) -> Refusal {
        self.functions.borrow_mut().set(index, Function::Free);
        self.common.changed.notify_waiters();
        Refusal::Driver(error.to_string())
    }

    async fn bring_up(
        &self,
        index: u16,
        bus: Arc<dyn Bus>,
        resources: VirtualResources,
        client: Range<u64>,
    ) -> Result<(Rc<Unit>, Partition), Refusal> {
        let refuse = |error: &dyn std::error::Error| Refusal::Driver(error.to_string());
        let entry = *self.registry.find(bus.identity()).map_err(|e| refuse(&e))?;
        let (bits, vectors) = (entry.address_bits, resources.vectors);
        let attached = Device::attach_virtual(bus, bits, vectors, client);
        let (device, iova, partition) = attached.map_err(|e| refuse(&e))?;
        let driver = probe(&entry, device.clone(), self.common.timeouts.probe).await;
        let driver = driver.map_err(|e| refuse(&e))?;
        Ok((Unit::new(&self.common, device, driver, iova, Some(index)), partition))
    }

    /// Has the physical function's driver turn a function off.
    async fn turn_off(&self, index: u16) -> Result<(), String> {
        let limit = self.common.timeouts.create;
        let asked = self.primary.driver.release_virtual_function(index);
        let why = match tokio::time::timeout(limit, asked).await {
            Ok(Ok(())) => return Ok(()),
            Ok(Err(error)) => error.to_string(),
            Err(_) => format!("it was not turned off in {:.3} s", limit.as_secs_f64()),
        };
        tracing::error!(device = %self.primary.name, index, why, "a virtual function is lost");
        Err(why)
    }

    /// After the teardown of a session: its function, if it had one, is closed.
    pub(super) async fn session_left(
        &self,
        session: u64,
        started: Instant,
        mut report: ReclaimReport,
    ) {
        let unit = self.functions.borrow().of(session);
        if let Some(unit) = unit
            && let Some(index) = unit.function
        {
            self.close_function(index, unit).await;
            report.micros = started.elapsed().as_micros() as u64;
        }
        if report.queues + report.mappings + report.quarantined > 0 {
            self.primary.records.borrow_mut().remember(report);
        }
        self.common.changed.notify_waiters();
    }

    /// Resets a function and turns it off. Its client is gone.
    async fn close_function(&self, index: u16, unit: Rc<Unit>) {
        self.functions.borrow_mut().set(index, Function::Changing);
        let closed = unit.close().await;
        // Also one that did not let go: off, it can do least.
        let off = self.turn_off(index).await;
        let state = match closed.and(off) {
            Ok(()) => {
                {
                    let (gone, records) =
                        (unit.records.borrow(), &mut *self.primary.records.borrow_mut());
                    records.faults += gone.faults;
                    records.last_fault = gone.last_fault.or(records.last_fault);
                }
                let name = Arc::clone(&unit.name);
                let bus = Arc::downgrade(&unit.bus);
                drop(unit);
                if released(&bus, self.common.timeouts.shutdown).await {
                    Function::Free
                } else {
                    let why = format!("{name} is still open in the broker");
                    Function::Lost { why, _kept: None }
                }
            }
            Err(why) => {
                tracing::error!(device = %unit.name, why, "a virtual function is never used again");
                Function::Lost { why, _kept: Some(unit) }
            }
        };
        self.functions.borrow_mut().set(index, state);
        self.common.changed.notify_waiters();
    }
}

impl Unit {
    /// Decides whether a claim needs a virtual function, and marks the session as moving if so.
    /// Returns where its partition is.
    fn begin_move(&self, session: u64, at_least: Tier) -> Result<Option<Range<u64>>, Refusal> {
        let records = &mut *self.records.borrow_mut();
        let holder = records.granting(session, &self.name)?;
        let asked = at_least.max(holder.rights.required_tier);
        // What the policy does not allow is refused where all claims are checked.
        if asked <= Tier::Paged || holder.rights.max_tier < Tier::Isolated {
            return Ok(None);
        }
        if holder.creating > 0 || !holder.queues.is_empty() {
            let why = "this connection has queues of the device itself; release them, or open \
                       another connection for isolated queues";
            return Err(Refusal::Tier { asked, why: why.to_owned() });
        }
        let Some(partition) = holder.partition.as_ref().map(Partition::range) else {
            return Err(Refusal::Protocol("a queue without an arena".to_owned()));
        };
        self.check_quota(records, session, Limit::Queues, 1)?;
        if let Some(holder) = records.sessions.get_mut(&session) {
            holder.moving = true;
        }
        Ok(Some(partition))
    }

    /// Leaves a virtual function as after power-on. Fails if it may still reach what it reached.
    async fn close(&self) -> Result<(), String> {
        {
            let quarantine = &self.records.borrow().quarantine;
            if !quarantine.queues.is_empty() || !quarantine.kept.is_empty() {
                let (queues, bytes) = (quarantine.queues.len(), quarantine.bytes);
                let name = &self.name;
                return Err(format!("{name} did not let go of {queues} queues, {bytes} bytes"));
            }
        }
        if let Err(error) = self.shut_down().await {
            tracing::warn!(device = %self.name, %error, "resetting it instead");
        }
        let limit = Deadline::after(self.common.timeouts.abort);
        match self.bus.reset(limit) {
            // One that is gone does nothing.
            Ok(()) | Err(crate::bus::BusError::Gone { .. }) => Ok(()),
            Err(error) => Err(error.to_string()),
        }
    }
}

fn none_left(device: &str, total: u16) -> Refusal {
    if total == 0 {
        let why = format!(
            "device {device} has no virtual functions that are enabled and can be opened; enable some, \
             or ask for less"
        );
        return Refusal::Tier { asked: Tier::Isolated, why };
    }
    Refusal::NoFunctionLeft { device: device.to_owned(), total }
}

/// Waits until nobody has a bus open any more. Tasks of a driver end a little after it.
async fn released(bus: &Weak<dyn Bus>, limit: Duration) -> bool {
    let deadline = Deadline::after(limit);
    while bus.strong_count() > 0 {
        if deadline.expired() {
            return false;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    true
}
