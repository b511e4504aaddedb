//! Get Features and Set Features (base 5.15 and 5.27): the commands around the values.

use crate::soft::SoftNvme;
use crate::soft::command::{Outcome, Reply};
use crate::soft::events;
use crate::soft::features::Bounds;
use crate::spec::Sqe;

impl SoftNvme {
    pub(super) fn get_features(&mut self, sqe: &Sqe) -> Reply {
        let defaults = self.default_features();
        self.features.get(sqe, &defaults).map(Outcome::Done)
    }

    pub(super) fn set_features(&mut self, sqe: &Sqe) -> Reply {
        let warned = self.features.critical_warning();
        let bounds = Bounds { queues: self.usable.queues, in_use: self.queues.any_io() };
        let dword = self.features.set(sqe, bounds)?;
        // A threshold that the temperature has crossed already is an event, if it is asked for.
        let warning = self.features.critical_warning();
        if warning & self.features.events.smart() & !(warned & self.warned) != 0 {
            self.events.raise(events::TEMPERATURE);
        }
        self.warned = warning & self.features.events.smart();
        Ok(Outcome::Done(dword))
    }
}
