//! Every message of the protocol: [`Request`] for commands, [`Reply`] for answers.
//!
//! Decoding borrows from the payload. Descriptors travel beside the bytes ([`super::frame`]); which
//! message has how many is for the receiver to check.

mod access;
mod device;
mod dma;
mod feature;
mod irq;
mod region;
mod version;

pub use access::{RegionAccess, RegionData, SmallWrite, WriteMulti};
pub use device::{DeviceInfo, IrqInfo};
pub use dma::{DmaData, DmaMap, DmaRead, DmaUnmap, DmaWritten};
pub use feature::{DeviceFeature, FeatureData, MigData, MigDataRead};
pub use irq::{IrqAction, IrqData, SetIrqs};
pub use region::{IoFd, RegionCapability, RegionInfo, RegionInfoReply, RegionIoFds, SparseArea};
pub use version::Version;

use super::fields::{Fields, Put};
use super::{Command, HEADER, Header, Kind, ProtocolError};

/// A command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request<'a> {
    /// VERSION.
    Version(Version<'a>),
    /// DMA_MAP.
    DmaMap(DmaMap),
    /// DMA_UNMAP.
    DmaUnmap(DmaUnmap),
    /// DEVICE_GET_INFO.
    DeviceGetInfo(DeviceInfo),
    /// DEVICE_GET_REGION_INFO.
    DeviceGetRegionInfo(RegionInfo),
    /// DEVICE_GET_REGION_IO_FDS.
    DeviceGetRegionIoFds(RegionIoFds),
    /// DEVICE_GET_IRQ_INFO.
    DeviceGetIrqInfo(IrqInfo),
    /// DEVICE_SET_IRQS.
    DeviceSetIrqs(SetIrqs<'a>),
    /// REGION_READ.
    RegionRead(RegionAccess),
    /// REGION_WRITE.
    RegionWrite(RegionData<'a>),
    /// DMA_READ, from the server.
    DmaRead(DmaRead),
    /// DMA_WRITE, from the server.
    DmaWrite(DmaData<'a>),
    /// DEVICE_RESET.
    DeviceReset,
    /// REGION_WRITE_MULTI.
    RegionWriteMulti(WriteMulti),
    /// DEVICE_FEATURE.
    DeviceFeature(DeviceFeature<'a>),
    /// MIG_DATA_READ.
    MigDataRead(MigDataRead),
    /// MIG_DATA_WRITE.
    MigDataWrite(MigData<'a>),
}

impl<'a> Request<'a> {
    /// Which command it is.
    #[must_use]
    pub fn command(&self) -> Command {
        match self {
            Self::Version(_) => Command::Version,
            Self::DmaMap(_) => Command::DmaMap,
            Self::DmaUnmap(_) => Command::DmaUnmap,
            Self::DeviceGetInfo(_) => Command::DeviceGetInfo,
            Self::DeviceGetRegionInfo(_) => Command::DeviceGetRegionInfo,
            Self::DeviceGetRegionIoFds(_) => Command::DeviceGetRegionIoFds,
            Self::DeviceGetIrqInfo(_) => Command::DeviceGetIrqInfo,
            Self::DeviceSetIrqs(_) => Command::DeviceSetIrqs,
            Self::RegionRead(_) => Command::RegionRead,
            Self::RegionWrite(_) => Command::RegionWrite,
            Self::DmaRead(_) => Command::DmaRead,
            Self::DmaWrite(_) => Command::DmaWrite,
            Self::DeviceReset => Command::DeviceReset,
            Self::RegionWriteMulti(_) => Command::RegionWriteMulti,
            Self::DeviceFeature(_) => Command::DeviceFeature,
            Self::MigDataRead(_) => Command::MigDataRead,
            Self::MigDataWrite(_) => Command::MigDataWrite,
        }
    }

    /// Reads the payload of a command.
    ///
    /// # Errors
    /// [`ProtocolError`]: arbitrary bytes give one, never a panic.
    pub fn decode(command: Command, payload: &'a [u8]) -> Result<Self, ProtocolError> {
        let name = command.name();
        Ok(match command {
            Command::Version => Self::Version(Version::decode(payload)?),
            Command::DmaMap => Self::DmaMap(DmaMap::decode(payload)?),
            Command::DmaUnmap => Self::DmaUnmap(DmaUnmap::decode(payload)?),
            Command::DeviceGetInfo => Self::DeviceGetInfo(DeviceInfo::decode(payload)?),
            Command::DeviceGetRegionInfo => Self::DeviceGetRegionInfo(RegionInfo::decode(payload)?),
            Command::DeviceGetRegionIoFds => {
                Self::DeviceGetRegionIoFds(RegionIoFds::decode(payload)?)
            }
            Command::DeviceGetIrqInfo => Self::DeviceGetIrqInfo(IrqInfo::decode(payload)?),
            Command::DeviceSetIrqs => Self::DeviceSetIrqs(SetIrqs::decode(payload)?),
            Command::RegionRead => Self::RegionRead(RegionAccess::decode(name, payload)?),
            Command::RegionWrite => Self::RegionWrite(RegionData::decode(name, payload)?),
            Command::DmaRead => Self::DmaRead(DmaRead::decode(payload)?),
            Command::DmaWrite => Self::DmaWrite(DmaData::decode(name, payload)?),
            Command::DeviceReset => {
                Fields::new(name, payload).end()?;
                Self::DeviceReset
            }
            Command::RegionWriteMulti => Self::RegionWriteMulti(WriteMulti::decode(payload)?),
            Command::DeviceFeature => Self::DeviceFeature(DeviceFeature::decode(payload)?),
            Command::MigDataRead => Self::MigDataRead(MigDataRead::decode(payload)?),
            Command::MigDataWrite => Self::MigDataWrite(MigData::decode(name, payload)?),
        })
    }

    /// Appends its payload.
    pub fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Self::Version(version) => version.encode(out),
            Self::DmaMap(map) => map.encode(out),
            Self::DmaUnmap(unmap) => unmap.encode(out),
            Self::DeviceGetInfo(info) => info.encode(out),
            Self::DeviceGetRegionInfo(info) => info.encode(out),
            Self::DeviceGetRegionIoFds(fds) => fds.encode(out),
            Self::DeviceGetIrqInfo(info) => info.encode(out),
            Self::DeviceSetIrqs(irqs) => irqs.encode(out),
            Self::RegionRead(access) => access.encode(out),
            Self::RegionWrite(data) => data.encode(out),
            Self::DmaRead(read) => read.encode(out),
            Self::DmaWrite(data) => data.encode(out),
            Self::DeviceReset => {}
            Self::RegionWriteMulti(writes) => writes.encode(out),
            Self::DeviceFeature(feature) => feature.encode(out),
            Self::MigDataRead(read) => read.encode(out),
            Self::MigDataWrite(data) => data.encode(out),
        }
    }

    /// The whole message.
    #[must_use]
    pub fn message(&self, id: u16, no_reply: bool) -> Vec<u8> {
        whole(id, self.command(), Kind::Command { no_reply }, |out| self.encode(out))
    }
}

/// The answer to a command that was done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply<'a> {
    /// To VERSION.
    Version(Version<'a>),
    /// To DMA_MAP: nothing.
    DmaMap,
    /// To DMA_UNMAP: its echo.
    DmaUnmap(DmaUnmap),
    /// To DEVICE_GET_INFO.
    DeviceGetInfo(DeviceInfo),
    /// To DEVICE_GET_REGION_INFO.
    DeviceGetRegionInfo(RegionInfoReply),
    /// To DEVICE_GET_REGION_IO_FDS.
    DeviceGetRegionIoFds(RegionIoFds),
    /// To DEVICE_GET_IRQ_INFO.
    DeviceGetIrqInfo(IrqInfo),
    /// To DEVICE_SET_IRQS: nothing.
    DeviceSetIrqs,
    /// To REGION_READ.
    RegionRead(RegionData<'a>),
    /// To REGION_WRITE.
    RegionWrite(RegionAccess),
    /// To DMA_READ.
    DmaRead(DmaData<'a>),
    /// To DMA_WRITE.
    DmaWrite(DmaWritten),
    /// To DEVICE_RESET: nothing.
    DeviceReset,
    /// To REGION_WRITE_MULTI: how many writes were done.
    RegionWriteMulti(u64),
    /// To DEVICE_FEATURE.
    DeviceFeature(DeviceFeature<'a>),
    /// To MIG_DATA_READ.
    MigDataRead(MigData<'a>),
    /// To MIG_DATA_WRITE: nothing.
    MigDataWrite,
}

impl<'a> Reply<'a> {
    /// Which command it answers.
    #[must_use]
    pub fn command(&self) -> Command {
        match self {
            Self::Version(_) => Command::Version,
            Self::DmaMap => Command::DmaMap,
            Self::DmaUnmap(_) => Command::DmaUnmap,
            Self::DeviceGetInfo(_) => Command::DeviceGetInfo,
            Self::DeviceGetRegionInfo(_) => Command::DeviceGetRegionInfo,
            Self::DeviceGetRegionIoFds(_) => Command::DeviceGetRegionIoFds,
            Self::DeviceGetIrqInfo(_) => Command::DeviceGetIrqInfo,
            Self::DeviceSetIrqs => Command::DeviceSetIrqs,
            Self::RegionRead(_) => Command::RegionRead,
            Self::RegionWrite(_) => Command::RegionWrite,
            Self::DmaRead(_) => Command::DmaRead,
            Self::DmaWrite(_) => Command::DmaWrite,
            Self::DeviceReset => Command::DeviceReset,
            Self::RegionWriteMulti(_) => Command::RegionWriteMulti,
            Self::DeviceFeature(_) => Command::DeviceFeature,
            Self::MigDataRead(_) => Command::MigDataRead,
            Self::MigDataWrite => Command::MigDataWrite,
        }
    }

    /// Reads the payload of a reply that is no error. Where a reply has none, bytes that came
    /// nevertheless are ignored.
    ///
    /// # Errors
    /// [`ProtocolError`]: arbitrary bytes give one, never a panic.
    pub fn decode(command: Command, payload: &'a [u8]) -> Result<Self, ProtocolError> {
        let name = command.name();
        Ok(match command {
            Command::Version => Self::Version(Version::decode(payload)?),
            Command::DmaMap => Self::DmaMap,
            Command::DmaUnmap => Self::DmaUnmap(DmaUnmap::decode(payload)?),
            Command::DeviceGetInfo => Self::DeviceGetInfo(DeviceInfo::decode(payload)?),
            Command::DeviceGetRegionInfo => {
                Self::DeviceGetRegionInfo(RegionInfoReply::decode(payload)?)
            }
            Command::DeviceGetRegionIoFds => {
                Self::DeviceGetRegionIoFds(RegionIoFds::decode_reply(payload)?)
            }
            Command::DeviceGetIrqInfo => Self::DeviceGetIrqInfo(IrqInfo::decode(payload)?),
            Command::DeviceSetIrqs => Self::DeviceSetIrqs,
            Command::RegionRead => Self::RegionRead(RegionData::decode(name, payload)?),
            Command::RegionWrite => Self::RegionWrite(RegionAccess::decode(name, payload)?),
            Command::DmaRead => Self::DmaRead(DmaData::decode(name, payload)?),
            Command::DmaWrite => Self::DmaWrite(DmaWritten::decode(payload)?),
            Command::DeviceReset => Self::DeviceReset,
            Command::RegionWriteMulti => Self::RegionWriteMulti(Fields::new(name, payload).u64()?),
            Command::DeviceFeature => Self::DeviceFeature(DeviceFeature::decode(payload)?),
            Command::MigDataRead => Self::MigDataRead(MigData::decode(name, payload)?),
            Command::MigDataWrite => Self::MigDataWrite,
        })
    }

    /// Appends its payload.
    pub fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Self::Version(version) => version.encode(out),
            Self::DmaUnmap(unmap) => unmap.encode(out),
            Self::DeviceGetInfo(info) => info.encode(out),
            Self::DeviceGetRegionInfo(info) => info.encode(out),
            Self::DeviceGetRegionIoFds(fds) => fds.encode(out),
            Self::DeviceGetIrqInfo(info) => info.encode(out),
            Self::RegionRead(data) => data.encode(out),
            Self::RegionWrite(access) => access.encode(out),
            Self::DmaRead(data) => data.encode(out),
            Self::DmaWrite(written) => written.encode(out),
            Self::RegionWriteMulti(count) => {
                out.put_u64(*count);
            }
            Self::DeviceFeature(feature) => feature.encode(out),
            Self::MigDataRead(data) => data.encode(out),
            Self::DmaMap | Self::DeviceSetIrqs | Self::DeviceReset | Self::MigDataWrite => {}
        }
    }

    /// The whole message.
    #[must_use]
    pub fn message(&self, id: u16) -> Vec<u8> {
        whole(id, self.command(), Kind::Reply, |out| self.encode(out))
    }
}

/// The whole answer to a command that failed: a header alone. It answers commands that the
/// specification does not have, too.
#[must_use]
pub fn error_message(id: u16, number: u16, errno: u32) -> Vec<u8> {
    let mut out = Vec::with_capacity(HEADER);
    Header { id, number, size: HEADER as u32, kind: Kind::Error { errno } }.encode(&mut out);
    out
}

fn whole(id: u16, command: Command, kind: Kind, payload: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut out = Vec::with_capacity(64);
    Header::new(id, command, kind, 0).encode(&mut out);
    payload(&mut out);
    let size = Header::new(id, command, kind, out.len() - HEADER).size;
    if let Some(field) = out.get_mut(4..8) {
        field.copy_from_slice(&size.to_ne_bytes());
    }
    out
}
