//! Models of everything that threads share in this mode, explored by loom under the C11 memory model.
//! They run the mode's own code on loom's atomics and cells; loom reports two threads at one cell.
//!
//! * [`batons`]: work that is asked for is done, and nobody else is at it;
//! * [`reservation`]: slots, what is staged for them, and places in a ring that wraps;
//! * [`ringing`]: no entry is left unrung, and none is rung before it is whole;
//! * [`parking`]: no wake-up is lost, and a buffer is handed back exactly once.
//!
//! For each a model with a mistake must fail, so that the models are known to bite. Where three
//! threads take part the number of preemptions is bounded, as loom's documentation advises.

use core::sync::atomic::Ordering;

use super::bells::Bell;
use crate::loom_models::LoomWord;
use crate::mem::Word;

mod batons;
mod parking;
mod reservation;
mod ringing;

/// Runs a model with at most so many preemptions in each of its executions.
fn bounded(preemptions: usize, model: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(preemptions);
    builder.check(model);
}

impl Bell for LoomWord {
    fn store(&self, value: u32) -> bool {
        Word::store(self, value, Ordering::Release);
        false
    }

    fn kick(&self) {}
}
