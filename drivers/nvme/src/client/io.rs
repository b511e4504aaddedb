//! [`Io`] and [`Done`]: the futures of one request, which may be several commands.
//!
//! The first command (as many as fit, for a long request) is placed in the queue when the future is
//! made, so that a batch of futures reaches the device with one doorbell at the first poll. A
//! request longer than one command is a sliding window ([`super::window`]). Nothing is allocated.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use doorbell::dma::DmaBox;
use doorbell_queues::{RejectReason, Rejected, SlotFree};

use super::Nvme;
use super::error::{IoError, NvmeError};
use super::payload::Payload;
use super::request::{Command, Request};
use super::window::Window;
use crate::protocol::NvmeProtocol;

/// A wait for a free slot.
pub(super) type FreeSlot<'n> = SlotFree<'n, NvmeProtocol, Payload>;

/// A request on its way. The buffer is in a command's slot or in here, in one place at a time.
enum State<'n> {
    /// It was refused, or the queue had ended.
    Refused(IoError),
    /// Every slot was in flight.
    Waiting { slot: FreeSlot<'n>, payload: Payload },
    /// One command has it all.
    One(Command<'n>),
    /// Several commands share it.
    Many(Window<'n>),
    /// The output was given out.
    Over,
}

/// What [`Io`] and [`Done`] are made of.
pub(super) struct Transfer<'n> {
    nvme: &'n Nvme,
    request: Request,
    state: State<'n>,
}

type Output = Result<Option<DmaBox<[u8]>>, IoError>;

impl<'n> Transfer<'n> {
    /// A request that was refused.
    #[cold]
    pub(super) fn refused(
        nvme: &'n Nvme,
        request: Request,
        error: NvmeError,
        buffer: Option<DmaBox<[u8]>>,
    ) -> Self {
        Self { nvme, request, state: State::Refused(IoError { error, buffer }) }
    }

    /// Starts a request whose extent was checked; `buffer` has the extent's length, if it moves data.
    #[inline]
    pub(super) fn start(nvme: &'n Nvme, request: Request, buffer: Option<DmaBox<[u8]>>) -> Self {
        let shared = buffer.map(DmaBox::into_shared);
        let state = if request.is_single() {
            let payload = shared.map_or_else(Payload::nothing, Payload::whole);
            Self::place(nvme, &request, payload)
        } else {
            let mut window = Window::new(shared);
            window.fill(nvme, &request);
            State::Many(window)
        };
        Self { nvme, request, state }
    }

    /// Places the only command of a request.
    #[inline]
    fn place(nvme: &'n Nvme, request: &Request, payload: Payload) -> State<'n> {
        let base = payload.iova();
        match request.submit(nvme, request.whole(), base, payload) {
            Ok(command) => State::One(command),
            Err(rejected) => Self::turned_away(nvme, rejected),
        }
    }

    #[cold]
    fn turned_away(nvme: &'n Nvme, rejected: Rejected<Payload>) -> State<'n> {
        let Rejected { reason, buffer: payload } = rejected;
        match reason {
            RejectReason::Full(_) => State::Waiting { slot: nvme.queue().slot_free(), payload },
            // It never was with the device, so the buffer comes back whatever the device does.
            RejectReason::Ended(error) => {
                State::Refused(IoError { error: error.into(), buffer: payload.into_buffer() })
            }
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Output> {
        loop {
            match &mut self.state {
                State::One(command) => {
                    let tag = command.tag();
                    let done = ready!(Pin::new(command).poll(cx));
                    self.state = State::Over;
                    let lba = self.request.whole().lba;
                    let (result, payload) = self.request.result(self.nvme, tag, lba, done);
                    let buffer = payload.and_then(Payload::into_buffer);
                    return Poll::Ready(match result {
                        Ok(()) => Ok(buffer),
                        Err(error) => Err(IoError { error, buffer }),
                    });
                }
                State::Many(window) => {
                    let output = ready!(window.poll(self.nvme, &self.request, cx));
                    self.state = State::Over;
                    return Poll::Ready(output);
                }
                State::Waiting { slot, .. } => {
                    let free = ready!(Pin::new(slot).poll(cx));
                    self.go_on(free);
                }
                State::Refused(_) | State::Over => return Poll::Ready(self.give_out()),
            }
        }
    }

    /// The wait for a slot is over.
    #[cold]
    fn go_on(&mut self, free: Result<(), doorbell_queues::QueueError>) {
        let State::Waiting { payload, .. } = std::mem::replace(&mut self.state, State::Over) else {
            return;
        };
        self.state = match free {
            Ok(()) => Self::place(self.nvme, &self.request, payload),
            Err(error) => {
                State::Refused(IoError { error: error.into(), buffer: payload.into_buffer() })
            }
        };
    }

    #[cold]
    fn give_out(&mut self) -> Output {
        match std::mem::replace(&mut self.state, State::Over) {
            State::Refused(error) => Err(error),
            State::Over | State::Waiting { .. } | State::One(_) | State::Many(_) => Err(IoError {
                error: NvmeError::Misused("a future was polled after it was ready"),
                buffer: None,
            }),
        }
    }
}

impl fmt::Debug for Transfer<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = match &self.state {
            State::Refused(_) => "refused",
            State::Waiting { .. } => "waiting for a slot",
            State::One(_) => "one command",
            State::Many(_) => "several commands",
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
#[derive(Debug)]
#[must_use = "a request that nobody awaits reaches the device at the next flush, and its outcome is lost"]
pub struct Io<'n>(pub(super) Transfer<'n>);

impl Future for Io<'_> {
    type Output = Result<DmaBox<[u8]>, IoError>;

    #[inline]
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Poll::Ready(match ready!(self.0.poll(cx)) {
            Ok(Some(buffer)) => Ok(buffer),
            Ok(None) => Err(IoError {
                error: NvmeError::Misused("something else holds the buffer's memory"),
                buffer: None,
            }),
            Err(error) => Err(error),
        })
    }
}

/// A command without data on its way: a flush, or zeroes.
///
/// Placed in the queue when this is made; dropping it at any point is safe, and the device executes
/// it all the same.
#[derive(Debug)]
#[must_use = "a request that nobody awaits reaches the device at the next flush, and its outcome is lost"]
pub struct Done<'n>(pub(super) Transfer<'n>);

impl Future for Done<'_> {
    type Output = Result<(), NvmeError>;

    #[inline]
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Poll::Ready(match ready!(self.0.poll(cx)) {
            Ok(_) => Ok(()),
            Err(failed) => Err(failed.error),
        })
    }
}
