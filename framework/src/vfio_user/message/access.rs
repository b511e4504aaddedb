//! REGION_READ, REGION_WRITE, REGION_WRITE_MULTI.

use crate::vfio_user::ProtocolError;
use crate::vfio_user::fields::{Fields, Put};

/// REGION_READ, and the reply to REGION_WRITE: a range of a region.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RegionAccess {
    /// Offset in the region.
    pub offset: u64,
    /// The region.
    pub region: u32,
    /// Bytes.
    pub count: u32,
}

impl RegionAccess {
    pub(super) fn decode(message: &'static str, payload: &[u8]) -> Result<Self, ProtocolError> {
        let mut fields = Fields::new(message, payload);
        let access = Self { offset: fields.u64()?, region: fields.u32()?, count: fields.u32()? };
        fields.end()?;
        Ok(access)
    }

    /// Its bytes.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.put_u64(self.offset).put_u32(self.region).put_u32(self.count);
    }
}

/// REGION_WRITE, and the reply to REGION_READ: a range of a region and the data there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RegionData<'a> {
    /// Offset in the region.
    pub offset: u64,
    /// The region.
    pub region: u32,
    /// The bytes there; as many as the field `count` says.
    pub data: &'a [u8],
}

impl<'a> RegionData<'a> {
    pub(super) fn decode(message: &'static str, payload: &'a [u8]) -> Result<Self, ProtocolError> {
        let mut fields = Fields::new(message, payload);
        let (offset, region, count) = (fields.u64()?, fields.u32()?, fields.u32()?);
        Ok(Self { offset, region, data: fields.data(count.into())? })
    }

    /// Its bytes.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let count = u32::try_from(self.data.len()).unwrap_or(u32::MAX);
        out.put_u64(self.offset).put_u32(self.region).put_u32(count).put(self.data);
    }
}

/// One write of a REGION_WRITE_MULTI: at most 8 bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SmallWrite {
    /// Offset in the region.
    pub offset: u64,
    /// The region.
    pub region: u32,
    count: u32,
    bytes: [u8; 8],
}

impl SmallWrite {
    const LEN: usize = 24;

    /// A write of 1 to 8 bytes; `None` for any other number.
    #[must_use]
    pub fn new(region: u32, offset: u64, data: &[u8]) -> Option<Self> {
        let mut bytes = [0; 8];
        bytes.get_mut(..data.len()).filter(|_| !data.is_empty())?.copy_from_slice(data);
        Some(Self { offset, region, count: data.len() as u32, bytes })
    }

    /// What is written.
    #[must_use]
    pub fn data(&self) -> &[u8] {
        self.bytes.get(..self.count as usize).unwrap_or_default()
    }
}

/// Several writes, done in order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct WriteMulti {
    /// The writes.
    pub writes: Vec<SmallWrite>,
}

impl WriteMulti {
    const NAME: &str = "REGION_WRITE_MULTI";

    /// Reads it.
    ///
    /// # Errors
    /// [`ProtocolError::Count`] if the bytes are not `wr_cnt` writes; [`ProtocolError::Field`] if
    /// one is not 1 to 8 bytes long.
    pub fn decode(payload: &[u8]) -> Result<Self, ProtocolError> {
        let mut fields = Fields::new(Self::NAME, payload);
        let announced = fields.u64()?;
        let rest = fields.data(announced.saturating_mul(Self::WRITE))?;
        let write = |bytes| {
            let mut fields = Fields::new(Self::NAME, bytes);
            let (offset, region, count) = (fields.u64()?, fields.u32()?, fields.u32()?);
            if !(1..=8).contains(&count) {
                return Err(fields.bad("count", count.into(), "a write has 1 to 8 bytes"));
            }
            Ok(SmallWrite { offset, region, count, bytes: fields.bytes8()? })
        };
        Ok(Self { writes: rest.chunks(SmallWrite::LEN).map(write).collect::<Result<_, _>>()? })
    }

    const WRITE: u64 = SmallWrite::LEN as u64;

    /// Its bytes.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.put_u64(self.writes.len() as u64);
        for write in &self.writes {
            out.put_u64(write.offset).put_u32(write.region).put_u32(write.count).put(&write.bytes);
        }
    }
}
