//! [`SharedInFlight`]: the future of one command of a shared queue.

use core::fmt;
use core::future::Future;
use core::pin::Pin;
use core::task::{Context, Poll};

use super::SharedQueue;
use super::cell::{Command, WakerSet};
use super::reaper::Reaper;
use crate::error::{Lost, QueueError};
use crate::protocol::{QueueProtocol, Tag};
use crate::queue::ROUNDS;
use crate::wait::Parked;

pub(super) type CommandOf<'q, P, B> = Command<'q, <P as QueueProtocol>::Outcome, B, Reaper<P>>;

/// A command that the device has, or will have at the next flush. It may move to another thread.
///
/// Polling it tells the device of everything submitted and reaps the queue for everyone, unless
/// another thread is at it: nobody waits for that one. It spins within the queue's budget; if
/// completions came, but only for others, it lets those run and asks to be polled again; if none
/// came, it arms the interrupt, looks once more, and parks.
///
/// Dropping it orphans the command: the device finishes it, and its buffer is dropped at the
/// completion, by the thread that reaps it. Leaking it (`mem::forget`) costs its slot and its buffer
/// for as long as the queue lives, and nothing else.
///
/// The output is the outcome with the buffer, or [`Lost`] if the queue ended or can no longer be
/// waited for. Polling it again after that is a defect of the caller and panics.
#[must_use = "a command that nobody awaits is only submitted at the next flush, and its outcome lost"]
pub struct SharedInFlight<'q, P: QueueProtocol, B> {
    queue: &'q SharedQueue<P, B>,
    command: CommandOf<'q, P, B>,
    /// Whether this future has flushed: the device was told, or someone saw to it.
    told: bool,
    /// [`Parked::since`] of its task.
    since: Option<u64>,
}

impl<P: QueueProtocol, B> fmt::Debug for SharedInFlight<'_, P, B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let done = !self.command.is_live();
        f.debug_struct("SharedInFlight").field("tag", &self.tag()).field("done", &done).finish()
    }
}

type Output<P, B> = Result<(<P as QueueProtocol>::Outcome, B), Lost<B>>;

impl<'q, P: QueueProtocol, B> SharedInFlight<'q, P, B> {
    #[inline]
    pub(super) fn new(queue: &'q SharedQueue<P, B>, command: CommandOf<'q, P, B>) -> Self {
        Self { queue, command, told: false, since: None }
    }

    /// The command's tag, for an abort.
    #[inline]
    pub fn tag(&self) -> Tag {
        self.command.tag()
    }

    #[inline]
    fn take(&mut self) -> Option<(P::Outcome, B)> {
        let taken = self.command.take_done();
        if taken.is_some() {
            self.queue.slot_freed();
        }
        taken
    }

    fn abandon(&mut self) -> Option<B> {
        let (buffer, waker) = self.command.abandon(self.queue.fate.quiesced());
        drop(waker);
        if buffer.is_some() {
            self.queue.slot_freed();
        }
        buffer
    }

    /// The queue failed; but the command may have completed before it did.
    #[cold]
    fn failed(&mut self, error: QueueError) -> Output<P, B> {
        match self.take() {
            Some(taken) => Ok(taken),
            None => Err(Lost { error, buffer: self.abandon() }),
        }
    }

    /// Looks at the ring until something comes.
    #[inline(never)]
    fn wait(&mut self, cx: &mut Context<'_>) -> Poll<Output<P, B>> {
        if self.queue.poll_turn(cx).is_pending() {
            return Poll::Pending;
        }
        match self.queue.spin(Some(&self.command)) {
            Ok(false) => return self.park(cx),
            Ok(true) => {}
            Err(error) => return Poll::Ready(self.failed(error)),
        }
        if let Some(taken) = self.take() {
            return Poll::Ready(Ok(taken));
        }
        // What came is for others. Spinning on would hold them up.
        self.queue.let_others_run(cx);
        Poll::Pending
    }

    /// The budget is used up: waits for the interrupt.
    #[cold]
    fn park(&mut self, cx: &mut Context<'_>) -> Poll<Output<P, B>> {
        let tag = self.tag();
        let mut parked = Parked { tag: Some(tag), since: self.since };
        for _ in 0..ROUNDS {
            let polled = self.queue.park(cx, &mut parked);
            self.since = parked.since;
            let looked = match polled {
                Poll::Pending => match self.command.set_waker(cx.waker()) {
                    // The queue may have ended before the waker was there.
                    WakerSet::Set if self.queue.is_alive() => return Poll::Pending,
                    WakerSet::Set => self.queue.look_parked(Some(tag)),
                    WakerSet::Done => Ok(0),
                    WakerSet::Again => break,
                },
                Poll::Ready(Ok(())) => self.queue.look_parked(Some(tag)),
                Poll::Ready(Err(error)) => Err(error),
            };
            if let Err(error) = looked {
                return Poll::Ready(self.failed(error));
            }
            if let Some(taken) = self.take() {
                return Poll::Ready(Ok(taken));
            }
        }
        self.queue.let_others_run(cx);
        Poll::Pending
    }
}

impl<P: QueueProtocol, B> Future for SharedInFlight<'_, P, B> {
    type Output = Output<P, B>;

    #[inline]
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        assert!(this.command.is_live(), "a future is not polled again after it was ready");
        if !this.told {
            this.told = true;
            this.queue.flush();
        }
        if let Some(taken) = this.take() {
            return Poll::Ready(Ok(taken));
        }
        // What was submitted since the first poll, by anyone.
        this.queue.flush();
        this.wait(cx)
    }
}

impl<P: QueueProtocol, B> Drop for SharedInFlight<'_, P, B> {
    fn drop(&mut self) {
        if self.command.is_live() {
            // Submitted entries must reach the device even if nobody ever polls, or the slot and
            // its buffer would be lost to the queue.
            self.queue.flush();
            drop(self.abandon());
        }
    }
}
