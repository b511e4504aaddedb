//! What a poller counts, on a page that others may read while it runs.
//!
//! The page is a sealed memfd. Its poller's thread writes words of 8 bytes, in the machine's byte
//! order; `status` of every broker that the poller's queues come from reads them, and so does
//! [`Poller::counters`](super::Poller::counters).
//!
//! | word | what |
//! |---|---|
//! | 0 | state: 1 awake, 2 asleep, 3 ended |
//! | 1 | turns of its loop |
//! | 2 | turns that found something to do |
//! | 3 | polls of tasks |
//! | 4 | sleeps |
//! | 5 | sleeps that a thread ended: by a task's waker, or a new task |
//! | 6 | microseconds asleep |
//! | 7 | microseconds since the start |
//! | 8 | tasks |
//! | 9 | queues |
//!
//! What it does not do: the words are written one by one and now and then (every few hundred turns,
//! and before a sleep), so they need not be of one moment. A reader in another process believes none
//! of them; any value is a number to show.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use doorbell_queues::SharedMem;
use serde::{Deserialize, Serialize};

use crate::dma::map::PAGE;
use crate::dma::{DmaError, HugePages, Memfd, Prefault};

/// Words of a page that are used.
const WORDS: usize = 10;

/// What a poller is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PollerState {
    /// It polls.
    Awake,
    /// Nothing was to be done for longer than its budget.
    Asleep,
    /// Its thread has ended.
    Ended,
    /// The page says something else.
    Unknown,
}

/// Counters of a poller, as its page shows them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct PollerCounters {
    /// What it is doing.
    pub state: PollerState,
    /// Turns of its loop.
    pub turns: u64,
    /// Turns that found something to do.
    pub busy_turns: u64,
    /// Polls of tasks.
    pub polls: u64,
    /// Times that it went to sleep.
    pub sleeps: u64,
    /// Sleeps that a thread of its process ended: by a task's waker, or a new task.
    pub wakes: u64,
    /// Microseconds asleep.
    pub asleep_us: u64,
    /// Microseconds since the start.
    pub alive_us: u64,
    /// Tasks that live on it.
    pub tasks: u64,
    /// Queues that it polls.
    pub queues: u64,
}

impl PollerCounters {
    fn from_words(words: [u64; WORDS]) -> Self {
        let [state, turns, busy_turns, polls, sleeps, wakes, asleep_us, alive_us, tasks, queues] =
            words;
        let state = match state {
            1 => PollerState::Awake,
            2 => PollerState::Asleep,
            3 => PollerState::Ended,
            _ => PollerState::Unknown,
        };
        Self { state, turns, busy_turns, polls, sleeps, wakes, asleep_us, alive_us, tasks, queues }
    }

    fn words(&self) -> [u64; WORDS] {
        let state = match self.state {
            PollerState::Unknown => 0,
            PollerState::Awake => 1,
            PollerState::Asleep => 2,
            PollerState::Ended => 3,
        };
        let Self { turns, busy_turns, polls, sleeps, wakes, asleep_us, alive_us, .. } = *self;
        [
            state,
            turns,
            busy_turns,
            polls,
            sleeps,
            wakes,
            asleep_us,
            alive_us,
            self.tasks,
            self.queues,
        ]
    }

    /// How much of its turns found something to do, in per cent; 0 before the first. An idle poller
    /// takes many short turns, so this is what it could give away, not processor time.
    #[must_use]
    pub fn busy_percent(&self) -> u8 {
        percent(self.busy_turns, self.turns)
    }

    /// How much of its life it has slept, in per cent.
    #[must_use]
    pub fn asleep_percent(&self) -> u8 {
        percent(self.asleep_us, self.alive_us)
    }

    /// Reads the page of another process. Nothing of it is believed.
    ///
    /// # Errors
    /// The kernel's, or `UnexpectedEof` for a file that is shorter than a page's words.
    pub fn read(page: BorrowedFd<'_>) -> std::io::Result<Self> {
        let mut bytes = [0; WORDS * 8];
        if rustix::io::pread(page, &mut bytes, 0)? != bytes.len() {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        let mut words = [0; WORDS];
        for (word, bytes) in words.iter_mut().zip(bytes.as_chunks::<8>().0) {
            *word = u64::from_ne_bytes(*bytes);
        }
        Ok(Self::from_words(words))
    }
}

/// `part` of `whole` in per cent, 0 to 100 whatever they are.
fn percent(part: u64, whole: u64) -> u8 {
    let percent = u128::from(part) * 100 / u128::from(whole.max(1));
    percent.min(100) as u8
}

/// The page of a poller of this process.
#[derive(Debug)]
pub(super) struct Page {
    memfd: Memfd,
    memory: SharedMem,
}

impl Page {
    pub(super) fn new() -> Result<Self, DmaError> {
        let memfd = Memfd::create("doorbell-poller", PAGE, HugePages::No)?;
        let memory = memfd.map(Prefault::Yes)?;
        Ok(Self { memfd, memory })
    }

    /// A descriptor for a broker.
    pub(super) fn descriptor(&self) -> std::io::Result<OwnedFd> {
        self.memfd.as_fd().try_clone_to_owned()
    }

    /// Poller's thread: shows what it has counted.
    pub(super) fn publish(&self, counters: &PollerCounters) {
        for (number, word) in counters.words().into_iter().enumerate() {
            // The page has room for all of them.
            let _ = self.memory.store_register(number * 8, 8, word);
        }
    }

    pub(super) fn read(&self) -> PollerCounters {
        let word = |number| self.memory.load_register(number * 8, 8).unwrap_or(0);
        PollerCounters::from_words(std::array::from_fn(word))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_published_is_read_here_and_by_others() {
        let page = Page::new().unwrap();
        let words = std::array::from_fn(|number| number as u64 + 1);
        let counters = PollerCounters::from_words(words);
        assert_eq!((counters.state, counters.queues), (PollerState::Awake, 10));
        page.publish(&counters);
        assert_eq!(page.read(), counters);
        let theirs = page.descriptor().unwrap();
        assert_eq!(PollerCounters::read(theirs.as_fd()).unwrap(), counters);
    }

    #[test]
    fn any_page_is_some_numbers() {
        let page = Page::new().unwrap();
        page.memory.fill(0, PAGE, 0xff).unwrap();
        let counters = page.read();
        assert_eq!(counters.state, PollerState::Unknown);
        assert_eq!((counters.busy_percent(), counters.asleep_percent()), (100, 100));
        let none = PollerCounters::from_words([0; WORDS]);
        assert_eq!((none.busy_percent(), none.asleep_percent()), (0, 0));
        let more = PollerCounters { busy_turns: u64::MAX, turns: 3, ..none };
        assert_eq!(more.busy_percent(), 100);
        let (read, _write) = std::os::unix::net::UnixStream::pair().unwrap();
        assert!(PollerCounters::read(read.as_fd()).is_err());
    }
}
