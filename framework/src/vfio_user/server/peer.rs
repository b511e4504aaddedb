//! The client's memory by messages: DMA_READ and DMA_WRITE.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::link::Link;
use crate::deadline::Deadline;
use crate::soft::Control;
use crate::soft::remote::{RemoteError, RemoteMemory};
use crate::vfio_user::message::{DmaData, DmaRead};
use crate::vfio_user::{Command, Frame, Kind, Reply, Request};

/// How long the client may take to answer. Less than [`super::ANSWER`]: a command that waits for the
/// device's thread is answered in time even then.
const PATIENCE: Duration = Duration::from_secs(3);
/// Bytes of writes that may be under way before the device's thread waits for some to arrive.
const WINDOW: usize = 4 << 20;
/// Bytes that may be under way in any case.
const HARD_WINDOW: usize = 64 << 20;

/// A message that waits for its answer.
#[derive(Debug)]
enum Pending {
    /// A read; its data once they came. `None` inside: it was refused.
    Read { address: u64, len: usize, came: Option<Option<Vec<u8>>> },
    /// A read that nobody waits for any more.
    GivenUp,
    /// A write of so many bytes.
    Write { address: u64, len: usize },
}

#[derive(Debug, Default)]
struct State {
    next: u16,
    pending: HashMap<u16, Pending>,
    /// Bytes of writes under way.
    writing: usize,
    /// Commands that wait for the device's thread.
    urgent: usize,
    closed: bool,
}

/// The client's memory.
#[derive(Debug)]
pub(super) struct PeerMemory {
    /// The connection that the messages go by.
    link: Mutex<Arc<Link>>,
    control: Control,
    /// Bytes of one message.
    transfer: AtomicUsize,
    state: Mutex<State>,
    changed: Condvar,
    sent: AtomicU64,
    acknowledged: AtomicU64,
}

/// While it lives a command waits for the device's thread.
#[derive(Debug)]
pub(super) struct Urgent<'a>(&'a PeerMemory);

impl Drop for Urgent<'_> {
    fn drop(&mut self) {
        self.0.lock().urgent -= 1;
    }
}

impl PeerMemory {
    pub(super) fn new(link: Arc<Link>, control: Control, transfer: usize) -> Self {
        Self {
            link: Mutex::new(link),
            control,
            transfer: AtomicUsize::new(transfer),
            state: Mutex::default(),
            changed: Condvar::new(),
            sent: AtomicU64::new(0),
            acknowledged: AtomicU64::new(0),
        }
    }

    /// Messages go by this connection from now on.
    pub(super) fn set_link(&self, link: Arc<Link>) {
        *self.link.lock().unwrap_or_else(PoisonError::into_inner) = link;
    }

    /// The client takes so many bytes in one message.
    pub(super) fn set_transfer(&self, bytes: usize) {
        self.transfer.store(bytes.max(1), Ordering::Relaxed);
    }

    fn transfer(&self) -> usize {
        self.transfer.load(Ordering::Relaxed)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A command is about to wait for the device's thread: a read that can be given up is.
    pub(super) fn urgent(&self) -> Urgent<'_> {
        self.lock().urgent += 1;
        self.changed.notify_all();
        Urgent(self)
    }

    /// The client is gone: every access fails from now on.
    pub(super) fn close(&self) {
        self.lock().closed = true;
        self.changed.notify_all();
    }

    /// An answer came. False if it answers nothing that was asked, or says what cannot be.
    pub(super) fn answered(&self, frame: &Frame) -> bool {
        let mut state = self.lock();
        let Some(pending) = state.pending.get_mut(&frame.header.id) else { return false };
        let failed = matches!(frame.header.kind, Kind::Error { .. });
        let command = frame.command();
        let fits = match pending {
            Pending::Read { address, len, came } => {
                let reply = Reply::decode(Command::DmaRead, &frame.payload);
                let data = match reply {
                    _ if failed => None,
                    Ok(Reply::DmaRead(data)) if data.address == *address => {
                        Some(data.data).filter(|data| data.len() == *len).map(<[u8]>::to_vec)
                    }
                    _ => None,
                };
                let fits = command == Ok(Command::DmaRead) && (failed || data.is_some());
                *came = Some(data.filter(|_| fits));
                fits
            }
            Pending::GivenUp => {
                state.pending.remove(&frame.header.id);
                true
            }
            Pending::Write { address, len } => {
                let (address, len) = (*address, *len);
                if failed {
                    tracing::warn!(address, len, "the client refused a DMA write");
                }
                state.pending.remove(&frame.header.id);
                state.writing -= len;
                // Release: whoever sees the count sees that the data have arrived.
                let done = self.acknowledged.fetch_add(1, Ordering::Release) + 1;
                if done == self.sent.load(Ordering::Acquire) {
                    self.control.nudge();
                }
                command == Ok(Command::DmaWrite)
            }
        };
        drop(state);
        self.changed.notify_all();
        fits
    }

