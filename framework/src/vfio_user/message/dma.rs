//! DMA_MAP, DMA_UNMAP, DMA_READ, DMA_WRITE.

use crate::vfio_user::ProtocolError;
use crate::vfio_user::fields::{Fields, Put};

/// Bytes of a DMA_MAP.
const MAP: u32 = 32;

/// Memory that the device may reach. A descriptor that comes with it can be mapped; without one the
/// memory is reached by DMA_READ and DMA_WRITE.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DmaMap {
    /// Size of this structure: [`DmaMap::ARGSZ`].
    pub argsz: u32,
    /// [`DmaMap::READABLE`], [`DmaMap::WRITEABLE`].
    pub flags: u32,
    /// Where in the descriptor's file the memory begins.
    pub offset: u64,
    /// First DMA address.
    pub address: u64,
    /// Bytes.
    pub size: u64,
}

impl DmaMap {
    /// The device may read.
    pub const READABLE: u32 = 1;
    /// The device may write.
    pub const WRITEABLE: u32 = 1 << 1;
    /// What `argsz` is.
    pub const ARGSZ: u32 = MAP;

    /// Reads it. Says nothing about ranges: those are the receiver's to check.
    ///
    /// # Errors
    /// [`ProtocolError::Short`].
    pub fn decode(payload: &[u8]) -> Result<Self, ProtocolError> {
        let mut fields = Fields::new("DMA_MAP", payload);
        Ok(Self {
            argsz: fields.u32()?,
            flags: fields.u32()?,
            offset: fields.u64()?,
            address: fields.u64()?,
            size: fields.u64()?,
        })
    }

    /// Its bytes.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.put_u32(self.argsz).put_u32(self.flags);
        out.put_u64(self.offset).put_u64(self.address).put_u64(self.size);
    }
}

/// Memory that the device may no longer reach; also the reply, which echoes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DmaUnmap {
    /// Largest reply that the client takes; in a reply its size: [`DmaUnmap::ARGSZ`].
    pub argsz: u32,
    /// Unused in this version: 0. A server refuses what it does not know, such as
    /// [`DmaUnmap::GET_DIRTY_BITMAP`].
    pub flags: u32,
    /// First DMA address.
    pub address: u64,
    /// Bytes.
    pub size: u64,
}

impl DmaUnmap {
    /// The bit of earlier drafts (and of VFIO's ioctl) that asks for the pages that were written. The
    /// specification has it no longer.
    pub const GET_DIRTY_BITMAP: u32 = 1;
    /// What `argsz` is.
    pub const ARGSZ: u32 = 24;

    /// Reads it.
    ///
    /// # Errors
    /// [`ProtocolError::Short`].
    pub fn decode(payload: &[u8]) -> Result<Self, ProtocolError> {
        let mut fields = Fields::new("DMA_UNMAP", payload);
        Ok(Self {
            argsz: fields.u32()?,
            flags: fields.u32()?,
            address: fields.u64()?,
            size: fields.u64()?,
        })
    }

    /// Its bytes.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.put_u32(self.argsz).put_u32(self.flags).put_u64(self.address).put_u64(self.size);
    }
}

/// DMA_READ, and the part of its reply before the data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DmaRead {
    /// DMA address.
    pub address: u64,
    /// Bytes.
    pub count: u64,
}

impl DmaRead {
    /// Reads the command.
    ///
    /// # Errors
    /// [`ProtocolError::Short`], [`ProtocolError::Count`] if bytes follow.
    pub fn decode(payload: &[u8]) -> Result<Self, ProtocolError> {
        let mut fields = Fields::new("DMA_READ", payload);
        let read = Self { address: fields.u64()?, count: fields.u64()? };
        fields.end()?;
        Ok(read)
    }

    /// Its bytes.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.put_u64(self.address).put_u64(self.count);
    }
}

/// The command DMA_WRITE, and the reply to DMA_READ: an address and the data there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DmaData<'a> {
    /// DMA address.
    pub address: u64,
    /// The bytes there; as many as the field `count` says.
    pub data: &'a [u8],
}

impl<'a> DmaData<'a> {
    pub(super) fn decode(message: &'static str, payload: &'a [u8]) -> Result<Self, ProtocolError> {
        let mut fields = Fields::new(message, payload);
        let (address, count) = (fields.u64()?, fields.u64()?);
        Ok(Self { address, data: fields.data(count)? })
    }

    /// Its bytes.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.put_u64(self.address).put_u64(self.data.len() as u64).put(self.data);
    }
}

/// The reply to DMA_WRITE. The specification's table gives its count 4 bytes, though the command's has
/// 8. That is what is sent; a peer that sends 8 is understood.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DmaWritten {
    /// DMA address.
    pub address: u64,
    /// Bytes written.
    pub count: u64,
}

impl DmaWritten {
    /// Reads it, with a count of 4 or of 8 bytes.
    ///
    /// # Errors
    /// [`ProtocolError::Short`], [`ProtocolError::Count`] for any other length.
    pub fn decode(payload: &[u8]) -> Result<Self, ProtocolError> {
        let mut fields = Fields::new("DMA_WRITE", payload);
        let address = fields.u64()?;
        let count = if payload.len() < 16 { fields.u32()?.into() } else { fields.u64()? };
        fields.end()?;
        Ok(Self { address, count })
    }

    /// Its bytes. A count that 4 bytes do not hold needs a transfer of 4 GiB, which no message
    /// carries.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.put_u64(self.address).put_u32(u32::try_from(self.count).unwrap_or(u32::MAX));
    }
}
