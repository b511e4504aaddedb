//! Claiming a queue: rings from the client's arena, doorbells from the broker.

use std::marker::PhantomData;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use doorbell_queues::{
    Doorbell, DoorbellKind, EntryStores, Fate, Queue, QueueName, QueueParts, QueueProtocol, Shadow,
    SharedMem, SharedQueue, SpinBudget, Word32,
};

use super::handle::{QueueHandle, SharedQueueHandle, Usage};
use super::{ClientError, Inner, QueueSpec};
use crate::bus::{MappedSignals, SignalWords, Signals};
use crate::dma::{DmaKeep, DmaShared, Memfd, Prefault, Watch, map_revocable};
use crate::poll;
use crate::tier::Tier;
use crate::wait::line::{Limits, Line};
use crate::wait::{Eventfd, QueueInterrupt};
use crate::wire::{Grant, Place, Reply, Request, ShadowLayout, ShadowWords};

/// The most commands that can be in flight on one queue (four bits of a tag are its generation).
const MAX_DEPTH: u32 = 4096;

/// The rings of a queue. They go back to the arena only after the broker's word.
#[derive(Debug)]
pub(super) struct Rings {
    /// A device with portals has none.
    submission: Option<DmaShared>,
    completion: DmaShared,
    /// Other memory of the queue's that its device may use: [`Claimed::keep`].
    kept: Vec<DmaKeep>,
}

/// What the grant's descriptors were made into.
struct Mapped {
    slice: SharedMem,
    signals: MappedSignals,
    /// Of the tail and the head doorbell.
    shadows: Option<(Shadow, Shadow)>,
}

/// A queue for the protocol `P` that is granted and not in use yet. Dropping it gives it back.
#[derive(Debug)]
pub struct Claimed<P> {
    pub(super) lease: Lease,
    grant: Grant,
    spec: QueueSpec,
    line: Arc<Line>,
    lost: Arc<AtomicBool>,
    armed: Option<Word32>,
    submission_doorbell: Doorbell,
    completion_doorbell: Doorbell,
    /// The portal's cells, if the device has portals.
    portal: Option<SharedMem>,
    /// The claim checked the size of the entries of this protocol.
    protocol: PhantomData<fn() -> P>,
}

/// The right to a queue: when it is dropped the queue is released, and what it keeps is kept until
/// the broker confirms that the device is done with it.
#[derive(Debug)]
pub(super) struct Lease {
    pub(super) inner: Arc<Inner>,
    pub(super) queue: u16,
    rings: Option<Rings>,
}

impl Lease {
    /// Takes the rings, so that dropping the lease releases nothing.
    pub(super) fn take(&mut self) -> Option<Rings> {
        self.rings.take()
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if let Some(rings) = self.rings.take() {
            let request = Request::ReleaseQueue { queue: self.queue };
            self.inner.link.post(&request, Some(Box::new(rings)));
        }
    }
}

pub(super) async fn claim<P: QueueProtocol>(
    inner: &Arc<Inner>,
    spec: QueueSpec,
) -> Result<Claimed<P>, ClientError> {
    let entries = check::<P>(inner, spec)?;
    let ring = |size: usize| inner.dma.alloc_shared(entries as usize * size);
    let rings = Rings {
        submission: match P::DOORBELL {
            DoorbellKind::Tail => Some(ring(size_of::<P::Entry>())?),
            DoorbellKind::Portal { .. } => None,
        },
        completion: ring(size_of::<P::Completion>())?,
        kept: Vec::new(),
    };
    let request = Request::Claim {
        entries,
        at_least: spec.at_least,
        submission: rings.submission.as_ref().map(|ring| inner.place(ring)).transpose()?,
        completion: inner.place(&rings.completion)?,
    };
    let answer = inner.call(&request, Vec::new(), Some(Box::new(rings)), inner.link.limit).await?;
    let (grant, fds, keep) = match answer {
        (Reply::Granted(grant), fds, Some(keep)) => (grant, fds, keep),
        (other, ..) => return Err(inner.unexpected(&request, &other)),
    };
    let Ok(rings) = keep.downcast::<Rings>() else {
        return Err(inner.unusable("the rings are not those of the claim"));
    };
    let lease = Lease { inner: Arc::clone(inner), queue: grant.queue, rings: Some(*rings) };
    if grant.entries != entries {
        return Err(inner.unusable("the rings are of another size than those asked for"));
    }
    Claimed::new(lease, grant, spec, fds)
}

