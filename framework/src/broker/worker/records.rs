//! The broker's records: what every client holds. Nothing here is ever read from client memory.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::pages::{PageRange, Pages};
use crate::broker::outgoing::Outgoing;
use crate::broker::peer::Peer;
use crate::broker::policy::Rights;
use crate::bus::{QueueToken, Revoked, Slice};
use crate::dma::{Fault, IovaAllocator, Mapping, Memfd, Partition};
use crate::tier::Tier;
use crate::wire::{EndCause, Limit, PollerAbout, ReclaimCause, ReclaimReport, Refusal};

/// Reclaims that `status` remembers.
const RECLAIMS: usize = 16;

/// Everything that the worker knows.
pub(super) struct Records {
    pub(super) sessions: BTreeMap<u64, Session>,
    pub(super) iova: IovaAllocator,
    /// Queue ids that may be given out.
    pub(super) free_queues: BTreeSet<u16>,
    /// Who holds which pages of the BARs.
    pub(super) pages: Pages,
    /// How many queues use a vector.
    pub(super) vectors: BTreeMap<u16, u32>,
    pub(super) faults: u64,
    pub(super) last_fault: Option<Fault>,
    /// Times the device was reset; queues made before a reset are gone after it.
    pub(super) resets: u64,
    pub(super) out_of_service: Option<String>,
    pub(super) shutting_down: bool,
    pub(super) reclaims: VecDeque<ReclaimReport>,
    pub(super) quarantine: Quarantine,
}

/// What is never used again, because the device may still reach it.
#[derive(Debug, Default)]
pub(super) struct Quarantine {
    pub(super) bytes: u64,
    pub(super) queues: Vec<u16>,
    /// Mappings stay with the memory that they are of.
    pub(super) kept: Vec<(Mapping, Memfd)>,
}

/// One client.
pub(super) struct Session {
    pub(super) peer: Peer,
    pub(super) rights: Rights,
    pub(super) out: Outgoing,
    pub(super) partition: Option<Partition>,
    pub(super) arenas: BTreeMap<u32, Arena>,
    pub(super) next_arena: u32,
    pub(super) queues: BTreeMap<u16, Queue>,
    /// What it says of its pollers, by its own numbers.
    pub(super) pollers: BTreeMap<u32, Poller>,
    /// Set when its grants are being taken back: nothing new is granted.
    pub(super) closing: bool,
    /// A virtual function is being made ready for it: it claims nothing meanwhile.
    pub(super) moving: bool,
    /// Operations under way.
    pub(super) pending: u32,
    /// Of these, the ones that are making a queue.
    pub(super) creating: u32,
}

/// A poller of a client, in the client's words.
pub(super) struct Poller {
    pub(super) about: PollerAbout,
    /// Its counters. The client writes them at any time; it is read and never mapped.
    pub(super) page: Memfd,
}

/// One arena.
pub(super) struct Arena {
    pub(super) mapping: Mapping,
    pub(super) memfd: Memfd,
}

/// One queue.
pub(super) struct Queue {
    pub(super) entries: u32,
    pub(super) tier: Tier,
    pub(super) vector: Option<u16>,
    /// The client's poller that serves it, as the client says.
    pub(super) poller: Option<u32>,
    pub(super) state: QueueState,
}

/// Where a queue is on its way.
pub(super) enum QueueState {
    /// The driver is making it.
    Creating,
    /// The client has it.
    Live(Live),
    /// Its teardown is under way.
    Ending,
    /// The device is done with it and its doorbell is taken back. Its id is the client's until the
    /// client acknowledges, or is gone: until then a stale doorbell write would reach the next owner.
    Ended(EndCause, Revoked),
    /// The device did not let go of it. Never used again.
    Stuck,
}

/// A queue that the device serves.
pub(super) struct Live {
    pub(super) token: QueueToken,
    pub(super) slice: Option<Held>,
    /// [`Records::resets`] when it was made.
    pub(super) made_at: u64,
}

/// A slice that a client has, and what is booked for it.
pub(super) struct Held {
    pub(super) slice: Slice,
    pub(super) pages: PageRange,
    /// The pages are this client's alone.
    pub(super) alone: bool,
}

impl Session {
    /// A client that was let in and holds nothing yet.
    pub(super) fn new(peer: Peer, rights: Rights, out: Outgoing) -> Self {
        Self {
            peer,
            rights,
            out,
            partition: None,
            arenas: BTreeMap::new(),
            next_arena: 0,
            queues: BTreeMap::new(),
            pollers: BTreeMap::new(),
            closing: false,
            moving: false,
            pending: 0,
            creating: 0,
        }
    }

