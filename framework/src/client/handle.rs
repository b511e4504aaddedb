//! [`QueueHandle`] and [`SharedQueueHandle`]: a queue that a client uses, until it gives it back.

use std::ops::Deref;
use std::sync::Arc;

use doorbell_queues::{Fate, Queue, QueueProtocol, SharedQueue};

use super::claim::{Lease, Rings};
use super::link::Keep;
use super::{Client, ClientError};
use crate::tier::Tier;
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
}

impl<P: QueueProtocol, B: Send + 'static> OwnQueue for SharedQueue<P, B> {
    type Buffer = B;

    fn take_apart(self) -> Vec<B> {
        self.give_up()
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
    fate: Arc<Fate>,
    lease: Lease,
    tier: Tier,
}

/// What stays in place until the broker's word.
struct Kept<B> {
    _rings: Option<Rings>,
    _buffers: Vec<B>,
}

impl<Q: OwnQueue> Handle<Q> {
    pub(super) fn new(queue: Q, fate: Arc<Fate>, lease: Lease, tier: Tier) -> Self {
        Self { queue: Some(queue), fate, lease, tier }
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
        Some(if self.fate.quiesced() { None } else { Some(Box::new(kept)) })
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
            Err(ClientError::BrokerGone { .. }) if self.fate.quiesced() => return Ok(()),
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
