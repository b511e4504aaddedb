//! VERSION, both ways.

use crate::vfio_user::fields::{Fields, Put};
use crate::vfio_user::{Capabilities, ProtocolError};

/// A version proposed, or the one agreed on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Version<'a> {
    /// Major; both sides must have the same.
    pub major: u16,
    /// Minor; a reply has at most the minor that was proposed.
    pub minor: u16,
    /// Version data without its NUL: JSON, or nothing. See [`Version::capabilities`].
    pub data: &'a [u8],
}

impl<'a> Version<'a> {
    /// Reads it. The data ends at the first NUL; a peer that leaves the NUL out is understood.
    ///
    /// # Errors
    /// [`ProtocolError::Short`].
    pub fn decode(payload: &'a [u8]) -> Result<Self, ProtocolError> {
        let mut fields = Fields::new("VERSION", payload);
        let (major, minor) = (fields.u16()?, fields.u16()?);
        let data = fields.rest().split(|byte| *byte == 0).next().unwrap_or_default();
        Ok(Self { major, minor, data })
    }

    /// Its bytes. A NUL follows the data, also where there is none.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.put_u16(self.major).put_u16(self.minor).put(self.data).push(0);
    }

    /// What the data says.
    ///
    /// # Errors
    /// [`ProtocolError::Json`].
    pub fn capabilities(&self) -> Result<Capabilities, ProtocolError> {
        Capabilities::from_json(self.data)
    }
}
