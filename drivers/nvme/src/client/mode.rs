//! [`Single`] and [`Shared`]: a queue of one thread, or of many.
//!
//! The client is written once, over what the two kinds of queue have in common.

use std::future::Future;

use doorbell::client::{Claimed, ClientError, Ending, QueueHandle, SharedQueueHandle};
use doorbell_queues::{
    Completed, InFlight, Lost, Queue, QueueError, QueueName, Rejected, SharedInFlight, SharedQueue,
    SharedSlotFree, SlotFree, Tag,
};

use super::payload::Payload;
use crate::protocol::{NvmeProtocol, Outcome};
use crate::spec::Sqe;

/// What a queue gives back for a command.
pub type CommandDone = Result<(Outcome, Payload), Lost<Payload>>;

/// How the threads of a program use an [`Nvme`](super::Nvme): [`Single`] or [`Shared`]. Sealed.
pub trait Mode: sealed::Sealed + Sized + 'static {
    /// The queue, until it is given back.
    type Queue;
    /// The future of one command.
    type InFlight<'q>: Future<Output = CommandDone> + Tagged + Unpin
    where
        Self: 'q;
    /// A wait for a free slot.
    type SlotFree<'q>: Future<Output = Result<(), QueueError>> + Unpin
    where
        Self: 'q;
    /// The wait for the queue's end, once the device has said that it is deleted.
    type Ending<'q>: Future<Output = QueueError> + Unpin
    where
        Self: 'q;

    #[doc(hidden)]
    fn queue(claimed: Claimed<NvmeProtocol>) -> Result<Self::Queue, ClientError>;
    #[doc(hidden)]
    fn name(queue: &Self::Queue) -> &QueueName;
    #[doc(hidden)]
    fn submit(
        queue: &Self::Queue,
        payload: Payload,
        build: impl FnOnce(u16, &mut Payload) -> Sqe,
    ) -> Result<Self::InFlight<'_>, Rejected<Payload>>;
    #[doc(hidden)]
    fn post(
        queue: &Self::Queue,
        payload: Payload,
        build: impl FnOnce(u16, &mut Payload) -> Sqe,
    ) -> Result<Tag, Rejected<Payload>>;
    #[doc(hidden)]
    fn flush(queue: &Self::Queue);
    #[doc(hidden)]
    fn reap(
        queue: &Self::Queue,
        budget: usize,
        each: impl FnMut(Completed<NvmeProtocol, Payload>),
    ) -> Result<usize, QueueError>;
    #[doc(hidden)]
    fn slot_free(queue: &Self::Queue) -> Self::SlotFree<'_>;
    #[doc(hidden)]
    fn ending(queue: &Self::Queue) -> Self::Ending<'_>;
    #[doc(hidden)]
    fn release(queue: Self::Queue) -> impl Future<Output = Result<(), ClientError>> + Send;
}

/// A command that has a tag.
pub trait Tagged {
    /// The command's tag.
    fn tag(&self) -> Tag;
}

mod sealed {
    pub trait Sealed {}
}

/// One thread at a time: the fastest.
#[derive(Debug, Clone, Copy)]
pub enum Single {}

/// Many threads at once, lock-free ([`doorbell_queues::shared`]).
#[derive(Debug, Clone, Copy)]
pub enum Shared {}

/// The two implementations are the same words over different types.
macro_rules! mode {
    ($mode:ident, $queue:ident, $inner:ident, $in_flight:ident, $slot_free:ident, $into:ident) => {
        impl sealed::Sealed for $mode {}

        impl Tagged for $in_flight<'_, NvmeProtocol, Payload> {
            #[inline]
            fn tag(&self) -> Tag {
                Self::tag(self)
            }
        }

        impl Mode for $mode {
            type Queue = $queue<NvmeProtocol, Payload>;
            type InFlight<'q> = $in_flight<'q, NvmeProtocol, Payload>;
            type SlotFree<'q> = $slot_free<'q, NvmeProtocol, Payload>;
            type Ending<'q> = Ending<'q, $inner<NvmeProtocol, Payload>>;

            fn queue(claimed: Claimed<NvmeProtocol>) -> Result<Self::Queue, ClientError> {
                claimed.$into()
            }

            #[inline]
            fn name(queue: &Self::Queue) -> &QueueName {
                queue.name()
            }

            // With what it is called by, and its builder: see `Request::build`.
            #[inline(always)]
            fn submit(
                queue: &Self::Queue,
                payload: Payload,
                build: impl FnOnce(u16, &mut Payload) -> Sqe,
            ) -> Result<Self::InFlight<'_>, Rejected<Payload>> {
                queue.submit(payload, build)
            }

            #[inline(always)]
            fn post(
                queue: &Self::Queue,
                payload: Payload,
                build: impl FnOnce(u16, &mut Payload) -> Sqe,
            ) -> Result<Tag, Rejected<Payload>> {
                queue.post(payload, build)
            }

            #[inline]
            fn flush(queue: &Self::Queue) {
                queue.flush();
            }

            #[inline]
            fn reap(
                queue: &Self::Queue,
                budget: usize,
                each: impl FnMut(Completed<NvmeProtocol, Payload>),
            ) -> Result<usize, QueueError> {
                queue.reap(budget, each)
            }

            #[inline]
            fn slot_free(queue: &Self::Queue) -> Self::SlotFree<'_> {
                queue.slot_free()
            }

            fn ending(queue: &Self::Queue) -> Self::Ending<'_> {
                queue.ending()
            }

            async fn release(queue: Self::Queue) -> Result<(), ClientError> {
                queue.release().await
            }
        }
    };
}

mode!(Single, QueueHandle, Queue, InFlight, SlotFree, into_queue);
mode!(Shared, SharedQueueHandle, SharedQueue, SharedInFlight, SharedSlotFree, into_shared_queue);
