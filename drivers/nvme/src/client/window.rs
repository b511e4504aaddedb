//! A request that takes several commands: a sliding window over its parts.
//!
//! The parts go into the queue in ascending order, up to [`WIDTH`] at a time. They are awaited
//! oldest first, and each that is done lets the next one in. If one fails, no more are submitted,
//! those in flight are still awaited, and the error is that of the lowest LBA that failed.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use doorbell::dma::{DmaBox, DmaShared};
use doorbell_queues::{RejectReason, Rejected};

use super::Nvme;
use super::error::{IoError, NvmeError};
use super::mode::{Mode, Tagged};
use super::payload::Payload;
use super::request::Request;

/// Commands of one request that are in flight at once. A future has room for them, so it is kept
/// small; a part is a good hundred microseconds of work for a device.
const WIDTH: usize = 4;

/// # Invariants
/// * Part number `n` in flight is in `sent[n % WIDTH]`; those are the parts `done .. submitted`.
/// * No part is submitted once `error` is `Some`.
pub(super) struct Window<'n, M: Mode> {
    sent: [Option<M::InFlight<'n>>; WIDTH],
    /// Parts submitted.
    submitted: u64,
    /// Parts awaited: they have completed, or are lost.
    done: u64,
    buffer: Option<DmaShared<[u8]>>,
    error: Option<Box<NvmeError>>,
}

/// A window with no part in flight: it waits for a slot.
pub(super) struct Stalled {
    submitted: u64,
    buffer: Option<DmaShared<[u8]>>,
    error: Option<Box<NvmeError>>,
}

/// How far a window came.
pub(super) enum Progress {
    /// Every part is done; [`Window::finish`] has the output.
    Over,
    /// No part is in flight and none could be submitted: a slot must become free.
    NoSlot,
}

impl<'n, M: Mode> Window<'n, M> {
    pub(super) fn new(buffer: Option<DmaShared<[u8]>>) -> Self {
        Self { sent: [const { None }; WIDTH], submitted: 0, done: 0, buffer, error: None }
    }

    fn in_flight(&self) -> u64 {
        self.submitted - self.done
    }

    fn place(part: u64) -> usize {
        (part % WIDTH as u64) as usize
    }

    /// Submits parts until the window or the queue is full.
    pub(super) fn fill(&mut self, nvme: &'n Nvme<M>, request: &Request) {
        while self.error.is_none() && self.in_flight() < WIDTH as u64 {
            let Some(part) = request.part(self.submitted) else { return };
            let base = self.buffer.as_ref().map(DmaShared::iova);
            let payload = self.buffer.as_ref().map_or_else(Payload::nothing, Payload::share);
            match request.submit(nvme, part, base, payload) {
                Ok(command) => {
                    self.sent[Self::place(self.submitted)] = Some(command);
                    self.submitted += 1;
                }
                Err(Rejected { reason: RejectReason::Full(_), .. }) => return,
                Err(Rejected { reason: RejectReason::Ended(error), .. }) => {
                    self.error = Some(Box::new(error.into()));
                }
            }
        }
    }

    pub(super) fn poll(
        &mut self,
        nvme: &'n Nvme<M>,
        request: &Request,
        cx: &mut Context<'_>,
    ) -> Poll<Progress> {
        loop {
            if self.in_flight() > 0 {
                ready!(self.await_oldest(nvme, request, cx));
            }
            self.fill(nvme, request);
            if self.in_flight() == 0 {
                let over = self.error.is_some() || request.part(self.submitted).is_none();
                return Poll::Ready(if over { Progress::Over } else { Progress::NoSlot });
            }
        }
    }

    /// Without its places for commands, of which none is taken.
    pub(super) fn stall(self) -> Stalled {
        let Self { submitted, buffer, error, .. } = self;
        Stalled { submitted, buffer, error }
    }

    /// With places for commands again.
    pub(super) fn resume(stalled: Stalled) -> Self {
        let Stalled { submitted, buffer, error } = stalled;
        Self { sent: [const { None }; WIDTH], submitted, done: submitted, buffer, error }
    }

    /// The wait for a slot failed.
    pub(super) fn fail(&mut self, error: NvmeError) {
        self.error.get_or_insert_with(|| Box::new(error));
    }

    fn await_oldest(
        &mut self,
        nvme: &'n Nvme<M>,
        request: &Request,
        cx: &mut Context<'_>,
    ) -> Poll<()> {
        let sent = &mut self.sent[Self::place(self.done)];
        if let Some(command) = sent {
            let tag = command.tag();
            let outcome = ready!(Pin::new(command).poll(cx));
            *sent = None;
            if !matches!(&outcome, Ok((outcome, _)) if outcome.status.is_success()) {
                let lba = request.lba_of(self.done);
                let (error, _share) = request.failed(nvme, tag, lba, outcome);
                self.fail(error);
            }
        }
        self.done += 1;
        Poll::Ready(())
    }

    /// Every part is done: the buffer is free, unless the queue keeps a share of it.
    pub(super) fn finish(self) -> Result<Option<DmaBox<[u8]>>, Box<IoError>> {
        let had_buffer = self.buffer.is_some();
        let buffer = self.buffer.and_then(|shared| shared.into_box().ok());
        match self.error {
            Some(error) => Err(Box::new(IoError { error: *error, buffer })),
            None if had_buffer && buffer.is_none() => {
                Err(Box::new(IoError { error: NvmeError::StillShared, buffer }))
            }
            None => Ok(buffer),
        }
    }
}

impl<M: Mode> fmt::Debug for Window<'_, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Window").field("in_flight", &self.in_flight()).finish_non_exhaustive()
    }
}
