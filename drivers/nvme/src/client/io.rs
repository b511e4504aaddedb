//! [`Io`] and [`Done`]: the futures of one request, which may be several commands.
//!
//! The first command (as many as fit, for a long request) is placed in the queue when the future is
//! made, so that a batch of futures reaches the device with one doorbell at the first poll. A
//! request longer than one command is a sliding window ([`super::window`]). Nothing is allocated.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use doorbell::dma::{DmaBox, DmaShared};
use doorbell_queues::{RejectReason, Rejected};

use super::Nvme;
use super::error::{IoError, NvmeError};
use super::mode::{Mode, Single, Tagged};
use super::payload::Payload;
use super::request::Request;
use super::window::{Progress, Stalled, Window};

/// A request on its way. The buffer is in a command's slot or in here, in one place at a time.
enum State<'n, M: Mode> {
    /// It was refused, or the queue had ended.
    Refused(Box<IoError>),
    /// Every slot was in flight.
    Waiting { slot: M::SlotFree<'n>, payload: Payload },
    /// One command has it all.
    One(M::InFlight<'n>),
    /// Several commands share it.
    Many(Window<'n, M>),
    /// As `Many`, and it waits for a slot.
    ManyWaiting { slot: M::SlotFree<'n>, stalled: Stalled },
    /// The device has deleted the queue, says the status of a command: it ends, and the reason comes.
    Deleted { ending: M::Ending<'n>, buffer: Option<DmaBox<[u8]>> },
    /// The output was given out.
    Over,
}

/// What [`Io`] and [`Done`] are made of.
pub(super) struct Transfer<'n, M: Mode> {
    nvme: &'n Nvme<M>,
    request: Request,
    state: State<'n, M>,
}

type Output = Result<Option<DmaBox<[u8]>>, Box<IoError>>;

impl<'n, M: Mode> Transfer<'n, M> {
    /// Nothing yet: [`Transfer::begin`] or [`Transfer::refuse`] follows. A future is large, for several
    /// commands must fit in: it is made in its place and changed there, never moved.
    #[inline(always)]
    pub(super) fn new(nvme: &'n Nvme<M>, request: Request) -> Self {
        Self { nvme, request, state: State::Over }
    }

    /// It is refused.
    #[cold]
    pub(super) fn refuse(&mut self, error: NvmeError, buffer: Option<DmaBox<[u8]>>) {
        self.state = State::Refused(Box::new(IoError { error, buffer }));
    }

    /// Starts a request that was checked; `buffer` has the length of its blocks, if it moves data.
    #[inline(always)]
    pub(super) fn begin(&mut self, buffer: Option<DmaBox<[u8]>>) {
        let shared = buffer.map(DmaBox::into_shared);
        if !self.request.is_single() {
            return self.begin_many(shared);
        }
        let payload = shared.map_or_else(Payload::nothing, Payload::whole);
        let base = payload.iova();
        match self.request.submit(self.nvme, self.request.whole(), base, payload) {
            // The state before has nothing to drop: not to try saves the look.
            Ok(command) => std::mem::forget(self.replace(State::One(command))),
            Err(rejected) => self.state = Self::turned_away(self.nvme, rejected),
        }
    }

    #[inline(never)]
    fn begin_many(&mut self, buffer: Option<DmaShared<[u8]>>) {
        let mut window = Window::new(buffer);
        window.fill(self.nvme, &self.request);
        self.state = State::Many(window);
    }

    #[cold]
    fn turned_away(nvme: &'n Nvme<M>, rejected: Rejected<Payload>) -> State<'n, M> {
        let Rejected { reason, buffer: payload } = rejected;
        match reason {
            RejectReason::Full(_) => State::Waiting { slot: M::slot_free(nvme.queue()), payload },
            // It never was with the device, so the buffer comes back whatever the device does.
            RejectReason::Ended(error) => Self::lost(error.into(), payload),
        }
    }

    fn lost(error: NvmeError, payload: Payload) -> State<'n, M> {
        State::Refused(Box::new(IoError { error, buffer: payload.into_buffer() }))
    }

    #[inline(always)]
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Output> {
        let State::One(command) = &mut self.state else { return self.poll_slowly(cx) };
        let tag = command.tag();
        let done = ready!(Pin::new(command).poll(cx));
        // The future of a command that is done has nothing to drop.
        std::mem::forget(self.take());
        Poll::Ready(match done {
            Ok((outcome, payload)) if outcome.status.is_success() => Ok(payload.into_buffer()),
            failed => {
                let (error, payload) =
                    self.request.failed(self.nvme, tag, self.request.lba, failed);
                let buffer = payload.and_then(Payload::into_buffer);
                return self.failed(IoError { error, buffer }, cx);
            }
        })
    }

    /// [`Transfer::poll`] out of line.
    fn poll_one(&mut self, cx: &mut Context<'_>) -> Poll<Output> {
        self.poll(cx)
    }

    /// Only a broker deletes queues, and it says why; its word may come after the statuses of the
    /// commands that the deletion has aborted.
    #[cold]
    fn failed(&mut self, failed: IoError, cx: &mut Context<'_>) -> Poll<Output> {
        if !failed.error.is_deletion() {
            return Poll::Ready(Err(Box::new(failed)));
        }
        let ending = M::ending(self.nvme.queue());
        self.state = State::Deleted { ending, buffer: failed.buffer };
        self.poll_slowly(cx)
    }

    /// Everything but a single command in flight.
    #[inline(never)]
    fn poll_slowly(&mut self, cx: &mut Context<'_>) -> Poll<Output> {
        loop {
            match &mut self.state {
                State::Many(window) => {
                    let progress = ready!(window.poll(self.nvme, &self.request, cx));
                    let State::Many(window) = self.take() else { continue };
                    match progress {
                        Progress::Over => match window.finish() {
                            Err(failed) => return self.failed(*failed, cx),
                            done => return Poll::Ready(done),
                        },
                        Progress::NoSlot => {
                            let slot = M::slot_free(self.nvme.queue());
                            self.state = State::ManyWaiting { slot, stalled: window.stall() };
                        }
                    }
                }
                State::ManyWaiting { slot, .. } => {
                    let free = ready!(Pin::new(slot).poll(cx));
                    let State::ManyWaiting { stalled, .. } = self.take() else { continue };
                    let mut window = Window::resume(stalled);
                    if let Err(error) = free {
                        window.fail(error.into());
                    }
                    self.state = State::Many(window);
                }
                State::Waiting { slot, .. } => {
                    let free = ready!(Pin::new(slot).poll(cx));
                    let State::Waiting { payload, .. } = self.take() else { continue };
                    match free {
                        Ok(()) => self.place(payload),
                        Err(error) => self.state = Self::lost(error.into(), payload),
                    }
                }
                State::Deleted { ending, .. } => {
                    let error = ready!(Pin::new(ending).poll(cx)).into();
                    let State::Deleted { buffer, .. } = self.take() else { continue };
                    return Poll::Ready(Err(Box::new(IoError { error, buffer })));
                }
                State::One(_) => return self.poll_one(cx),
                State::Refused(_) | State::Over => {
                    return Poll::Ready(Err(match self.take() {
                        State::Refused(error) => error,
                        _ => Box::new(IoError { error: NvmeError::PolledAgain, buffer: None }),
                    }));
                }
            }
        }
    }

    #[inline(always)]
    fn replace(&mut self, state: State<'n, M>) -> State<'n, M> {
        std::mem::replace(&mut self.state, state)
    }

    #[inline(always)]
    fn take(&mut self) -> State<'n, M> {
        self.replace(State::Over)
    }

    /// A slot may be free: places the only command of the request.
    fn place(&mut self, payload: Payload) {
        let base = payload.iova();
        let placed = self.request.submit(self.nvme, self.request.whole(), base, payload);
        self.state = match placed {
            Ok(command) => State::One(command),
            Err(rejected) => Self::turned_away(self.nvme, rejected),
        };
    }
}

impl<M: Mode> fmt::Debug for Transfer<'_, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = match &self.state {
            State::Refused(_) => "refused",
            State::Waiting { .. } => "waiting for a slot",
            State::One(_) => "one command",
            State::Many(_) | State::ManyWaiting { .. } => "several commands",
            State::Deleted { .. } => "its queue is deleted",
            State::Over => "over",
        };
        f.debug_struct("Transfer")
            .field("request", &self.request)
            .field("state", &state)
            .finish_non_exhaustive()
    }
}

