//! Virtual functions: virtualization management on the primary controller (base 5.28 and 8.26).
//!
//! Function `index` is the secondary controller whose virtual function number is `index + 1`. Flexible
//! resources are shared out evenly over the functions that are enabled, so that each of them can always
//! be had; where that is too little for one to be of use, it gets the least that is.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::rc::Rc;
use std::sync::Arc;

use doorbell::driver::{DriverError, VirtualResources};

use super::admin_queue::{AdminQueue, DATA};
use super::error::{AdminError, broken};
use super::state::Shared;
use super::{ADMIN_LIMIT, identify};
use crate::spec::command::Identify10;
use crate::spec::virtualization::{
    LEAST_INTERRUPTS, LEAST_QUEUES, PrimaryCapabilities, Resources, SecondaryController,
    SecondaryList, Virtualization10, Virtualization11, action, resource,
};
use crate::spec::{AdminOpcode, Cns, Sqe};

/// One vector is the driver's, one the client's: they do not take each other's interrupts.
const WANTED_INTERRUPTS: u16 = LEAST_INTERRUPTS + 1;

const PREPARE: &str = "preparing a virtual function";
const RELEASE: &str = "turning a virtual function off";

/// The functions that are online, or may be.
#[derive(Debug, Default)]
pub(super) struct Functions(RefCell<BTreeSet<u16>>);

impl Functions {
    /// True if none is online.
    pub(super) fn is_empty(&self) -> bool {
        self.0.borrow().is_empty()
    }

    /// After a reset of the primary controller all are offline (base 8.26.3).
    pub(super) fn clear(&self) {
        self.0.borrow_mut().clear();
    }
}

/// A type of resource, as it is spoken of.
struct Kind {
    code: u8,
    name: &'static str,
    least: u16,
    wanted: u16,
}

const QUEUES: Kind =
    Kind { code: resource::QUEUE, name: "queue", least: LEAST_QUEUES, wanted: LEAST_QUEUES };
const INTERRUPTS: Kind = Kind {
    code: resource::INTERRUPT,
    name: "interrupt",
    least: WANTED_INTERRUPTS,
    wanted: WANTED_INTERRUPTS,
};

/// Takes a function's controller offline, gives it its share, and takes it online.
pub(super) async fn prepare(
    shared: &Rc<Shared>,
    index: u16,
    of: u16,
) -> Result<VirtualResources, DriverError> {
    // Functions that were enabled after bring-up.
    shared.keep_only_private().await?;
    let admin = shared.admin()?;
    let capabilities = capabilities(&admin, shared.name(), PREPARE).await?;
    let before = find(shared, &admin, index, PREPARE).await?;
    manage(&admin, action::OFFLINE, 0, before.scid, 0)
        .await
        .map_err(|error| shared.failed(error, PREPARE))?;
    match assign(shared, &admin, &capabilities, &before, of).await {
        Ok(resources) => {
            tracing::info!(
                device = %shared.name(), index, controller = before.scid, queues = resources.queues,
                vectors = resources.vectors, "virtual function online"
            );
            Ok(resources)
        }
        Err(error) => {
            if let Err(error) = off(&admin, &capabilities, before.scid).await {
                tracing::warn!(device = %shared.name(), index, %error, "left as it was");
            } else {
                shared.functions.0.borrow_mut().remove(&index);
            }
            Err(error)
        }
    }
}

