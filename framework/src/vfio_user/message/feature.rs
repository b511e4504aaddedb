//! DEVICE_FEATURE, the data of its features, and MIG_DATA_READ and MIG_DATA_WRITE.

use crate::vfio_user::ProtocolError;
use crate::vfio_user::fields::{Fields, Put};

const NAME: &str = "DEVICE_FEATURE";

/// A feature of the device; the reply looks the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeviceFeature<'a> {
    /// In a command the largest reply that is taken; in a reply its size.
    pub argsz: u32,
    /// The feature's index in the low 16 bits; [`DeviceFeature::GET`] and the others.
    pub flags: u32,
    /// Data of the feature.
    pub data: &'a [u8],
}

impl<'a> DeviceFeature<'a> {
    /// Get the feature's data.
    pub const GET: u32 = 1 << 16;
    /// Set it.
    pub const SET: u32 = 1 << 17;
    /// Ask whether that could be done.
    pub const PROBE: u32 = 1 << 18;
    /// Bytes before the data.
    pub const ARGSZ: u32 = 8;

    /// Which feature.
    #[must_use]
    pub fn index(&self) -> u16 {
        (self.flags & 0xffff) as u16
    }

    /// Reads it.
    ///
    /// # Errors
    /// [`ProtocolError::Short`]; [`ProtocolError::Field`] if neither get, set nor probe is asked
    /// for, or get and set at once without probe.
    pub fn decode(payload: &'a [u8]) -> Result<Self, ProtocolError> {
        let mut fields = Fields::new(NAME, payload);
        let (argsz, flags) = (fields.u32()?, fields.u32()?);
        let (get, set, probe) =
            (flags & Self::GET != 0, flags & Self::SET != 0, flags & Self::PROBE != 0);
        if !(get || set || probe) {
            return Err(fields.bad("flags", flags.into(), "neither get, set nor probe"));
        }
        if get && set && !probe {
            return Err(fields.bad("flags", flags.into(), "get and set at once"));
        }
        Ok(Self { argsz, flags, data: fields.rest() })
    }

    /// Its bytes.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.put_u32(self.argsz).put_u32(self.flags).put(self.data);
    }
}

/// Which features there are, and their data (section "Device Features").
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FeatureData {
    /// 1, MIGRATION: what the device can do.
    Migration {
        /// Bit 0 stop-copy, bit 1 P2P, bit 2 pre-copy.
        flags: u64,
    },
    /// 2, MIG_DEVICE_STATE.
    DeviceState {
        /// The state that it is in, or shall go to.
        state: u32,
        /// Not used by vfio-user.
        data_fd: u32,
    },
    /// 6, DMA_LOGGING_START.
    DmaLoggingStart {
        /// The granularity that is wished for, or chosen.
        page_size: u64,
        /// First address and bytes of each range; none for all.
        ranges: Vec<(u64, u64)>,
    },
    /// 7, DMA_LOGGING_STOP: no data.
    DmaLoggingStop,
    /// 8, DMA_LOGGING_REPORT.
    DmaLoggingReport {
        /// First address.
        iova: u64,
        /// Bytes.
        length: u64,
        /// Bytes for each bit.
        page_size: u64,
        /// In a reply the bitmap.
        bitmap: Vec<u64>,
    },
}

impl FeatureData {
    /// The feature's index.
    #[must_use]
    pub fn index(&self) -> u16 {
        match self {
            Self::Migration { .. } => 1,
            Self::DeviceState { .. } => 2,
            Self::DmaLoggingStart { .. } => 6,
            Self::DmaLoggingStop => 7,
            Self::DmaLoggingReport { .. } => 8,
        }
    }

    /// Reads the data of feature `index`; `None` if the specification has no such feature.
    ///
    /// # Errors
    /// [`ProtocolError::Short`], [`ProtocolError::Count`].
    pub fn decode(index: u16, data: &[u8]) -> Result<Option<Self>, ProtocolError> {
        let mut fields = Fields::new(NAME, data);
        Ok(Some(match index {
            1 => Self::Migration { flags: fields.u64()? },
            2 => Self::DeviceState { state: fields.u32()?, data_fd: fields.u32()? },
            6 => {
                let (page_size, count, _reserved) = (fields.u64()?, fields.u32()?, fields.u32()?);
                let rest = fields.data(u64::from(count) * 16)?;
                let range = |bytes| {
                    let mut fields = Fields::new(NAME, bytes);
                    Ok((fields.u64()?, fields.u64()?))
                };
                let ranges = rest.chunks(16).map(range).collect::<Result<_, _>>()?;
                Self::DmaLoggingStart { page_size, ranges }
            }
            7 => Self::DmaLoggingStop,
            8 => {
                let (iova, length) = (fields.u64()?, fields.u64()?);
                let page_size = fields.u64()?;
                let rest = fields.rest();
                let word = |bytes| Fields::new(NAME, bytes).u64();
                let bitmap = rest.chunks(8).map(word).collect::<Result<_, _>>()?;
                Self::DmaLoggingReport { iova, length, page_size, bitmap }
            }
            _ => return Ok(None),
        }))
    }

    /// Its bytes.
    pub fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Self::Migration { flags } => {
                out.put_u64(*flags);
            }
            Self::DeviceState { state, data_fd } => {
                out.put_u32(*state).put_u32(*data_fd);
            }
            Self::DmaLoggingStart { page_size, ranges } => {
                let count = u32::try_from(ranges.len()).unwrap_or(u32::MAX);
                out.put_u64(*page_size).put_u32(count).put_u32(0);
                for (iova, length) in ranges {
                    out.put_u64(*iova).put_u64(*length);
                }
            }
            Self::DmaLoggingStop => {}
            Self::DmaLoggingReport { iova, length, page_size, bitmap } => {
                out.put_u64(*iova).put_u64(*length).put_u64(*page_size);
                for word in bitmap {
                    out.put_u64(*word);
                }
            }
        }
    }
}

/// MIG_DATA_READ.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MigDataRead {
    /// The largest reply that is taken.
    pub argsz: u32,
    /// Bytes to read.
    pub size: u32,
}

impl MigDataRead {
    /// Reads it.
    ///
    /// # Errors
    /// [`ProtocolError::Short`].
    pub fn decode(payload: &[u8]) -> Result<Self, ProtocolError> {
        let mut fields = Fields::new("MIG_DATA_READ", payload);
        Ok(Self { argsz: fields.u32()?, size: fields.u32()? })
    }

    /// Its bytes.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.put_u32(self.argsz).put_u32(self.size);
    }
}

/// The reply to MIG_DATA_READ, and the command MIG_DATA_WRITE.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MigData<'a> {
    /// The largest reply that is taken; in a reply the size of this structure.
    pub argsz: u32,
    /// The data; as many bytes as the field `size` says.
    pub data: &'a [u8],
}

impl<'a> MigData<'a> {
    pub(super) fn decode(message: &'static str, payload: &'a [u8]) -> Result<Self, ProtocolError> {
        let mut fields = Fields::new(message, payload);
        let (argsz, size) = (fields.u32()?, fields.u32()?);
        Ok(Self { argsz, data: fields.data(size.into())? })
    }

    /// Its bytes.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let size = u32::try_from(self.data.len()).unwrap_or(u32::MAX);
        out.put_u32(self.argsz).put_u32(size).put(self.data);
    }
}