/// Entries of each ring: a power of two where the device allows that.
fn check<P: QueueProtocol>(inner: &Inner, spec: QueueSpec) -> Result<u32, ClientError> {
    let device = &inner.device;
    if device.queues == 0 {
        let (device, driver) = (device.name.clone(), device.driver.clone());
        return Err(ClientError::NoQueues { device, driver });
    }
    let max = MAX_DEPTH.min(device.max_entries.saturating_sub(1));
    if spec.depth == 0 || spec.depth > max {
        return Err(ClientError::Depth { device: device.name.clone(), depth: spec.depth, max });
    }
    let portal = matches!(P::DOORBELL, DoorbellKind::Portal { .. });
    let ours = (size_of::<P::Entry>(), size_of::<P::Completion>(), portal);
    let (entry, completion) = (device.submission_entry as usize, device.completion_entry as usize);
    let theirs = (entry, completion, device.portal);
    if ours != theirs {
        let text = |(entry, completion, portal)| match portal {
            false => format!("{entry} and {completion}"),
            true => format!("{entry} through a portal and {completion}"),
        };
        return Err(ClientError::Protocol {
            device: device.name.clone(),
            theirs: text(theirs),
            ours: text(ours),
        });
    }
    let wanted = spec.depth + 1;
    let round = wanted.next_power_of_two();
    Ok(if round <= device.max_entries { round } else { wanted })
}

impl Inner {
    fn place(&self, ring: &DmaShared) -> Result<Place, ClientError> {
        let iova = ring.iova();
        let holds = |arena: &&super::Donated| iova >= arena.iova && iova - arena.iova < arena.len;
        match self.arenas().iter().find(holds) {
            Some(arena) => Ok(Place { arena: arena.id, offset: iova - arena.iova }),
            None => Err(self.unusable("a ring lies in no arena that was donated")),
        }
    }

    /// The cells of the portal that a grant names.
    fn portal<P: QueueProtocol>(
        &self,
        slice: &SharedMem,
        grant: &Grant,
    ) -> Result<SharedMem, ClientError> {
        let len = (grant.entries as usize).saturating_mul(size_of::<P::Entry>());
        let offset = usize::try_from(grant.submission_doorbell).ok();
        let cells = offset.and_then(|offset| slice.slice(offset, len).ok());
        cells.ok_or_else(|| self.unusable("the portal lies outside of its slice"))
    }

    fn unusable(&self, why: &str) -> ClientError {
        ClientError::Answer {
            socket: Arc::clone(&self.link.name),
            what: "claim a queue",
            why: why.to_owned(),
        }
    }
}

