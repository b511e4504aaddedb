//! Moving a client from the device to a virtual function: its arenas keep their addresses.

use std::collections::{BTreeMap, BTreeSet};

use super::Worker;
use super::records::{Arena, Records};
use super::unit::Unit;
use crate::bus::PartitionQuiesced;
use crate::bus::proof::PartitionId;
use crate::dma::{Access, DmaError, Mapping, Partition};
use crate::wire::Refusal;

impl Worker {
    /// Moves a session that holds no queue. Its arenas are mapped in the function's address space
    /// first and unmapped in the device's after that, at the same addresses; if the first fails
    /// nothing has changed. `partition` is the client's in the new address space.
    pub(super) fn hand_over(
        &self,
        session: u64,
        unit: &Unit,
        mut partition: Partition,
    ) -> Result<(), Refusal> {
        let from = &mut *self.primary.records.borrow_mut();
        let device = &self.primary.name;
        let holder = from.granting(session, device)?;
        let held: BTreeSet<u16> = holder.queues.keys().copied().collect();
        let old = holder.partition.as_ref().map(Partition::id);
        let proof = old.and_then(|old| no_queues(old, &held));
        let Some(proof) = proof.filter(|_| holder.creating == 0) else {
            let why = "a queue was made while the virtual function was made ready";
            return Err(Refusal::Driver(format!("device {device}: {why}; try again")));
        };
        let mapped = map_all(unit, &mut partition, &holder.arenas).map_err(|error| {
            let name = &unit.name;
            Refusal::Driver(format!("device {name}: mapping the client's memory: {error}"))
        })?;
        let Some(mut gone) = from.sessions.remove(&session) else {
            return Err(Refusal::Protocol("no such session".to_owned()));
        };
        if let Some(mut old) = gone.partition.replace(partition) {
            for (arena, mapping) in gone.arenas.values_mut().zip(mapped) {
                let before = std::mem::replace(&mut arena.mapping, mapping);
                self.leave(from, &mut old, before, arena, &proof);
            }
            if let Err(old) = from.iova.release(old) {
                from.iova.quarantine(old);
            }
        }
        gone.moving = false;
        unit.records.borrow_mut().sessions.insert(session, gone);
        Ok(())
    }

    /// Unmaps an arena where it was. What cannot be unmapped is quarantined; the client does not
    /// notice, for its memory is mapped where it is now.
    fn leave(
        &self,
        records: &mut Records,
        old: &mut Partition,
        before: Mapping,
        arena: &Arena,
        proof: &PartitionQuiesced,
    ) {
        let device = &self.primary.name;
        match self.primary.bus.dma().unmap(before, proof) {
            Ok(unmapped) => {
                if let Err(error) = old.release(unmapped) {
                    tracing::error!(%device, %error, "an IOVA range is lost");
                }
            }
            Err((mapping, error)) => {
                tracing::error!(%device, %error, "quarantined a mapping");
                records.quarantine.bytes += mapping.len;
                match arena.memfd.try_clone() {
                    Ok(memfd) => records.quarantine.kept.push((mapping, memfd)),
                    Err(error) => tracing::error!(%device, %error, "duplicating a memfd"),
                }
            }
        }
    }
}

fn no_queues(partition: PartitionId, held: &BTreeSet<u16>) -> Option<PartitionQuiesced> {
    PartitionQuiesced::of(partition, held, Vec::new()).ok()
}

/// Maps arenas where they are already, in another address space: all or none.
fn map_all(
    unit: &Unit,
    partition: &mut Partition,
    arenas: &BTreeMap<u32, Arena>,
) -> Result<Vec<Mapping>, DmaError> {
    let space = unit.bus.dma();
    let mut mapped = Vec::with_capacity(arenas.len());
    for arena in arenas.values() {
        let Mapping { iova, len, .. } = arena.mapping;
        let made = partition.alloc_at(iova, len).and_then(|()| {
            space.map(partition.id(), iova, &arena.memfd, 0, len, Access::ReadWrite)
        });
        match made {
            Ok(mapping) => mapped.push(mapping),
            Err(error) => {
                let proof = no_queues(partition.id(), &BTreeSet::new());
                for mapping in mapped {
                    let undone = proof.as_ref().map(|proof| space.unmap(mapping, proof));
                    if let Some(Err((_, error))) = undone {
                        // The whole address space goes with the function, right after this.
                        tracing::warn!(device = %unit.name, %error, "undoing a mapping");
                    }
                }
                return Err(error);
            }
        }
    }
    Ok(mapped)
}
