//! What becomes of a command: results, failures, and who asked.

use doorbell::dma::Fault;

use crate::spec::{Sqe, Status};

/// "Nowhere" in [`Failure::location`] (base 5.16.1.2, Parameter Error Location).
const NOWHERE: u16 = 0xffff;

/// Byte offsets of a submission entry's fields, for the error log.
pub(crate) mod byte {
    pub(crate) const OPCODE: u8 = 0;
    pub(crate) const FLAGS: u8 = 1;
    pub(crate) const NSID: u8 = 4;
    pub(crate) const PRP1: u8 = 24;
    pub(crate) const PRP2: u8 = 32;
    pub(crate) const CDW10: u8 = 40;
    pub(crate) const CDW11: u8 = 44;
    pub(crate) const CDW12: u8 = 48;
    pub(crate) const CDW14: u8 = 56;
}

/// Why a command failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Failure {
    pub(crate) status: Status,
    /// Byte and bit in the submission entry, as the error log wants it; `NOWHERE` if in none.
    pub(crate) location: u16,
    /// First LBA that failed, where there is one.
    pub(crate) lba: u64,
}

impl Failure {
    /// A failure that is no fault of a field, and that may go away.
    pub(crate) const fn new(status: Status) -> Self {
        Self { status, location: NOWHERE, lba: 0 }
    }

    /// A field that makes the command fail each time: byte offset in the entry and bit in the byte.
    pub(crate) const fn field(status: Status, byte: u8, bit: u8) -> Self {
        let location = byte as u16 | (bit as u16 & 0b111) << 8;
        Self { status: status.dnr(), location, lba: 0 }
    }

    /// "Invalid Field in Command".
    pub(crate) const fn invalid(byte: u8, bit: u8) -> Self {
        Self::field(Status::INVALID_FIELD, byte, bit)
    }

    /// The same, at an LBA.
    pub(crate) const fn at_lba(self, lba: u64) -> Self {
        Self { lba, ..self }
    }
}

/// A DMA access that the IOMMU refused fails the command that asked for it.
impl From<Fault> for Failure {
    fn from(_: Fault) -> Self {
        Self::new(Status::DATA_TRANSFER_ERROR)
    }
}

/// Which command: enough to post its completion.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Origin {
    pub(crate) sqid: u16,
    pub(crate) cid: u16,
    pub(crate) nsid: u32,
}

impl Origin {
    /// A command that was fetched from a queue.
    pub(crate) fn of(sqid: u16, sqe: &Sqe) -> Self {
        Self { sqid, cid: sqe.cid, nsid: sqe.nsid }
    }
}

/// What executing a command came to, if it did not fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// Complete; dword 0 of the completion.
    Done(u32),
    /// Completes later; whoever holds its [`Origin`] posts it.
    Pending,
    /// An Asynchronous Event Request: completes later, and holds no completion entry until then.
    Parked,
    /// Nothing was done for want of a job slot: try again.
    Busy,
}

/// What executing a command came to.
pub(crate) type Reply = Result<Outcome, Failure>;
