//! What the driver keeps of a controller: its admin queue while it is up, its limits, its namespaces.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use doorbell::bus::Device;
use doorbell::deadline::Deadline;
use doorbell::driver::{DriverError, QueueShadow, rt};
use doorbell_queues::EndReason;

use super::admin_queue::{AdminQueue, ENTRIES, Rings};
use super::bringup::{self, Limits};
use super::error::{AdminError, broken};
use super::functions::{self, Functions};
use super::queues::{IoQueues, NewPair};
use super::regs::Registers;
use super::shadow::Shadows;
use super::{ADMIN_LIMIT, events, identify};
use crate::admin::{ControllerInfo, NamespaceInfo};
use crate::spec::feature::{Features10, NumberOfQueues};
use crate::spec::regs::Aqa;
use crate::spec::{AdminOpcode, FeatureId, Sqe};

/// Most I/O queue pairs that are asked for.
const QUEUES: u16 = 1024;

/// How long a reset that the driver does of its own accord may take.
const UNSTICK: Duration = Duration::from_secs(60);

/// How long a shutdown may take if the controller does not say (RTD3E is 0).
pub(super) const SHUTDOWN: Duration = Duration::from_secs(10);

/// A controller that is up.
#[derive(Debug)]
struct Up {
    admin: Rc<AdminQueue>,
    controller: ControllerInfo,
    shutdown: Duration,
    /// In use since the last reset.
    shadows: Option<Shadows>,
    _events: Vec<rt::Task>,
}

/// Shared by the driver's methods and its event tasks, all on one thread. No borrow is held across
/// an await.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) device: Device,
    name: Arc<str>,
    pub(super) regs: Registers,
    limits: Limits,
    up: RefCell<Option<Up>>,
    /// Pages for shadow doorbells, once a controller has offered them.
    pub(super) shadows: RefCell<Option<Shadows>>,
    namespaces: RefCell<BTreeMap<u32, NamespaceInfo>>,
    pub(super) queues: IoQueues,
    pub(super) functions: Functions,
    /// The controller does not complete admin commands: nothing can be done until the next reset.
    stuck: Cell<bool>,
    /// A reset is under way.
    resetting: Cell<bool>,
    /// A Format is under way.
    formatting: Cell<bool>,
    /// What is known of the namespaces is out of date.
    stale: Cell<bool>,
}

/// A Format under way; no I/O queue is created meanwhile. However it ends, what is known of the
/// namespaces is out of date then.
pub(super) struct Formatting<'a>(&'a Shared);

/// A reset under way.
struct Resetting<'a>(&'a Cell<bool>);

impl Drop for Resetting<'_> {
    fn drop(&mut self) {
        self.0.set(false);
    }
}

impl Drop for Formatting<'_> {
    fn drop(&mut self) {
        self.0.formatting.set(false);
        self.0.forget_namespaces();
    }
}

impl Shared {
    /// Resets the controller and brings it up.
    pub(super) async fn probe(device: Device) -> Result<Rc<Self>, DriverError> {
        let name = device.name();
        let regs = Registers::new(device.bar(0)?);
        let limits = bringup::limits(&name, &regs)?;
        let shared = Rc::new(Self {
            device,
            name,
            regs,
            limits,
            up: RefCell::new(None),
            shadows: RefCell::new(None),
            namespaces: RefCell::new(BTreeMap::new()),
            queues: IoQueues::default(),
            functions: Functions::default(),
            stuck: Cell::new(false),
            resetting: Cell::new(false),
            formatting: Cell::new(false),
            stale: Cell::new(false),
        });
        bringup::disable(&shared.name, &shared.regs, &shared.limits, None, true).await?;
        shared.bring_up(None).await?;
        if let Err(error) = shared.keep_only_private().await {
            if let Err(off) = shared.shut_down(Deadline::after(UNSTICK)).await {
                tracing::warn!(device = %shared.name, %off, "it cannot be left disabled");
            }
            return Err(error);
        }
        Ok(shared)
    }

