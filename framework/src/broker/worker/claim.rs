//! Claiming a queue: checks, the driver's part, and what the client gets.

use std::os::fd::OwnedFd;

use doorbell_queues::EntryStores;

use super::pages::PageRange;
use super::records::{Held, Live, Queue, QueueState};
use super::unit::Unit;
use crate::bus::proof::PartitionId;
use crate::bus::{BusError, QueueToken, Slice};
use crate::dma::Partition;
use crate::driver::{QueueGrant, QueueMemory, QueueRequest, QueueShadow};
use crate::tier::Tier;
use crate::wire::{Grant, Limit, Place, Refusal, Reply, ShadowLayout, SignalLayout};

/// What a client asks for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wanted {
    pub(super) entries: u32,
    pub(super) at_least: Tier,
    pub(super) submission: Option<Place>,
    pub(super) completion: Place,
}

/// A queue that is reserved in the records.
struct Reserved {
    queue: u16,
    partition: PartitionId,
    memory: QueueMemory,
    at_least: Tier,
    /// Resets of the device until now.
    resets: u64,
}

/// A queue, ready to be sent.
struct Offer {
    grant: Grant,
    fds: Vec<OwnedFd>,
}

/// Shadow doorbells, for a client to map; all four words lie in their memory.
fn share(shadow: &QueueShadow) -> Result<(ShadowLayout, OwnedFd), String> {
    let QueueShadow { memory, submission, completion } = shadow;
    let len = memory.memory().len() as u64;
    let words = [submission.value, submission.event, completion.value, completion.event];
    if let Some(at) = words.into_iter().find(|at| at % 4 != 0 || *at > len.saturating_sub(4)) {
        return Err(format!("the driver names a shadow doorbell at {at:#x} of {len:#x} bytes"));
    }
    let fd = memory.share().map_err(|error| error.to_string())?;
    Ok((ShadowLayout { len, submission: *submission, completion: *completion }, fd))
}

impl Unit {
    pub(super) async fn claim(
        &self,
        session: u64,
        wanted: Wanted,
    ) -> Result<(Reply, Vec<OwnedFd>), Refusal> {
        // A device that is being reset makes no queues.
        drop(self.reset.lock().await);
        let reserved = self.reserve(session, wanted)?;
        let result = self.create(session, wanted, &reserved).await;
        if let Some(holder) = self.records.borrow_mut().sessions.get_mut(&session) {
            holder.creating = holder.creating.saturating_sub(1);
        }
        self.common.changed.notify_waiters();
        result
    }

    /// Checks everything that needs no device, and takes an id.
    fn reserve(&self, session: u64, wanted: Wanted) -> Result<Reserved, Refusal> {
        let records = &mut *self.records.borrow_mut();
        let holder = records.granting(session, &self.name)?;
        let rights = holder.rights;
        if wanted.at_least > rights.max_tier {
            let why = format!("the policy allows this user at most {}", rights.max_tier);
            return Err(Refusal::Tier { asked: wanted.at_least, why });
        }
        let max = self.plan.max_entries;
        if wanted.entries < 2 || wanted.entries > max {
            let device = self.name.to_string();
            return Err(Refusal::Entries { entries: wanted.entries, max, device });
        }
        let locate = |place: Place, entry: u32| {
            holder.locate(place.arena, place.offset, u64::from(wanted.entries) * u64::from(entry))
        };
        if self.plan.portal == wanted.submission.is_some() {
            let why = "a submission ring and a portal are asked for where there is the other one";
            return Err(Refusal::Protocol(why.to_owned()));
        }
        let submission = wanted.submission.map(|place| locate(place, self.plan.submission_entry));
        let memory = QueueMemory {
            submission: submission.transpose()?.unwrap_or_default(),
            completion: locate(wanted.completion, self.plan.completion_entry)?,
        };
        let Some(partition) = holder.partition.as_ref().map(Partition::id) else {
            return Err(Refusal::Protocol("a queue without an arena".to_owned()));
        };
        self.check_quota(records, session, Limit::Queues, 1)?;
        let Some(queue) = records.free_queues.pop_first() else {
            let device = self.name.to_string();
            return Err(Refusal::NoQueueLeft { device, total: self.plan.queues });
        };
        let resets = records.resets;
        if let Some(holder) = records.sessions.get_mut(&session) {
            holder.creating += 1;
            let state = QueueState::Creating;
            let tier = rights.required_tier;
            holder.queues.insert(
                queue,
                Queue { entries: wanted.entries, tier, vector: None, poller: None, state },
            );
        }
        let at_least = wanted.at_least.max(rights.required_tier);
        Ok(Reserved { queue, partition, memory, at_least, resets })
    }