/// A read, write or compare on its way. It owns its buffer and gives it back when it is done.
///
/// The commands are placed in the queue when this is made, and the device is told at the first poll
/// (or by [`Nvme::flush`]). Dropping it at any point is safe: the device finishes what it has, and
/// the buffer returns to its pool then.
#[must_use = "a request that nobody awaits reaches the device at the next flush, and its outcome is lost"]
pub struct Io<'n, M: Mode = Single>(pub(super) Transfer<'n, M>);

impl<M: Mode> fmt::Debug for Io<'_, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Io").field(&self.0).finish()
    }
}

impl<M: Mode> Future for Io<'_, M> {
    type Output = Result<DmaBox<[u8]>, IoError>;

    #[inline]
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Poll::Ready(match ready!(self.0.poll(cx)) {
            Ok(Some(buffer)) => Ok(buffer),
            Ok(None) => Err(IoError { error: NvmeError::StillShared, buffer: None }),
            Err(error) => Err(*error),
        })
    }
}

/// A command without data on its way: a flush, or zeroes.
///
/// Placed in the queue when this is made; dropping it at any point is safe, and the device executes
/// it all the same.
#[must_use = "a request that nobody awaits reaches the device at the next flush, and its outcome is lost"]
pub struct Done<'n, M: Mode = Single>(pub(super) Transfer<'n, M>);

impl<M: Mode> fmt::Debug for Done<'_, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Done").field(&self.0).finish()
    }
}

impl<M: Mode> Future for Done<'_, M> {
    type Output = Result<(), NvmeError>;

    #[inline]
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Poll::Ready(match ready!(self.0.poll(cx)) {
            Ok(_) => Ok(()),
            Err(failed) => Err(failed.error),
        })
    }
}