    /// Where virtual functions are enabled, the resources that can be theirs are theirs. That takes a
    /// reset, so it is done only while nobody has a queue or a function.
    pub(super) async fn keep_only_private(self: &Rc<Self>) -> Result<(), DriverError> {
        let enabled = !self.is_virtual() && self.device.bus().virtual_functions() > 0;
        if !enabled || !self.queues.is_empty() || !self.functions.is_empty() {
            return Ok(());
        }
        let admin = self.admin()?;
        if functions::give_up_flexible(&admin, &self.name).await? {
            drop(admin);
            self.reset(Deadline::after(UNSTICK)).await?;
        }
        Ok(())
    }

    /// The device's name.
    pub(super) fn name(&self) -> &Arc<str> {
        &self.name
    }

    pub(super) fn limits(&self) -> &Limits {
        &self.limits
    }

    /// The admin queue, if the controller is up and answers.
    pub(super) fn admin(&self) -> Result<Rc<AdminQueue>, DriverError> {
        if self.stuck.get() {
            let problem = "the controller does not complete admin commands; it must be reset first";
            return Err(broken(&self.name, "looking for the admin queue", problem));
        }
        let up = self.up.borrow();
        let up = up.as_ref().ok_or_else(|| {
            broken(&self.name, "looking for the admin queue", "the controller is being reset")
        })?;
        Ok(Rc::clone(&up.admin))
    }

    /// Turns an admin command's error into the framework's. A controller that is stuck is remembered
    /// as that, and one that is gone or has failed is told from one that is slow.
    pub(super) fn failed(&self, error: AdminError, step: &'static str) -> DriverError {
        match error {
            AdminError::Stuck(_) => self.stuck.set(true),
            AdminError::Aborted(_) => {}
            AdminError::Status { .. }
            | AdminError::Busy(_)
            | AdminError::Queue(_)
            | AdminError::Dma(_)
            | AdminError::Defect(_) => return error.during(&self.name, step),
        }
        match bringup::check_alive(&self.name, &self.regs) {
            Ok(()) => error.during(&self.name, step),
            Err(worse) => worse,
        }
    }

    /// Resets a controller that is stuck, if nobody's queue is lost by that. With queues it is for
    /// the broker to do: their clients must be told.
    pub(super) async fn unstick(self: &Rc<Self>) -> Result<(), DriverError> {
        let used = !self.queues.is_empty() || !self.functions.is_empty();
        if !self.stuck.get() || self.resetting.get() || used {
            return Ok(());
        }
        tracing::warn!(device = %self.name, "the admin queue is stuck and no queue exists: resetting");
        self.reset(Deadline::after(UNSTICK)).await
    }

    /// Creates an I/O queue pair.
    pub(super) async fn create_queue(
        self: &Rc<Self>,
        new: NewPair,
    ) -> Result<Option<QueueShadow>, DriverError> {
        let step = "creating an I/O queue pair";
        self.unstick().await?;
        if self.formatting.get() {
            return Err(broken(
                &self.name,
                step,
                "a namespace is being formatted; try again later",
            ));
        }
        let admin = self.admin()?;
        let shadows = self.up.borrow().as_ref().and_then(|up| up.shadows.clone());
        let shadows = shadows.filter(|_| !self.queues.has(new.id));
        let shadow = shadows.map(|shadows| shadows.prepare(&self.name, new.id)).transpose()?;
        let made = self.queues.create(&admin, new, ADMIN_LIMIT).await;
        made.map_err(|error| self.failed(error, step))?;
        Ok(shadow)
    }

