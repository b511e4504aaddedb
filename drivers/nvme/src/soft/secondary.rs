//! Secondary controllers (base 8.26): software virtual functions.
//!
//! Each is a controller of its own, on a thread of its own and behind an IOMMU of its own, with the
//! namespaces of the primary controller. What the two share is a [`Secondary`]: whether it is online,
//! and with which resources. It is locked by the secondary controller for as long as it polls, so that
//! a controller that was taken offline does no DMA once the command that did it is complete.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use doorbell::soft::SoftCx;

use super::SoftNvme;
use super::namespace::Namespaces;
use super::options::{Config, OptionError};
use crate::spec::virtualization::{LEAST_INTERRUPTS, LEAST_QUEUES, SecondaryController};

/// Identifier of the primary controller; those of its secondary controllers follow.
pub(crate) const PRIMARY_ID: u16 = 1;

/// What a secondary controller was given, and by whom it is run.
#[derive(Debug, Default)]
pub(crate) struct State {
    pub(crate) online: bool,
    /// VQ and VI resources.
    pub(crate) queues: u16,
    pub(crate) interrupts: u16,
    /// Counts changes that reset the controller.
    epoch: u64,
    /// Counts the models that were made of it: only the last is the controller.
    owner: u64,
}

/// What the primary controller shares with one secondary.
#[derive(Debug)]
pub(crate) struct Secondary {
    index: u16,
    state: Mutex<State>,
}

impl Secondary {
    pub(crate) fn new(index: u16) -> Self {
        Self { index, state: Mutex::default() }
    }

    pub(crate) fn id(&self) -> u16 {
        PRIMARY_ID + 1 + self.index
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The entry of the list (base 5.17.2.14).
    pub(crate) fn entry(&self) -> SecondaryController {
        let state = self.lock();
        SecondaryController {
            scid: self.id(),
            pcid: PRIMARY_ID,
            scs: state.online.into(),
            vfn: self.index + 1,
            nvq: state.queues,
            nvi: state.interrupts,
            ..SecondaryController::default()
        }
    }
}

impl State {
    /// Takes it offline. False if it was not online.
    pub(crate) fn offline(&mut self) -> bool {
        self.epoch += u64::from(self.online);
        std::mem::replace(&mut self.online, false)
    }

    /// Takes it online; false if it has too little for that.
    pub(crate) fn go_online(&mut self) -> bool {
        if self.queues < LEAST_QUEUES || self.interrupts < LEAST_INTERRUPTS {
            return false;
        }
        self.epoch += u64::from(!self.online);
        self.online = true;
        true
    }
}

/// A secondary controller's end.
#[derive(Debug)]
pub(crate) struct Link {
    shared: Arc<Secondary>,
    /// The last [`State::epoch`] that was acted upon.
    epoch: u64,
    owner: u64,
}

/// What a controller may use of what it has.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Usable {
    /// I/O queue pairs, at least 1.
    pub(crate) queues: u16,
    /// Interrupt vectors.
    pub(crate) vectors: u16,
}

impl SoftNvme {
    /// The model of a secondary controller.
    pub(crate) fn secondary(&self, index: u16) -> Result<Option<Self>, OptionError> {
        let Some(shared) = self.secondaries.get(usize::from(index)) else { return Ok(None) };
        let config = Config {
            queues: self.config.vf_queues,
            vfs: 0,
            injections: Vec::new(),
            ..self.config.clone()
        };
        let namespaces = Namespaces::of(self.namespaces.iter().map(|(_, ns)| ns.share()).collect());
        let mut controller = Self::with(config, self.serial.clone(), namespaces)?;
        let owner = {
            let mut state = shared.lock();
            state.owner += 1;
            state.owner
        };
        controller.regs.offline = true;
        // No epoch is this one: what there is now is acted upon first of all.
        controller.link = Some(Link { shared: Arc::clone(shared), epoch: u64::MAX, owner });
        Ok(Some(controller))
    }

    /// This controller's identifier.
    pub(crate) fn id(&self) -> u16 {
        self.link.as_ref().map_or(PRIMARY_ID, |link| link.shared.id())
    }

    /// Does `work` as the controller that it is at this moment: a secondary controller is neither
    /// taken offline nor online meanwhile.
    #[inline]
    pub(crate) fn steadily<R>(
        &mut self,
        cx: &mut SoftCx,
        work: impl FnOnce(&mut Self, &mut SoftCx) -> R,
    ) -> R {
        let Some(mut link) = self.link.take() else { return work(self, cx) };
        let shared = Arc::clone(&link.shared);
        let state = shared.lock();
        if state.owner != link.owner {
            // Another model is this controller now.
            if !std::mem::replace(&mut self.regs.gone, true) {
                self.power_on_reset(cx);
                self.regs.gone = true;
            }
        } else if state.epoch != link.epoch {
            link.epoch = state.epoch;
            let queues = state.queues.saturating_sub(1).min(self.config.queues).max(1);
            let vectors = state.interrupts.min(self.vector_count());
            self.usable = Usable { queues, vectors };
            self.power_on_reset(cx);
            self.regs.offline = !state.online;
        }
        self.link = Some(link);
        let done = work(self, cx);
        drop(state);
        done
    }

    /// Takes every secondary controller offline: the primary is reset or shut down (base 8.26.3).
    /// With `power` their resources are as after power-on too.
    pub(crate) fn secondaries_offline(&self, power: bool) {
        for secondary in &self.secondaries {
            let state = &mut *secondary.lock();
            state.offline();
            if power {
                (state.queues, state.interrupts) = (0, 0);
            }
        }
    }

    /// True if a secondary controller is online.
    pub(crate) fn any_secondary_online(&self) -> bool {
        self.secondaries.iter().any(|secondary| secondary.lock().online)
    }
}
