//! The header of every message (section "Header").

use std::fmt;

use super::ProtocolError;
use super::fields::{Fields, Put};

/// Bytes of a header.
pub const HEADER: usize = 16;

const TYPE: u32 = 0xf;
const TYPE_COMMAND: u32 = 0;
const TYPE_REPLY: u32 = 1;
const NO_REPLY: u32 = 1 << 4;
const ERROR: u32 = 1 << 5;

/// What a message asks for (section "Commands").
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u16)]
pub enum Command {
    /// The first message: version and capabilities.
    Version = 1,
    /// Memory of the client that the device may reach from now on.
    DmaMap = 2,
    /// Memory that it may no longer reach.
    DmaUnmap = 3,
    /// How many regions and interrupt indexes.
    DeviceGetInfo = 4,
    /// Size of a region, and what of it can be mapped.
    DeviceGetRegionInfo = 5,
    /// ioeventfds and ioregionfds of a region.
    DeviceGetRegionIoFds = 6,
    /// How many interrupts of an index.
    DeviceGetIrqInfo = 7,
    /// Eventfds for interrupts; mask, unmask, trigger.
    DeviceSetIrqs = 8,
    /// A read of a region.
    RegionRead = 9,
    /// A write to a region.
    RegionWrite = 10,
    /// Server to client: a read of the client's memory.
    DmaRead = 11,
    /// Server to client: a write to the client's memory.
    DmaWrite = 12,
    /// Reset of the device.
    DeviceReset = 13,
    /// Several writes to regions.
    RegionWriteMulti = 15,
    /// A feature of the device: get, set or probe.
    DeviceFeature = 16,
    /// Migration data from the server.
    MigDataRead = 17,
    /// Migration data to the server.
    MigDataWrite = 18,
}

impl Command {
    /// All commands, in the order of their numbers.
    pub const ALL: [Self; 17] = [
        Self::Version,
        Self::DmaMap,
        Self::DmaUnmap,
        Self::DeviceGetInfo,
        Self::DeviceGetRegionInfo,
        Self::DeviceGetRegionIoFds,
        Self::DeviceGetIrqInfo,
        Self::DeviceSetIrqs,
        Self::RegionRead,
        Self::RegionWrite,
        Self::DmaRead,
        Self::DmaWrite,
        Self::DeviceReset,
        Self::RegionWriteMulti,
        Self::DeviceFeature,
        Self::MigDataRead,
        Self::MigDataWrite,
    ];

    /// The command of a number.
    ///
    /// # Errors
    /// [`ProtocolError::Command`].
    pub fn from_number(number: u16) -> Result<Self, ProtocolError> {
        let found = Self::ALL.into_iter().find(|command| command.number() == number);
        found.ok_or(ProtocolError::Command(number))
    }

    /// Its number in a header.
    #[must_use]
    pub const fn number(self) -> u16 {
        self as u16
    }

    /// True if the server sends it and the client answers.
    #[must_use]
    pub const fn is_servers(self) -> bool {
        matches!(self, Self::DmaRead | Self::DmaWrite)
    }

    /// Its name in the specification, without `VFIO_USER_`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Version => "VERSION",
            Self::DmaMap => "DMA_MAP",
            Self::DmaUnmap => "DMA_UNMAP",
            Self::DeviceGetInfo => "DEVICE_GET_INFO",
            Self::DeviceGetRegionInfo => "DEVICE_GET_REGION_INFO",
            Self::DeviceGetRegionIoFds => "DEVICE_GET_REGION_IO_FDS",
            Self::DeviceGetIrqInfo => "DEVICE_GET_IRQ_INFO",
            Self::DeviceSetIrqs => "DEVICE_SET_IRQS",
            Self::RegionRead => "REGION_READ",
            Self::RegionWrite => "REGION_WRITE",
            Self::DmaRead => "DMA_READ",
            Self::DmaWrite => "DMA_WRITE",
            Self::DeviceReset => "DEVICE_RESET",
            Self::RegionWriteMulti => "REGION_WRITE_MULTI",
            Self::DeviceFeature => "DEVICE_FEATURE",
            Self::MigDataRead => "MIG_DATA_READ",
            Self::MigDataWrite => "MIG_DATA_WRITE",
        }
    }
}

impl fmt::Display for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Command or reply, and how it ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A command. With `no_reply` it must not be answered.
    Command {
        /// The sender waits for no answer.
        no_reply: bool,
    },
    /// A reply to a command that was done.
    Reply,
    /// A reply to a command that failed. Nothing follows the header.
    Error {
        /// A UNIX errno; 0 if the peer gives none.
        errno: u32,
    },
}

/// The first 16 bytes of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Chosen by the sender of the command, and echoed in the reply.
    pub id: u16,
    /// The command's number, which need not be one that the specification has: see
    /// [`Header::command`].
    pub number: u16,
    /// Bytes of the message, the header among them: at least [`HEADER`].
    pub size: u32,
    /// Command or reply.
    pub kind: Kind,
}

impl Header {
    /// A header before `payload` bytes; a message of 4 GiB and more does not exist, so the size is
    /// cut off at [`u32::MAX`].
    #[must_use]
    pub fn new(id: u16, command: Command, kind: Kind, payload: usize) -> Self {
        let size = u32::try_from(payload.saturating_add(HEADER)).unwrap_or(u32::MAX);
        Self { id, number: command.number(), size, kind }
    }

    /// The command.
    ///
    /// # Errors
    /// [`ProtocolError::Command`] if the specification has none of this number.
    pub fn command(&self) -> Result<Command, ProtocolError> {
        Command::from_number(self.number)
    }

    /// Bytes behind the header.
    #[must_use]
    pub fn payload(&self) -> usize {
        (self.size as usize).saturating_sub(HEADER)
    }

    /// Reads a header. Flags that the specification does not define are ignored, and so is the error
    /// field of a message that is no error.
    ///
    /// # Errors
    /// [`ProtocolError::Field`] if the size is less than a header's or the type is neither command
    /// nor reply.
    pub fn decode(bytes: &[u8; HEADER]) -> Result<Self, ProtocolError> {
        let mut fields = Fields::new("a header", bytes);
        let (id, number) = (fields.u16()?, fields.u16()?);
        let (size, flags, errno) = (fields.u32()?, fields.u32()?, fields.u32()?);
        if (size as usize) < HEADER {
            return Err(fields.bad("message size", size.into(), "less than the header's 16 bytes"));
        }
        let kind = match flags & TYPE {
            TYPE_COMMAND => Kind::Command { no_reply: flags & NO_REPLY != 0 },
            TYPE_REPLY if flags & ERROR != 0 => Kind::Error { errno },
            TYPE_REPLY => Kind::Reply,
            _ => return Err(fields.bad("flags", flags.into(), "neither a command nor a reply")),
        };
        Ok(Self { id, number, size, kind })
    }

    /// Its bytes.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let (flags, errno) = match self.kind {
            Kind::Command { no_reply: false } => (TYPE_COMMAND, 0),
            Kind::Command { no_reply: true } => (TYPE_COMMAND | NO_REPLY, 0),
            Kind::Reply => (TYPE_REPLY, 0),
            Kind::Error { errno } => (TYPE_REPLY | ERROR, errno),
        };
        out.put_u16(self.id).put_u16(self.number).put_u32(self.size).put_u32(flags).put_u32(errno);
    }
}