    /// Begins a Format; only one at a time.
    pub(super) fn formatting(&self) -> Result<Formatting<'_>, DriverError> {
        if self.formatting.replace(true) {
            return Err(broken(&self.name, "format", "another format is under way"));
        }
        Ok(Formatting(self))
    }

    /// The controller's limits, if it is up.
    pub(super) fn controller(&self) -> Option<ControllerInfo> {
        self.up.borrow().as_ref().map(|up| up.controller.clone())
    }

    /// How long a shutdown may take.
    pub(super) fn shutdown_limit(&self) -> Duration {
        self.up.borrow().as_ref().map_or(SHUTDOWN, |up| up.shutdown)
    }

    /// True if this is a virtual function itself.
    pub(super) fn is_virtual(&self) -> bool {
        self.device.is_virtual()
    }

    /// Up to `count` namespaces with greater identifiers than `after`, and whether there are more.
    pub(super) fn namespaces(&self, after: u32, count: usize) -> (Vec<NamespaceInfo>, bool) {
        let namespaces = self.namespaces.borrow();
        let mut rest = namespaces.range(after.saturating_add(1)..).map(|(_, info)| info);
        let page = rest.by_ref().take(count).cloned().collect();
        (page, rest.next().is_some())
    }

    /// The namespaces changed.
    pub(super) fn forget_namespaces(&self) {
        self.stale.set(true);
    }

    /// Looks at the namespaces again if they changed.
    pub(super) async fn refresh(&self, admin: &AdminQueue) {
        if !self.stale.replace(false) {
            return;
        }
        match identify::namespaces(admin, &self.name).await {
            Ok(namespaces) => *self.namespaces.borrow_mut() = namespaces,
            Err(error) => {
                self.stale.set(true);
                tracing::warn!(device = %self.name, %error, "the namespaces are unknown");
            }
        }
    }

    /// Enables the controller, which is disabled, with a new admin queue, and learns what it is. If
    /// that fails it is left disabled.
    async fn bring_up(self: &Rc<Self>, deadline: Option<Deadline>) -> Result<(), DriverError> {
        let limits = &self.limits;
        let (admin, rings) = AdminQueue::new(&self.device, limits.cap, limits.page)?;
        let admin = Rc::new(admin);
        match self.start(&admin, rings, deadline).await {
            Ok(up) => {
                *self.up.borrow_mut() = Some(up);
                self.stuck.set(false);
                Ok(())
            }
            Err(error) => {
                let off = bringup::disable(&self.name, &self.regs, limits, None, false).await;
                match off {
                    Ok(()) => admin.end(EndReason::DeviceReset, true),
                    Err(off) => {
                        tracing::warn!(device = %self.name, %off, "it cannot be left disabled");
                        // It may still use the rings: they are never used for anything else.
                        std::mem::forget(admin);
                    }
                }
                Err(error)
            }
        }
    }

    async fn start(
        self: &Rc<Self>,
        admin: &Rc<AdminQueue>,
        rings: Rings,
        deadline: Option<Deadline>,
    ) -> Result<Up, DriverError> {
        let (name, limits) = (&self.name, &self.limits);
        let size = ENTRIES - 1;
        let aqa = Aqa(0).with_asqs(size).with_acqs(size);
        self.regs.set_admin_queue(aqa, rings.submission, rings.completion)?;
        bringup::enable(name, &self.regs, limits, deadline).await?;
        let version = self.regs.version()?;
        let (mut controller, events) = identify::controller(admin, name, limits, version).await?;
        controller.queues = self.ask_for_queues(admin).await?;
        let shadows = match events.shadows {
            true => self.configure_shadows(admin, controller.queues).await?,
            false => None,
        };
        controller.shadow_doorbells = shadows.is_some();
        *self.namespaces.borrow_mut() = identify::namespaces(admin, name).await?;
        if let Err(error) = events::configure(admin, &events).await {
            tracing::warn!(device = %name, %error, "events cannot be configured");
        }
        tracing::info!(
            device = %name, %version, model = controller.model, serial = controller.serial,
            queues = controller.queues, shadow_doorbells = controller.shadow_doorbells,
            namespaces = self.namespaces.borrow().len(), "up"
        );
        let tasks = events::watch(self, admin, &events);
        let shutdown = events.shutdown.unwrap_or(SHUTDOWN);
        Ok(Up { admin: Rc::clone(admin), controller, shutdown, shadows, _events: tasks })
    }

    /// Agrees on the number of I/O queue pairs (base 2.0, 5.27.1.5): no more than there are
    /// interrupt vectors beside the admin queue's and doorbells in BAR0.
    async fn ask_for_queues(&self, admin: &AdminQueue) -> Result<u16, DriverError> {
        let step = "Set Features (Number of Queues)";
        let fits = |id: &u16| self.limits.cap.cq_doorbell(*id) + 4 <= self.regs.size();
        let doorbells = (1..=QUEUES).take_while(fits).count() as u16;
        let wanted = doorbells.min(self.device.vectors().saturating_sub(1));
        if wanted == 0 {
            let problem = "it has no interrupt vector or no doorbell for an I/O queue";
            return Err(broken(&self.name, step, problem));
        }
        let sqe = Sqe {
            cdw10: Features10(0).with_fid(FeatureId::NUMBER_OF_QUEUES.0).0,
            cdw11: NumberOfQueues(0).with_nsq(wanted - 1).with_ncq(wanted - 1).0,
            ..Sqe::admin(AdminOpcode::SET_FEATURES)
        };
        let dw0 = admin.run(sqe, ADMIN_LIMIT).await.map_err(|error| self.failed(error, step))?;
        let granted = NumberOfQueues(dw0);
        // 0's based; FFFFh is not a number that the specification allows.
        let pairs = granted.nsq().min(granted.ncq()).saturating_add(1);
        Ok(pairs.min(wanted))
    }

    /// Takes the controller out of use: nothing can be submitted from here on.
    fn take_down(&self, reason: EndReason) -> Option<Rc<AdminQueue>> {
        let up = self.up.borrow_mut().take()?;
        up.admin.end(reason, false);
        Some(up.admin)
    }

    /// Resets the controller and brings it up without I/O queues. The admin queue's memory is freed
    /// only once the controller has confirmed that it stopped. One reset at a time: another waits.
    pub(super) async fn reset(self: &Rc<Self>, deadline: Deadline) -> Result<(), DriverError> {
        while self.resetting.get() {
            deadline.check(|| format!("device {}: another reset to end", self.name))?;
            rt::sleep(Duration::from_millis(1)).await;
        }
        self.resetting.set(true);
        let _over = Resetting(&self.resetting);
        let old = self.take_down(EndReason::DeviceReset);
        let stopped =
            bringup::disable(&self.name, &self.regs, &self.limits, Some(deadline), true).await;
        if let Err(error) = stopped {
            tracing::warn!(device = %self.name, %error, "resetting the whole function instead");
            if let Err(error) = self.reset_function(deadline).await {
                // The controller may still use its memory: it is never used for anything else.
                std::mem::forget(old);
                return Err(error);
            }
        }
        self.queues.clear();
        self.functions.clear();
        if let Some(old) = &old {
            old.end(EndReason::DeviceReset, true);
        }
        drop(old);
        self.bring_up(Some(deadline)).await
    }

    async fn reset_function(&self, deadline: Deadline) -> Result<(), DriverError> {
        self.device.reset(deadline)?;
        bringup::disable(&self.name, &self.regs, &self.limits, Some(deadline), true).await
    }

    /// The device is gone: whoever waits for it is told.
    pub(super) fn removed(&self) {
        // Not quiesced: nobody can say what it still does.
        std::mem::forget(self.take_down(EndReason::DeviceGone));
    }

    /// Shuts the controller down and disables it.
    pub(super) async fn shut_down(&self, deadline: Deadline) -> Result<(), DriverError> {
        let limit = self.shutdown_limit().min(deadline.remaining());
        let old = self.take_down(EndReason::Released);
        let down = bringup::shut_down(&self.name, &self.regs, Deadline::after(limit)).await;
        let off =
            bringup::disable(&self.name, &self.regs, &self.limits, Some(deadline), true).await;
        match off {
            Ok(()) => {
                self.queues.clear();
                self.functions.clear();
                if let Some(old) = &old {
                    old.end(EndReason::Released, true);
                }
            }
            Err(_) => std::mem::forget(old),
        }
        down.and(off)
    }
}
