//! All queues of the controller: who exists, who completes where, fetching and completing.

use doorbell::dma::Fault;
use doorbell::soft::SoftCx;

use super::rings::{BadHead, Cq, Life, Lost, Sq};
use crate::spec::{Cqe, Sqe, Status};

/// All queues of the controller, by identifier.
#[derive(Debug)]
pub(crate) struct Queues {
    sqs: Vec<Option<Sq>>,
    cqs: Vec<Option<Cq>>,
    /// Identifiers of the submission queues that exist, ascending: the polling order.
    pub(crate) active: Vec<u16>,
    /// Per submission queue that is stalled: the command that could not be started.
    stash: Vec<Sqe>,
    /// A completion queue had no room at the last look: someone must look again.
    pub(crate) starved: bool,
}

/// What an attempt to fetch a command came to.
#[derive(Debug)]
pub(crate) enum Fetch {
    /// A command, for which a completion entry is taken. True if it was stalled before.
    Command(bool),
    /// There is none, or the queue does not fetch.
    None,
    /// The completion queue is full. If its head doorbell holds what it cannot: that.
    Full(Option<BadHead>),
    /// The entry cannot be read.
    Lost(Fault),
}

impl Queues {
    /// Room for `io_queues` I/O queue pairs and the admin queues.
    pub(crate) fn new(io_queues: u16) -> Self {
        let count = usize::from(io_queues) + 1;
        Self {
            sqs: (0..count).map(|_| None).collect(),
            cqs: (0..count).map(|_| None).collect(),
            active: Vec::with_capacity(count),
            stash: vec![Sqe::default(); count],
            starved: false,
        }
    }

    #[inline]
    pub(crate) fn sq(&mut self, id: u16) -> Option<&mut Sq> {
        self.sqs.get_mut(usize::from(id))?.as_mut()
    }

    #[inline]
    pub(crate) fn cq(&mut self, id: u16) -> Option<&mut Cq> {
        self.cqs.get_mut(usize::from(id))?.as_mut()
    }

    /// Fetches the next command of a queue into `sqe`, if its completion can be posted.
    #[inline]
    pub(crate) fn fetch(&mut self, cx: &mut SoftCx, sqid: u16, sqe: &mut Sqe) -> Fetch {
        let Some(sq) = self.sqs.get_mut(usize::from(sqid)).and_then(Option::as_mut) else {
            return Fetch::None;
        };
        if sq.life != Life::Running {
            return self.unstall(sqid, sqe);
        }
        if sq.is_empty() {
            return Fetch::None;
        }
        let Some(cq) = self.cqs.get_mut(usize::from(sq.cqid)).and_then(Option::as_mut) else {
            return Fetch::None;
        };
        if !cq.has_room() {
            let looked = cq.look(cx);
            if !cq.has_room() {
                self.starved = true;
                return Fetch::Full(looked.err());
            }
        }
        if let Err(fault) = sq.take(cx, sqe) {
            return Fetch::Lost(fault);
        }
        cq.reserve();
        Fetch::Command(false)
    }

    /// Takes up the command of a stalled queue again.
    #[cold]
    fn unstall(&mut self, sqid: u16, sqe: &mut Sqe) -> Fetch {
        match self.take_stalled(sqid) {
            Some(stalled) => *sqe = stalled,
            None => return Fetch::None,
        }
        Fetch::Command(true)
    }

    /// The command that a queue is stalled on. The queue goes on without it.
    pub(crate) fn take_stalled(&mut self, sqid: u16) -> Option<Sqe> {
        let sq = self.sq(sqid).filter(|sq| sq.life == Life::Stalled)?;
        sq.life = Life::Running;
        self.stash.get(usize::from(sqid)).copied()
    }

    /// A command that was fetched cannot be started now: the queue waits for it.
    pub(crate) fn stall(&mut self, sqid: u16, sqe: &Sqe) {
        if let Some(stash) = self.stash.get_mut(usize::from(sqid)) {
            *stash = *sqe;
        }
        if let Some(sq) = self.sq(sqid) {
            sq.life = Life::Stalled;
        }
    }

    /// The command that a queue is stalled on, if any.
    pub(crate) fn stalled(&mut self, sqid: u16) -> Option<&Sqe> {
        self.sq(sqid).filter(|sq| sq.life == Life::Stalled)?;
        self.stash.get(usize::from(sqid))
    }

