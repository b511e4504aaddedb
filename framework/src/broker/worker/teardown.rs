//! Taking back everything of a client: the whole proof chain, and the orderly shutdown.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use super::end::GRACE;
use super::records::{Arena, QueueState, Records, Session};
use super::unit::Unit;
use crate::broker::BrokerError;
use crate::bus::{PartitionQuiesced, Revoked};
use crate::deadline::Deadline;
use crate::dma::{DmaError, Partition};
use crate::wire::{EndCause, ReclaimCause, ReclaimReport};

impl Unit {
    /// Takes back everything of a session. `None` if someone else is at it or the session is unknown.
    pub(super) async fn teardown(
        &self,
        session: u64,
        cause: ReclaimCause,
    ) -> Option<ReclaimReport> {
        let started = Instant::now();
        let queues: Vec<u16> = {
            let records = &mut *self.records.borrow_mut();
            let found = records.sessions.get_mut(&session).filter(|session| !session.closing)?;
            found.closing = true;
            found.queues.keys().copied().collect()
        };
        // A queue that is being made right now is ended by whoever makes it, or by us after that.
        let limit = self.common.timeouts.create + self.common.timeouts.quiesce;
        let idle = |records: &Records| {
            records.sessions.get(&session).is_none_or(|session| session.creating == 0)
        };
        if !self.until(limit, idle).await {
            tracing::error!(device = %self.name, session, "a queue is still being made");
        }
        for queue in queues {
            // One that does not end is stuck, and quarantined below.
            let _ = self.end_queue(session, queue, end_cause(cause)).await;
        }
        let gone = self.records.borrow_mut().sessions.remove(&session)?;
        let report = self.reclaim(session, gone, cause, started);
        let (queues, mappings) = (report.queues, report.mappings);
        tracing::info!(
            device = %self.name, session, pid = report.pid, ?cause, queues, mappings,
            bytes = report.bytes, micros = report.micros, quarantined = report.quarantined,
            "taken back"
        );
        self.common.changed.notify_waiters();
        Some(report)
    }

    /// The rest of the chain: queues' proofs, IOVA unmapped, memory released, ids reused.
    fn reclaim(
        &self,
        number: u64,
        session: Session,
        cause: ReclaimCause,
        started: Instant,
    ) -> ReclaimReport {
        let records = &mut *self.records.borrow_mut();
        let held: BTreeSet<u16> = session.queues.keys().copied().collect();
        let orderly = held.is_empty() && cause == ReclaimCause::Died;
        let mut report = ReclaimReport {
            session: number,
            pid: session.peer.pid,
            cause: if orderly { ReclaimCause::Closed } else { cause },
            queues: 0,
            mappings: 0,
            bytes: 0,
            micros: 0,
            quarantined: 0,
        };
        let mut proofs = Vec::new();
        for (id, queue) in session.queues {
            match queue.state {
                QueueState::Ended(_, revoked) => proofs.push(revoked),
                _ => records.quarantine.queues.push(id),
            }
        }
        report.queues = proofs.len() as u32;
        let free: Vec<u16> = proofs.iter().map(Revoked::queue).collect();
        if let Some(partition) = session.partition {
            let proof = PartitionQuiesced::of(partition.id(), &held, proofs).ok();
            self.unmap_all(records, partition, session.arenas, proof.as_ref(), &mut report);
        }
        records.free_queues.extend(free);
        report.micros = started.elapsed().as_micros() as u64;
        report
    }

    /// Unmaps a client's arenas and gives its partition back; what cannot be unmapped is quarantined.
    fn unmap_all(
        &self,
        records: &mut Records,
        mut partition: Partition,
        arenas: BTreeMap<u32, Arena>,
        proof: Option<&PartitionQuiesced>,
        report: &mut ReclaimReport,
    ) {
        for arena in arenas.into_values() {
            let len = arena.mapping.len;
            let unmapped = match proof {
                Some(proof) => self.bus.dma().unmap(arena.mapping, proof),
                None => {
                    let why = "a queue of the partition did not end";
                    Err((arena.mapping, DmaError::Unreachable(why.to_owned())))
                }
            };
            match unmapped.map(|unmapped| partition.release(unmapped)) {
                Ok(Ok(())) => {
                    report.mappings += 1;
                    report.bytes += len;
                    // The memory is released here, before anyone can be given the range.
                    drop(arena.memfd);
                }
                Ok(Err(error)) => {
                    tracing::error!(device = %self.name, %error, "an IOVA range is lost");
                    report.quarantined += 1;
                }
                Err((mapping, error)) => {
                    tracing::error!(device = %self.name, %error, "quarantined a mapping");
                    report.quarantined += 1;
                    records.quarantine.bytes += len;
                    records.quarantine.kept.push((mapping, arena.memfd));
                }
            }
        }
        if let Err(partition) = records.iova.release(partition) {
            records.iova.quarantine(partition);
        }
    }

    /// Shuts the function down. Its clients are gone.
    pub(super) async fn shut_down(&self) -> Result<(), BrokerError> {
        let limit = self.common.timeouts.shutdown;
        let asked = self.driver.shutdown(Deadline::after(limit));
        let device = std::sync::Arc::clone(&self.name);
        match tokio::time::timeout(limit + GRACE, asked).await {
            Ok(Ok(())) => {
                tracing::info!(device = %self.name, "shut down");
                Ok(())
            }
            Ok(Err(source)) => Err(BrokerError::Shutdown { device, source }),
            Err(_) => Err(BrokerError::ShutdownTimedOut { device, after: limit }),
        }
    }
}

fn end_cause(cause: ReclaimCause) -> EndCause {
    match cause {
        ReclaimCause::Revoked | ReclaimCause::Protocol => EndCause::Revoked,
        ReclaimCause::Closed | ReclaimCause::Died => EndCause::Released,
        ReclaimCause::DeviceGone => EndCause::DeviceGone,
        ReclaimCause::Shutdown => EndCause::Shutdown,
    }
}
