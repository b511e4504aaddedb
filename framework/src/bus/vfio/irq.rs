//! Interrupts: MSI-X, else MSI, by an eventfd for each vector.
//!
//! INTx is not used: it is masked by the kernel at each interrupt and must be unmasked by whoever
//! handled it, so it fits neither one vector for each queue nor clients that only wait.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::event::EventfdFlags;

use crate::bus::{BusError, Signals};

use super::function::Function;
use super::uapi;
use super::uapi::types::{Irq, flag};

/// The most vectors of a function (MSI-X).
const MOST: u32 = 2048;

/// The interrupts of a device.
#[derive(Debug)]
pub(super) struct Interrupts {
    irq: Option<Irq>,
    vectors: u16,
    dynamic: bool,
    signals: Mutex<BTreeMap<u16, OwnedFd>>,
}

impl Interrupts {
    /// Enables the interrupts that the device has; vectors signal nobody yet.
    ///
    /// # Errors
    /// [`BusError::Open`] if the kernel has no vector for it.
    pub(super) fn enable(function: &Function) -> Result<Self, BusError> {
        for irq in [Irq::Msix, Irq::Msi] {
            // An interrupt that the device does not have is an error or has no vectors.
            let Ok(info) = uapi::irq_info(function.as_fd(), irq) else { continue };
            if info.count == 0 || info.flags & flag::IRQ_EVENTFD == 0 {
                continue;
            }
            let dynamic = info.flags & flag::IRQ_NORESIZE == 0;
            let wanted = info.count.min(MOST);
            let enabled = allocate(function, irq, if dynamic { 1 } else { wanted })?;
            let vectors = if dynamic { wanted } else { enabled } as u16;
            return Ok(Self { irq: Some(irq), vectors, dynamic, signals: Mutex::default() });
        }
        Ok(Self { irq: None, vectors: 0, dynamic: false, signals: Mutex::default() })
    }

    /// How many vectors there are.
    pub(super) fn vectors(&self) -> u16 {
        self.vectors
    }

    /// True if vectors are allocated when they are first used.
    pub(super) fn dynamic(&self) -> bool {
        self.dynamic
    }

    /// For an operator.
    pub(super) fn describe(&self) -> String {
        let vectors = self.vectors;
        match (self.irq, self.dynamic) {
            (Some(Irq::Msix), true) => format!("MSI-X, {vectors} vectors, allocated when used"),
            (Some(Irq::Msix), false) => format!("MSI-X, {vectors} vectors"),
            (Some(_), _) => format!("MSI, {vectors} vector(s)"),
            (None, _) => "no MSI-X and no MSI: no interrupts".to_owned(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<u16, OwnedFd>> {
        self.signals.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The eventfd of a vector; the first time it is made and the vector told to signal it.
    pub(super) fn signals(&self, function: &Function, vector: u16) -> Result<Signals, BusError> {
        let device = || Arc::clone(function.name());
        let os = |what| move |source| BusError::Os { device: device(), what, source };
        let Some(irq) = self.irq else {
            return Err(BusError::Open {
                device: device(),
                step: "looking for an interrupt",
                problem: "it has neither MSI-X nor MSI, and INTx is not supported; poll instead"
                    .to_owned(),
            });
        };
        if vector >= self.vectors {
            return Err(BusError::Vector { device: device(), vector, vectors: self.vectors });
        }
        let signals = &mut *self.lock();
        let eventfd = match signals.entry(vector) {
            Entry::Occupied(there) => there.into_mut(),
            Entry::Vacant(place) => {
                let eventfd = eventfd().map_err(os("making an eventfd"))?;
                let trigger = [Some(eventfd.as_fd())];
                let done = uapi::set_triggers(function.as_fd(), irq, vector.into(), &trigger);
                let what = "directing an interrupt to an eventfd (VFIO_DEVICE_SET_IRQS)";
                if done.map_err(os(what))?.is_some() {
                    return Err(os(what)(std::io::Error::other("the system has no vector left")));
                }
                place.insert(eventfd)
            }
        };
        let interrupt = eventfd.try_clone().map_err(os("duplicating an eventfd"))?;
        Ok(Signals { interrupt, words: None })
    }

    /// Forgets the eventfd of a vector: whoever has it is not signalled any more.
    pub(super) fn retire(&self, function: &Function, vector: u16) {
        let (Some(irq), signals) = (self.irq, &mut *self.lock()) else { return };
        if signals.remove(&vector).is_none() {
            return;
        }
        if let Err(error) = uapi::set_triggers(function.as_fd(), irq, vector.into(), &[None]) {
            let device = function.name();
            tracing::warn!(%device, vector, %error, "a vector goes on signalling its eventfd");
        }
    }
}

/// An eventfd that neither blocks nor is inherited.
pub(super) fn eventfd() -> std::io::Result<OwnedFd> {
    let flags = EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK;
    Ok(rustix::event::eventfd(0, flags)?)
}

/// Enables an interrupt with vectors that signal nobody. Returns how many it got: the system may
/// have fewer left.
fn allocate(function: &Function, irq: Irq, wanted: u32) -> Result<u32, BusError> {
    let problem = |problem: String| BusError::Open {
        device: Arc::clone(function.name()),
        step: "enabling its interrupts (VFIO_DEVICE_SET_IRQS)",
        problem,
    };
    let attempt = |count: u32| {
        let none = vec![None; count as usize];
        uapi::set_triggers(function.as_fd(), irq, 0, &none)
            .map_err(|error| problem(format!("{error}; {count} vectors were asked for")))
    };
    match attempt(wanted)? {
        None => Ok(wanted),
        Some(left) if left < wanted => {
            let device = function.name();
            tracing::warn!(%device, wanted, left, "the system has too few interrupt vectors");
            match attempt(left)? {
                None => Ok(left),
                Some(_) => Err(problem("the system has no interrupt vector left".to_owned())),
            }
        }
        Some(_) => Err(problem("the system has no interrupt vector left".to_owned())),
    }
}
