//! Abort (base 5.1).

use doorbell::soft::SoftCx;

use crate::soft::SoftNvme;
use crate::soft::command::{Failure, Origin, Outcome, Reply};
use crate::spec::command::Abort10;
use crate::spec::{Sqe, Status};

/// Completion dword 0: the command was not aborted.
const NOT_ABORTED: u32 = 1;

impl SoftNvme {
    /// Aborts a command if it can be stopped: one that waits for a slot, a read or a flush of a file,
    /// a format, an Asynchronous Event Request. Its completion comes before the Abort's.
    ///
    /// Aborts complete at once, so their limit (Identify Controller: ACL) is never exceeded.
    pub(super) fn abort(&mut self, cx: &mut SoftCx, sqe: &Sqe) -> Reply {
        let (sqid, cid) = (Abort10(sqe.cdw10).sqid(), Abort10(sqe.cdw10).cid());
        let aborted = Failure::new(Status::ABORT_REQUESTED);
        if let Some(origin) = self.take_stalled(sqid, cid) {
            self.complete(cx, origin, Err(aborted));
            return Ok(Outcome::Done(0));
        }
        if let Some(origin) = self.stop_one(|origin| origin.sqid == sqid && origin.cid == cid) {
            self.complete(cx, origin, Err(aborted));
            return Ok(Outcome::Done(0));
        }
        let waiting = self.events.abort(cid).filter(|_| sqid == 0);
        if let Some(origin) = waiting {
            self.complete_parked(cx, origin, Err(aborted));
            return Ok(Outcome::Done(0));
        }
        Ok(Outcome::Done(NOT_ABORTED))
    }

    /// A command that was fetched and waits for a job slot.
    fn take_stalled(&mut self, sqid: u16, cid: u16) -> Option<Origin> {
        self.queues.stalled(sqid).filter(|sqe| sqe.cid == cid)?;
        self.queues.take_stalled(sqid).map(|sqe| Origin::of(sqid, &sqe))
    }

    /// Stops one command under way that `matches`, if there is one that can be stopped. The caller
    /// completes it.
    pub(crate) fn stop_one(&mut self, matches: impl Fn(&Origin) -> bool) -> Option<Origin> {
        if let Some(at) = self.held.iter().position(&matches) {
            return Some(self.held.swap_remove(at));
        }
        self.jobs.abort(matches)
    }
}
