//! [`InFlight`]: the future of one command. It owns its buffer (which lies in the command's slot
//! while the device has it), so dropping it at any point, or leaking it, is safe.

use core::fmt;
use core::future::Future;
use core::pin::Pin;
use core::task::{Context, Poll};

use crate::error::{Lost, QueueError};
use crate::protocol::{QueueProtocol, Tag};
use crate::queue::{Queue, ROUNDS};
use crate::wait::Parked;

/// A command that the device has, or will have at the next flush.
///
/// Polling it tells the device of everything submitted and reaps the queue for everyone. It spins
/// within the queue's budget; if completions came, but only for others, it lets those run and asks
/// to be polled again; if none came, it arms the interrupt, looks once more, and parks. Now and
/// then, when its thread has not slept for long, it only waits for that
/// ([`Interrupt::poll_turn`](crate::Interrupt::poll_turn)).
///
/// Dropping it orphans the command: the device finishes it, and its buffer is dropped at the
/// completion. Leaking it (`mem::forget`) costs its slot and its buffer for as long as the queue
/// lives, and nothing else.
///
/// The output is the outcome with the buffer, or [`Lost`] if the queue ended or can no longer be
/// waited for. Polling it again after that is a defect of the caller and panics.
#[must_use = "a command that nobody awaits is only submitted at the next flush, and its outcome lost"]
pub struct InFlight<'q, P: QueueProtocol, B> {
    queue: &'q Queue<P, B>,
    /// The tag in the low 16 bits, and [`DONE`]: two words in all, so that a future travels in
    /// registers. Invariant: until it is done the tag's slot is this future's.
    state: u32,
}

/// The future was ready.
const DONE: u32 = 1 << 16;

impl<P: QueueProtocol, B> fmt::Debug for InFlight<'_, P, B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("InFlight").field("tag", &self.tag()).field("done", &self.done()).finish()
    }
}

type Output<P, B> = Result<(<P as QueueProtocol>::Outcome, B), Lost<B>>;

impl<'q, P: QueueProtocol, B> InFlight<'q, P, B> {
    #[inline]
    pub(crate) fn new(queue: &'q Queue<P, B>, tag: Tag) -> Self {
        Self { queue, state: tag.0.into() }
    }

    /// The command's tag, for an abort.
    #[inline]
    pub fn tag(&self) -> Tag {
        Tag(self.state as u16)
    }

    #[inline]
    fn done(&self) -> bool {
        self.state & DONE != 0
    }

    #[inline]
    fn take(&mut self) -> Option<(P::Outcome, B)> {
        let taken = self.queue.take_done(self.tag())?;
        self.state |= DONE;
        Some(taken)
    }

    /// The queue failed; but the command may have completed before it did.
    #[cold]
    fn failed(&mut self, error: QueueError) -> Output<P, B> {
        if let Some(taken) = self.take() {
            return Ok(taken);
        }
        self.state |= DONE;
        Err(Lost { error, buffer: self.queue.abandon(self.tag()) })
    }

    /// Looks at the ring until something comes.
    #[inline(never)]
    fn wait(&mut self, cx: &mut Context<'_>) -> Poll<Output<P, B>> {
        if self.queue.poll_turn(cx).is_pending() {
            return Poll::Pending;
        }
        match self.queue.spin(Some(self.tag())) {
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
        let (tag, since) = (self.tag(), self.queue.parked_since(self.tag()));
        let mut parked = Parked { tag: Some(tag), since };
        for _ in 0..ROUNDS {
            let looked = match self.queue.park(cx, &mut parked) {
                // Nobody else looks at the ring between the park and the waker, but for code of
                // others that these two call: then it is done already.
                Poll::Pending if self.queue.set_waker(tag, cx.waker(), parked.since) => {
                    return Poll::Pending;
                }
                Poll::Pending => Ok(0),
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
        self.queue.set_waker(tag, cx.waker(), parked.since);
        self.queue.let_others_run(cx);
        Poll::Pending
    }
}

impl<P: QueueProtocol, B> Future for InFlight<'_, P, B> {
    type Output = Output<P, B>;

    #[inline]
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        assert!(!this.done(), "a future is not polled again after it was ready");
        this.queue.flush();
        if let Some(taken) = this.take() {
            return Poll::Ready(Ok(taken));
        }
        this.wait(cx)
    }
}

impl<P: QueueProtocol, B> Drop for InFlight<'_, P, B> {
    fn drop(&mut self) {
        if !self.done() {
            // Submitted entries must reach the device even if nobody ever polls, or the slot and
            // its buffer would be lost to the queue.
            self.queue.flush();
            drop(self.queue.abandon(self.tag()));
        }
    }
}
