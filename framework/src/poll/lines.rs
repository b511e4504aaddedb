//! [`Lines`]: the queues that a poller looks at.
//!
//! A queue whose tasks are parked tells where its next completion will appear. The poller looks at
//! that word every turn, and when it is fresh wakes **one** task of the queue, whose reap wakes the
//! others by their slots. If that task is gone, or does not come to look, the word is still fresh once
//! it must have been polled: then all are woken. So nothing is lost, and nothing is woken in vain as a
//! rule.
//!
//! A queue on which nobody is parked is not looked at and costs nothing. One whose completion does not
//! come for long is *cold*: in a busy turn only a few of these are looked at, in rotation.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Wake, Waker};

use doorbell_queues::wait::{announce, withdraw};
use doorbell_queues::{NextCompletion, SharedMem, Tag, Word32};
use rustix::event::epoll;

use super::local::Ready;
use super::shared::{FIRST_LINE, MAX_QUEUES, Shared};
use super::sleepers::{Sleeper, Sleepers};
use crate::wait::line::Line;

/// Looks in vain after which a queue is cold.
const COLD_AFTER: u32 = 512;
/// Cold queues that a busy turn looks at.
const COLD_PER_TURN: usize = 2;

/// How others reach a queue's place at a poller: the line wakes it when the queue ends.
#[derive(Debug)]
pub(super) struct Post {
    shared: Arc<Shared>,
    index: u32,
    /// The queue is gone.
    gone: AtomicBool,
}

impl Post {
    pub(super) fn leave(&self) {
        self.gone.store(true, Ordering::Release);
        self.shared.wake(FIRST_LINE + self.index as usize);
    }

    pub(super) fn index(&self) -> u32 {
        self.index
    }
}

impl Wake for Post {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.shared.wake(FIRST_LINE + self.index as usize);
    }
}

/// The word to look at.
struct Word {
    ring: SharedMem,
    offset: usize,
    phase: fn(u32) -> bool,
    fresh: bool,
}

impl Word {
    #[inline]
    fn is_fresh(&self) -> bool {
        // Relaxed: whoever is woken for it looks again, in the queue's own way. A word outside of its
        // ring cannot be; it would be fresh, so that the queue looks for itself.
        let word = self.ring.load_u32(self.offset, Ordering::Relaxed);
        word.map_or(true, |word| (self.phase)(word) == self.fresh)
    }
}

/// Which list has a queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Watched {
    No,
    Hot,
    Cold,
}

/// One queue.
struct Entry {
    word: Word,
    watched: Watched,
    /// Looks in vain since it is hot.
    looks: u32,
    /// A task was woken for the fresh word; by this moment it must have been polled.
    told: Option<u64>,
    sleepers: Sleepers,
    line: Arc<Line>,
    armed: Option<Word32>,
    post: Arc<Post>,
}

/// What a look at a queue led to.
#[derive(Clone, Copy)]
struct Found {
    woken: bool,
    /// Nobody is left to look for.
    over: bool,
}

/// The wakers of others that are due; they are called when nothing is borrowed.
pub(super) type Due = Vec<Waker>;

/// The queues of a poller. See the [module](self).
///
/// # Invariants
/// `hot` and `cold` have the indices of the entries whose `watched` says so, each once.
pub(super) struct Lines {
    entries: Vec<Option<Entry>>,
    free: Vec<u32>,
    hot: Vec<u32>,
    cold: Vec<u32>,
    /// Where the rotation through `cold` goes on.
    next: usize,
    epoll: Option<OwnedFd>,
}

impl Lines {
    pub(super) const fn new() -> Self {
        Self {
            entries: Vec::new(),
            free: Vec::new(),
            hot: Vec::new(),
            cold: Vec::new(),
            next: 0,
            epoll: None,
        }
    }

    /// With the epoll instance that the poller sleeps on.
    pub(super) fn on(epoll: OwnedFd) -> Self {
        Self { epoll: Some(epoll), ..Self::new() }
    }