impl<P: QueueProtocol> Claimed<P> {
    fn new(
        lease: Lease,
        grant: Grant,
        spec: QueueSpec,
        fds: Vec<OwnedFd>,
    ) -> Result<Self, ClientError> {
        let fate = Arc::new(Fate::new());
        let lost = Arc::new(AtomicBool::new(false));
        let mapped = map(&lease.inner, &grant, fds, &lost)?;
        let doorbell = |offset: u64| {
            let word = usize::try_from(offset).ok().map(|offset| mapped.slice.word32(offset));
            match word {
                Some(Ok(word)) => Ok(word),
                _ => Err(lease.inner.unusable("a doorbell lies outside of its slice")),
            }
        };
        let (tail, head) =
            (doorbell(grant.submission_doorbell)?, doorbell(grant.completion_doorbell)?);
        let portal = match P::DOORBELL {
            DoorbellKind::Tail => None,
            DoorbellKind::Portal { .. } => Some(lease.inner.portal::<P>(&mapped.slice, &grant)?),
        };
        let MappedSignals { interrupt, armed, wake } = mapped.signals;
        let (tail_shadow, head_shadow) = mapped.shadows.unzip();
        let submission_doorbell = Doorbell::new(tail, wake).with_shadow(tail_shadow);
        let completion_doorbell = Doorbell::new(head, None).with_shadow(head_shadow);
        let (queue, weak) = (grant.queue, Arc::downgrade(&lease.inner.link));
        let report = Box::new(move |overdue| {
            if let Some(link) = weak.upgrade() {
                link.overdue(queue, overdue);
            }
        });
        let limits = Limits { limit: spec.time_limit, report };
        let commands = spec.depth as u16;
        let line = Line::new(Eventfd::from(interrupt), fate, Some(limits), commands);
        let line = Arc::new(line);
        lease.inner.link.register(queue, &line, Arc::clone(&lost));
        Ok(Self {
            protocol: PhantomData,
            lease,
            grant,
            spec,
            line,
            lost,
            armed,
            submission_doorbell,
            completion_doorbell,
            portal,
        })
    }

    /// The queue's id on the device.
    #[must_use]
    pub fn id(&self) -> u16 {
        self.grant.queue
    }

    /// The isolation that the queue really has.
    #[must_use]
    pub fn tier(&self) -> Tier {
        self.grant.tier
    }

    /// Entries of each ring.
    #[must_use]
    pub fn entries(&self) -> u32 {
        self.grant.entries
    }

    /// Commands that can be in flight: the depth that was asked for.
    #[must_use]
    pub fn depth(&self) -> u32 {
        self.spec.depth
    }

    /// The connection that it belongs to.
    #[must_use]
    pub fn client(&self) -> super::Client {
        super::Client { inner: Arc::clone(&self.lease.inner) }
    }

    /// Keeps memory as long as the queue's rings: until the device is known to be done with the queue.
    /// For what commands name beside their buffers, such as tables with a place for each slot; so no
    /// command has to keep it itself.
    pub fn keep(&mut self, memory: DmaKeep) {
        // Without rings there is no queue to come, and no command.
        if let Some(rings) = &mut self.lease.rings {
            rings.kept.push(memory);
        }
    }

    /// The queue itself, for one thread at a time. `B` is what a command keeps while the device works on
    /// it.
    ///
    /// # Errors
    /// [`ClientError::Geometry`] if the grant makes no queue; it is given back then.
    pub fn into_queue<B: Send + 'static>(self) -> Result<QueueHandle<P, B>, ClientError> {
        let (parts, usage) = self.into_parts()?;
        Ok(QueueHandle::new(Queue::new(parts)?, usage))
    }

    /// The queue itself, for many threads at once. `B` is what a command keeps while the device works
    /// on it.
    ///
    /// # Errors
    /// [`ClientError::Geometry`] if the grant makes no queue; it is given back then.
    pub fn into_shared_queue<B: Send + 'static>(
        self,
    ) -> Result<SharedQueueHandle<P, B>, ClientError> {
        let (parts, usage) = self.into_parts()?;
        Ok(SharedQueueHandle::new(SharedQueue::new(parts)?, usage))
    }

    fn into_parts(self) -> Result<(QueueParts, Usage), ClientError> {
        let Some(rings) = &self.lease.rings else {
            return Err(self.lease.inner.unusable("the queue was released"));
        };
        let Some(submission) = self.portal.or_else(|| Some(rings.submission.as_ref()?.mem()))
        else {
            return Err(self
                .lease
                .inner
                .unusable("there is neither a submission ring nor a portal"));
        };
        let fate = Arc::clone(&self.line.fate);
        let hub = Arc::clone(&self.lease.inner.link.hub);
        let stores = match self.grant.non_temporal {
            true => EntryStores::NonTemporal,
            false => EntryStores::Plain,
        };
        let mut parts = QueueParts {
            name: QueueName {
                device: self.lease.inner.device.name.as_str().into(),
                queue: self.grant.queue,
            },
            submission,
            submission_entries: self.grant.entries,
            entry_stores: stores,
            completion: rings.completion.mem(),
            completion_entries: self.grant.entries,
            slots: self.spec.depth as u16,
            submission_doorbell: self.submission_doorbell,
            completion_doorbell: self.completion_doorbell,
            interrupt: Box::new(QueueInterrupt::new(Arc::clone(&self.line), self.armed, Some(hub))),
            fate,
            spin: self.spec.spin,
        };
        if let Some(poller) = poll::current() {
            // It looks on behalf of all its queues; one that spins would keep it from the others.
            parts.spin = SpinBudget::adaptive(0);
            self.lease.inner.link.polled_by(self.grant.queue, &poller);
        }
        let Self { line, lost: gone, lease, grant, .. } = self;
        Ok((parts, Usage { line, gone, lease, tier: grant.tier }))
    }
}

