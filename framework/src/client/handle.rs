//! [`QueueHandle`]: a queue that a client uses, until it gives it back.

use std::fmt;
use std::future::Future;
use std::ops::Deref;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use doorbell_queues::{Parked, Queue, QueueError, QueueProtocol};

use super::claim::{Lease, Rings};
use super::link::Keep;
use super::{Client, ClientError};
use crate::tier::Tier;
use crate::wait::line::Line;
use crate::wire::{Refusal, Reply, Request};

/// A queue of this client's own. It derefs to [`Queue`].
///
/// Dropping it gives the queue back to the broker; buffers that the device may still be writing to,
/// and the rings, are kept until the broker confirms that the device is done with them, by the
/// client's thread: the drop does not wait. [`release`](Self::release) does.
#[derive(Debug)]
pub struct QueueHandle<P: QueueProtocol, B: Send + 'static> {
    queue: Option<Queue<P, B>>,
    line: Arc<Line>,
    /// The device has the queue no more, or its doorbells reach nobody: see `granted.rs`.
    gone: Arc<AtomicBool>,
    lease: Lease,
    tier: Tier,
}

/// What stays in place until the broker's word.
struct Kept<B> {
    _rings: Option<Rings>,
    _buffers: Vec<B>,
}

impl<P: QueueProtocol, B: Send + 'static> QueueHandle<P, B> {
    pub(super) fn new(
        queue: Queue<P, B>,
        line: Arc<Line>,
        gone: Arc<AtomicBool>,
        lease: Lease,
        tier: Tier,
    ) -> Self {
        Self { queue: Some(queue), line, gone, lease, tier }
    }

    /// Waits for the end of a queue that the device says it has no more, where its protocol can say so:
    /// who had it deleted tells why, but maybe later than the device. Where nobody does for five seconds,
    /// or for a command's time limit if that is shorter, the queue ends with
    /// [`EndReason::DoorbellLost`](doorbell_queues::EndReason::DoorbellLost). The queue's end is thus
    /// certain from the first poll on.
    pub fn ending(&self) -> Ending<'_, P, B> {
        Ending { handle: self, parked: Parked { tag: None, since: None } }
    }

    /// The isolation that the queue really has.
    #[must_use]
    pub fn tier(&self) -> Tier {
        self.tier
    }

    /// The queue's id on the device.
    #[must_use]
    pub fn id(&self) -> u16 {
        self.lease.queue
    }

    /// The connection that it belongs to.
    #[must_use]
    pub fn client(&self) -> Client {
        Client { inner: Arc::clone(&self.lease.inner) }
    }

    /// Takes the queue apart. `None` if that was done. What must stay in place is empty if the device
    /// is known to be done with it.
    fn give_up(&mut self) -> Option<Option<Keep>> {
        let queue = self.queue.take()?;
        let kept = Kept { _buffers: queue.give_up(), _rings: self.lease.take() };
        Some(if self.line.fate.quiesced() { None } else { Some(Box::new(kept)) })
    }

    /// Gives the queue back and waits until the device is done with it. Commands still in flight
    /// are lost; their buffers are free again when this returns `Ok`.
    ///
    /// # Errors
    /// [`ClientError`]: the device did not confirm. The buffers are then never used again.
    pub async fn release(mut self) -> Result<(), ClientError> {
        let Some(keep) = self.give_up() else { return Ok(()) };
        let inner = Arc::clone(&self.lease.inner);
        let request = Request::ReleaseQueue { queue: self.lease.queue };
        let answer = match inner.link.call(&request, Vec::new(), keep, inner.link.limit).await {
            // There is nobody to give it back to, and nothing to wait for.
            Err(ClientError::BrokerGone { .. }) if self.line.fate.quiesced() => return Ok(()),
            answer => answer?,
        };
        match answer {
            (Reply::Done, ..) => Ok(()),
            (Reply::Refused(refusal), _, keep) => {
                if !matches!(refusal, Refusal::NotYours { .. }) {
                    // The device may still use the memory.
                    std::mem::forget(keep);
                }
                let socket = Arc::clone(&inner.link.name);
                Err(ClientError::Refused { socket, what: request.name(), refusal })
            }
            (other, ..) => Err(inner.unexpected(&request, &other)),
        }
    }
}

/// The wait for a queue's end: [`QueueHandle::ending`].
#[must_use = "it waits only while it is polled"]
pub struct Ending<'q, P: QueueProtocol, B: Send + 'static> {
    handle: &'q QueueHandle<P, B>,
    parked: Parked,
}

impl<P: QueueProtocol, B: Send + 'static> fmt::Debug for Ending<'_, P, B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ending").field("queue", self.handle.name()).finish_non_exhaustive()
    }
}

impl<P: QueueProtocol, B: Send + 'static> Future for Ending<'_, P, B> {
    type Output = QueueError;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<QueueError> {
        let handle = self.handle;
        // Before the look: whoever ends the queue after it finds the task. No event is awaited, so it
        // does not matter who takes one.
        let _ = handle.line.park(&mut self.parked, cx.waker(), false);
        if let Some(error) = handle.ended() {
            handle.line.unpark(&self.parked, cx.waker());
            return Poll::Ready(error);
        }
        // Release: pairs with the acquire of the client's thread.
        if !handle.gone.swap(true, Ordering::Release) {
            handle.lease.inner.link.hub.nudge();
        }
        Poll::Pending
    }
}

impl<P: QueueProtocol, B: Send + 'static> Deref for QueueHandle<P, B> {
    type Target = Queue<P, B>;

    fn deref(&self) -> &Queue<P, B> {
        #[expect(
            clippy::expect_used,
            reason = "it is taken by `release` and `drop` only, which own self"
        )]
        self.queue.as_ref().expect("the queue is there until the handle is gone")
    }
}

impl<P: QueueProtocol, B: Send + 'static> Drop for QueueHandle<P, B> {
    fn drop(&mut self) {
        if let Some(keep) = self.give_up() {
            let request = Request::ReleaseQueue { queue: self.lease.queue };
            self.lease.inner.link.post(&request, keep);
        }
    }
}
