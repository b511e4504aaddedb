//! Virtualization Management (base 5.28), and what Identify tells of it (base 5.17.2.13, 5.17.2.14).
//!
//! All flexible resources are for the secondary controllers: the primary controller's are private.

use bytemuck::{Zeroable, bytes_of};

use crate::soft::SoftNvme;
use crate::soft::command::{Failure, Outcome, Reply, byte};
use crate::soft::secondary::{PRIMARY_ID, Secondary, State};
use crate::spec::command::Identify10;
use crate::spec::virtualization::{
    PrimaryCapabilities, Resources, SECONDARY_LIST_LEN, SecondaryList, Virtualization10,
    Virtualization11, action, resource,
};
use crate::spec::{Sqe, Status};

impl SoftNvme {
    /// The most queue pairs, the admin queue among them, and the most interrupts of a secondary
    /// controller.
    fn most_of_secondary(&self) -> u16 {
        self.config.vf_queues + 1
    }

    /// Flexible resources of either type: every secondary controller can have the most.
    fn flexible(&self) -> u32 {
        u32::from(self.most_of_secondary()) * self.secondaries.len() as u32
    }

    fn assigned(&self, of: fn(&State) -> u16) -> u32 {
        self.secondaries.iter().map(|secondary| u32::from(of(&secondary.lock()))).sum()
    }

    pub(super) fn primary_capabilities(&self) -> Vec<u8> {
        let resources = |assigned| Resources {
            total: self.flexible(),
            assigned,
            private: self.vector_count(),
            most: self.most_of_secondary(),
            granularity: 1,
            ..Resources::default()
        };
        let page = PrimaryCapabilities {
            cntlid: PRIMARY_ID,
            crt: 0b11,
            queues: resources(self.assigned(|state| state.queues)),
            interrupts: resources(self.assigned(|state| state.interrupts)),
            ..Zeroable::zeroed()
        };
        bytes_of(&page).to_vec()
    }

    /// Secondary controllers with identifiers not below CNTID.
    pub(super) fn secondary_list(&self, sqe: &Sqe) -> Vec<u8> {
        let first = Identify10(sqe.cdw10).cntid();
        let mut page = SecondaryList::zeroed();
        let entries = self.secondaries.iter().map(|secondary| secondary.entry());
        let entries = entries.filter(|entry| entry.scid >= first).take(SECONDARY_LIST_LEN);
        for (slot, entry) in page.entries.iter_mut().zip(entries) {
            *slot = entry;
            page.count += 1;
        }
        bytes_of(&page).to_vec()
    }

    pub(super) fn manage_virtualization(&self, sqe: &Sqe) -> Reply {
        let (cdw10, nr) = (Virtualization10(sqe.cdw10), Virtualization11(sqe.cdw11).nr());
        if cdw10.act() == action::PRIMARY_ALLOCATION {
            return primary_allocation(cdw10, nr);
        }
        let id = cdw10.cntlid();
        let found = self.secondaries.iter().find(|secondary| secondary.id() == id);
        let unknown = Failure::field(Status::INVALID_CONTROLLER_ID, byte::CDW10 + 2, 0);
        let secondary = found.ok_or(unknown)?;
        let state = Failure::field(Status::INVALID_SECONDARY_STATE, byte::CDW10 + 2, 0);
        match cdw10.act() {
            action::OFFLINE => {
                secondary.lock().offline();
                Ok(Outcome::Done(0))
            }
            action::ONLINE => {
                if self.namespaces.iter().any(|(_, ns)| ns.formatting.is_some()) {
                    return Err(Failure::new(Status::FORMAT_IN_PROGRESS));
                }
                let online = secondary.lock().go_online();
                if online { Ok(Outcome::Done(0)) } else { Err(state) }
            }
            action::ASSIGN => self.assign(secondary, cdw10.rt(), nr),
            _ => Err(Failure::invalid(byte::CDW10, 0)),
        }
    }

    /// Gives a secondary controller that is offline so many resources of a type.
    fn assign(&self, secondary: &Secondary, resource: u8, count: u16) -> Reply {
        let read: fn(&State) -> u16 = match resource {
            resource::QUEUE => |secondary| secondary.queues,
            resource::INTERRUPT => |secondary| secondary.interrupts,
            _ => {
                return Err(Failure::field(Status::INVALID_RESOURCE_ID, byte::CDW10 + 1, 0));
            }
        };
        let others = self.assigned(read) - u32::from(read(&secondary.lock()));
        let most = u32::from(self.most_of_secondary()).min(self.flexible() - others);
        let mut secondary = secondary.lock();
        if secondary.online {
            return Err(Failure::field(Status::INVALID_SECONDARY_STATE, byte::CDW10 + 2, 0));
        }
        if u32::from(count) > most {
            return Err(Failure::field(Status::INVALID_RESOURCE_COUNT, byte::CDW11, 0));
        }
        if resource == resource::QUEUE {
            secondary.queues = count;
        } else {
            secondary.interrupts = count;
        }
        Ok(Outcome::Done(count.into()))
    }
}

/// The primary controller has no use for flexible resources.
fn primary_allocation(cdw10: Virtualization10, nr: u16) -> Reply {
    if cdw10.cntlid() != PRIMARY_ID {
        return Err(Failure::field(Status::INVALID_CONTROLLER_ID, byte::CDW10 + 2, 0));
    }
    if cdw10.rt() > resource::INTERRUPT {
        return Err(Failure::field(Status::INVALID_RESOURCE_ID, byte::CDW10 + 1, 0));
    }
    if nr > 0 {
        return Err(Failure::field(Status::INVALID_RESOURCE_COUNT, byte::CDW11, 0));
    }
    Ok(Outcome::Done(0))
}
