//! Pollers of clients: what a client says of its threads, for `status`.
//!
//! Everything here is the client's word. Nothing is decided by it: a name is cut, numbers are shown, and
//! the counters' page is read, never mapped, and only when somebody asks for the status.

use std::os::fd::{AsFd, OwnedFd};

use super::records::{Poller, Session};
use super::unit::Unit;
use crate::dma::Memfd;
use crate::poll::{PollerCounters, PollerState};
use crate::wire::{Limit, PollerAbout, PollerStatus, Refusal, Reply};

/// The most characters of what a client says.
const NAME: usize = 64;
const TROUBLE: usize = 200;

fn cut(text: &str, most: usize) -> String {
    text.chars().filter(|c| !c.is_control()).take(most).collect()
}

impl Unit {
    pub(super) fn report_poller(
        &self,
        session: u64,
        poller: u32,
        about: PollerAbout,
        fds: Vec<OwnedFd>,
    ) -> Result<Reply, Refusal> {
        let Some(fd) = fds.into_iter().next() else {
            return Err(Refusal::Protocol("a poller without its counters".to_owned()));
        };
        let page = self.sealed_memfd(fd)?;
        let about = PollerAbout {
            name: cut(&about.name, NAME),
            trouble: cut(&about.trouble, TROUBLE),
            ..about
        };
        let records = &mut *self.records.borrow_mut();
        if let Some(found) = records.sessions.get_mut(&session) {
            // The places of those that have ended are free. A client that says so of one that has not
            // loses a line of its status.
            found.pollers.retain(|number, old| *number != poller && !old.has_ended());
        }
        records.granting(session, &self.name)?;
        self.check_quota(records, session, Limit::Pollers, 1)?;
        if let Some(found) = records.sessions.get_mut(&session) {
            found.pollers.insert(poller, Poller::new(about, page));
        }
        Ok(Reply::Done)
    }

    pub(super) fn polled_by(
        &self,
        session: u64,
        queue: u16,
        poller: u32,
    ) -> Result<Reply, Refusal> {
        let records = &mut *self.records.borrow_mut();
        let Some(found) = records.queue_mut(session, queue) else {
            return Err(Refusal::NotYours { queue });
        };
        found.poller = Some(poller);
        Ok(Reply::Done)
    }
}

impl Poller {
    pub(super) fn new(about: PollerAbout, page: Memfd) -> Self {
        Self { about, page }
    }

    /// What its page says now, if it can be read.
    fn counters(&self) -> Option<PollerCounters> {
        PollerCounters::read(self.page.as_fd()).ok()
    }

    fn has_ended(&self) -> bool {
        self.counters().is_none_or(|counters| counters.state == PollerState::Ended)
    }
}

impl Session {
    /// Its pollers that have not ended, with the queues that they serve.
    pub(super) fn poller_status(&self) -> Vec<PollerStatus> {
        let alive = self.pollers.iter().filter(|(_, poller)| !poller.has_ended());
        let status = alive.map(|(number, poller)| {
            let served = self.queues.iter().filter(|(_, queue)| queue.poller == Some(*number));
            PollerStatus {
                about: poller.about.clone(),
                queues: served.map(|(id, _)| *id).collect(),
                counters: poller.counters(),
            }
        });
        status.collect()
    }
}
