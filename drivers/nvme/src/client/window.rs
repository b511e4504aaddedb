//! A request that takes several commands: a sliding window over its parts.
//!
//! The parts go into the queue in ascending order, up to [`WIDTH`] at a time. They are awaited
//! oldest first, and each that is done lets the next one in. If one fails, no more are submitted,
//! those in flight are still awaited, and the error is that of the lowest LBA that failed.

use std::fmt;
use std::future::Future;
use std::iter::Peekable;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use doorbell::dma::{DmaBox, DmaShared};
use doorbell_queues::{RejectReason, Rejected};

use super::Nvme;
use super::error::{IoError, NvmeError};
use super::extent::{Lba, Parts};
use super::io::FreeSlot;
use super::payload::Payload;
use super::request::{Command, Request};

/// Commands of one request that are in flight at once.
const WIDTH: usize = 4;

/// A part in flight.
struct Sent<'n> {
    command: Command<'n>,
    lba: Lba,
}

/// # Invariants
/// * `sent[oldest]` and the `count - 1` after it, cyclically, are `Some`; the others are `None`.
/// * No part is submitted once `error` is `Some`.
pub(super) struct Window<'n> {
    parts: Peekable<Parts>,
    sent: [Option<Sent<'n>>; WIDTH],
    oldest: usize,
    count: usize,
    buffer: Option<DmaShared<[u8]>>,
    error: Option<NvmeError>,
    /// A wait for a slot, when no part is in flight that could free one.
    waiting: Option<FreeSlot<'n>>,
}

impl<'n> Window<'n> {
    pub(super) fn new(request: &Request, buffer: Option<DmaShared<[u8]>>) -> Self {
        Self {
            parts: request.parts().peekable(),
            sent: [const { None }; WIDTH],
            oldest: 0,
            count: 0,
            buffer,
            error: None,
            waiting: None,
        }
    }

    /// Submits parts until the window or the queue is full.
    pub(super) fn fill(&mut self, nvme: &'n Nvme, request: &Request) {
        while self.error.is_none() && self.count < WIDTH {
            let Some(&part) = self.parts.peek() else { return };
            let base = self.buffer.as_ref().map(DmaShared::iova);
            let payload = self.buffer.as_ref().map_or_else(Payload::nothing, Payload::share);
            match request.submit(nvme, part, base, payload) {
                Ok(command) => {
                    self.parts.next();
                    let at = (self.oldest + self.count) % WIDTH;
                    self.sent[at] = Some(Sent { command, lba: part.lba });
                    self.count += 1;
                }
                Err(Rejected { reason: RejectReason::Full(_), .. }) => return,
                Err(Rejected { reason: RejectReason::Ended(error), .. }) => {
                    self.error = Some(error.into());
                }
            }
        }
    }

    pub(super) fn poll(
        &mut self,
        nvme: &'n Nvme,
        request: &Request,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Option<DmaBox<[u8]>>, IoError>> {
        loop {
            if self.count > 0 {
                ready!(self.await_oldest(nvme, request, cx));
            } else if self.error.is_some() || self.parts.peek().is_none() {
                return Poll::Ready(self.finish());
            } else {
                ready!(self.await_slot(nvme, cx));
            }
            self.fill(nvme, request);
            if self.count > 0 {
                self.waiting = None;
            }
        }
    }

    fn await_oldest(
        &mut self,
        nvme: &'n Nvme,
        request: &Request,
        cx: &mut Context<'_>,
    ) -> Poll<()> {
        let Some(Sent { command, lba }) = &mut self.sent[self.oldest] else {
            return Poll::Ready(());
        };
        let (tag, lba) = (command.tag(), *lba);
        let done = ready!(Pin::new(command).poll(cx));
        self.sent[self.oldest] = None;
        self.oldest = (self.oldest + 1) % WIDTH;
        self.count -= 1;
        let (result, share) = request.result(nvme, tag, lba, done);
        drop(share);
        if let (Err(error), None) = (result, &self.error) {
            self.error = Some(error);
        }
        Poll::Ready(())
    }

    fn await_slot(&mut self, nvme: &'n Nvme, cx: &mut Context<'_>) -> Poll<()> {
        let slot = self.waiting.get_or_insert_with(|| nvme.queue().slot_free());
        if let Err(error) = ready!(Pin::new(slot).poll(cx)) {
            self.error = Some(error.into());
            self.waiting = None;
        }
        Poll::Ready(())
    }

    /// Every part is done: the buffer is free, unless the queue keeps a share of it.
    fn finish(&mut self) -> Result<Option<DmaBox<[u8]>>, IoError> {
        let had_buffer = self.buffer.is_some();
        let buffer = self.buffer.take().and_then(|shared| shared.into_box().ok());
        match self.error.take() {
            Some(error) => Err(IoError { error, buffer }),
            None if had_buffer && buffer.is_none() => {
                Err(IoError { error: NvmeError::Misused("something else holds the buffer's memory"), buffer })
            }
            None => Ok(buffer),
        }
    }
}

impl fmt::Debug for Window<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Window").field("in_flight", &self.count).finish_non_exhaustive()
    }
}
