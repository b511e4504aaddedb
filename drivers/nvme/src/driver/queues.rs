//! I/O queue pairs on the controller (base 2.0, 5.4 to 5.7).
//!
//! Created completion queue first, deleted submission queue first. A pair that is only half there
//! (a deletion that timed out between the two) is remembered as that, so that trying again ends it.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::time::Duration;

use doorbell::deadline::Deadline;
use doorbell::driver::QueueMemory;

use super::admin_queue::AdminQueue;
use super::error::AdminError;
use crate::spec::command::{CreateCq11, CreateQueue10, CreateSq11};
use crate::spec::{AdminOpcode, Sqe, Status};

/// Which halves of a pair exist on the controller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Pair {
    submission: bool,
    completion: bool,
}

/// The pairs that exist.
#[derive(Debug, Default)]
pub(super) struct IoQueues {
    pairs: RefCell<BTreeMap<u16, Pair>>,
}

/// A pair to be created.
#[derive(Debug, Clone, Copy)]
pub(super) struct NewPair {
    pub(super) id: u16,
    /// Entries of each ring, 2 to 65,536.
    pub(super) entries: u32,
    pub(super) memory: QueueMemory,
    /// Interrupt vector.
    pub(super) vector: u16,
}

impl IoQueues {
    /// True if no pair exists, not even half of one.
    pub(super) fn is_empty(&self) -> bool {
        self.pairs.borrow().is_empty()
    }

    /// True if the pair exists, or half of it.
    pub(super) fn has(&self, id: u16) -> bool {
        self.pairs.borrow().contains_key(&id)
    }

    /// After a reset: none exists any more.
    pub(super) fn clear(&self) {
        self.pairs.borrow_mut().clear();
    }

    fn set(&self, id: u16, submission: bool, completion: bool) {
        let pairs = &mut *self.pairs.borrow_mut();
        if submission || completion {
            pairs.insert(id, Pair { submission, completion });
        } else {
            pairs.remove(&id);
        }
    }

    /// Creates a pair, or nothing: what there is of a pair that could not be made whole is deleted.
    ///
    /// # Errors
    /// What the controller said. `Stuck` if a half-made pair could not be deleted: the controller
    /// may know of its memory until it is reset.
    pub(super) async fn create(
        &self,
        admin: &AdminQueue,
        new: NewPair,
        limit: Duration,
    ) -> Result<(), AdminError> {
        if self.has(new.id) {
            return Err(AdminError::Defect("this I/O queue pair exists already"));
        }
        // Recorded before the commands: a queue whose creation has no known outcome must be deleted.
        self.set(new.id, false, true);
        let mut made = admin.run(create_completion(&new), limit).await;
        if made.is_ok() {
            self.set(new.id, true, true);
            made = admin.run(create_submission(&new), limit).await;
        }
        let Err(error) = made else { return Ok(()) };
        match self.delete(admin, new.id, Deadline::after(limit)).await {
            Ok(()) => Err(error),
            Err(stuck) => {
                tracing::error!(queue = new.id, %stuck, "a half-made queue pair cannot be deleted");
                let what = format!("half of queue {} to be deleted", new.id);
                Err(AdminError::Stuck(Deadline::after(limit).timed_out(what)))
            }
        }
    }

    /// Deletes a pair: when this returns `Ok`, the controller uses neither its rings nor any memory
    /// that its commands named (base 2.0, 5.7: commands in flight were completed or aborted).
    pub(super) async fn delete(
        &self,
        admin: &AdminQueue,
        id: u16,
        deadline: Deadline,
    ) -> Result<(), AdminError> {
        let Some(pair) = self.pairs.borrow().get(&id).copied() else { return Ok(()) };
        // A command that outlives its limit takes half as long again to be aborted.
        let limit = || deadline.remaining() * 2 / 3;
        if pair.submission {
            gone(admin.run(delete(AdminOpcode::DELETE_IO_SQ, id), limit()).await)?;
            self.set(id, false, pair.completion);
        }
        if pair.completion {
            gone(admin.run(delete(AdminOpcode::DELETE_IO_CQ, id), limit()).await)?;
            self.set(id, false, false);
        }
        Ok(())
    }
}

/// A queue that the controller does not know is as good as deleted.
fn gone(deleted: Result<u32, AdminError>) -> Result<(), AdminError> {
    match deleted {
        Err(error) if error.status().is_some_and(|s| s.is(Status::INVALID_QUEUE_ID)) => Ok(()),
        other => other.map(drop),
    }
}

fn queue10(new: &NewPair) -> u32 {
    CreateQueue10(0).with_qid(new.id).with_qsize((new.entries - 1) as u16).0
}

fn create_completion(new: &NewPair) -> Sqe {
    let cdw11 = CreateCq11(0).with_pc(true).with_ien(true).with_iv(new.vector).0;
    let sqe = Sqe::admin(AdminOpcode::CREATE_IO_CQ);
    Sqe { prp1: new.memory.completion, cdw10: queue10(new), cdw11, ..sqe }
}

fn create_submission(new: &NewPair) -> Sqe {
    let cdw11 = CreateSq11(0).with_pc(true).with_cqid(new.id).0;
    let sqe = Sqe::admin(AdminOpcode::CREATE_IO_SQ);
    Sqe { prp1: new.memory.submission, cdw10: queue10(new), cdw11, ..sqe }
}

fn delete(opcode: AdminOpcode, id: u16) -> Sqe {
    Sqe { cdw10: CreateQueue10(0).with_qid(id).0, ..Sqe::admin(opcode) }
}
