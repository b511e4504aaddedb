//! [`InFlight`]: the future of one command. It owns its buffer (which lies in the command's slot
//! while the device has it), so dropping it at any point, or leaking it, is safe.

use core::fmt;
use core::future::Future;
use core::pin::Pin;
use core::task::{Context, Poll};

use crate::error::Lost;
use crate::protocol::{QueueProtocol, Tag};
use crate::queue::Queue;
use crate::wait::Parked;

/// A command that the device has, or will have at the next flush.
///
/// Polling it tells the device of everything submitted, reaps the queue for everyone, spins within
/// the queue's budget, then arms the interrupt and parks. Dropping it orphans the command: the
/// device finishes it, and its buffer returns to its owner at the completion.
#[must_use = "a command that nobody awaits is only submitted at the next flush, and its outcome lost"]
pub struct InFlight<'q, P: QueueProtocol, B> {
    queue: &'q Queue<P, B>,
    parked: Parked,
    done: bool,
    tag: Tag,
}

impl<P: QueueProtocol, B> fmt::Debug for InFlight<'_, P, B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("InFlight").field("tag", &self.tag).field("done", &self.done).finish()
    }
}

impl<'q, P: QueueProtocol, B> InFlight<'q, P, B> {
    #[inline]
    pub(crate) fn new(queue: &'q Queue<P, B>, tag: Tag) -> Self {
        Self { queue, parked: Parked { tag: Some(tag), since: None }, done: false, tag }
    }

    /// The command's tag, for an abort.
    pub fn tag(&self) -> Tag {
        self.tag
    }

    #[inline]
    fn take(&mut self) -> Option<(P::Outcome, B)> {
        let taken = self.queue.take_done(self.tag)?;
        self.done = true;
        self.queue.slot_freed();
        Some(taken)
    }

    #[cold]
    fn lost(&mut self, error: crate::QueueError) -> Lost<B> {
        self.done = true;
        let buffer = self.queue.take_lost(self.tag);
        if buffer.is_none() {
            // Should its completion come after all, the slot and the buffer are free again.
            drop(self.queue.orphan(self.tag));
        }
        Lost { error, buffer }
    }

    /// Looks at the ring until the command is done or the budget is used up.
    #[inline]
    fn spin(&mut self) -> Result<Option<(P::Outcome, B)>, Lost<B>> {
        let budget = self.queue.spin_begin();
        for looks in 0..=budget {
            match self.queue.poll(usize::MAX) {
                Ok(0) => core::hint::spin_loop(),
                Ok(_) => {
                    if let Some(taken) = self.take() {
                        self.queue.spin_ended(Some(looks));
                        return Ok(Some(taken));
                    }
                }
                Err(error) => return Err(self.lost(error)),
            }
        }
        self.queue.spin_ended(None);
        Ok(None)
    }
}

impl<P: QueueProtocol, B> Future for InFlight<'_, P, B> {
    type Output = Result<(P::Outcome, B), Lost<B>>;

    #[inline]
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        assert!(!this.done, "a future must not be polled after it was ready");
        this.queue.flush();
        if let Some(taken) = this.take() {
            return Poll::Ready(Ok(taken));
        }
        match this.spin() {
            Ok(Some(taken)) => return Poll::Ready(Ok(taken)),
            Ok(None) => {}
            Err(lost) => return Poll::Ready(Err(lost)),
        }
        loop {
            if let Some(error) = this.queue.ended() {
                return Poll::Ready(Err(this.lost(error)));
            }
            this.queue.set_waker(this.tag, cx.waker());
            match this.queue.park(cx, &mut this.parked) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Err(error)) => return Poll::Ready(Err(this.lost(error))),
                Poll::Ready(Ok(())) => {}
            }
            match this.queue.poll(usize::MAX) {
                Ok(_) => {}
                Err(error) => return Poll::Ready(Err(this.lost(error))),
            }
            if let Some(taken) = this.take() {
                return Poll::Ready(Ok(taken));
            }
        }
    }
}

impl<P: QueueProtocol, B> Drop for InFlight<'_, P, B> {
    fn drop(&mut self) {
        if !self.done {
            // Submitted entries must reach the device even if nobody ever polls, or the slot and
            // its buffer would be lost to the queue.
            self.queue.flush();
            if let Some((_, buffer)) = self.queue.orphan(self.tag) {
                drop(buffer);
                self.queue.slot_freed();
            }
        }
    }
}
