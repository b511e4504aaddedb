//! [`Link`]: the connection to a broker, shared by a client's handles and its thread.
//!
//! Callers encode a request, leave it in the outbox and wait for a oneshot; the thread
//! ([`super::reactor`]) sends, receives, and keeps the deadlines. So a request can be awaited on any
//! executor, and dropped at any point: what an answer then brings is given back to the broker.

use std::any::Any;
use std::collections::{HashMap, HashSet, VecDeque};
use std::os::fd::OwnedFd;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use doorbell_queues::EndReason;
use tokio::sync::oneshot;

use super::ClientError;
use super::granted::Granted;
use crate::deadline::TimedOut;
use crate::wait::hub::Hub;
use crate::wait::line::{Line, Overdue};
use crate::wire::codec::{Refused, encode_request};
use crate::wire::{EndCause, Event, Packet, Refusal, Reply, Request, VERSION};

/// Memory that must stay as it is until the broker has answered.
pub(crate) type Keep = Box<dyn Any + Send>;

/// An answer: the reply, its descriptors, and what was kept meanwhile.
pub(crate) type Answer = (Reply, Vec<OwnedFd>, Option<Keep>);

/// A request that has no answer yet.
pub(crate) struct Pending {
    /// Who waits; `None` if nobody (any more).
    to: Option<oneshot::Sender<Result<Answer, ClientError>>>,
    keep: Option<Keep>,
    what: &'static str,
    until: Instant,
    limit: Duration,
    /// The queue that is being released, if that is the request.
    releases: Option<u16>,
}

/// What the link is made of; under one lock, which is never taken on the data path.
pub(crate) struct State {
    next_id: u32,
    pub(crate) outbox: VecDeque<(u32, Packet)>,
    /// Requests that were sent and not answered; the broker limits them.
    pub(crate) sent: u32,
    pub(crate) max_pending: u32,
    pending: HashMap<u32, Pending>,
    queues: HashMap<u16, Granted>,
    /// Ends of queues whose grant nobody has looked at yet.
    ended_early: HashMap<u16, (EndReason, bool)>,
    /// Why there is no connection any more.
    down: Option<Arc<str>>,
    /// Set when the last handle is gone.
    pub(crate) closing: bool,
    /// Pollers that the broker was told of.
    pub(super) pollers: HashSet<u64>,
}

/// The connection.
pub(crate) struct Link {
    pub(crate) socket: OwnedFd,
    pub(crate) name: Arc<str>,
    pub(crate) hub: Arc<Hub>,
    pub(crate) limit: Duration,
    state: Mutex<State>,
}

impl std::fmt::Debug for Link {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Link").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Link {
    pub(crate) fn new(socket: OwnedFd, name: Arc<str>, hub: Arc<Hub>, limit: Duration) -> Self {
        let state = State {
            next_id: 1,
            outbox: VecDeque::new(),
            sent: 0,
            max_pending: 1,
            pending: HashMap::new(),
            queues: HashMap::new(),
            ended_early: HashMap::new(),
            down: None,
            closing: false,
            pollers: HashSet::new(),
        };
        Self { socket, name, hub, limit, state: Mutex::new(state) }
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        // No code that holds the lock panics half-way through a change.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn gone(&self, why: &Arc<str>) -> ClientError {
        ClientError::BrokerGone { socket: Arc::clone(&self.name), why: Arc::clone(why) }
    }

    /// Asks and waits for the answer, at most `limit`.
    pub(crate) async fn call(
        &self,
        request: &Request,
        fds: Vec<OwnedFd>,
        keep: Option<Keep>,
        limit: Duration,
    ) -> Result<Answer, ClientError> {
        let (to, answer) = oneshot::channel();
        self.enqueue(request, fds, keep, Some(to), limit)?;
        match answer.await {
            Ok(result) => result,
            Err(_) => Err(self.gone(&"the client's thread ended".into())),
        }
    }

    /// Asks for something whose answer nobody waits for.
    pub(crate) fn post(&self, request: &Request, keep: Option<Keep>) {
        if let Err(error) = self.enqueue(request, Vec::new(), keep, None, self.limit) {
            tracing::debug!(%error, what = request.name(), "not sent");
        }
    }

