//! DEVICE_GET_REGION_INFO with its capability chain, and DEVICE_GET_REGION_IO_FDS.

use crate::vfio_user::ProtocolError;
use crate::vfio_user::fields::{Fields, Put};

const NAME: &str = "DEVICE_GET_REGION_INFO";
const IO_FDS: &str = "DEVICE_GET_REGION_IO_FDS";

/// The fixed part of region info. In a command only `argsz` and `index` are set.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RegionInfo {
    /// In a command the largest reply that is taken; in a reply the size of the whole answer, which
    /// is more than came if the command's `argsz` was less.
    pub argsz: u32,
    /// [`RegionInfo::READ`] and the others.
    pub flags: u32,
    /// Which region.
    pub index: u32,
    /// Where in the payload the first capability is; 0 if there is none.
    pub cap_offset: u32,
    /// Bytes of the region; 0 if the device does not have it.
    pub size: u64,
    /// Offset of the region in its descriptor's file.
    pub offset: u64,
}

impl RegionInfo {
    /// It can be read.
    pub const READ: u32 = 1;
    /// It can be written.
    pub const WRITE: u32 = 1 << 1;
    /// It, or the areas of a [`RegionCapability::SparseMmap`], can be mapped: a descriptor is there.
    pub const MMAP: u32 = 1 << 2;
    /// There are capabilities.
    pub const CAPS: u32 = 1 << 3;
    /// Bytes of the structure without capabilities.
    pub const ARGSZ: u32 = 32;

    /// Reads the fixed part; capabilities are read by [`RegionInfoReply::decode`].
    ///
    /// # Errors
    /// [`ProtocolError::Short`].
    pub fn decode(payload: &[u8]) -> Result<Self, ProtocolError> {
        let mut fields = Fields::new(NAME, payload);
        Ok(Self {
            argsz: fields.u32()?,
            flags: fields.u32()?,
            index: fields.u32()?,
            cap_offset: fields.u32()?,
            size: fields.u64()?,
            offset: fields.u64()?,
        })
    }

    /// Its bytes.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.put_u32(self.argsz).put_u32(self.flags).put_u32(self.index).put_u32(self.cap_offset);
        out.put_u64(self.size).put_u64(self.offset);
    }
}

/// A part of a region that can be mapped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SparseArea {
    /// Offset in the region.
    pub offset: u64,
    /// Bytes.
    pub size: u64,
}

/// One capability of a region (`<linux/vfio.h>`, `VFIO_REGION_INFO_CAP_*`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RegionCapability {
    /// Only these parts can be mapped.
    SparseMmap(Vec<SparseArea>),
    /// What a region beyond the standard ones is.
    Type {
        /// Type.
        kind: u32,
        /// Subtype.
        subtype: u32,
    },
    /// The MSI-X table's pages can be mapped too.
    MsixMappable,
    /// Something else; its data is not looked at.
    Other {
        /// Identity.
        id: u16,
        /// Version.
        version: u16,
    },
}

const SPARSE_MMAP: u16 = 1;
const TYPE: u16 = 2;
const MSIX_MAPPABLE: u16 = 3;
const CAP_HEADER: usize = 8;
const AREA: u64 = 16;

impl RegionCapability {
    fn decode(id: u16, version: u16, bytes: &[u8]) -> Result<Self, ProtocolError> {
        let mut fields = Fields::new(NAME, bytes);
        match (id, version) {
            (SPARSE_MMAP, 1) => {
                let (areas, _reserved) = (fields.u32()?, fields.u32()?);
                let rest = fields.rest();
                // In u64 neither product wraps: the count has 32 bits.
                let len = u64::from(areas) * AREA;
                if rest.len() as u64 / AREA < u64::from(areas) {
                    let got = rest.len();
                    return Err(ProtocolError::Count { message: NAME, announced: len, got });
                }
                let area = |bytes| {
                    let mut fields = Fields::new(NAME, bytes);
                    Ok(SparseArea { offset: fields.u64()?, size: fields.u64()? })
                };
                let areas = rest.chunks_exact(AREA as usize).take(areas as usize).map(area);
                Ok(Self::SparseMmap(areas.collect::<Result<_, _>>()?))
            }
            (TYPE, 1) => Ok(Self::Type { kind: fields.u32()?, subtype: fields.u32()? }),
            (MSIX_MAPPABLE, 1) => Ok(Self::MsixMappable),
            _ => Ok(Self::Other { id, version }),
        }
    }

