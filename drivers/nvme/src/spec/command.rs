//! Command dwords of admin and NVM commands, and what their data pointers point to.

use bytemuck::{Pod, Zeroable};

bitfields! {
    /// CDW10 of Create I/O Submission and Completion Queue (base 5.4 and 5.5).
    pub struct CreateQueue10(u32) {
        /// Queue identifier.
        qid, with_qid: 0..16 as u16;
        /// Queue size, 0's based.
        qsize, with_qsize: 16..32 as u16;
    }

    /// CDW11 of Create I/O Completion Queue (base 5.4).
    pub struct CreateCq11(u32) {
        /// Physically Contiguous.
        pc, with_pc: 0..1 as bool;
        /// Interrupts Enabled.
        ien, with_ien: 1..2 as bool;
        /// Interrupt Vector.
        iv, with_iv: 16..32 as u16;
    }

    /// CDW11 of Create I/O Submission Queue (base 5.5).
    pub struct CreateSq11(u32) {
        /// Physically Contiguous.
        pc, with_pc: 0..1 as bool;
        /// Queue Priority, for weighted round robin.
        qprio, with_qprio: 1..3 as u8;
        /// Completion Queue Identifier.
        cqid, with_cqid: 16..32 as u16;
    }

    /// CDW10 of Abort (base 5.1).
    pub struct Abort10(u32) {
        /// Submission queue of the command to abort.
        sqid, with_sqid: 0..16 as u16;
        /// Command identifier of the command to abort.
        cid, with_cid: 16..32 as u16;
    }

    /// CDW10 of Identify (base 5.17.1).
    pub struct Identify10(u32) {
        /// Controller or Namespace Structure: see [`Cns`](super::Cns).
        cns, with_cns: 0..8 as u8;
        /// Controller identifier.
        cntid, with_cntid: 16..32 as u16;
    }

    /// CDW11 of Identify (base 5.17.1).
    pub struct Identify11(u32) {
        /// CNS specific identifier.
        cnssid, with_cnssid: 0..16 as u16;
        /// Command Set Identifier: 0 is the NVM command set.
        csi, with_csi: 24..32 as u8;
    }

    /// CDW10 of Get Log Page (base 5.16).
    pub struct GetLog10(u32) {
        /// Log page identifier: see [`LogId`](super::LogId).
        lid, with_lid: 0..8 as u8;
        /// Log specific parameter.
        lsp, with_lsp: 8..15 as u8;
        /// Retain Asynchronous Event.
        rae, with_rae: 15..16 as bool;
        /// Number of dwords, 0's based, lower half.
        numdl, with_numdl: 16..32 as u16;
    }

    /// CDW11 of Get Log Page (base 5.16).
    pub struct GetLog11(u32) {
        /// Number of dwords, 0's based, upper half.
        numdu, with_numdu: 0..16 as u16;
        /// Log specific identifier.
        lsi, with_lsi: 16..32 as u16;
    }

    /// CDW14 of Get Log Page (base 5.16).
    pub struct GetLog14(u32) {
        /// UUID index.
        uuid_index, with_uuid_index: 0..7 as u8;
        /// Offset Type: 1 is an index into a list, 0 a byte offset.
        ot, with_ot: 23..24 as bool;
        /// Command Set Identifier.
        csi, with_csi: 24..32 as u8;
    }

    /// CDW10 of Format NVM (base 5.14).
    pub struct Format10(u32) {
        /// LBA format, lower bits.
        lbafl, with_lbafl: 0..4 as u8;
        /// Metadata settings: 1 is metadata interleaved with the data.
        mset, with_mset: 4..5 as bool;
        /// Protection information type.
        pi, with_pi: 5..8 as u8;
        /// Protection information location.
        pil, with_pil: 8..9 as bool;
        /// Secure erase settings: 0 none, 1 user data erase, 2 cryptographic erase.
        ses, with_ses: 9..12 as u8;
        /// LBA format, upper bits.
        lbafu, with_lbafu: 12..14 as u8;
    }

    /// CDW12 of Read, Write, Compare and Write Zeroes (NVM 3.2.1, 3.2.4, 3.2.6, 3.2.8).
    pub struct Rw12(u32) {
        /// Number of logical blocks, 0's based.
        nlb, with_nlb: 0..16 as u16;
        /// Storage tag check.
        stc, with_stc: 24..25 as bool;
        /// Deallocate, in Write Zeroes.
        deac, with_deac: 25..26 as bool;
        /// Protection information field.
        prinfo, with_prinfo: 26..30 as u8;
        /// Force Unit Access: the data is on the medium before the command completes.
        fua, with_fua: 30..31 as bool;
        /// Limited Retry.
        lr, with_lr: 31..32 as bool;
    }

    /// CDW11 of Dataset Management (NVM 3.2.3).
    pub struct Dsm11(u32) {
        /// Attribute: integral dataset for read.
        idr, with_idr: 0..1 as bool;
        /// Attribute: integral dataset for write.
        idw, with_idw: 1..2 as bool;
        /// Attribute: deallocate.
        ad, with_ad: 2..3 as bool;
    }
}

/// A range of Dataset Management (NVM 3.2.3, figure "Range Definition").
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct DsmRange {
    /// Context attributes: hints.
    pub cattr: u32,
    /// Length in logical blocks (not 0's based).
    pub nlb: u32,
    /// Starting LBA.
    pub slba: u64,
}

/// Most ranges of one Dataset Management command (NVM 3.2.3: 8 bits, 0's based).
pub const DSM_RANGES_MAX: usize = 256;

/// A physical region page entry (base 4.1.1): the address of a memory page, with an offset into the
/// page where it is the first entry of a transfer (or points to a list).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(transparent)]
pub struct Prp(pub u64);

impl Prp {
    /// Offset in a memory page of `page` bytes (a power of two).
    #[must_use]
    #[inline]
    pub const fn offset(self, page: u64) -> u64 {
        self.0 & (page - 1)
    }

    /// True if the two low bits are zero, as base 4.1.1 demands of every entry.
    #[must_use]
    #[inline]
    pub const fn is_dword_aligned(self) -> bool {
        self.0 & 0b11 == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dwords_lie_where_the_specification_puts_them() {
        assert_eq!(size_of::<DsmRange>(), 16);
        assert_eq!(CreateQueue10(0).with_qid(3).with_qsize(63).0, 63 << 16 | 3);
        assert_eq!(CreateCq11(0).with_pc(true).with_ien(true).with_iv(2).0, 2 << 16 | 3);
        assert_eq!(CreateSq11(0).with_pc(true).with_cqid(3).0, 3 << 16 | 1);
        assert_eq!(Rw12(0).with_nlb(7).with_fua(true).0, 1 << 30 | 7);
        assert!(Dsm11(4).ad());
        assert_eq!(GetLog10(0).with_lid(2).with_numdl(127).0, 127 << 16 | 2);
        assert_eq!(Format10(0).with_lbafl(1).with_ses(1).0, 1 << 9 | 1);
        assert_eq!(Prp(0x1234).offset(4096), 0x234);
    }
}
