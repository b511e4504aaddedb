//! What `status` says.

use super::Worker;
use super::records::{QueueState, Records, Session};
use super::unit::Unit;
use crate::wire::{ArenaStatus, QueueStatus, QuotaStatus, SessionStatus, StatusReport, VERSION};

impl Worker {
    /// Operators see everyone; others see the device and the sessions of their own user.
    pub(super) fn status(&self, asking: u64) -> StatusReport {
        let (operator, uid) = {
            let home = self.unit_of(asking);
            let records = home.records.borrow();
            let me = records.sessions.get(&asking);
            (me.is_some_and(|me| me.rights.operator), me.map(|me| me.peer.uid))
        };
        let shown = |session: &Session| operator || Some(session.peer.uid) == uid;
        let units = self.common.units();
        let mut sessions: Vec<_> = units.iter().flat_map(|unit| unit.sessions(shown)).collect();
        sessions.sort_unstable_by_key(|session| session.session);
        let sum =
            |of: fn(&Records) -> u64| units.iter().map(|unit| of(&unit.records.borrow())).sum();
        let records = self.primary.records.borrow();
        let others = units.iter().filter(|unit| unit.function.is_some());
        let last_fault = others.filter_map(|unit| unit.records.borrow().last_fault).next_back();
        StatusReport {
            broker_pid: rustix::process::getpid().as_raw_nonzero().get(),
            broker_version: env!("CARGO_PKG_VERSION").to_owned(),
            protocol: VERSION,
            spec: self.common.spec.to_string(),
            device: self.common.info.clone(),
            out_of_service: records.out_of_service.clone(),
            faults: sum(|records| records.faults),
            last_fault: last_fault.or(records.last_fault),
            resets: records.resets,
            sessions,
            sessions_omitted: 0,
            reclaims: records.reclaims.iter().filter(|_| operator).cloned().collect(),
            quarantined_bytes: sum(|records| records.quarantine.bytes),
            quarantined_queues: records.quarantine.queues.clone(),
            virtual_functions: self.functions.borrow().status(&self.primary.bus),
        }
    }
}

impl Unit {
    fn sessions(&self, shown: impl Fn(&Session) -> bool) -> Vec<SessionStatus> {
        let function = self.function.map(|_| self.name.to_string());
        let records = self.records.borrow();
        let shown = records.sessions.iter().filter(|(_, found)| shown(found));
        shown.map(|(number, found)| session(*number, found, function.clone())).collect()
    }
}

fn session(number: u64, session: &Session, function: Option<String>) -> SessionStatus {
    SessionStatus {
        session: number,
        pid: session.peer.pid,
        uid: session.peer.uid,
        gid: session.peer.gid,
        program: session.peer.program.clone(),
        operator: session.rights.operator,
        function,
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
        pollers: session.poller_status(),
        quota: QuotaStatus {
            queues: session.rights.queues,
            bytes: session.rights.bytes,
            mappings: session.rights.mappings,
        },
        pending: session.pending,
    }
}