    /// Bytes that it takes in a message, at least.
    fn len(&self) -> usize {
        match self {
            Self::SparseMmap(areas) => CAP_HEADER + 8 + areas.len() * AREA as usize,
            Self::Type { .. } => CAP_HEADER + 8,
            Self::MsixMappable | Self::Other { .. } => CAP_HEADER,
        }
    }

    fn identity(&self) -> (u16, u16) {
        match self {
            Self::SparseMmap(_) => (SPARSE_MMAP, 1),
            Self::Type { .. } => (TYPE, 1),
            Self::MsixMappable => (MSIX_MAPPABLE, 1),
            Self::Other { id, version } => (*id, *version),
        }
    }

    fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Self::SparseMmap(areas) => {
                out.put_u32(u32::try_from(areas.len()).unwrap_or(u32::MAX)).put_u32(0);
                for area in areas {
                    out.put_u64(area.offset).put_u64(area.size);
                }
            }
            Self::Type { kind, subtype } => {
                out.put_u32(*kind).put_u32(*subtype);
            }
            Self::MsixMappable | Self::Other { .. } => {}
        }
    }
}

/// The reply to DEVICE_GET_REGION_INFO.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RegionInfoReply {
    /// The fixed part.
    pub info: RegionInfo,
    /// Its capabilities; none if the answer was cut off ([`RegionInfoReply::is_cut`]).
    pub capabilities: Vec<RegionCapability>,
}

impl RegionInfoReply {
    /// An answer with these capabilities: `argsz`, `cap_offset` and the flag for capabilities are
    /// set accordingly.
    #[must_use]
    pub fn new(mut info: RegionInfo, capabilities: Vec<RegionCapability>) -> Self {
        info.cap_offset = 0;
        info.flags &= !RegionInfo::CAPS;
        if !capabilities.is_empty() {
            info.cap_offset = RegionInfo::ARGSZ;
            info.flags |= RegionInfo::CAPS;
        }
        let mut reply = Self { info, capabilities };
        let mut bytes = Vec::new();
        reply.encode(&mut bytes);
        reply.info.argsz = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
        reply
    }

    /// True if the answer is longer than what came: ask again with `info.argsz`.
    #[must_use]
    pub fn is_cut(&self, payload: usize) -> bool {
        self.info.argsz as usize > payload
    }

    /// Reads it. A chain that leaves the payload, or comes back to where it was, is an error.
    ///
    /// # Errors
    /// [`ProtocolError`].
    pub fn decode(payload: &[u8]) -> Result<Self, ProtocolError> {
        let info = RegionInfo::decode(payload)?;
        let mut reply = Self { info, capabilities: Vec::new() };
        if info.flags & RegionInfo::CAPS == 0 || reply.is_cut(payload.len()) {
            return Ok(reply);
        }
        let bad = |field, value: u32, problem| ProtocolError::Field {
            message: NAME,
            field,
            value: value.into(),
            problem,
        };
        let mut at = info.cap_offset;
        // Capabilities do not overlap, so together they are no longer than the payload. A chain that is
        // has a loop, or would make much memory out of few bytes.
        let mut left = payload.len().saturating_sub(RegionInfo::ARGSZ as usize);
        while at != 0 {
            if at < RegionInfo::ARGSZ {
                return Err(bad("next", at, "it lies in the fixed part"));
            }
            let Some(bytes) = payload.get(at as usize..).filter(|b| b.len() >= CAP_HEADER) else {
                return Err(bad("next", at, "no capability fits there"));
            };
            let mut fields = Fields::new(NAME, bytes);
            let (id, version, next) = (fields.u16()?, fields.u16()?, fields.u32()?);
            let capability = RegionCapability::decode(id, version, fields.rest())?;
            left = left
                .checked_sub(capability.len())
                .ok_or_else(|| bad("next", at, "the capabilities form a loop, or overlap"))?;
            reply.capabilities.push(capability);
            at = next;
        }
        Ok(reply)
    }

