//! Asynchronous events (base 5.2): what happened, who waits for it, what is masked.

use super::command::{Failure, Origin};
use crate::spec::event::{error, kind, notice, smart};
use crate::spec::{AsyncEvent, LogId, Status};

/// Asynchronous Event Requests that may be outstanding (Identify Controller: AERL + 1).
pub(crate) const REQUESTS: usize = 4;

/// Every event that this controller can raise; each is pending at most once, so what a host that
/// does not listen can pile up is bounded.
const KNOWN: [AsyncEvent; 5] = [
    event(kind::ERROR, error::INVALID_DOORBELL_REGISTER, LogId::ERROR),
    event(kind::ERROR, error::INVALID_DOORBELL_VALUE, LogId::ERROR),
    event(kind::ERROR, error::TRANSIENT_INTERNAL, LogId::ERROR),
    event(kind::SMART, smart::TEMPERATURE, LogId::SMART),
    event(kind::NOTICE, notice::NAMESPACE_ATTRIBUTE_CHANGED, LogId::CHANGED_NAMESPACES),
];

/// The doorbell of a queue that does not exist was written.
pub(crate) const BAD_DOORBELL: AsyncEvent = KNOWN[0];
/// A doorbell was written with a value that cannot be.
pub(crate) const BAD_VALUE: AsyncEvent = KNOWN[1];
/// A queue's memory cannot be reached.
pub(crate) const QUEUE_LOST: AsyncEvent = KNOWN[2];
/// The temperature crossed a threshold.
pub(crate) const TEMPERATURE: AsyncEvent = KNOWN[3];
/// A namespace changed.
pub(crate) const NAMESPACE_CHANGED: AsyncEvent = KNOWN[4];

const fn event(kind: u8, info: u8, page: LogId) -> AsyncEvent {
    AsyncEvent(0).with_kind(kind).with_info(info).with_log_page(page.0)
}

/// Events and the requests that wait for them.
#[derive(Debug, Default)]
pub(crate) struct Events {
    waiting: Vec<Origin>,
    /// Bit `n`: `KNOWN[n]` happened and was not reported.
    pending: u8,
    /// Bit `n`: events of type `n` were reported, and their log page was not read since.
    masked: u8,
}

impl Events {
    pub(crate) fn new() -> Self {
        Self { waiting: Vec::with_capacity(REQUESTS), ..Self::default() }
    }

    /// An Asynchronous Event Request.
    ///
    /// # Errors
    /// "Asynchronous Event Request Limit Exceeded".
    pub(crate) fn request(&mut self, origin: Origin) -> Result<(), Failure> {
        if self.waiting.len() == REQUESTS {
            return Err(Failure::new(Status::ASYNC_EVENT_LIMIT_EXCEEDED.dnr()));
        }
        self.waiting.push(origin);
        Ok(())
    }

    /// Something happened.
    pub(crate) fn raise(&mut self, event: AsyncEvent) {
        if let Some(index) = KNOWN.iter().position(|known| *known == event) {
            self.pending |= 1 << index;
        }
    }

    /// True if [`Events::report`] may have something to say.
    #[inline]
    pub(crate) fn any(&self) -> bool {
        self.pending != 0 && !self.waiting.is_empty()
    }

    /// The next report: which request, and dword 0 of its completion. The type is masked from then
    /// on (base 5.2).
    pub(crate) fn report(&mut self) -> Option<(Origin, AsyncEvent)> {
        let open = |index: &usize| {
            self.pending & 1 << index != 0 && self.masked & 1 << KNOWN[*index].kind() == 0
        };
        let index = (0..KNOWN.len()).find(open)?;
        if self.waiting.is_empty() {
            return None;
        }
        let origin = self.waiting.remove(0);
        self.pending &= !(1 << index);
        self.masked |= 1 << KNOWN[index].kind();
        Some((origin, KNOWN[index]))
    }

    /// A report could not be posted: it is to be made again.
    pub(crate) fn put_back(&mut self, origin: Origin, event: AsyncEvent) {
        self.waiting.insert(0, origin);
        self.masked &= !(1 << event.kind());
        self.raise(event);
    }

    /// A log page was read without Retain Asynchronous Event: its type may be reported again.
    pub(crate) fn log_read(&mut self, page: LogId) {
        for known in KNOWN.iter().filter(|known| known.log_page() == page.0) {
            self.masked &= !(1 << known.kind());
        }
    }

    /// Takes back the request with this identifier, if it waits.
    pub(crate) fn abort(&mut self, cid: u16) -> Option<Origin> {
        let at = self.waiting.iter().position(|origin| origin.cid == cid)?;
        Some(self.waiting.remove(at))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn origin(cid: u16) -> Origin {
        Origin { sqid: 0, cid, nsid: 0 }
    }

    #[test]
    fn a_type_is_reported_once_until_its_log_was_read() {
        let mut events = Events::new();
        events.raise(BAD_VALUE);
        assert!(events.report().is_none());
        events.request(origin(1)).unwrap();
        events.request(origin(2)).unwrap();
        assert_eq!(events.report(), Some((origin(1), BAD_VALUE)));
        events.raise(BAD_VALUE);
        assert!(events.report().is_none());
        events.raise(NAMESPACE_CHANGED);
        assert_eq!(events.report(), Some((origin(2), NAMESPACE_CHANGED)));
        events.log_read(LogId::ERROR);
        events.request(origin(3)).unwrap();
        assert_eq!(events.report(), Some((origin(3), BAD_VALUE)));
    }

    #[test]
    fn requests_are_limited_and_can_be_aborted() {
        let mut events = Events::new();
        (0..4).for_each(|cid| events.request(origin(cid)).unwrap());
        assert!(events.request(origin(4)).is_err());
        assert_eq!(events.abort(2), Some(origin(2)));
        assert_eq!(events.abort(2), None);
        events.request(origin(5)).unwrap();
    }
}