    /// Registers a message and sends it. The lock is held: messages are sent in the order of their
    /// registration.
    fn send(
        &self,
        state: &mut State,
        pending: Pending,
        request: &Request<'_>,
    ) -> Result<u16, RemoteError> {
        if state.closed || state.pending.len() > usize::from(u16::MAX) / 2 {
            return Err(RemoteError::Failed);
        }
        while state.pending.contains_key(&state.next) {
            state.next = state.next.wrapping_add(1);
        }
        let id = state.next;
        state.next = state.next.wrapping_add(1);
        state.pending.insert(id, pending);
        let link = Arc::clone(&self.link.lock().unwrap_or_else(PoisonError::into_inner));
        if link.send(request.message(id, false), Vec::new()) {
            return Ok(id);
        }
        state.pending.remove(&id);
        state.closed = true;
        Err(RemoteError::Failed)
    }

    fn wait<'a>(&self, state: MutexGuard<'a, State>, deadline: &Deadline) -> MutexGuard<'a, State> {
        let waited = self.changed.wait_timeout(state, deadline.remaining());
        waited.unwrap_or_else(PoisonError::into_inner).0
    }

    fn read_one(&self, address: u64, to: &mut [u8], give_up: bool) -> Result<(), RemoteError> {
        let deadline = Deadline::after(PATIENCE);
        let mut state = self.lock();
        if give_up && state.urgent > 0 {
            return Err(RemoteError::Interrupted);
        }
        let pending = Pending::Read { address, len: to.len(), came: None };
        let request = Request::DmaRead(DmaRead { address, count: to.len() as u64 });
        let id = self.send(&mut state, pending, &request)?;
        loop {
            if let Some(Pending::Read { came: Some(data), .. }) = state.pending.get_mut(&id) {
                let data = data.take();
                state.pending.remove(&id);
                let data = data.ok_or(RemoteError::Failed)?;
                // As long as was asked for: checked when it came.
                to.copy_from_slice(&data);
                return Ok(());
            }
            let interrupted = give_up && state.urgent > 0;
            if interrupted || state.closed || deadline.expired() {
                state.pending.insert(id, Pending::GivenUp);
                if !interrupted && !state.closed {
                    tracing::warn!(address, "the client did not answer a DMA read in time");
                }
                let failed = RemoteError::Failed;
                return Err(if interrupted { RemoteError::Interrupted } else { failed });
            }
            state = self.wait(state, &deadline);
        }
    }

    fn write_one(&self, address: u64, data: &[u8]) -> Result<(), RemoteError> {
        let deadline = Deadline::after(PATIENCE);
        let mut state = self.lock();
        while state.writing > WINDOW && state.urgent == 0 && !state.closed {
            if deadline.expired() {
                return Err(RemoteError::Failed);
            }
            state = self.wait(state, &deadline);
        }
        if state.writing > HARD_WINDOW {
            return Err(RemoteError::Failed);
        }
        state.writing += data.len();
        self.sent.fetch_add(1, Ordering::AcqRel);
        let pending = Pending::Write { address, len: data.len() };
        let request = Request::DmaWrite(DmaData { address, data });
        self.send(&mut state, pending, &request).map(drop)
    }
}

impl RemoteMemory for PeerMemory {
    fn read(&self, iova: u64, to: &mut [u8], interruptible: bool) -> Result<(), RemoteError> {
        let mut address = iova;
        for chunk in to.chunks_mut(self.transfer()) {
            self.read_one(address, chunk, interruptible)?;
            // Inside of a mapping, which does not wrap.
            address = address.wrapping_add(chunk.len() as u64);
        }
        Ok(())
    }

    fn write(&self, iova: u64, from: &[u8]) -> Result<(), RemoteError> {
        let mut address = iova;
        for chunk in from.chunks(self.transfer()) {
            self.write_one(address, chunk)?;
            // Inside of a mapping, which does not wrap.
            address = address.wrapping_add(chunk.len() as u64);
        }
        Ok(())
    }

    fn sent(&self) -> u64 {
        self.sent.load(Ordering::Acquire)
    }

    fn acknowledged(&self) -> u64 {
        self.acknowledged.load(Ordering::Acquire)
    }
}