    /// How much of something it holds.
    fn held(&self, limit: Limit) -> u64 {
        match limit {
            Limit::Queues => self.queues.len() as u64,
            Limit::Bytes => self.arenas.values().map(|arena| arena.mapping.len).sum(),
            Limit::Mappings => self.arenas.len() as u64,
            Limit::Pollers => self.pollers.len() as u64,
        }
    }

    /// The IOVA of `len` bytes in an arena of this client.
    pub(super) fn locate(&self, arena: u32, offset: u64, len: u64) -> Result<u64, Refusal> {
        let refuse = |why: String| Refusal::Arena { arena, why };
        let Some(found) = self.arenas.get(&arena) else {
            return Err(refuse("this client has no such arena".to_owned()));
        };
        let inside = offset.checked_add(len).is_some_and(|end| end <= found.mapping.len);
        if !inside || !offset.is_multiple_of(4096) {
            let size = found.mapping.len;
            return Err(refuse(format!(
                "{len} bytes at offset {offset:#x} are not page-aligned inside of its {size} bytes"
            )));
        }
        Ok(found.mapping.iova + offset)
    }
}

impl Records {
    pub(super) fn new(iova: IovaAllocator, queues: u16) -> Self {
        Self {
            sessions: BTreeMap::new(),
            iova,
            free_queues: (1..=queues).collect(),
            pages: Pages::default(),
            vectors: BTreeMap::new(),
            faults: 0,
            last_fault: None,
            resets: 0,
            out_of_service: None,
            shutting_down: false,
            reclaims: VecDeque::new(),
            quarantine: Quarantine::default(),
        }
    }

    /// A session that may be given something.
    pub(super) fn granting(&mut self, session: u64, device: &str) -> Result<&mut Session, Refusal> {
        if self.shutting_down {
            return Err(Refusal::ShuttingDown);
        }
        if let Some(why) = &self.out_of_service {
            return Err(Refusal::OutOfService { device: device.to_owned(), why: why.clone() });
        }
        match self.sessions.get_mut(&session) {
            Some(found) if !found.closing => Ok(found),
            _ => Err(Refusal::Revoked { device: device.to_owned() }),
        }
    }

    /// Checks that a client may have `asked` more of something. Its process's connections count
    /// together; `elsewhere` is what it holds in other units.
    pub(super) fn check_quota(
        &self,
        session: u64,
        limit: Limit,
        asked: u64,
        elsewhere: u64,
    ) -> Result<(), Refusal> {
        let Some(me) = self.sessions.get(&session) else { return Ok(()) };
        // Processes of foreign pid namespaces all have id 0.
        let here = if me.peer.pid == 0 { me.held(limit) } else { self.held_by(me.peer.pid, limit) };
        let held = here.saturating_add(elsewhere);
        let allowed = match limit {
            Limit::Queues => u64::from(me.rights.queues),
            Limit::Bytes => me.rights.bytes,
            Limit::Mappings => u64::from(me.rights.mappings),
            Limit::Pollers => u64::from(me.rights.pollers),
        };
        if held.checked_add(asked).is_some_and(|sum| sum <= allowed) {
            return Ok(());
        }
        Err(Refusal::Quota { limit, asked, held, allowed })
    }

    /// What a process holds, over all of its connections. Nothing is known of a process without id.
    pub(super) fn held_by(&self, pid: i32, limit: Limit) -> u64 {
        let same = |session: &&Session| pid != 0 && session.peer.pid == pid;
        self.sessions.values().filter(same).map(|session| session.held(limit)).sum()
    }

    pub(super) fn queue_mut(&mut self, session: u64, queue: u16) -> Option<&mut Queue> {
        self.sessions.get_mut(&session)?.queues.get_mut(&queue)
    }

    pub(super) fn out(&self, session: u64) -> Option<Outgoing> {
        self.sessions.get(&session).map(|session| session.out.clone())
    }

    /// Which session has a queue.
    pub(super) fn owner(&self, queue: u16) -> Option<u64> {
        let has = |(_, session): &(&u64, &Session)| session.queues.contains_key(&queue);
        self.sessions.iter().find(has).map(|(number, _)| *number)
    }

    pub(super) fn remember(&mut self, report: ReclaimReport) {
        if self.reclaims.len() == RECLAIMS {
            // What ended in good order is forgotten first.
            let closed = |report: &ReclaimReport| report.cause == ReclaimCause::Closed;
            let oldest = self.reclaims.iter().position(closed).unwrap_or(0);
            self.reclaims.remove(oldest);
        }
        self.reclaims.push_back(report);
    }

    /// Counts one queue less on a vector; true if it was the last.
    pub(super) fn leave_vector(&mut self, vector: u16) -> bool {
        let Some(users) = self.vectors.get_mut(&vector) else { return false };
        *users = users.saturating_sub(1);
        let last = *users == 0;
        if last {
            self.vectors.remove(&vector);
        }
        last
    }
}
