//! Several client processes at once.

use anyhow::{Result, ensure};
use doorbell::wire::SessionStatus;

use super::load::Load;
use super::{busy, verify};
use crate::plan::{Outcome, skip};
use crate::rig::Rig;
use crate::role::{RoleProcess, Work};

/// One queue as deep as the device and its client allow, kept full.
pub(super) fn load(rig: &mut Rig) -> Result<Outcome> {
    let most = rig.status()?.device.max_entries.saturating_sub(1).min(255);
    let load = Load { part: 0, depth: most, seed: rig.dice.roll(), rounds: 8 };
    rig.start(Work::NvmeVerify(load))?.done()?;
    Ok(Outcome::Passed)
}

pub(super) fn partitions(rig: &mut Rig) -> Result<Outcome> {
    let queues = u64::from(rig.status()?.device.queues);
    if queues < 2 {
        return skip("the controller gives out one queue only");
    }
    let clients = 0..queues.min(4);
    let mut at_work =
        clients.clone().map(|part| rig.start(busy(part))).collect::<Result<Vec<_>>>()?;
    at_work.iter().try_for_each(RoleProcess::started)?;
    let mut ranges = Vec::new();
    let mut held = Vec::new();
    for client in &at_work {
        let session: SessionStatus =
            rig.until_session("a client's session", client.pid(), |session| Some(session.clone()))?;
        ensure!(session.queues.len() == 1, "queues of one client: {:?}", session.queues);
        held.extend(session.queues.iter().map(|queue| queue.id));
        ranges.extend(session.arenas.iter().map(|arena| (arena.iova, arena.iova + arena.bytes)));
    }
    ranges.sort_unstable();
    let overlap = ranges.windows(2).find(|pair| pair[0].1 > pair[1].0);
    ensure!(overlap.is_none(), "two clients share IOVAs: {overlap:x?}");
    held.sort_unstable();
    held.dedup();
    ensure!(held.len() == at_work.len(), "{} clients share queues {held:?}", at_work.len());
    for client in &at_work {
        client.round()?;
        client.round()?;
    }
    for client in &mut at_work {
        client.kill()?;
        rig.until_gone(client.pid())?;
    }
    // All at once once more, each to its end.
    let mut all = clients.map(|part| rig.start(verify(part, 3))).collect::<Result<Vec<_>>>()?;
    all.iter_mut().try_for_each(RoleProcess::done)?;
    Ok(Outcome::Passed)
}