async fn assign(
    shared: &Shared,
    admin: &AdminQueue,
    capabilities: &PrimaryCapabilities,
    before: &SecondaryController,
    of: u16,
) -> Result<VirtualResources, DriverError> {
    let (name, id) = (shared.name(), before.scid);
    let failed = |error| shared.failed(error, PREPARE);
    let kinds = [
        (QUEUES, &capabilities.queues, before.nvq),
        (INTERRUPTS, &capabilities.interrupts, before.nvi),
    ];
    for (kind, resources, held) in kinds {
        if capabilities.crt & 1 << kind.code == 0 {
            // Its own for good: there is nothing to assign.
            continue;
        }
        let number = share(name, &kind, resources, held, of)?;
        manage(admin, action::ASSIGN, kind.code, id, number).await.map_err(failed)?;
    }
    let index = before.vfn - 1;
    // From here on it may be online, whatever the answer is.
    shared.functions.0.borrow_mut().insert(index);
    manage(admin, action::ONLINE, 0, id, 0).await.map_err(failed)?;
    let now = find(shared, admin, index, PREPARE).await?;
    let (queues, vectors) = (now.nvq.saturating_sub(1), now.nvi);
    if now.scs & 1 == 0 || queues == 0 || vectors < WANTED_INTERRUPTS {
        let problem = format!(
            "secondary controller {id} is not of use: state {:#x}, {} queues, {vectors} interrupts",
            now.scs, now.nvq
        );
        return Err(broken(name, PREPARE, problem));
    }
    Ok(VirtualResources { queues, vectors })
}

/// How many resources a function gets.
fn share(
    device: &Arc<str>,
    kind: &Kind,
    resources: &Resources,
    held: u16,
    of: u16,
) -> Result<u16, DriverError> {
    let (name, total) = (kind.name, resources.total);
    let usable = total.saturating_sub(resources.primary.into());
    let left = usable.saturating_sub(resources.assigned.saturating_sub(held.into()));
    let most = if resources.most == 0 { u16::MAX } else { resources.most };
    let fair = usable / u32::from(of.max(1));
    let number = fair.min(most.into()).max(kind.wanted.into());
    let granularity = u32::from(resources.granularity.max(1));
    let even = number - number % granularity;
    // Preferred only: rounding must not make it useless.
    let number = if even >= u32::from(kind.least) { even } else { number };
    if u32::from(kind.least) > left || kind.least > most {
        let problem = format!(
            "it needs {} {name} resources: {left} of {total} are left, {} are the physical \
             function's, and {most} is the most of one; enable fewer virtual functions, or start the \
             broker after enabling them",
            kind.least, resources.primary
        );
        return Err(broken(device, PREPARE, problem));
    }
    // No more than 65,535: `most` is in 16 bits.
    Ok(number.min(left).min(most.into()) as u16)
}

/// Takes a function's controller offline and its resources back.
pub(super) async fn release(shared: &Shared, index: u16) -> Result<(), DriverError> {
    let admin = shared.admin()?;
    let capabilities = capabilities(&admin, shared.name(), RELEASE).await?;
    let found = find(shared, &admin, index, RELEASE).await?;
    let done = off(&admin, &capabilities, found.scid).await;
    done.map_err(|error| shared.failed(error, RELEASE))?;
    shared.functions.0.borrow_mut().remove(&index);
    tracing::info!(device = %shared.name(), index, "virtual function offline");
    Ok(())
}

async fn off(
    admin: &AdminQueue,
    capabilities: &PrimaryCapabilities,
    id: u16,
) -> Result<(), AdminError> {
    manage(admin, action::OFFLINE, 0, id, 0).await?;
    for kind in [QUEUES, INTERRUPTS] {
        if capabilities.crt & 1 << kind.code != 0 {
            manage(admin, action::ASSIGN, kind.code, id, 0).await?;
        }
    }
    Ok(())
}

/// Takes from the primary controller what it was allocated of the flexible resources, for they are
/// the virtual functions'. True if there was anything: it counts after the next reset (base 8.26.2).
pub(super) async fn give_up_flexible(
    admin: &AdminQueue,
    device: &Arc<str>,
) -> Result<bool, DriverError> {
    let step = "giving up flexible resources";
    let capabilities = match capabilities(admin, device, step).await {
        Ok(capabilities) => capabilities,
        Err(error) => {
            // Not every device with virtual functions has them managed by NVMe.
            tracing::debug!(%device, %error, "no flexible resources");
            return Ok(false);
        }
    };
    let mut any = false;
    for (kind, held) in
        [(QUEUES, capabilities.queues.primary), (INTERRUPTS, capabilities.interrupts.primary)]
    {
        if capabilities.crt & 1 << kind.code == 0 || held == 0 {
            continue;
        }
        any = true;
        manage(admin, action::PRIMARY_ALLOCATION, kind.code, capabilities.cntlid, 0)
            .await
            .map_err(|error| error.during(device, step))?;
    }
    Ok(any)
}

