//! [`QueueHandle`] and [`SharedQueueHandle`]: a queue that a client uses, until it gives it back.

use std::fmt;
use std::future::Future;
use std::ops::Deref;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use doorbell_queues::{Parked, Queue, QueueError, QueueName, QueueProtocol, SharedQueue};

use super::claim::{Lease, Rings};
use super::link::Keep;
use super::{Client, ClientError};
use crate::tier::Tier;
use crate::wait::line::Line;
use crate::wire::{Refusal, Reply, Request};

/// A queue for one thread at a time. It derefs to [`Queue`].
pub type QueueHandle<P, B> = Handle<Queue<P, B>>;

/// A queue for many threads at once. It derefs to [`SharedQueue`].
pub type SharedQueueHandle<P, B> = Handle<SharedQueue<P, B>>;

/// The two kinds of queue. Sealed.
pub trait OwnQueue: sealed::Sealed {
    /// What its commands keep.
    type Buffer: Send + 'static;

    #[doc(hidden)]
    fn take_apart(self) -> Vec<Self::Buffer>;

    #[doc(hidden)]
    fn named(&self) -> &QueueName;

    #[doc(hidden)]
    fn has_ended(&self) -> Option<QueueError>;
}

mod sealed {
    pub trait Sealed {}
}

impl<P: QueueProtocol, B> sealed::Sealed for Queue<P, B> {}
impl<P: QueueProtocol, B> sealed::Sealed for SharedQueue<P, B> {}

impl<P: QueueProtocol, B: Send + 'static> OwnQueue for Queue<P, B> {
    type Buffer = B;

    fn take_apart(self) -> Vec<B> {
        self.give_up()
    }

    fn named(&self) -> &QueueName {
        self.name()
    }

    fn has_ended(&self) -> Option<QueueError> {
        self.ended()
    }
}

impl<P: QueueProtocol, B: Send + 'static> OwnQueue for SharedQueue<P, B> {
    type Buffer = B;

    fn take_apart(self) -> Vec<B> {
        self.give_up()
    }

    fn named(&self) -> &QueueName {
        self.name()
    }

    fn has_ended(&self) -> Option<QueueError> {
        self.ended()
    }
}

/// A queue of this client's own.
///
/// Dropping it gives the queue back to the broker; buffers that the device may still be writing to,
/// and the rings, are kept until the broker confirms that the device is done with them, by the
/// client's thread: the drop does not wait. [`release`](Self::release) does.
#[derive(Debug)]
pub struct Handle<Q: OwnQueue> {
    queue: Option<Q>,
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

/// What a queue in use has besides itself.
pub(super) struct Usage {
    pub(super) line: Arc<Line>,
    pub(super) gone: Arc<AtomicBool>,
    pub(super) lease: Lease,
    pub(super) tier: Tier,
}

impl<Q: OwnQueue> Handle<Q> {
    pub(super) fn new(queue: Q, usage: Usage) -> Self {
        let Usage { line, gone, lease, tier } = usage;
        Self { queue: Some(queue), line, gone, lease, tier }
    }

    /// Waits for the end of a queue that the device says it has no more, where its protocol can say so:
    /// who had it deleted tells why, but maybe later than the device. Where nobody does for five seconds,
    /// or for a command's time limit if that is shorter, the queue ends with
    /// [`EndReason::DoorbellLost`](doorbell_queues::EndReason::DoorbellLost). The queue's end is thus
    /// certain from the first poll on.
    pub fn ending(&self) -> Ending<'_, Q> {
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
        let kept = Kept { _buffers: queue.take_apart(), _rings: self.lease.take() };
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

/// The wait for a queue's end: [`Handle::ending`].
#[must_use = "it waits only while it is polled"]
pub struct Ending<'q, Q: OwnQueue> {
    handle: &'q Handle<Q>,
    parked: Parked,
}

impl<Q: OwnQueue> fmt::Debug for Ending<'_, Q> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ending").field("queue", self.handle.named()).finish_non_exhaustive()
    }
}

impl<Q: OwnQueue> Future for Ending<'_, Q> {
    type Output = QueueError;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<QueueError> {
        let handle = self.handle;
        // Before the look: whoever ends the queue after it finds the task. No event is awaited, so it
        // does not matter who takes one.
        let _ = handle.line.park(&mut self.parked, cx.waker(), false);
        if let Some(error) = handle.has_ended() {
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

impl<Q: OwnQueue> Deref for Handle<Q> {
    type Target = Q;

    fn deref(&self) -> &Q {
        #[expect(
            clippy::expect_used,
            reason = "it is taken by `release` and `drop` only, which own self"
        )]
        self.queue.as_ref().expect("the queue is there until the handle is gone")
    }
}

impl<Q: OwnQueue> Drop for Handle<Q> {
    fn drop(&mut self) {
        if let Some(keep) = self.give_up() {
            let request = Request::ReleaseQueue { queue: self.lease.queue };
            self.lease.inner.link.post(&request, keep);
        }
    }
}