    /// A place for a queue. `commands` is how many can be in flight on it.
    ///
    /// The event is watched for its edges: every signal wakes a sleeping poller once, and none is ever
    /// read.
    pub(super) fn add(
        &mut self,
        shared: &Arc<Shared>,
        line: &Arc<Line>,
        armed: Option<&Word32>,
        next: &NextCompletion<'_>,
    ) -> io::Result<Arc<Post>> {
        let index = match self.free.last() {
            Some(index) => *index,
            None if self.entries.len() < MAX_QUEUES => self.entries.len() as u32,
            None => return Err(io::ErrorKind::QuotaExceeded.into()),
        };
        let epoll = self.epoll.as_ref().ok_or(io::ErrorKind::NotConnected)?;
        let flags = epoll::EventFlags::IN | epoll::EventFlags::ET;
        epoll::add(epoll, &line.event, epoll::EventData::new_u64(index.into()), flags)?;
        let post =
            Arc::new(Post { shared: Arc::clone(shared), index, gone: AtomicBool::new(false) });
        let NextCompletion { ring, offset, phase, fresh } = *next;
        let entry = Entry {
            word: Word { ring: ring.clone(), offset, phase, fresh },
            watched: Watched::No,
            looks: 0,
            told: None,
            sleepers: Sleepers::new(line.commands()),
            line: Arc::clone(line),
            armed: armed.cloned(),
            post: Arc::clone(&post),
        };
        if self.free.pop().is_none() {
            self.entries.push(None);
        }
        if let Some(place) = self.entries.get_mut(index as usize) {
            *place = Some(entry);
        }
        shared.queues.fetch_add(1, Ordering::Relaxed);
        Ok(post)
    }

    /// The queue looks now, and will see everything that comes before the word does.
    #[inline]
    pub(super) fn arm(&mut self, index: u32, next: &NextCompletion<'_>) {
        if let Some(Some(entry)) = self.entries.get_mut(index as usize) {
            let NextCompletion { offset, phase, fresh, .. } = *next;
            (entry.word.offset, entry.word.phase, entry.word.fresh) = (offset, phase, fresh);
            entry.told = None;
        }
    }

    /// A task parks: its queue is looked at from now on. Returns whom it replaces.
    #[inline]
    pub(super) fn park(
        &mut self,
        index: u32,
        tag: Option<Tag>,
        who: Sleeper,
        since: u64,
    ) -> Option<Sleeper> {
        let entry = self.entries.get_mut(index as usize)?.as_mut()?;
        if entry.watched == Watched::No {
            (entry.watched, entry.looks) = (Watched::Hot, 0);
            self.hot.push(index);
        }
        entry.sleepers.put(tag, who, since)
    }

    /// One turn's looks; true if a task was woken. `everything` is for a turn that has nothing else to
    /// do.
    #[inline]
    pub(super) fn look(&mut self, ready: &mut Ready, due: &mut Due, everything: bool) -> bool {
        let mut woken = false;
        let mut at = 0;
        while let Some(&index) = self.hot.get(at) {
            let Some(Some(entry)) = self.entries.get_mut(index as usize) else {
                self.hot.swap_remove(at);
                continue;
            };
            let found = entry.look(ready, due);
            woken |= found.woken;
            if found.over {
                entry.watched = Watched::No;
                self.hot.swap_remove(at);
            } else if entry.looks >= COLD_AFTER {
                entry.watched = Watched::Cold;
                self.cold.push(self.hot.swap_remove(at));
            } else {
                at += 1;
            }
        }
        if !self.cold.is_empty() {
            let looks = if everything && !woken { self.cold.len() } else { COLD_PER_TURN };
            woken |= self.look_at_cold(ready, due, looks);
        }
        woken
    }

    fn look_at_cold(&mut self, ready: &mut Ready, due: &mut Due, looks: usize) -> bool {
        let mut woken = false;
        for _ in 0..looks {
            if self.next >= self.cold.len() {
                self.next = 0;
            }
            let Some(&index) = self.cold.get(self.next) else { break };
            let Some(Some(entry)) = self.entries.get_mut(index as usize) else {
                self.cold.swap_remove(self.next);
                continue;
            };
            let found = entry.look(ready, due);
            woken |= found.woken;
            if found.over || found.woken {
                self.cold.swap_remove(self.next);
                entry.watched = Watched::No;
                if !found.over {
                    entry.watched = Watched::Hot;
                    self.hot.push(index);
                }
            } else {
                self.next += 1;
            }
        }
        woken
    }

    /// Entries that are looked at.
    fn watched(&self) -> impl Iterator<Item = &Entry> {
        let entry = |index: &u32| self.entries.get(*index as usize)?.as_ref();
        self.hot.iter().chain(&self.cold).filter_map(entry)
    }