/// Primary Controller Capabilities. That there are any tells whether it has Virtualization
/// Management: not every controller that has says so in OACS.
async fn capabilities(
    admin: &AdminQueue,
    device: &Arc<str>,
    step: &'static str,
) -> Result<PrimaryCapabilities, DriverError> {
    let raw = identify::raw(admin, Cns::PRIMARY_CAPABILITIES, 0).await.map_err(|error| {
        if error.status().is_none() {
            return error.during(device, step);
        }
        let problem = format!("it does not manage virtual functions by NVMe ({error})");
        broken(device, step, problem)
    })?;
    identify::view(&raw).ok_or_else(|| broken(device, step, "the data structure is cut short"))
}

/// The secondary controller of a virtual function.
async fn find(
    shared: &Shared,
    admin: &AdminQueue,
    index: u16,
    step: &'static str,
) -> Result<SecondaryController, DriverError> {
    let number = index.checked_add(1);
    let mut first = 0;
    loop {
        let cdw10 = Identify10(0).with_cns(Cns::SECONDARY_CONTROLLERS.0).with_cntid(first).0;
        let sqe = Sqe { cdw10, ..Sqe::admin(AdminOpcode::IDENTIFY) };
        let fetched = admin.fetch(sqe, DATA, ADMIN_LIMIT).await;
        let (_, bytes) = fetched.map_err(|error| shared.failed(error, step))?;
        let list: SecondaryList = identify::view(&bytes)
            .ok_or_else(|| broken(shared.name(), step, "the data structure is cut short"))?;
        let entries = list.entries.get(..usize::from(list.count)).unwrap_or(&list.entries);
        if let Some(found) = entries.iter().find(|entry| Some(entry.vfn) == number) {
            return Ok(*found);
        }
        let next = entries.last().and_then(|last| last.scid.checked_add(1));
        match next.filter(|next| *next > first) {
            Some(next) => first = next,
            None => {
                let problem = format!("no secondary controller is virtual function {}", index + 1);
                return Err(broken(shared.name(), step, problem));
            }
        }
    }
}

/// One Virtualization Management command (base 5.28).
async fn manage(
    admin: &AdminQueue,
    act: u8,
    kind: u8,
    controller: u16,
    number: u16,
) -> Result<(), AdminError> {
    let sqe = Sqe {
        cdw10: Virtualization10(0).with_act(act).with_rt(kind).with_cntlid(controller).0,
        cdw11: Virtualization11(0).with_nr(number).0,
        ..Sqe::admin(AdminOpcode::VIRTUALIZATION_MANAGEMENT)
    };
    admin.run(sqe, ADMIN_LIMIT).await.map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resources(total: u32, assigned: u32, primary: u16, most: u16) -> Resources {
        Resources { total, assigned, primary, most, granularity: 1, ..Resources::default() }
    }

    #[test]
    fn shares_are_even_and_never_useless() {
        let share = |resources, held, of| share(&"d".into(), &QUEUES, &resources, held, of);
        assert_eq!(share(resources(10, 0, 0, 5), 0, 2).unwrap(), 5);
        assert_eq!(share(resources(10, 5, 0, 0), 0, 2).unwrap(), 5);
        // What it holds itself counts as left.
        assert_eq!(share(resources(4, 4, 0, 2), 2, 2).unwrap(), 2);
        // Less than a useful share each: as many as there are get the least.
        assert_eq!(share(resources(6, 0, 0, 8), 0, 64).unwrap(), 2);
        let fine = Resources { granularity: 4, ..resources(30, 0, 0, 30) };
        assert_eq!(share(fine, 0, 3).unwrap(), 8);
        for none in [resources(4, 3, 0, 4), resources(4, 0, 4, 4), resources(4, 0, 0, 1)] {
            let error = share(none, 0, 1).unwrap_err().to_string();
            assert!(error.contains("needs 2 queue resources"), "{error}");
        }
    }
}
