//! The admin queue: commands with a time limit that escalates.
//!
//! A command that outlives its limit is aborted (base 2.0, 5.1); if neither it nor the Abort
//! completes then, the controller is stuck and must be reset, which is the broker's decision: it
//! ends every client's queue. The data of a command lies in driver-owned memory that its slot keeps,
//! so giving up a wait never frees memory that the controller may still write.

use std::cell::Cell;
use std::sync::Arc;
use std::time::Duration;

use doorbell::bus::Device;
use doorbell::bus::device::QueueLayout;
use doorbell::deadline::Deadline;
use doorbell::dma::{DmaBox, DmaShared};
use doorbell::driver::{DriverError, rt};
use doorbell::wait;
use doorbell_queues::{EndReason, InFlight, Lost, Queue, RejectReason, Rejected, Tag};

use super::error::AdminError;
use crate::protocol::{NvmeProtocol, Outcome};
use crate::prp::{PageSize, describe};
use crate::spec::command::Abort10;
use crate::spec::regs::Cap;
use crate::spec::{AdminOpcode, Cqe, Sqe};

/// Entries of both rings.
pub(super) const ENTRIES: u16 = 64;
/// Commands in flight: one less than a ring has entries.
const SLOTS: u16 = ENTRIES - 1;
/// Slots that are kept for Asynchronous Event Requests and Aborts, so that clients' commands cannot
/// use up all.
const RESERVED: usize = 16;
/// How long an Abort, and after it the command that it aborts, may take at most: a quarter of the
/// command's own limit, and no more than this.
const ABORT: Duration = Duration::from_secs(2);

/// The most bytes of an admin command's data: one page, so that no PRP list is needed.
pub(super) const DATA: usize = 4096;

type Data = Option<DmaShared<[u8]>>;
type Pending<'q> = InFlight<'q, NvmeProtocol, Data>;

/// An admin queue of a controller that is up.
#[derive(Debug)]
pub(super) struct AdminQueue {
    queue: Queue<NvmeProtocol, Data>,
    device: Device,
    name: Arc<str>,
    page: PageSize,
    /// Commands in flight that are neither Aborts nor event requests.
    busy: Cell<usize>,
}

/// Where the rings are, for AQA, ASQ and ACQ.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rings {
    pub(super) submission: u64,
    pub(super) completion: u64,
}

/// What a command came to: dword 0 and its data.
pub(super) type Answer = (u32, Option<DmaBox<[u8]>>);

/// Counts a command for as long as it is waited for.
struct Busy<'q>(&'q Cell<usize>);

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

impl AdminQueue {
    /// Allocates the rings and the interrupt. The controller is not told.
    pub(super) fn new(
        device: &Device,
        cap: Cap,
        page: PageSize,
    ) -> Result<(Self, Rings), DriverError> {
        let layout = QueueLayout {
            queue: 0,
            submission_entries: ENTRIES.into(),
            submission_entry: size_of::<Sqe>(),
            completion_entries: ENTRIES.into(),
            completion_entry: size_of::<Cqe>(),
            region: 0,
            submission_doorbell: cap.sq_doorbell(0),
            completion_doorbell: cap.cq_doorbell(0),
            vector: 0,
            slots: SLOTS,
        };
        let own = device.own_queue(&layout, wait::interrupt)?;
        let rings = Rings { submission: own.submission_iova, completion: own.completion_iova };
        let name = device.name();
        let queue = Queue::new(own.parts).map_err(|bad| {
            super::error::broken(&name, "making the admin queue", bad.to_string())
        })?;
        Ok((Self { queue, device: device.clone(), name, page, busy: Cell::new(0) }, rings))
    }

    /// A zeroed buffer for a command's data.
    pub(super) fn data(&self, len: usize) -> Result<DmaBox<[u8]>, AdminError> {
        let mut buffer = self.device.alloc(len)?;
        buffer.fill(0);
        Ok(buffer)
    }

    /// Ends the queue: every command in flight fails with `reason`.
    pub(super) fn end(&self, reason: EndReason, quiesced: bool) {
        self.queue.end(reason, quiesced);
    }

    /// Executes a command without data.
    pub(super) async fn run(&self, sqe: Sqe, limit: Duration) -> Result<u32, AdminError> {
        self.execute(sqe, None, limit).await.map(|(dw0, _)| dw0)
    }

    /// Executes a command that returns up to [`DATA`] bytes.
    pub(super) async fn fetch(
        &self,
        sqe: Sqe,
        len: usize,
        limit: Duration,
    ) -> Result<(u32, DmaBox<[u8]>), AdminError> {
        let data = self.data(len.min(DATA))?;
        let (dw0, data) = self.execute(sqe, Some(data), limit).await?;
        data.map(|data| (dw0, data)).ok_or(AdminError::Defect("a command's data did not come back"))
    }

    /// Executes a command.
    pub(super) async fn execute(
        &self,
        sqe: Sqe,
        data: Option<DmaBox<[u8]>>,
        limit: Duration,
    ) -> Result<Answer, AdminError> {
        let deadline = Deadline::after(limit);
        let opcode = AdminOpcode(sqe.opcode);
        let _busy = self.admit(opcode, deadline).await?;
        let command = self.submit(sqe, data, deadline).await?;
        self.finish(command, opcode, deadline).await
    }

