//! Doorbells by messages, for regions that cannot be mapped.
//!
//! A client gets a page of ordinary memory in the place of the doorbell page, with the asleep word
//! and the kick of a software device beside it ([`doorbell_queues::doorbell`]): what it does is what
//! it does on any other bus, without a system call while the relay is awake. The relay's thread
//! looks for words that changed and sends their values to the server; when nothing has changed for
//! a while it sleeps.
//!
//! A value that is overwritten before the relay saw it is not sent: a doorbell carries an absolute
//! tail or head, so the later value says all. The last value always is. The writes of one look are
//! sent in the order of their offsets.
//!
//! What it does not do: a doorbell here is a 32-bit word, and writing the value that is there already
//! is no ring. (A queue's tail comes back to the same value only after the device has taken entries,
//! which it does only after it was told; and words are zeroed when they are given out anew.)

use std::collections::BTreeMap;
use std::ops::Range;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use doorbell_queues::{OutOfBounds, SharedMem};
use rustix::event::epoll;

use self::words::WordsPage;
use super::link::{Link, new_eventfd, signal};
use super::regions::whole_pages;
use crate::bus::SignalWords;
use crate::dma::map::PAGE;
use crate::dma::{DmaError, HugePages, Memfd, Prefault};

mod thread;
mod words;

/// Words of a page.
const WORDS: usize = PAGE / 4;

/// A page in the place of a page of a region.
#[derive(Debug)]
struct RelayPage {
    memfd: Memfd,
    memory: SharedMem,
    /// What the server was told last.
    sent: Vec<u32>,
}

impl RelayPage {
    fn new(name: &str) -> Result<Self, DmaError> {
        let memfd = Memfd::create(name, PAGE, HugePages::No)?;
        let memory = memfd.map(Prefault::Yes)?;
        Ok(Self { memfd, memory, sent: vec![0; WORDS] })
    }

    /// As at the beginning: no value was written to these bytes, and none was sent.
    fn clear(&mut self, bytes: Range<usize>) -> Result<(), OutOfBounds> {
        self.memory.fill(bytes.start, bytes.len(), 0)?;
        let words = bytes.start / 4..bytes.end.div_ceil(4);
        if let Some(sent) = self.sent.get_mut(words) {
            sent.fill(0);
        }
        Ok(())
    }
}

/// A page's place: region and offset.
type Place = (u8, u64);

/// What the relay's thread and the bus share.
#[derive(Debug)]
struct State {
    link: Arc<Link>,
    pages: Mutex<BTreeMap<Place, RelayPage>>,
    vectors: Mutex<BTreeMap<u16, WordsPage>>,
    /// Kicks and the bell, edge-triggered: a client could empty an eventfd that it holds too.
    epoll: OwnedFd,
    bell: OwnedFd,
    stop: AtomicBool,
    write_multiple: bool,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The relay of one device. Its thread is started when the first page is wanted.
#[derive(Debug)]
pub(super) struct Relay {
    state: Arc<State>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

fn os(what: &'static str) -> impl Fn(std::io::Error) -> DmaError {
    move |source| DmaError::Os { what, source }
}

impl Relay {
    pub(super) fn new(link: Arc<Link>, write_multiple: bool) -> std::io::Result<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let state = State {
            link,
            pages: Mutex::default(),
            vectors: Mutex::default(),
            epoll,
            bell: new_eventfd()?,
            stop: AtomicBool::new(false),
            write_multiple,
        };
        state.watch(&state.bell)?;
        Ok(Self { state: Arc::new(state), thread: Mutex::default() })
    }

    /// True once a page was given out: then rings must be able to wake the relay.
    pub(super) fn is_used(&self) -> bool {
        lock(&self.thread).is_some()
    }

    /// The page around `offset .. offset + len`, whose words there begin at 0 again. `None` if that
    /// is more than one page.
    pub(super) fn page(
        &self,
        region: u8,
        offset: u64,
        len: u64,
    ) -> Result<Option<(Memfd, SharedMem, u64)>, DmaError> {
        let page = PAGE as u64;
        let Some(pages) = whole_pages(offset, len).filter(|p| p.end - p.start == page) else {
            return Ok(None);
        };
        self.start().map_err(os("starting the doorbell relay"))?;
        let mut all = lock(&self.state.pages);
        let found = match all.entry((region, pages.start)) {
            std::collections::btree_map::Entry::Occupied(found) => found.into_mut(),
            std::collections::btree_map::Entry::Vacant(empty) => {
                let name = format!("{}-bar{region}+{:#x}", "doorbell-relay", pages.start);
                empty.insert(RelayPage::new(&name)?)
            }
        };
        // Less than a page.
        let first = (offset - pages.start) as usize;
        let cleared = found.clear(first..first + len as usize);
        cleared.map_err(|error| DmaError::BadArena { why: error.to_string() })?;
        Ok(Some((found.memfd.try_clone()?, found.memory.clone(), pages.start)))
    }

    /// The device was reset: no doorbell was rung since.
    pub(super) fn clear(&self) {
        for page in lock(&self.state.pages).values_mut() {
            if let Err(error) = page.clear(0..PAGE) {
                tracing::error!(%error, "a doorbell page cannot be cleared");
            }
        }
    }

    /// The words by which the holder of a vector wakes the relay.
    pub(super) fn words(&self, vector: u16) -> Result<SignalWords, DmaError> {
        let mut vectors = lock(&self.state.vectors);
        let words = match vectors.entry(vector) {
            std::collections::btree_map::Entry::Occupied(found) => found.into_mut(),
            std::collections::btree_map::Entry::Vacant(empty) => {
                let words = WordsPage::new()?;
                self.state.watch(words.kick()).map_err(os("epoll_ctl(ADD)"))?;
                empty.insert(words)
            }
        };
        let words = words.signals().map_err(os("duplicating a descriptor"));
        drop(vectors);
        // The relay may be asleep, and the new words do not say so: it looks again.
        signal(&self.state.bell);
        words
    }

    /// A former holder of a vector kicks nobody from now on.
    pub(super) fn retire(&self, vector: u16) {
        if let Some(words) = lock(&self.state.vectors).remove(&vector)
            && let Err(error) = epoll::delete(&self.state.epoll, words.kick())
        {
            tracing::warn!(%error, "a retired kick is still watched");
        }
    }

    fn start(&self) -> std::io::Result<()> {
        let mut thread = lock(&self.thread);
        if thread.is_none() {
            let state = Arc::clone(&self.state);
            let builder = std::thread::Builder::new().name("doorbell-relay".to_owned());
            *thread = Some(builder.spawn(move || thread::run(&state))?);
        }
        Ok(())
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.state.stop.store(true, Ordering::Release);
        signal(&self.state.bell);
        if let Some(thread) = lock(&self.thread).take() {
            // Each of its waits has a deadline.
            let _ = thread.join();
        }
    }
}

impl State {
    fn watch(&self, fd: impl AsFd) -> std::io::Result<()> {
        let flags = epoll::EventFlags::IN | epoll::EventFlags::ET;
        Ok(epoll::add(&self.epoll, fd, epoll::EventData::new_u64(0), flags)?)
    }
}
