//! The error log (base 5.16.1.2).

use std::collections::VecDeque;

use super::command::{Failure, Origin};
use crate::spec::ErrorLogEntry;

/// Entries that are kept (Identify Controller: ELPE + 1).
pub(crate) const ENTRIES: usize = 64;

/// The latest errors.
#[derive(Debug)]
pub(crate) struct ErrorLog {
    /// Newest first.
    entries: VecDeque<ErrorLogEntry>,
    /// Errors over the controller's life.
    pub(crate) count: u64,
}

impl ErrorLog {
    pub(crate) fn new() -> Self {
        Self { entries: VecDeque::with_capacity(ENTRIES), count: 0 }
    }

    /// A command failed.
    pub(crate) fn command(&mut self, origin: Origin, failure: &Failure) {
        self.push(ErrorLogEntry {
            sqid: origin.sqid,
            cid: origin.cid,
            status_phase: failure.status.0 << 1,
            location: failure.location,
            lba: failure.lba,
            nsid: origin.nsid,
            ..ErrorLogEntry::default()
        });
    }

    /// Something failed that is no command: `status` is the nearest there is, `specific` says more
    /// (for a doorbell: its queue identifier in the upper, its value in the lower half).
    pub(crate) fn other(&mut self, failure: &Failure, specific: u64) {
        self.push(ErrorLogEntry {
            sqid: 0xffff,
            cid: 0xffff,
            status_phase: failure.status.0 << 1,
            location: 0xffff,
            command_specific: specific,
            ..ErrorLogEntry::default()
        });
    }

    fn push(&mut self, entry: ErrorLogEntry) {
        self.count += 1;
        if self.entries.len() == ENTRIES {
            self.entries.pop_back();
        }
        self.entries.push_front(ErrorLogEntry { error_count: self.count, ..entry });
    }

    /// The log page: unused entries are zero.
    pub(crate) fn page(&self) -> [ErrorLogEntry; ENTRIES] {
        let mut page = [ErrorLogEntry::default(); ENTRIES];
        page.iter_mut().zip(&self.entries).for_each(|(to, from)| *to = *from);
        page
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::Status;

    #[test]
    fn the_newest_comes_first_and_the_oldest_goes() {
        let mut log = ErrorLog::new();
        for cid in 0..70 {
            let origin = Origin { sqid: 1, cid, nsid: 1 };
            log.command(origin, &Failure::field(Status::INVALID_FIELD, 40, 2));
        }
        let page = log.page();
        assert_eq!((page[0].cid, page[0].error_count), (69, 70));
        assert_eq!((page[63].cid, page[63].error_count), (6, 7));
        assert_eq!(page[0].location, 2 << 8 | 40);
        assert_eq!(page[0].status_phase >> 1, Status::INVALID_FIELD.dnr().0);
    }
}