    /// Submits a command and waits for it without a limit: for Asynchronous Event Requests, which
    /// complete when there is an event, or never.
    pub(super) async fn wait_for_event(&self) -> Result<u32, AdminError> {
        let opcode = AdminOpcode::ASYNC_EVENT_REQUEST;
        let deadline = Deadline::after(ABORT);
        let command = self.submit(Sqe::admin(opcode), None, deadline).await?;
        settle(opcode, command.await).map(|(dw0, _)| dw0)
    }

    /// Waits until there is room for a command that is no Abort and no event request.
    async fn admit(&self, opcode: AdminOpcode, deadline: Deadline) -> Result<Busy<'_>, AdminError> {
        while self.busy.get() >= usize::from(SLOTS) - RESERVED {
            if deadline.expired() {
                return Err(AdminError::Busy(self.late(opcode, deadline)));
            }
            rt::sleep(Duration::from_millis(1)).await;
        }
        self.busy.set(self.busy.get() + 1);
        Ok(Busy(&self.busy))
    }

    fn late(&self, opcode: AdminOpcode, deadline: Deadline) -> doorbell::deadline::TimedOut {
        deadline.timed_out(format!("device {}, admin queue: {opcode:?}", self.name))
    }

    async fn submit(
        &self,
        sqe: Sqe,
        data: Option<DmaBox<[u8]>>,
        deadline: Deadline,
    ) -> Result<Pending<'_>, AdminError> {
        let opcode = AdminOpcode(sqe.opcode);
        let mut data: Data = data.map(DmaBox::into_shared);
        loop {
            let placed = self.queue.submit(data, |_, data| {
                let Some(data) = data else { return sqe };
                // At most one page, page-aligned: there is never a list.
                let prps = describe(self.page, data.iova(), data.len() as u64, 0, |_, _| {});
                Sqe { prp1: prps.prp1, prp2: prps.prp2, ..sqe }
            });
            match placed {
                Ok(command) => return Ok(command),
                Err(Rejected { reason: RejectReason::Ended(error), .. }) => {
                    return Err(error.into());
                }
                Err(Rejected { buffer, .. }) => data = buffer,
            }
            match rt::within(deadline, self.queue.slot_free()).await {
                Some(result) => result?,
                None => return Err(AdminError::Stuck(self.late(opcode, deadline))),
            }
        }
    }

    /// Waits for a command, and escalates when it takes too long.
    async fn finish(
        &self,
        mut command: Pending<'_>,
        opcode: AdminOpcode,
        deadline: Deadline,
    ) -> Result<Answer, AdminError> {
        if let Some(done) = rt::within(deadline, &mut command).await {
            return settle(opcode, done);
        }
        let late = self.late(opcode, deadline);
        tracing::warn!(device = %self.name, ?opcode, tag = %command.tag(), "{late}: aborting it");
        let patience = (deadline.limit() / 4).min(ABORT);
        let aborted = self.send_abort(0, command.tag(), Deadline::after(patience)).await;
        match rt::within(Deadline::after(patience), &mut command).await {
            Some(Ok((outcome, data))) if outcome.status.is_success() => {
                // It completed after all, before the Abort reached it.
                settle(opcode, Ok((outcome, data)))
            }
            Some(Ok(_)) => Err(AdminError::Aborted(late)),
            Some(Err(Lost { error, .. })) => Err(error.into()),
            None => {
                tracing::error!(device = %self.name, ?opcode, ?aborted, "{late}: the abort failed");
                Err(AdminError::Stuck(late))
            }
        }
    }

    /// Asks the controller to abort a command (base 2.0, 5.1). True if it says that it did.
    pub(super) async fn send_abort(
        &self,
        queue: u16,
        tag: Tag,
        deadline: Deadline,
    ) -> Result<bool, AdminError> {
        let opcode = AdminOpcode::ABORT;
        let cdw10 = Abort10(0).with_sqid(queue).with_cid(tag.0).0;
        let sqe = Sqe { cdw10, ..Sqe::admin(opcode) };
        let mut command = self.submit(sqe, None, deadline).await?;
        match rt::within(deadline, &mut command).await {
            // Bit 0 of dword 0 clear: it was aborted.
            Some(done) => settle(opcode, done).map(|(dw0, _)| dw0 & 1 == 0),
            None => Err(AdminError::Stuck(self.late(opcode, deadline))),
        }
    }
}

/// What a completion says.
fn settle(
    opcode: AdminOpcode,
    done: Result<(Outcome, Data), Lost<Data>>,
) -> Result<Answer, AdminError> {
    let (outcome, data) = done.map_err(|lost| lost.error)?;
    if !outcome.status.is_success() {
        return Err(AdminError::Status { opcode, status: outcome.status });
    }
    let Some(data) = data else { return Ok((outcome.dw0, None)) };
    match data.into_box() {
        Ok(data) => Ok((outcome.dw0, Some(data))),
        Err(_) => Err(AdminError::Defect("something else holds an admin command's data")),
    }
}
