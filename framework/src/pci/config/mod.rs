//! [`ConfigSpace`]: what a function's config space says, read once and believed in nothing: its header
//! and lists of capabilities here, what the capabilities say in `features`.
//!
//! A list of capabilities is walked with a bound, so that one that runs in a circle ends; offsets
//! that lie outside, or that are not aligned, end it with an error.

use super::layout;

mod features;
#[cfg(test)]
mod tests;

pub use features::{Msix, MsixPart, Sriov};

/// Config space that is not there, is cut short, or says what cannot be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("config space at {offset:#x}: {problem}")]
pub struct BadConfig {
    /// Offset in config space.
    pub offset: u16,
    /// What is wrong.
    pub problem: String,
}

fn bad(offset: u16, problem: impl Into<String>) -> BadConfig {
    BadConfig { offset, problem: problem.into() }
}

/// Bytes of the header of a function (type 0).
const HEADER: usize = 0x40;

/// Least distance of two capabilities, in bytes.
const STEP: usize = 4;

/// A capability: its id and where its header lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Capability {
    /// Its id: 8 bits in the list of capabilities, 16 in that of extended ones.
    pub id: u16,
    /// Offset of its header.
    pub offset: u16,
}

/// A copy of a function's config space.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigSpace {
    bytes: Vec<u8>,
}

impl ConfigSpace {
    /// Takes what was read, at least a header.
    ///
    /// # Errors
    /// [`BadConfig`] if it is shorter, or if nobody answers there (the vendor id is all ones).
    pub fn new(mut bytes: Vec<u8>) -> Result<Self, BadConfig> {
        bytes.truncate(layout::EXTENDED_CONFIG_SIZE);
        if bytes.len() < HEADER {
            let problem =
                format!("it ends after {} bytes, within the header of {HEADER}", bytes.len());
            return Err(bad(bytes.len() as u16, problem));
        }
        let space = Self { bytes };
        if space.u16(layout::VENDOR_ID)? == u16::MAX {
            return Err(bad(layout::VENDOR_ID, "the vendor id reads all ones: nobody is there"));
        }
        Ok(space)
    }

    /// How many bytes there are.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "it has a header at least")]
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    fn array<const N: usize>(&self, offset: u16) -> Result<[u8; N], BadConfig> {
        let at = usize::from(offset);
        let found = self.bytes.get(at..at + N).and_then(|bytes| bytes.first_chunk::<N>());
        found.copied().ok_or_else(|| {
            bad(offset, format!("{N} bytes are wanted there and it has {}", self.bytes.len()))
        })
    }

    /// A byte.
    ///
    /// # Errors
    /// [`BadConfig`] if it ends before.
    pub fn u8(&self, offset: u16) -> Result<u8, BadConfig> {
        self.array::<1>(offset).map(|[byte]| byte)
    }

    /// Two bytes.
    ///
    /// # Errors
    /// [`BadConfig`] if it ends before.
    pub fn u16(&self, offset: u16) -> Result<u16, BadConfig> {
        self.array(offset).map(u16::from_le_bytes)
    }

    /// Four bytes.
    ///
    /// # Errors
    /// [`BadConfig`] if it ends before.
    pub fn u32(&self, offset: u16) -> Result<u32, BadConfig> {
        self.array(offset).map(u32::from_le_bytes)
    }

    /// Vendor and device id.
    ///
    /// # Errors
    /// Never: the header is there.
    pub fn ids(&self) -> Result<(u16, u16), BadConfig> {
        Ok((self.u16(layout::VENDOR_ID)?, self.u16(layout::DEVICE_ID)?))
    }

    /// Class code: base class, sub-class and programming interface in the low 24 bits.
    ///
    /// # Errors
    /// Never: the header is there.
    pub fn class(&self) -> Result<u32, BadConfig> {
        Ok(self.u32(layout::REVISION_ID)? >> 8)
    }

    /// The list of capabilities, in its order.
    ///
    /// # Errors
    /// [`BadConfig`] if it leads into the header or out of config space, or runs in a circle.
    pub fn capabilities(&self) -> Result<Vec<Capability>, BadConfig> {
        let mut found = Vec::new();
        if self.u16(layout::STATUS)? & layout::STATUS_CAPABILITIES == 0 {
            return Ok(found);
        }
        let mut pointer = layout::CAPABILITIES_POINTER;
        let mut next = self.u8(pointer)?;
        while next & !3 != 0 {
            // The low two bits are reserved.
            let offset = u16::from(next & !3);
            if usize::from(offset) < HEADER {
                let problem = format!("it points to {offset:#x}, into the header");
                return Err(bad(pointer, problem));
            }
            if found.len() >= (layout::CONFIG_SIZE - HEADER) / STEP {
                return Err(bad(pointer, "the list of capabilities runs in a circle"));
            }
            let [id, after] = self.array(offset)?;
            if id == u8::MAX {
                return Err(bad(offset, "a capability reads all ones: nobody is there"));
            }
            found.push(Capability { id: u16::from(id), offset });
            pointer = offset + 1;
            next = after;
        }
        Ok(found)
    }

    /// The list of extended capabilities, in its order; none in a config space without that part.
    ///
    /// # Errors
    /// As [`ConfigSpace::capabilities`].
    pub fn extended_capabilities(&self) -> Result<Vec<Capability>, BadConfig> {
        let mut found = Vec::new();
        let mut offset = layout::EXTENDED_CAPABILITIES;
        if self.len() <= usize::from(offset) {
            return Ok(found);
        }
        loop {
            let header = self.u32(offset)?;
            // No capability at all is a header of zeroes; some root complexes read all ones.
            if header == 0 || header == u32::MAX {
                return Ok(found);
            }
            let most = (layout::EXTENDED_CONFIG_SIZE - layout::CONFIG_SIZE) / STEP;
            if found.len() >= most {
                return Err(bad(offset, "the list of extended capabilities runs in a circle"));
            }
            found.push(Capability { id: header as u16, offset });
            let next = (header >> 20) as u16 & !3;
            if next == 0 {
                return Ok(found);
            }
            if next < layout::EXTENDED_CAPABILITIES {
                let problem = format!("it points to {next:#x}, out of extended config space");
                return Err(bad(offset, problem));
            }
            offset = next;
        }
    }
}