    /// Its bytes. A reply must not be longer than the command's `argsz`: if it is, send
    /// [`RegionInfoReply::cut`] of it.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let start = out.len();
        self.info.encode(out);
        let mut capabilities = self.capabilities.iter().peekable();
        while let Some(capability) = capabilities.next() {
            let (id, version) = capability.identity();
            let header = out.len();
            out.put_u16(id).put_u16(version).put_u32(0);
            capability.encode(out);
            let next = u32::try_from(out.len() - start).unwrap_or(0);
            if capabilities.peek().is_some()
                && let Some(field) = out.get_mut(header + 4..header + CAP_HEADER)
            {
                field.copy_from_slice(&next.to_ne_bytes());
            }
        }
    }

    /// The fixed part alone, for a client that takes no more: it learns from `argsz` what to ask for.
    /// `cap_offset` keeps saying where the capabilities will be: a client in the field refuses the
    /// flag for capabilities with an offset of 0.
    #[must_use]
    pub fn cut(self) -> Self {
        Self { info: self.info, capabilities: Vec::new() }
    }
}

/// DEVICE_GET_REGION_IO_FDS; in a command only `argsz` and `index` are set.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RegionIoFds {
    /// In a command the largest reply that is taken; in a reply the size of the whole answer.
    pub argsz: u32,
    /// 0.
    pub flags: u32,
    /// Which region.
    pub index: u32,
    /// How many parts the region has; more than `parts` holds if the answer was cut off.
    pub count: u32,
    /// The parts.
    pub parts: Vec<IoFd>,
}

/// A part of a region whose accesses go to a descriptor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IoFd {
    /// Offset in the region.
    pub offset: u64,
    /// Bytes; 0 if the size of the access does not matter.
    pub size: u64,
    /// Which of the message's descriptors.
    pub fd_index: u32,
    /// [`IoFd::IOEVENTFD`] or [`IoFd::IOREGIONFD`].
    pub kind: u32,
    /// Flags of that kind.
    pub flags: u32,
    /// ioeventfd: `datamatch`. ioregionfd: `user_data`.
    pub data: u64,
}

impl IoFd {
    /// An ioeventfd.
    pub const IOEVENTFD: u32 = 0;
    /// An ioregionfd.
    pub const IOREGIONFD: u32 = 1;
    const LEN: usize = 40;
}

impl RegionIoFds {
    /// Bytes before the parts.
    pub const ARGSZ: u32 = 16;

    /// Reads the command, or the fixed part of a reply.
    ///
    /// # Errors
    /// [`ProtocolError::Short`].
    pub fn decode(payload: &[u8]) -> Result<Self, ProtocolError> {
        let mut fields = Fields::new(IO_FDS, payload);
        Ok(Self {
            argsz: fields.u32()?,
            flags: fields.u32()?,
            index: fields.u32()?,
            count: fields.u32()?,
            parts: Vec::new(),
        })
    }

    /// Reads a reply. The parts may be longer than this version's 40 bytes: `argsz` says.
    ///
    /// # Errors
    /// [`ProtocolError::Short`], [`ProtocolError::Field`] if `argsz` and `count` do not fit.
    pub fn decode_reply(payload: &[u8]) -> Result<Self, ProtocolError> {
        let mut reply = Self::decode(payload)?;
        if reply.count == 0 || reply.argsz as usize > payload.len() {
            return Ok(reply);
        }
        let parts = payload.get(Self::ARGSZ as usize..reply.argsz as usize).unwrap_or_default();
        let stride = parts.len() / reply.count as usize;
        if stride < IoFd::LEN {
            let (message, value) = (IO_FDS, reply.argsz.into());
            let problem = "less than its parts take";
            return Err(ProtocolError::Field { message, field: "argsz", value, problem });
        }
        for bytes in parts.chunks_exact(stride).take(reply.count as usize) {
            let mut fields = Fields::new(IO_FDS, bytes);
            let (offset, size) = (fields.u64()?, fields.u64()?);
            let (fd_index, kind) = (fields.u32()?, fields.u32()?);
            let (flags, _padding, data) = (fields.u32()?, fields.u32()?, fields.u64()?);
            reply.parts.push(IoFd { offset, size, fd_index, kind, flags, data });
        }
        Ok(reply)
    }

    /// Its bytes.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.put_u32(self.argsz).put_u32(self.flags).put_u32(self.index).put_u32(self.count);
        for part in &self.parts {
            out.put_u64(part.offset).put_u64(part.size).put_u32(part.fd_index).put_u32(part.kind);
            out.put_u32(part.flags).put_u32(0).put_u64(part.data);
        }
    }
}