    /// Asks every device that somebody waits for to signal. The fence is the caller's:
    /// [`WakeSet::fall_asleep`](doorbell_queues::WakeSet::fall_asleep).
    pub(super) fn announce_sleep(&self) {
        self.watched().filter_map(|entry| entry.armed.as_ref()).for_each(announce);
    }

    /// Awake again: no signals are wanted.
    pub(super) fn withdraw_sleep(&self) {
        self.watched().filter_map(|entry| entry.armed.as_ref()).for_each(withdraw);
    }

    /// The last look before sleep: whether there is something to do.
    pub(super) fn is_any_fresh(&self) -> bool {
        let mut wanted = self.watched().filter(|entry| !entry.sleepers.is_empty());
        wanted.any(|entry| entry.word.is_fresh() || !entry.line.fate.is_alive())
    }

    /// The poller slept and the queue's event was signalled. A task looks, whether or not the word is
    /// fresh: a device may have broken the order of its completions.
    pub(super) fn signalled(&mut self, index: usize, ready: &mut Ready, due: &mut Due) {
        let Some(Some(entry)) = self.entries.get_mut(index) else { return };
        if entry.line.fate.ended().is_some() {
            entry.sleepers.wake_all(ready, due);
        } else if !entry.word.is_fresh() {
            entry.sleepers.wake_one(ready, due);
        }
    }

    /// Someone else has something to say about a queue: it has ended, or is gone. What is returned is
    /// dropped when nothing is borrowed.
    #[must_use]
    pub(super) fn attend(
        &mut self,
        index: usize,
        ready: &mut Ready,
        due: &mut Due,
    ) -> Option<impl Sized + use<>> {
        let place = self.entries.get_mut(index)?;
        let entry = place.as_mut()?;
        entry.sleepers.wake_all(ready, due);
        // Acquire: pairs with the release in `Post::leave`.
        if entry.post.gone.load(Ordering::Acquire) { self.remove(index as u32) } else { None }
    }

    /// Takes a queue out.
    #[must_use]
    pub(super) fn remove(&mut self, index: u32) -> Option<impl Sized + use<>> {
        let entry = self.entries.get_mut(index as usize)?.take()?;
        self.hot.retain(|other| *other != index);
        self.cold.retain(|other| *other != index);
        self.free.push(index);
        entry.post.shared.queues.fetch_sub(1, Ordering::Relaxed);
        if let Some(epoll) = &self.epoll
            && let Err(error) = epoll::delete(epoll, &entry.line.event)
        {
            tracing::warn!(%error, "a queue's event cannot be taken out of the poller's set");
        }
        Some(entry)
    }

    /// Looks after time limits, and after queues that ended without a word (by a signal handler). How
    /// many milliseconds until it is to be called again; `None` if nobody waits with a limit.
    pub(super) fn tick(&mut self, ready: &mut Ready, due: &mut Due) -> Option<u64> {
        let mut next: Option<u64> = None;
        for index in self.hot.iter().chain(&self.cold) {
            let Some(Some(entry)) = self.entries.get_mut(*index as usize) else { continue };
            if entry.line.fate.ended().is_some() {
                entry.sleepers.wake_all(ready, due);
                continue;
            }
            let (Some((limit, every)), Some(oldest)) =
                (entry.line.limit(), entry.sleepers.oldest())
            else {
                continue;
            };
            let age = entry.line.now().saturating_sub(oldest >> 1);
            if age >= limit {
                // Each that is overdue reports itself when it parks again.
                entry.sleepers.wake_all(ready, due);
            } else if age >= every {
                entry.sleepers.wake_one(ready, due);
            }
            next = Some(next.map_or(every, |next| next.min(every)));
        }
        next
    }
}

impl Entry {
    #[inline]
    fn look(&mut self, ready: &mut Ready, due: &mut Due) -> Found {
        if !self.word.is_fresh() {
            self.looks += 1;
            return Found { woken: false, over: self.sleepers.is_empty() };
        }
        match self.told {
            None => self.sleepers.wake_one(ready, due),
            // It has not had its turn.
            Some(moment) if !ready.has_passed(moment) => {
                return Found { woken: false, over: false };
            }
            Some(_) => self.sleepers.wake_all(ready, due),
        }
        self.looks = 0;
        self.told = Some(ready.moment());
        Found { woken: true, over: self.sleepers.is_empty() }
    }
}