    pub(super) fn enqueue(
        &self,
        request: &Request,
        fds: Vec<OwnedFd>,
        keep: Option<Keep>,
        to: Option<oneshot::Sender<Result<Answer, ClientError>>>,
        limit: Duration,
    ) -> Result<(), ClientError> {
        {
            let state = &mut *self.state();
            if let Some(why) = &state.down {
                // Nobody will ever say that the device is done with this memory.
                std::mem::forget(keep);
                return Err(self.gone(why));
            }
            let id = state.next_id;
            state.next_id = state.next_id.wrapping_add(1).max(1);
            let bytes = encode_request(id, request)
                .map_err(|source| ClientError::Wire { socket: Arc::clone(&self.name), source })?;
            let releases = match request {
                Request::ReleaseQueue { queue } => Some(*queue),
                _ => None,
            };
            let until = Instant::now() + limit;
            let what = request.name();
            state.pending.insert(id, Pending { to, keep, what, until, limit, releases });
            state.outbox.push_back((id, Packet { bytes, fds }));
        }
        self.hub.nudge();
        Ok(())
    }

    /// A queue was granted: its end will be told to `line`. `lost` is set when its doorbells reach
    /// nobody any more.
    pub(crate) fn register(&self, queue: u16, line: &Arc<Line>, lost: Arc<AtomicBool>) {
        let (ended, _replaced) = {
            let state = &mut *self.state();
            let granted = Granted::new(Arc::clone(line), lost);
            let replaced = state.queues.insert(queue, granted);
            let down = state.down.is_some().then_some((EndReason::BrokerGone, false));
            (state.ended_early.remove(&queue).or(down), replaced)
        };
        self.hub.limit(line);
        if let Some((reason, quiesced)) = ended {
            line.end(reason, quiesced);
        }
    }

    /// A command has outlived its limit.
    pub(crate) fn overdue(&self, queue: u16, overdue: Overdue) {
        let tag = overdue.tag.map(|tag| tag.0);
        tracing::warn!(socket = %self.name, queue, ?tag, last = overdue.last, "a command timed out");
        self.post(&Request::TimedOut { queue, tag, last: overdue.last }, None);
    }

    /// An answer came.
    pub(crate) fn answered(&self, id: u32, reply: Reply, fds: Vec<OwnedFd>) {
        // What is dropped here may run foreign code (wakers, buffers): outside of the lock.
        let (pending, _line) = {
            let state = &mut *self.state();
            state.sent = state.sent.saturating_sub(1);
            if let Reply::Welcome { max_pending, .. } = &reply {
                state.max_pending = (*max_pending).max(1);
            }
            let pending = state.pending.remove(&id);
            let mut line = None;
            if let Some(Pending { releases: Some(queue), .. }) = &pending {
                line = state.queues.remove(queue);
                state.ended_early.remove(queue);
            }
            (pending, line)
        };
        let Some(mut pending) = pending else {
            tracing::warn!(socket = %self.name, id, reply = reply.name(), "nobody asked for this");
            return;
        };
        let keep = pending.keep.take();
        let orphan = match pending.to.take() {
            Some(to) => match to.send(Ok((reply, fds, keep))) {
                Ok(()) => return,
                Err(Ok(answer)) => answer,
                Err(Err(_)) => return,
            },
            None => (reply, fds, keep),
        };
        self.orphaned(&pending, orphan);
    }

    /// The broker speaks another version.
    pub(crate) fn refused(&self, id: u32, refused: Refused) {
        let pending = self.state().pending.remove(&id);
        if let Some(to) = pending.and_then(|pending| pending.to) {
            // Whoever asked may be gone by now.
            let _ = to.send(Err(ClientError::Version {
                socket: Arc::clone(&self.name),
                theirs: refused.highest,
                ours: VERSION,
            }));
        }
    }

