//! Enable, disable, shutdown, reset (base 3.5, 3.6, 3.7).
//!
//! Nothing here waits: a transition that must wait for file operations under way is made by a later
//! poll. A disabled controller is not enabled again before the last of them has ended, so a write
//! from before a reset never lands after one that came later.

use doorbell::soft::SoftCx;

use super::SoftNvme;
use super::inject::InjectKind;
use super::registers::Request;
use super::rings::{Cq, Sq};
use crate::spec::regs::offset;

/// Where the controller is on the way from disabled to enabled and back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    /// CC.EN is 0, CSTS.RDY is 0.
    Off,
    /// CC.EN is 1; CSTS.RDY follows.
    Starting,
    /// CC.EN is 1, CSTS.RDY is 1.
    On,
    /// CC.EN is 0; CSTS.RDY becomes 0 when nothing is under way.
    Stopping,
    /// A shutdown was asked for; CSTS.SHST follows when the caches are flushed.
    ShuttingDown {
        /// The flush has been started.
        flushing: bool,
        /// The controller was enabled.
        on: bool,
    },
}

impl SoftNvme {
    /// Does what a register write asked for.
    pub(crate) fn request(&mut self, cx: &mut SoftCx, request: Request) {
        match request {
            Request::None => {}
            Request::Enable => self.phase = Phase::Starting,
            Request::Disable => {
                self.secondaries_offline(false);
                self.stop(cx);
                self.phase = Phase::Stopping;
            }
            Request::Shutdown => {
                self.secondaries_offline(false);
                let on = self.phase == Phase::On;
                self.regs.set_shutdown(false);
                self.phase = Phase::ShuttingDown { flushing: false, on };
            }
        }
        self.advance(cx);
    }

    /// Makes the transition that is due, if it can be made. True if it was.
    pub(crate) fn advance(&mut self, cx: &mut SoftCx) -> bool {
        match self.phase {
            Phase::Off | Phase::On => return false,
            Phase::Starting => {
                if !self.jobs.idle() || self.inject.holds_always(InjectKind::NeverReady) {
                    return false;
                }
                self.start_up(cx);
                self.phase = Phase::On;
            }
            Phase::Stopping => {
                if !self.jobs.idle() {
                    return false;
                }
                self.regs.disabled();
                self.phase = Phase::Off;
            }
            Phase::ShuttingDown { flushing: false, on } => {
                let flushing = self.jobs.flush_all(&mut self.namespaces);
                self.phase = Phase::ShuttingDown { flushing, on };
                return flushing;
            }
            Phase::ShuttingDown { flushing: true, on } => {
                if !self.jobs.idle() {
                    return false;
                }
                self.regs.set_shutdown(true);
                self.phase = if on { Phase::On } else { Phase::Off };
            }
        }
        true
    }

    /// CC.EN became 1: the admin queues come into being, or a fatal status does.
    fn start_up(&mut self, cx: &mut SoftCx) {
        self.silence(cx);
        self.regs.disabled();
        if self.inject.holds_always(InjectKind::Fatal) {
            self.regs.set_fatal();
            return;
        }
        let queues = self.regs.latch();
        let doorbells = (
            self.doorbell(cx, self.regs.cap.sq_doorbell(0)),
            self.doorbell(cx, self.regs.cap.cq_doorbell(0)),
        );
        let (Some(queues), (Ok(tail), Ok(head))) = (queues, doorbells) else {
            self.regs.set_fatal();
            return;
        };
        self.queues.insert_cq(0, Cq::new(queues.acq, queues.acq_size, Some(0), head));
        self.queues.insert_sq(0, Sq::new(queues.asq, queues.asq_size, 0, tail));
        self.regs.set_ready();
    }

    /// All queues go, and with them everything that was to be completed. From here on there is no
    /// DMA and no interrupt.
    fn stop(&mut self, cx: &mut SoftCx) {
        self.queues.clear();
        self.shadow = None;
        self.jobs.orphan_all();
        self.deletions.clear();
        self.held.clear();
        self.changed.clear();
        self.warned = 0;
        self.events = super::events::Events::new();
        self.features = self.default_features();
        self.silence(cx);
    }

    /// Zeroes all doorbells: their values are those of queues that are gone.
    fn silence(&mut self, cx: &SoftCx) {
        if let Some(bar) = cx.doorbells(0) {
            let start = offset::DOORBELLS as usize;
            // In bounds: the doorbells are the end of the BAR.
            let _ = bar.fill(start, bar.len().saturating_sub(start), 0);
        }
    }

    /// As after power-on, but for what is in the namespaces.
    pub(crate) fn power_on_reset(&mut self, cx: &mut SoftCx) {
        self.stop(cx);
        self.regs.power_on();
        self.phase = Phase::Off;
        self.inject_at_start();
    }

    /// Faults that hold from the beginning.
    pub(crate) fn inject_at_start(&mut self) {
        self.regs.gone = self.inject.holds_always(InjectKind::AllOnes);
        if self.inject.holds_always(InjectKind::Fatal) {
            self.regs.set_fatal();
        }
    }
}
