//! [`Seat`]: a queue's interrupt, where the queue is used on a poller.
//!
//! On a poller's thread nothing is armed and no descriptor is registered with a runtime: the queue
//! says where its next completion will appear, and the poller looks there on every turn. Only a poller
//! that goes to sleep arms, for all of its queues at once.
//!
//! A queue may be used on several pollers, one after the other or (if it is shared) at once: it has a
//! seat at each, until it is dropped.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};

use doorbell_queues::{NextCompletion, Parked, WaitError, Word32};

use super::lines::Post;
use super::local::{self, Here};
use super::sleepers::Sleeper;
use crate::wait::line::Line;

/// Where a queue sits. Empty until it first parks on a poller.
#[derive(Debug, Default)]
pub(crate) struct Seat {
    /// The seat that was used last: the poller's number above, its place there in the low 32 bits. It
    /// is checked against the thread's own number, so a stale one is only slow.
    last: AtomicU64,
    /// All of them, by the poller's number. Locked where the poller changes only.
    posts: Mutex<Vec<(u64, Arc<Post>)>>,
}

impl Seat {
    /// The order of calls is that of [`Interrupt`](doorbell_queues::Interrupt); false if this thread is
    /// no poller's, or the poller has no place: then the interrupt is armed as everywhere else.
    #[inline]
    pub(crate) fn arm(
        &self,
        line: &Arc<Line>,
        armed: Option<&Word32>,
        next: &NextCompletion<'_>,
    ) -> bool {
        let seated = local::with(|here| {
            let index = match self.index(here) {
                Some(index) => index,
                None => self.sit(here, line, armed, next)?,
            };
            here.lines.borrow_mut().arm(index, next);
            Some(())
        });
        seated.flatten().is_some()
    }

    /// Parks the task, if the queue has a seat at this thread's poller. Ready once the queue has ended.
    #[inline]
    pub(crate) fn park(
        &self,
        line: &Line,
        cx: &mut Context<'_>,
        parked: &mut Parked,
    ) -> Option<Poll<Result<(), WaitError>>> {
        let (index, running) = local::with(|here| {
            let index = self.index(here)?;
            Some((index, here.running_as(cx.waker())))
        })??;
        // An end that comes after this look wakes by the line, which this thread hears of later.
        if line.fate.ended().is_some() {
            return Some(Poll::Ready(Ok(())));
        }
        // Foreign code (what reports an overdue command, a waker's clone and drop) runs while nothing is
        // borrowed.
        let since = line.stamp(parked);
        let who = running.map_or_else(|| Sleeper::Other(cx.waker().clone()), Sleeper::Task);
        let replaced =
            local::with(|here| here.lines.borrow_mut().park(index, parked.tag, who, since));
        drop(replaced);
        Some(Poll::Pending)
    }

    /// The place at this thread's poller.
    #[inline]
    fn index(&self, here: &Here) -> Option<u32> {
        // Relaxed: a value that this very thread has written, or one that is not for it.
        let last = self.last.load(Ordering::Relaxed);
        if last >> 32 == here.number() { Some(last as u32) } else { self.find(here) }
    }

    #[cold]
    fn find(&self, here: &Here) -> Option<u32> {
        let posts = self.posts.lock().unwrap_or_else(PoisonError::into_inner);
        let (_, post) = posts.iter().find(|(poller, _)| *poller == here.number())?;
        self.last.store(here.number() << 32 | u64::from(post.index()), Ordering::Relaxed);
        Some(post.index())
    }

    #[cold]
    fn sit(
        &self,
        here: &Here,
        line: &Arc<Line>,
        armed: Option<&Word32>,
        next: &NextCompletion<'_>,
    ) -> Option<u32> {
        let shared = here.shared()?;
        let added = here.lines.borrow_mut().add(&shared, line, armed, next);
        let post = match added {
            Ok(post) => post,
            Err(error) => {
                tracing::warn!(poller = %shared.name, %error, "it has no room for another queue");
                return None;
            }
        };
        line.tell(Waker::from(Arc::clone(&post)));
        let index = post.index();
        let mut posts = self.posts.lock().unwrap_or_else(PoisonError::into_inner);
        posts.push((here.number(), post));
        self.last.store(here.number() << 32 | u64::from(index), Ordering::Relaxed);
        Some(index)
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let posts = self.posts.get_mut().unwrap_or_else(PoisonError::into_inner);
        for (poller, post) in posts.drain(..) {
            let removed = local::with(|here| {
                (here.number() == poller).then(|| here.lines.borrow_mut().remove(post.index()))
            });
            match removed.flatten() {
                Some(removed) => drop(removed),
                None => post.leave(),
            }
        }
    }
}