    async fn create(
        &self,
        session: u64,
        wanted: Wanted,
        reserved: &Reserved,
    ) -> Result<(Reply, Vec<OwnedFd>), Refusal> {
        let made = self.make(session, wanted, reserved).await?;
        let held = self.export(session, reserved, wanted.entries, &made);
        let (offer, held) = match held {
            Ok(held) => (self.offer(wanted, reserved, &made, &held), Some(held)),
            Err(refusal) => (Err(refusal), None),
        };
        // Whatever was taken is in the records before anything can fail, and goes back from there.
        self.install(session, reserved, held.map(|held| (held, made.vector)));
        let Offer { grant, fds } = match offer {
            Ok(offer) => offer,
            Err(refusal) => {
                self.unmake(session, reserved.queue).await;
                return Err(refusal);
            }
        };
        if self.records.borrow().resets > reserved.resets {
            self.unmake(session, reserved.queue).await;
            return Err(Refusal::Driver("the device was reset meanwhile; claim again".to_owned()));
        }
        let (queue, tier, entries) = (grant.queue, grant.tier, grant.entries);
        tracing::info!(device = %self.name, session, queue, %tier, entries, "queue granted");
        Ok((Reply::Granted(grant), fds))
    }

    /// The driver's part.
    async fn make(
        &self,
        session: u64,
        wanted: Wanted,
        reserved: &Reserved,
    ) -> Result<QueueGrant, Refusal> {
        let queue = reserved.queue;
        let request = QueueRequest { entries: wanted.entries, at_least: reserved.at_least };
        let making = self.driver.create_queue(queue, &request, reserved.memory);
        let limit = self.common.timeouts.create;
        match tokio::time::timeout(limit, making).await {
            Ok(Ok(made)) => Ok(made),
            Ok(Err(error)) => {
                let records = &mut *self.records.borrow_mut();
                if let Some(holder) = records.sessions.get_mut(&session) {
                    holder.queues.remove(&queue);
                }
                records.free_queues.insert(queue);
                Err(Refusal::Driver(error.to_string()))
            }
            Err(_) => {
                // Nobody knows whether the queue exists: it is ended as if it did.
                self.install(session, reserved, None);
                self.unmake(session, queue).await;
                Err(self.late(&format!("queue {queue} to be created"), limit))
            }
        }
    }

    /// The slice with the doorbells, of the tier that it really has.
    fn export(
        &self,
        session: u64,
        reserved: &Reserved,
        entries: u32,
        made: &QueueGrant,
    ) -> Result<Held, Refusal> {
        // A function is its client's alone: whatever part of it the client gets, it reaches nobody else.
        let isolated = self.function.is_some();
        let asked = if isolated { Tier::Cooperative } else { reserved.at_least };
        let refuse = |why| Refusal::Tier { asked, why };
        let (tail, head) = (made.submission_doorbell, made.completion_doorbell);
        let tail_len = match self.plan.portal {
            true => u64::from(entries) * u64::from(self.plan.submission_entry),
            false => 4,
        };
        let first = tail.min(head);
        let end = tail.checked_add(tail_len).zip(head.checked_add(4)).map(|(a, b)| a.max(b));
        let range = end.and_then(|end| {
            Some((end - first, PageRange::around(made.region, first, end - first)?))
        });
        let Some((len, pages)) = range else {
            return Err(Refusal::Driver(format!(
                "device {}: the driver names doorbells at {tail:#x} and {head:#x}",
                self.name
            )));
        };
        let no_slice = |error| match error {
            BusError::Tier { best, .. } => refuse(format!("this device gives at best {best}")),
            BusError::NoSlice { why, .. } => refuse(why),
            other => Refusal::Driver(other.to_string()),
        };
        // What no device of this bus can have is said first.
        self.bus.offers(asked).map_err(no_slice)?;
        if made.shadow.is_some() && asked > Tier::Cooperative {
            return Err(refuse(
                "its shadow doorbells lie in pages that all clients share, so this device gives at \
                 best cooperative"
                    .to_owned(),
            ));
        }
        let records = &mut *self.records.borrow_mut();
        let holder = records.granting(session, &self.name)?;
        if self.function.is_none() && self.bus.exports_device_fd() && !holder.rights.device_fd {
            return Err(refuse(
                "this kernel exports no slices of a BAR, so a doorbell can only be handed out with the \
                 descriptor of the whole device, and the policy does not allow that to this user; the \
                 operator can add `device_fd = true` to its rule"
                    .to_owned(),
            ));
        }
        // A page of the client's own for whoever asks for one. Others share, so that the next client
        // finds a doorbell.
        let alone = asked == Tier::Paged;
        let driver = self.device.own_pages();
        let taken = records.pages.take(session, &pages, alone, &driver);
        taken.map_err(|conflict| refuse(conflict.to_string()))?;
        let export = |tier| self.bus.export(made.region, first, len, tier);
        let exported = match isolated {
            // All the same no more than there is need for.
            true => export(Tier::Paged).or_else(|_| export(Tier::Cooperative)),
            false => export(asked),
        };
        match exported {
            Ok(mut slice) => {
                if !isolated && !alone && slice.tier == Tier::Paged {
                    slice.tier = Tier::Cooperative;
                }
                Ok(Held { slice, pages, alone })
            }
            Err(error) => {
                records.pages.give_back(session, &pages, alone);
                Err(no_slice(error))
            }
        }
    }

