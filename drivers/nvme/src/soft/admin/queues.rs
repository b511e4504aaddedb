//! Create and Delete I/O Submission and Completion Queue (base 5.4 to 5.7).

use doorbell::queues::mem::Word32;
use doorbell::soft::SoftCx;

use crate::soft::SoftNvme;
use crate::soft::command::{Failure, Origin, Outcome, Reply, byte};
use crate::soft::rings::{Cq, Life, Sq};
use crate::spec::command::{CreateCq11, CreateQueue10, CreateSq11};
use crate::spec::{Prp, Sqe, Status};

/// A Delete I/O Submission Queue that waits for commands under way.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Deletion {
    pub(crate) origin: Origin,
    pub(crate) sqid: u16,
}

const BAD_QUEUE_ID: Failure = Failure::field(Status::INVALID_QUEUE_ID, byte::CDW10, 0);

impl SoftNvme {
    /// What the two Create commands have in common: size, contiguity and base.
    fn check_ring(&self, sqe: &Sqe, sizes_set: bool, contiguous: bool) -> Result<u32, Failure> {
        let size = u32::from(CreateQueue10(sqe.cdw10).qsize()) + 1;
        // "Invalid Queue Size" is also the answer to a CC without entry sizes (base 5.4, 5.5).
        if size < 2 || size > self.config.depth || !sizes_set {
            return Err(Failure::field(Status::INVALID_QUEUE_SIZE, byte::CDW10 + 2, 0));
        }
        // CAP.CQR is set.
        if !contiguous {
            return Err(Failure::invalid(byte::CDW11, 0));
        }
        if Prp(sqe.prp1).offset(self.regs.page_size()) != 0 {
            return Err(Failure::field(Status::INVALID_PRP_OFFSET, byte::PRP1, 0));
        }
        Ok(size)
    }

    pub(super) fn create_cq(&mut self, cx: &mut SoftCx, sqe: &Sqe) -> Reply {
        let (cdw10, cdw11) = (CreateQueue10(sqe.cdw10), CreateCq11(sqe.cdw11));
        let qid = cdw10.qid();
        let most = self.features.allocated().1;
        if qid == 0 || qid > most || self.queues.has_cq(qid) {
            return Err(BAD_QUEUE_ID);
        }
        let size = self.check_ring(sqe, self.regs.entry_sizes_set().1, cdw11.pc())?;
        if cdw11.ien() && cdw11.iv() >= self.usable.vectors {
            return Err(Failure::field(Status::INVALID_INTERRUPT_VECTOR, byte::CDW11 + 2, 0));
        }
        let doorbell = self.doorbell(cx, self.regs.cap.cq_doorbell(qid))?;
        let vector = cdw11.ien().then(|| cdw11.iv());
        let mut cq = Cq::new(sqe.prp1, size, vector, doorbell);
        if let Some(buffers) = self.shadow {
            cq.shadow = Some(buffers.attach(cx, self.regs.cap.cq_doorbell(qid), size)?);
        }
        self.queues.insert_cq(qid, cq);
        Ok(Outcome::Done(0))
    }

    pub(super) fn create_sq(&mut self, cx: &mut SoftCx, sqe: &Sqe) -> Reply {
        let (cdw10, cdw11) = (CreateQueue10(sqe.cdw10), CreateSq11(sqe.cdw11));
        let qid = cdw10.qid();
        let (most_sq, most_cq) = self.features.allocated();
        if qid == 0 || qid > most_sq || self.queues.has_sq(qid) {
            return Err(BAD_QUEUE_ID);
        }
        let cqid = cdw11.cqid();
        if cqid == 0 || cqid > most_cq {
            return Err(Failure::field(Status::INVALID_QUEUE_ID, byte::CDW11 + 2, 0));
        }
        if !self.queues.has_cq(cqid) {
            let status = Status::INVALID_COMPLETION_QUEUE;
            return Err(Failure::field(status, byte::CDW11 + 2, 0));
        }
        let size = self.check_ring(sqe, self.regs.entry_sizes_set().0, cdw11.pc())?;
        let doorbell = self.doorbell(cx, self.regs.cap.sq_doorbell(qid))?;
        let mut sq = Sq::new(sqe.prp1, size, cqid, doorbell);
        if let Some(buffers) = self.shadow {
            sq.shadow = Some(buffers.attach(cx, self.regs.cap.sq_doorbell(qid), size)?);
        }
        self.queues.insert_sq(qid, sq);
        Ok(Outcome::Done(0))
    }

    /// A doorbell's word in BAR0.
    pub(crate) fn doorbell(&self, cx: &SoftCx, offset: u64) -> Result<Word32, Failure> {
        let word = cx.doorbells(0).and_then(|bar| bar.word32(offset as usize).ok());
        // BAR0 was sized for all queues, so this is no answer that a host ever gets.
        word.ok_or(Failure::new(Status::INTERNAL_ERROR))
    }

    pub(super) fn delete_cq(&mut self, sqe: &Sqe) -> Reply {
        let qid = CreateQueue10(sqe.cdw10).qid();
        match self.queues.cq(qid).filter(|_| qid != 0) {
            None => Err(BAD_QUEUE_ID),
            Some(cq) if cq.users > 0 => {
                Err(Failure::field(Status::INVALID_QUEUE_DELETION, byte::CDW10, 0))
            }
            Some(_) => {
                self.queues.remove_cq(qid);
                Ok(Outcome::Done(0))
            }
        }
    }

    /// Deletes a submission queue. Commands that were not fetched are dropped; what was fetched and
    /// can be stopped is completed with "Command Aborted due to SQ Deletion"; the rest completes as
    /// it does, and the deletion after it.
    pub(super) fn delete_sq(&mut self, cx: &mut SoftCx, sqe: &Sqe) -> Reply {
        let qid = CreateQueue10(sqe.cdw10).qid();
        let live = |sq: &&mut Sq| qid != 0 && sq.life != Life::Deleting;
        if self.queues.sq(qid).filter(live).is_none() {
            return Err(BAD_QUEUE_ID);
        }
        if let Some(stalled) = self.queues.take_stalled(qid) {
            let origin = Origin::of(qid, &stalled);
            self.complete(cx, origin, Err(Failure::new(Status::ABORTED_SQ_DELETION)));
        }
        if let Some(sq) = self.queues.sq(qid) {
            sq.life = Life::Deleting;
        }
        while let Some(origin) = self.stop_one(|origin| origin.sqid == qid) {
            self.complete(cx, origin, Err(Failure::new(Status::ABORTED_SQ_DELETION)));
        }
        let origin = Origin::of(0, sqe);
        self.deletions.push(Deletion { origin, sqid: qid });
        Ok(Outcome::Pending)
    }

    /// Completes the deletions that nothing holds up any more.
    pub(crate) fn finish_deletions(&mut self, cx: &mut SoftCx) {
        let mut at = 0;
        while let Some(deletion) = self.deletions.get(at).copied() {
            if self.queues.sq(deletion.sqid).is_some_and(|sq| sq.inflight > 0) {
                at += 1;
                continue;
            }
            self.deletions.swap_remove(at);
            self.queues.remove_sq(deletion.sqid);
            self.complete(cx, deletion.origin, Ok(0));
        }
    }
}
