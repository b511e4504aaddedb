//! Submission and completion queue entries (base 3.3.3).

use bytemuck::{Pod, Zeroable};

use super::opcode::{AdminOpcode, IoOpcode};
use super::status::Status;

/// A submission queue entry (base 3.3.3.1, "Common Command Format").
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(C, align(8))]
pub struct Sqe {
    /// CDW0 bits 0 to 7: the opcode.
    pub opcode: u8,
    /// CDW0 bits 8 to 15: FUSE (bits 0 and 1 here) and PSDT (bits 6 and 7 here).
    pub flags: u8,
    /// CDW0 bits 16 to 31: command identifier.
    pub cid: u16,
    /// Namespace identifier.
    pub nsid: u32,
    /// Command dword 2.
    pub cdw2: u32,
    /// Command dword 3.
    pub cdw3: u32,
    /// Metadata pointer.
    pub mptr: u64,
    /// PRP entry 1 of the data pointer.
    pub prp1: u64,
    /// PRP entry 2 of the data pointer.
    pub prp2: u64,
    /// Command dword 10.
    pub cdw10: u32,
    /// Command dword 11.
    pub cdw11: u32,
    /// Command dword 12.
    pub cdw12: u32,
    /// Command dword 13.
    pub cdw13: u32,
    /// Command dword 14.
    pub cdw14: u32,
    /// Command dword 15.
    pub cdw15: u32,
}

impl Sqe {
    /// An admin command, all else zero.
    #[must_use]
    pub fn admin(opcode: AdminOpcode) -> Self {
        Self { opcode: opcode.0, ..Self::default() }
    }

    /// An I/O command on a namespace, all else zero.
    #[must_use]
    pub fn io(opcode: IoOpcode, nsid: u32) -> Self {
        Self { opcode: opcode.0, nsid, ..Self::default() }
    }

    /// Fused operation (CDW0 bits 8 and 9): 0 is a normal operation.
    #[must_use]
    pub const fn fuse(&self) -> u8 {
        self.flags & 0b11
    }

    /// PRP or SGL for Data Transfer (CDW0 bits 14 and 15): 0 is PRP.
    #[must_use]
    pub const fn psdt(&self) -> u8 {
        self.flags >> 6
    }

    /// Command dwords 10 and 11 as one number: the starting LBA of NVM commands (NVM 3.2).
    #[must_use]
    pub const fn cdw10_11(&self) -> u64 {
        self.cdw10 as u64 | (self.cdw11 as u64) << 32
    }

    /// Sets [`Sqe::cdw10_11`].
    #[must_use]
    pub const fn with_cdw10_11(mut self, value: u64) -> Self {
        self.cdw10 = value as u32;
        self.cdw11 = (value >> 32) as u32;
        self
    }
}

/// A completion queue entry (base 3.3.3.2).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(C, align(8))]
pub struct Cqe {
    /// Dword 0: command specific.
    pub dw0: u32,
    /// Dword 1: command specific.
    pub dw1: u32,
    /// Submission queue head, as of this completion.
    pub sqhd: u16,
    /// Submission queue of the command.
    pub sqid: u16,
    /// Command identifier.
    pub cid: u16,
    /// Bit 0: phase tag. Bits 1 to 15: [`Status`].
    pub status_phase: u16,
}

impl Cqe {
    /// Byte offset of dword 3, which the controller writes last: CID in its low half, phase in bit 16.
    pub const PHASE_WORD: usize = 12;

    /// The phase in dword 3.
    #[must_use]
    #[inline]
    pub const fn word_phase(word: u32) -> bool {
        word & (1 << 16) != 0
    }

    /// A completion with everything but results set.
    #[must_use]
    #[inline]
    pub const fn new(cid: u16, sqid: u16, sqhd: u16, status: Status, phase: bool) -> Self {
        Self { dw0: 0, dw1: 0, sqhd, sqid, cid, status_phase: status.0 << 1 | phase as u16 }
    }

    /// As two little-endian words, built in registers: dwords 0 and 1, dwords 2 and 3.
    #[must_use]
    #[inline]
    pub const fn words(self) -> [u64; 2] {
        let low = self.dw0 as u64 | (self.dw1 as u64) << 32;
        let queue = self.sqhd as u64 | (self.sqid as u64) << 16;
        [low, queue | (self.cid as u64) << 32 | (self.status_phase as u64) << 48]
    }

    /// Phase tag (base 3.3.3.2: "P").
    #[must_use]
    #[inline]
    pub const fn phase(&self) -> bool {
        self.status_phase & 1 != 0
    }

    /// Status field.
    #[must_use]
    #[inline]
    pub const fn status(&self) -> Status {
        Status(self.status_phase >> 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::mem::offset_of;

    #[test]
    fn layouts_are_those_of_the_specification() {
        assert_eq!(size_of::<Sqe>(), 64);
        assert_eq!(offset_of!(Sqe, nsid), 4);
        assert_eq!(offset_of!(Sqe, mptr), 16);
        assert_eq!(offset_of!(Sqe, prp1), 24);
        assert_eq!(offset_of!(Sqe, prp2), 32);
        assert_eq!(offset_of!(Sqe, cdw10), 40);
        assert_eq!(offset_of!(Sqe, cdw15), 60);
        assert_eq!(size_of::<Cqe>(), 16);
        assert_eq!(offset_of!(Cqe, sqhd), 8);
        assert_eq!(offset_of!(Cqe, cid), Cqe::PHASE_WORD);
        assert_eq!(offset_of!(Cqe, status_phase), 14);
    }

    #[test]
    fn a_completion_carries_phase_and_status() {
        let cqe = Cqe::new(7, 2, 5, Status::LBA_OUT_OF_RANGE.dnr(), true);
        assert!(cqe.phase());
        assert_eq!(cqe.status(), Status::LBA_OUT_OF_RANGE.dnr());
        let bytes: [u8; 16] = bytemuck::cast(cqe);
        assert_eq!(bytes, bytemuck::cast::<_, [u8; 16]>(cqe.words()));
        let word = u32::from_le_bytes([bytes[12], bytes[13], bytes[14], bytes[15]]);
        assert!(Cqe::word_phase(word));
        assert!(!Cqe::word_phase(word & !(1 << 16)));
    }
}
