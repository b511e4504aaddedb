//! Virtualization enhancements (base 8.26): primary and secondary controllers, and the resources that
//! are moved between them.

use bytemuck::{Pod, Zeroable};

bitfields! {
    /// CDW10 of Virtualization Management (base 5.28).
    pub struct Virtualization10(u32) {
        /// Action: see [`action`].
        act, with_act: 0..4 as u8;
        /// Resource type: see [`resource`].
        rt, with_rt: 8..11 as u8;
        /// Controller identifier.
        cntlid, with_cntlid: 16..32 as u16;
    }

    /// CDW11 of Virtualization Management (base 5.28).
    pub struct Virtualization11(u32) {
        /// Number of controller resources.
        nr, with_nr: 0..16 as u16;
    }
}

/// Actions of Virtualization Management (base 5.28).
pub mod action {
    /// Primary Controller Flexible Allocation.
    pub const PRIMARY_ALLOCATION: u8 = 0x1;
    /// Secondary Controller Offline.
    pub const OFFLINE: u8 = 0x7;
    /// Secondary Controller Assign.
    pub const ASSIGN: u8 = 0x8;
    /// Secondary Controller Online.
    pub const ONLINE: u8 = 0x9;
}

/// Resource types (base 5.28 and 8.26.1).
pub mod resource {
    /// VQ: a submission queue and a completion queue.
    pub const QUEUE: u8 = 0;
    /// VI: an interrupt vector.
    pub const INTERRUPT: u8 = 1;
}

/// The least resources of a secondary controller that can be online (base 8.26.3): an admin and an
/// I/O queue pair, and an interrupt.
pub const LEAST_QUEUES: u16 = 2;
/// As [`LEAST_QUEUES`], of interrupts.
pub const LEAST_INTERRUPTS: u16 = 1;

/// How much there is of one type of resource (base 5.17.2.13).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Resources {
    /// Flexible resources in all (VQFRT, VIFRT).
    pub total: u32,
    /// Of these, assigned to secondary controllers (VQRFA, VIRFA).
    pub assigned: u32,
    /// Of these, allocated to the primary controller (VQRFAP, VIRFAP).
    pub primary: u16,
    /// The primary controller's private resources (VQPRT, VIPRT).
    pub private: u16,
    /// The most that one secondary controller can be assigned (VQFRSM, VIFRSM).
    pub most: u16,
    /// The preferred granularity (VQGRAN, VIGRAN).
    pub granularity: u16,
    /// Reserved.
    pub reserved16: [u8; 16],
}

/// Primary Controller Capabilities (base 5.17.2.13).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct PrimaryCapabilities {
    /// Controller identifier of the primary controller.
    pub cntlid: u16,
    /// Port identifier.
    pub portid: u16,
    /// Controller resource types that are flexible: bit 0 queues, bit 1 interrupts.
    pub crt: u8,
    /// Reserved.
    pub reserved5: [u8; 27],
    /// Queue resources.
    pub queues: Resources,
    /// Interrupt resources.
    pub interrupts: Resources,
    /// Reserved.
    pub reserved96: [u8; 4000],
}

/// An entry of the Secondary Controller list (base 5.17.2.14).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct SecondaryController {
    /// Secondary controller identifier.
    pub scid: u16,
    /// Primary controller identifier.
    pub pcid: u16,
    /// State: bit 0 is online.
    pub scs: u8,
    /// Reserved.
    pub reserved5: [u8; 3],
    /// Virtual function number, from 1; 0 if it is no virtual function.
    pub vfn: u16,
    /// Queue resources that are assigned.
    pub nvq: u16,
    /// Interrupt resources that are assigned.
    pub nvi: u16,
    /// Reserved.
    pub reserved14: [u8; 18],
}

/// Most entries of one list.
pub const SECONDARY_LIST_LEN: usize = 127;

/// Secondary Controller list (base 5.17.2.14).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct SecondaryList {
    /// Entries that follow.
    pub count: u8,
    /// Reserved.
    pub reserved1: [u8; 31],
    /// The entries, by ascending identifier.
    pub entries: [SecondaryController; SECONDARY_LIST_LEN],
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::mem::offset_of;

    #[test]
    fn layouts_are_those_of_the_specification() {
        assert_eq!(size_of::<PrimaryCapabilities>(), super::super::IDENTIFY_BYTES);
        assert_eq!(size_of::<SecondaryList>(), super::super::IDENTIFY_BYTES);
        assert_eq!(size_of::<SecondaryController>(), 32);
        let offsets = [
            (offset_of!(PrimaryCapabilities, crt), 4),
            (offset_of!(PrimaryCapabilities, queues), 32),
            (offset_of!(PrimaryCapabilities, interrupts), 64),
            (offset_of!(Resources, primary), 8),
            (offset_of!(Resources, most), 12),
            (offset_of!(SecondaryController, vfn), 8),
            (offset_of!(SecondaryController, nvi), 12),
            (offset_of!(SecondaryList, entries), 32),
        ];
        offsets.iter().for_each(|(is, must)| assert_eq!(is, must));
        let cdw10 = Virtualization10(0).with_act(action::ONLINE).with_rt(1).with_cntlid(3);
        assert_eq!(cdw10.0, 3 << 16 | 1 << 8 | 9);
    }
}
