//! Format NVM (base 5.14; NVM 4.1.2): the checks. The work is a job.

use crate::soft::SoftNvme;
use crate::soft::command::{Failure, Origin, Outcome, Reply, byte};
use crate::soft::jobs::{Formatting, Kind};
use crate::spec::command::Format10;
use crate::spec::{Sqe, Status};

/// Secure erase settings (base 5.14).
mod ses {
    pub(super) const NONE: u8 = 0;
    pub(super) const USER_DATA: u8 = 1;
}

impl SoftNvme {
    pub(super) fn format(&mut self, origin: Origin, sqe: &Sqe) -> Reply {
        let cdw10 = Format10(sqe.cdw10);
        // User data is always erased; there is no key to erase (FNA bit 2).
        if !matches!(cdw10.ses(), ses::NONE | ses::USER_DATA) {
            return Err(Failure::invalid(byte::CDW10 + 1, 1));
        }
        if self.any_secondary_online() {
            // Their commands use the old block size.
            return Err(Failure::new(Status::SEQUENCE_ERROR));
        }
        let format = cdw10.lbafl() | cdw10.lbafu() << 4;
        let named = self.namespaces.named(sqe.nsid)?;
        for ns in named.clone().filter_map(|nsid| self.namespaces.get(nsid)) {
            if format >= ns.formats() || cdw10.pi() != 0 || cdw10.mset() {
                return Err(Failure::field(Status::INVALID_FORMAT, byte::CDW10, 0));
            }
            ns.writable()?;
            if ns.formatting.is_some() {
                return Err(Failure::new(Status::FORMAT_IN_PROGRESS));
            }
        }
        if self.jobs.full() {
            return Ok(Outcome::Busy);
        }
        let (first, last) = (*named.start(), *named.end());
        let format = Formatting::begin(&mut self.namespaces, first, last, format);
        self.jobs.start(&mut self.namespaces, Some(origin), 0, Kind::Format(format), |_| {});
        Ok(Outcome::Pending)
    }
}
