//! What a client may ask of the driver, and the answers: the messages of `Driver::admin`, shared by
//! the driver and the client. Data travels in them: at most [`BUFFER`] bytes.

use serde::{Deserialize, Serialize};

/// Bytes of the device's buffer that can be used. It has one more: QEMU 7.2 takes a transfer that
/// ends with the last byte for one that is out of bounds, and ends the whole virtual machine.
pub const BUFFER: usize = 4095;

/// The greatest number whose factorial fits the device's 32 bits.
pub const MOST_FACTORIAL: u32 = 12;

/// True for one byte or more inside of the buffer.
#[must_use]
pub fn in_buffer(offset: usize, len: usize) -> bool {
    len > 0 && offset.checked_add(len).is_some_and(|end| end <= BUFFER)
}

/// An operation on the device. Everyone who may use the device may ask for each of them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum EduAdmin {
    /// Which version the device is. Answer: [`EduReply::Version`].
    Identify,
    /// The factorial of 0 to [`MOST_FACTORIAL`]. Answer: [`EduReply::Factorial`].
    Factorial(u32),
    /// Copies data to the device's buffer by DMA. Answer: [`EduReply::Done`].
    Write {
        /// The first byte in the buffer; any alignment.
        offset: u16,
        /// What is copied.
        data: Vec<u8>,
    },
    /// Copies data from the device's buffer by DMA. Answer: [`EduReply::Data`].
    Read {
        /// The first byte in the buffer; any alignment.
        offset: u16,
        /// How many bytes.
        len: u16,
    },
}

/// An answer to an [`EduAdmin`] operation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum EduReply {
    /// The version in the identification register.
    Version {
        /// Major.
        major: u8,
        /// Minor.
        minor: u8,
    },
    /// The factorial.
    Factorial(u32),
    /// What was read.
    Data(Vec<u8>),
    /// It is done.
    Done,
}
