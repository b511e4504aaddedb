//! What `status` says.

use super::Worker;
use super::records::{QueueState, Session};
use crate::wire::{ArenaStatus, QueueStatus, QuotaStatus, SessionStatus, StatusReport, VERSION};

impl Worker {
    /// Operators see everyone; others see the device and the sessions of their own user.
    pub(super) fn status(&self, asking: u64) -> StatusReport {
        let records = self.records.borrow();
        let me = records.sessions.get(&asking);
        let operator = me.is_some_and(|me| me.rights.operator);
        let uid = me.map(|me| me.peer.uid);
        let shown = |(_, session): &(&u64, &Session)| operator || Some(session.peer.uid) == uid;
        StatusReport {
            broker_pid: rustix::process::getpid().as_raw_nonzero().get(),
            broker_version: env!("CARGO_PKG_VERSION").to_owned(),
            protocol: VERSION,
            spec: self.spec.to_string(),
            device: self.info.clone(),
            out_of_service: records.out_of_service.clone(),
            faults: records.faults,
            last_fault: records.last_fault,
            resets: records.resets,
            sessions: records
                .sessions
                .iter()
                .filter(shown)
                .map(|(number, found)| session(*number, found))
                .collect(),
            sessions_omitted: 0,
            reclaims: records.reclaims.iter().filter(|_| operator).cloned().collect(),
            quarantined_bytes: records.quarantine.bytes,
            quarantined_queues: records.quarantine.queues.clone(),
        }
    }
}

fn session(number: u64, session: &Session) -> SessionStatus {
    SessionStatus {
        session: number,
        pid: session.peer.pid,
        uid: session.peer.uid,
        gid: session.peer.gid,
        program: session.peer.program.clone(),
        operator: session.rights.operator,
        queues: session
            .queues
            .iter()
            .map(|(id, queue)| QueueStatus {
                id: *id,
                entries: queue.entries,
                tier: queue.tier,
                ended: match queue.state {
                    QueueState::Ended(cause, _) => Some(cause),
                    QueueState::Stuck => Some(crate::wire::EndCause::DeviceGone),
                    _ => None,
                },
            })
            .collect(),
        arenas: session
            .arenas
            .iter()
            .map(|(id, arena)| ArenaStatus {
                id: *id,
                iova: arena.mapping.iova,
                bytes: arena.mapping.len,
            })
            .collect(),
        quota: QuotaStatus {
            queues: session.rights.queues,
            bytes: session.rights.bytes,
            mappings: session.rights.mappings,
        },
        pending: session.pending,
    }
}