    /// What the client gets.
    fn offer(
        &self,
        wanted: Wanted,
        reserved: &Reserved,
        made: &QueueGrant,
        held: &Held,
    ) -> Result<Offer, Refusal> {
        let Held { slice, pages, .. } = held;
        let device = &self.name;
        let region = slice.region_offset..slice.region_offset.saturating_add(slice.len);
        if region != pages.bytes {
            return Err(Refusal::Driver(format!(
                "device {device}: the bus gave {region:#x?} of BAR{} for the doorbells' pages {:#x?}",
                slice.region, pages.bytes
            )));
        }
        let signals = self.bus.signals(made.vector).map_err(|e| Refusal::Driver(e.to_string()))?;
        let sent = slice.fd.try_clone().map_err(|error| {
            Refusal::Driver(format!("device {device}: duplicating a slice's descriptor: {error}"))
        })?;
        let mut grant = Grant {
            queue: reserved.queue,
            tier: self.tier_of(slice),
            entries: wanted.entries,
            slice_offset: slice.offset,
            slice_len: slice.len,
            submission_doorbell: made.submission_doorbell - region.start,
            completion_doorbell: made.completion_doorbell - region.start,
            non_temporal: self.bus.entry_stores() == EntryStores::NonTemporal,
            signals: None,
            shadow: None,
        };
        let mut fds = vec![sent, signals.interrupt];
        if let Some(words) = signals.words {
            let (len, asleep, armed) = (words.len, words.asleep, words.armed);
            grant.signals = Some(SignalLayout { len, asleep, armed });
            fds.extend([words.memory, words.kick]);
        }
        if let Some(shadow) = &made.shadow {
            let (layout, memory) =
                share(shadow).map_err(|why| Refusal::Driver(format!("device {device}: {why}")))?;
            grant.shadow = Some(layout);
            fds.push(memory);
        }
        Ok(Offer { grant, fds })
    }

    /// How well a queue with this slice is isolated.
    fn tier_of(&self, slice: &Slice) -> Tier {
        if self.function.is_some() { Tier::Isolated } else { slice.tier }
    }

    /// The queue exists: from here on it is torn down by the proof chain.
    fn install(&self, session: u64, reserved: &Reserved, offered: Option<(Held, u16)>) {
        let (slice, vector) = offered.unzip();
        let token = QueueToken::mint(reserved.queue, reserved.partition);
        let records = &mut *self.records.borrow_mut();
        if let Some(vector) = vector {
            *records.vectors.entry(vector).or_default() += 1;
        }
        if let Some(queue) = records.queue_mut(session, reserved.queue) {
            queue.vector = vector;
            queue.tier = slice.as_ref().map_or(queue.tier, |held| self.tier_of(&held.slice));
            queue.state = QueueState::Live(Live { token, slice, made_at: reserved.resets });
        }
    }

    /// Ends a queue that its client never got.
    async fn unmake(&self, session: u64, queue: u16) {
        if let Err(refusal) = self.release_queue(session, queue).await {
            tracing::error!(device = %self.name, queue, %refusal, "a half-made queue stays");
        }
    }
}