/// Maps what came with a grant; the order of the descriptors is the protocol's. The slice is mapped for a
/// broker that may take it back at any moment: `lost` is set then, and the client's thread looks at it.
fn map(
    inner: &Inner,
    grant: &Grant,
    fds: Vec<OwnedFd>,
    lost: &Arc<AtomicBool>,
) -> Result<Mapped, ClientError> {
    let mut fds = fds.into_iter();
    let (Some(slice), Some(interrupt)) = (fds.next(), fds.next()) else {
        return Err(inner.unusable("descriptors are missing"));
    };
    let len = usize::try_from(grant.slice_len).unwrap_or(usize::MAX);
    let event = inner.link.hub.wake().as_fd().try_clone_to_owned();
    let event = event.map_err(|source| ClientError::Os {
        what: "duplicating the descriptor that wakes the client's thread",
        source,
    })?;
    let watch = Watch { lost: Arc::clone(lost), event };
    let slice = map_revocable(slice.as_fd(), grant.slice_offset, len, watch)?;
    let words = match grant.signals {
        None => None,
        Some(layout) => {
            let (Some(memory), Some(kick)) = (fds.next(), fds.next()) else {
                return Err(inner.unusable("descriptors of the signal words are missing"));
            };
            let (len, asleep, armed) = (layout.len, layout.asleep, layout.armed);
            Some(SignalWords { memory, len, asleep, armed, kick })
        }
    };
    let shadows = match (grant.shadow, fds.next()) {
        (None, None) => None,
        (Some(layout), Some(memory)) => Some(shadows(inner, layout, memory)?),
        _ => return Err(inner.unusable("the descriptors are not those of the grant")),
    };
    let signals = MappedSignals::map(Signals { interrupt, words })?;
    Ok(Mapped { slice, signals, shadows })
}

/// Maps the shadow doorbells: memory that cannot shrink, with all words inside.
fn shadows(
    inner: &Inner,
    layout: ShadowLayout,
    memory: OwnedFd,
) -> Result<(Shadow, Shadow), ClientError> {
    let memfd = Memfd::check(memory)?;
    if memfd.len() != layout.len {
        let (has, said) = (memfd.len(), layout.len);
        return Err(inner.unusable(&format!("the shadow doorbells have {has} bytes, not {said}")));
    }
    let memory = memfd.map(Prefault::Yes)?;
    let word = |offset: u64| match usize::try_from(offset).map(|offset| memory.word32(offset)) {
        Ok(Ok(word)) => Ok(word),
        _ => Err(inner.unusable("a shadow doorbell lies outside of its memory")),
    };
    let pair = |ShadowWords { value, event }| -> Result<Shadow, ClientError> {
        Ok(Shadow::new(word(value)?, word(event)?))
    };
    Ok((pair(layout.submission)?, pair(layout.completion)?))
}
