//! Telling the broker which poller serves a queue, for its `status`.

use super::link::Link;
use crate::poll::Shared;
use crate::wire::Request;

impl Link {
    /// A queue was made on a poller. Nobody waits for the broker's answer: the queue works whether or
    /// not the broker keeps this.
    pub(super) fn polled_by(&self, queue: u16, poller: &Shared) {
        // A program has fewer pollers than that.
        let number = poller.number as u32;
        let first = self.state().pollers.insert(poller.number);
        if first && let Err(error) = self.report(number, poller) {
            tracing::debug!(%error, "the broker is not told of a poller");
        }
        self.post(&Request::PolledBy { queue, poller: number }, None);
    }

    fn report(&self, number: u32, poller: &Shared) -> Result<(), Box<dyn std::error::Error>> {
        let (about, page) = poller.report()?;
        let request = Request::ReportPoller { poller: number, about };
        Ok(self.enqueue(&request, vec![page], None, None, self.limit)?)
    }
}