    /// Nobody waits for this answer any more: what it grants goes back.
    fn orphaned(&self, pending: &Pending, (reply, fds, keep): Answer) {
        drop(fds);
        match reply {
            Reply::Granted(grant) => {
                self.post(&Request::ReleaseQueue { queue: grant.queue }, keep);
            }
            Reply::ArenaMapped { arena, .. } => {
                self.post(&Request::ReleaseArena { arena }, keep);
            }
            Reply::Refused(refusal) => {
                let what = pending.what;
                tracing::warn!(socket = %self.name, what, %refusal, "the broker refused");
                if pending.releases.is_some() && !matches!(refusal, Refusal::NotYours { .. }) {
                    // The device may still use the memory.
                    std::mem::forget(keep);
                }
            }
            _ => drop(keep),
        }
    }

    /// The broker tells something.
    pub(crate) fn event(&self, event: Event) {
        match event {
            Event::QueueEnded { queue, cause, quiesced } => {
                tracing::info!(socket = %self.name, queue, ?cause, quiesced, "queue ended");
                let line = {
                    let state = &mut *self.state();
                    let line = state.queues.get(&queue).map(Granted::line);
                    if line.is_none() {
                        state.ended_early.insert(queue, (cause.into(), quiesced));
                    }
                    line
                };
                if let Some(line) = line {
                    line.end(cause.into(), quiesced);
                }
            }
            Event::DeviceGone => {
                let lines: Vec<_> = self.state().queues.values().map(Granted::line).collect();
                for line in lines {
                    line.end(EndCause::DeviceGone.into(), false);
                }
            }
        }
    }

    /// Gives up on requests whose deadline has passed; when to look again.
    pub(crate) fn expire(&self) -> Option<Instant> {
        let now = Instant::now();
        let mut late = Vec::new();
        let next = {
            let state = &mut *self.state();
            for pending in state.pending.values_mut().filter(|pending| pending.until <= now) {
                if let Some(to) = pending.to.take() {
                    late.push((to, pending.what, pending.limit));
                }
            }
            let waiting = state.pending.values().filter(|pending| pending.to.is_some());
            waiting.map(|pending| pending.until).min()
        };
        for (to, what, after) in late {
            let source = TimedOut { what: format!("the answer to '{what}'"), after };
            let error = ClientError::TimedOut { socket: Arc::clone(&self.name), source };
            // Whoever asked may be gone by now.
            let _ = to.send(Err(error));
        }
        next
    }

    /// Ends queues whose doorbells were lost long ago and whose end nobody has told; when to look
    /// again. See [`super::granted`].
    pub(crate) fn settle(&self) -> Option<Instant> {
        let now = Instant::now();
        let (mut untold, mut next) = (Vec::new(), None::<Instant>);
        for granted in self.state().queues.values_mut() {
            match granted.awaits_word(now) {
                Some(until) if until <= now => untold.push(granted.line()),
                Some(until) => next = Some(next.map_or(until, |next| next.min(until))),
                None => {}
            }
        }
        for line in untold {
            tracing::warn!(socket = %self.name, "doorbells were lost, and the broker does not say why");
            line.end(EndReason::DoorbellLost, false);
        }
        next
    }

    /// True if a release is still unanswered.
    pub(crate) fn releasing(&self) -> bool {
        let state = self.state();
        state.pending.values().any(|pending| pending.keep.is_some() || pending.releases.is_some())
    }

    /// The connection is lost for good.
    pub(crate) fn fail(&self, why: &str) {
        let why: Arc<str> = why.into();
        let (pending, queues) = {
            let state = &mut *self.state();
            state.down.get_or_insert_with(|| Arc::clone(&why));
            state.outbox.clear();
            let pending: Vec<_> = state.pending.drain().map(|(_, pending)| pending).collect();
            let queues: Vec<_> = state.queues.drain().map(|(_, granted)| granted).collect();
            (pending, queues)
        };
        for granted in queues {
            // Not quiesced: nobody can say what the device does.
            granted.line().end(EndReason::BrokerGone, false);
        }
        for mut pending in pending {
            std::mem::forget(pending.keep.take());
            if let Some(to) = pending.to.take() {
                // Whoever asked may be gone by now.
                let _ = to.send(Err(self.gone(&why)));
            }
        }
    }
}