    /// Posts the completion of a command that was fetched.
    ///
    /// # Errors
    /// [`Lost`] if the completion queue's memory cannot be reached; it is dead from then on.
    #[inline]
    pub(crate) fn complete(
        &mut self,
        cx: &mut SoftCx,
        (sqid, cid): (u16, u16),
        status: Status,
        dword: u32,
    ) -> Result<(), Lost> {
        let Some(sq) = self.sqs.get_mut(usize::from(sqid)).and_then(Option::as_mut) else {
            return Ok(());
        };
        sq.inflight -= 1;
        let cqid = sq.cqid;
        let cqe = Cqe { dw0: dword, ..Cqe::new(cid, sqid, sq.head as u16, status, false) };
        self.post(cx, cqid, cqe.words(), false)
    }

    /// Posts any completion in an entry that was taken.
    ///
    /// # Errors
    /// As [`Queues::complete`].
    #[inline]
    pub(crate) fn post(
        &mut self,
        cx: &mut SoftCx,
        cqid: u16,
        cqe: [u64; 2],
        flip: bool,
    ) -> Result<(), Lost> {
        let Some(cq) = self.cqs.get_mut(usize::from(cqid)).and_then(Option::as_mut) else {
            return Ok(());
        };
        cq.post(cx, cqe, flip).map_err(|fault| {
            cq.dead = true;
            Lost { admin: cqid == 0, fault }
        })
    }

    pub(crate) fn has_sq(&self, id: u16) -> bool {
        self.sqs.get(usize::from(id)).is_some_and(Option::is_some)
    }

    pub(crate) fn has_cq(&self, id: u16) -> bool {
        self.cqs.get(usize::from(id)).is_some_and(Option::is_some)
    }

    /// True if an I/O queue exists.
    pub(crate) fn any_io(&self) -> bool {
        self.sqs.iter().skip(1).any(Option::is_some) || self.cqs.iter().skip(1).any(Option::is_some)
    }

    pub(crate) fn insert_sq(&mut self, id: u16, sq: Sq) {
        if let Some(cq) = self.cq(sq.cqid) {
            cq.users += 1;
        }
        if let Some(slot) = self.sqs.get_mut(usize::from(id)) {
            *slot = Some(sq);
            self.active.push(id);
            self.active.sort_unstable();
        }
    }

    pub(crate) fn insert_cq(&mut self, id: u16, cq: Cq) {
        if let Some(slot) = self.cqs.get_mut(usize::from(id)) {
            *slot = Some(cq);
        }
    }

    pub(crate) fn remove_sq(&mut self, id: u16) {
        let Some(gone) = self.sqs.get_mut(usize::from(id)).and_then(Option::take) else { return };
        if let Some(cq) = self.cq(gone.cqid) {
            cq.users -= 1;
        }
        gone.retire();
        self.active.retain(|active| *active != id);
    }

    pub(crate) fn remove_cq(&mut self, id: u16) {
        if let Some(gone) = self.cqs.get_mut(usize::from(id)).and_then(Option::take) {
            gone.retire();
        }
    }

    /// A controller reset: no queue is left.
    pub(crate) fn clear(&mut self) {
        self.sqs.iter_mut().for_each(|slot| *slot = None);
        self.cqs.iter_mut().for_each(|slot| *slot = None);
        self.active.clear();
        self.starved = false;
    }

    /// Every I/O submission queue that exists, with its identifier.
    pub(crate) fn each_sq(&mut self, mut each: impl FnMut(u16, &mut Sq)) {
        for (sq, id) in self.sqs.iter_mut().zip(0..).skip(1) {
            if let Some(sq) = sq {
                each(id, sq);
            }
        }
    }

    /// Every completion queue that exists, with its identifier.
    pub(crate) fn each_cq(&mut self, mut each: impl FnMut(u16, &mut Cq)) {
        for (cq, id) in self.cqs.iter_mut().zip(0..) {
            if let Some(cq) = cq {
                each(id, cq);
            }
        }
    }

    /// Interrupts for every completion queue that needs one.
    pub(crate) fn signal_all(&mut self, cx: &mut SoftCx) {
        self.cqs.iter_mut().flatten().for_each(|cq| cq.signal(cx));
    }
}
