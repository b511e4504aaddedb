//! The operator's requests: revoke, over all units, and reset.

use super::Worker;
use crate::wire::{EndCause, ReclaimCause, Refusal, Reply, RevokeTarget};

impl Worker {
    /// An operator takes grants back.
    pub(super) async fn revoke(
        &self,
        session: u64,
        target: RevokeTarget,
    ) -> Result<Reply, Refusal> {
        self.check_operator(session, "revoke")?;
        if let RevokeTarget::Queue(queue) = target {
            return self.revoke_queue(queue).await;
        }
        let sessions = self.targets(target);
        if sessions.is_empty() {
            return Err(Refusal::NoTarget(match target {
                RevokeTarget::Queue(queue) => format!("no client has queue {queue}"),
                RevokeTarget::Session(session) => format!("there is no session {session}"),
                RevokeTarget::Pid(pid) => format!("process {pid} has no session"),
            }));
        }
        let concerned = sessions.len() as u32;
        let mut queues = 0;
        for victim in sessions {
            let out = self.unit_of(victim).records.borrow().out(victim);
            queues += self.teardown(victim, ReclaimCause::Revoked).await.unwrap_or(0);
            if let Some(out) = out {
                out.close();
            }
        }
        Ok(Reply::Revoked { queues, sessions: concerned })
    }

    /// An operator resets the device, and with it its virtual functions.
    pub(super) async fn reset(&self, session: u64) -> Result<Reply, Refusal> {
        self.check_operator(session, "reset")?;
        self.primary.reset_now().await
    }

    /// Refuses `what` to who is no operator.
    fn check_operator(&self, session: u64, what: &str) -> Result<(), Refusal> {
        let unit = self.unit_of(session);
        let records = unit.records.borrow();
        let me = records.sessions.get(&session);
        if me.is_some_and(|me| me.rights.operator) {
            return Ok(());
        }
        let uid = me.map_or(u32::MAX, |me| me.peer.uid);
        let device = self.primary.name.to_string();
        Err(Refusal::NotOperator { uid, device, what: what.to_owned() })
    }

    fn targets(&self, target: RevokeTarget) -> Vec<u64> {
        let mut found = Vec::new();
        for unit in self.common.units() {
            let records = unit.records.borrow();
            found.extend(records.sessions.iter().filter_map(|(number, session)| match target {
                RevokeTarget::Session(wanted) => (*number == wanted).then_some(*number),
                RevokeTarget::Pid(pid) => (session.peer.pid == pid).then_some(*number),
                RevokeTarget::Queue(_) => None,
            }));
        }
        found
    }

    /// Queue ids are per unit: one that exists on several is not named by its id alone.
    async fn revoke_queue(&self, queue: u16) -> Result<Reply, Refusal> {
        let mut found = Vec::new();
        for unit in self.common.units() {
            let owner = unit.records.borrow().owner(queue);
            found.extend(owner.map(|owner| (unit, owner)));
        }
        match found.as_slice() {
            [] => Err(Refusal::NoTarget(format!("no client has queue {queue}"))),
            [(unit, owner)] => {
                unit.end_queue(*owner, queue, EndCause::Revoked).await?;
                Ok(Reply::Revoked { queues: 1, sessions: 1 })
            }
            several => {
                let names: Vec<_> = several.iter().map(|(unit, _)| &*unit.name).collect();
                let names = names.join(" and ");
                Err(Refusal::NoTarget(format!(
                    "queue {queue} exists on {names}; name its session instead"
                )))
            }
        }
    }
}
