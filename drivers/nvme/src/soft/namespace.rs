//! Namespaces: size, format, what lies behind them, and what is under way on them.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use super::backend::{Backend, FileBackend, RamBackend};
use super::command::{Failure, byte};
use super::options::{Config, Disk, OptionError};
use crate::spec::{NSID_ALL, Status};

/// The LBA formats that are offered, as powers of two; the index is the format's number.
pub(crate) const FORMATS: [u8; 2] = [9, 12];

/// A namespace.
///
/// # Invariants
/// `bytes` is a positive multiple of the block size.
#[derive(Debug)]
pub(crate) struct Namespace {
    pub(crate) bytes: u64,
    /// Index in [`FORMATS`]; shared with the other controllers of the subsystem.
    format: Arc<AtomicU8>,
    pub(crate) backend: Backend,
    pub(crate) readonly: bool,
    /// Jobs under way that use it.
    pub(crate) jobs: u32,
    /// Percent that a Format NVM has still to do; `None` if none is under way.
    pub(crate) formatting: Option<u8>,
    /// Globally unique identifier (NGUID and UUID).
    pub(crate) guid: [u8; 16],
}

/// Blocks of an I/O command, checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Blocks {
    /// Byte offset in the namespace.
    pub(crate) at: u64,
    /// Bytes.
    pub(crate) len: u64,
}

impl Namespace {
    /// Logical block size as a power of two.
    #[inline]
    pub(crate) fn shift(&self) -> u32 {
        // `format` indexes FORMATS; 9 if that were ever untrue.
        u32::from(FORMATS.get(usize::from(self.format())).copied().unwrap_or(FORMATS[0]))
    }

    /// Index of the format in use.
    #[inline]
    pub(crate) fn format(&self) -> u8 {
        // Relaxed: it changes only while no other controller is online, and that is locked.
        self.format.load(Ordering::Relaxed)
    }

    pub(crate) fn set_format(&self, format: u8) {
        self.format.store(format, Ordering::Relaxed);
    }

    /// The same namespace for another controller.
    pub(crate) fn share(&self) -> Self {
        let (format, backend) = (Arc::clone(&self.format), self.backend.share());
        let (bytes, readonly, guid) = (self.bytes, self.readonly, self.guid);
        Self { bytes, format, backend, readonly, jobs: 0, formatting: None, guid }
    }

    /// Size in logical blocks.
    #[inline]
    pub(crate) fn blocks(&self) -> u64 {
        self.bytes >> self.shift()
    }

    /// How many of [`FORMATS`] its size allows.
    pub(crate) fn formats(&self) -> u8 {
        if self.bytes.is_multiple_of(4096) { 2 } else { 1 }
    }

    /// The bytes of `count` blocks from `slba`.
    ///
    /// # Errors
    /// "LBA Out of Range".
    #[inline]
    pub(crate) fn range(&self, slba: u64, count: u64) -> Result<Blocks, Failure> {
        let blocks = self.blocks();
        if slba >= blocks || count > blocks - slba {
            return Err(Failure::field(Status::LBA_OUT_OF_RANGE, byte::CDW10, 0).at_lba(slba));
        }
        Ok(Blocks { at: slba << self.shift(), len: count << self.shift() })
    }

    /// Fails if no command may change it.
    #[inline]
    pub(crate) fn writable(&self) -> Result<(), Failure> {
        if self.readonly {
            return Err(Failure::field(Status::NAMESPACE_WRITE_PROTECTED, byte::NSID, 0));
        }
        Ok(())
    }
}

/// All namespaces of the controller. The identifiers are 1 to their number, without a gap.
#[derive(Debug)]
pub(crate) struct Namespaces {
    list: Vec<Namespace>,
}

impl Namespaces {
    /// Opens what the configuration names.
    pub(crate) fn open(config: &Config, serial: &str) -> Result<Self, OptionError> {
        let open = |(index, disk)| Namespace::open(config, index, disk, serial);
        let list = config.disks.iter().enumerate().map(open).collect::<Result<_, _>>()?;
        Ok(Self { list })
    }

    /// These, by identifier from 1.
    pub(crate) fn of(list: Vec<Namespace>) -> Self {
        Self { list }
    }

    /// The highest identifier (Identify Controller: NN).
    pub(crate) fn count(&self) -> u32 {
        self.list.len() as u32
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (u32, &Namespace)> {
        (1u32..).zip(&self.list)
    }

    /// Puts every file on its medium.
    pub(crate) fn sync(&self) -> std::io::Result<()> {
        self.list.iter().try_for_each(|ns| match &ns.backend {
            Backend::File(file) => file.file.sync_all(),
            Backend::Ram(_) | Backend::Null => Ok(()),
        })
    }

    /// A namespace by its identifier.
    #[inline]
    pub(crate) fn get(&self, nsid: u32) -> Option<&Namespace> {
        self.list.get(nsid.wrapping_sub(1) as usize)
    }

    #[inline]
    pub(crate) fn get_mut(&mut self, nsid: u32) -> Option<&mut Namespace> {
        self.list.get_mut(nsid.wrapping_sub(1) as usize)
    }

    /// A namespace that an I/O command names.
    ///
    /// # Errors
    /// "Invalid Namespace or Format", or "Format In Progress".
    #[inline]
    pub(crate) fn for_io(&self, nsid: u32) -> Result<&Namespace, Failure> {
        match self.get(nsid) {
            Some(ns) if ns.formatting.is_none() => Ok(ns),
            Some(_) => Err(Failure::new(Status::FORMAT_IN_PROGRESS)),
            None => Err(Failure::field(Status::INVALID_NAMESPACE, byte::NSID, 0)),
        }
    }

    /// The identifiers that a command names: one, or all.
    ///
    /// # Errors
    /// "Invalid Namespace or Format".
    pub(crate) fn named(&self, nsid: u32) -> Result<std::ops::RangeInclusive<u32>, Failure> {
        match nsid {
            NSID_ALL => Ok(1..=self.count()),
            nsid if self.get(nsid).is_some() => Ok(nsid..=nsid),
            _ => Err(Failure::field(Status::INVALID_NAMESPACE, byte::NSID, 0)),
        }
    }

    /// True if a namespace has a volatile write cache: the kernel's page cache.
    pub(crate) fn any_cache(&self) -> bool {
        self.list.iter().any(|ns| matches!(ns.backend, Backend::File(_)))
    }
}

impl Namespace {
    fn open(config: &Config, index: usize, disk: &Disk, serial: &str) -> Result<Self, OptionError> {
        let (bytes, backend, name) = match disk {
            Disk::Ram(size) => (*size, None, format!("ram={size}")),
            Disk::Null(size) => (*size, Some(Backend::Null), format!("null={size}")),
            Disk::Image(path) => {
                let file = FileBackend::open(path, config.readonly)?;
                (file.opened_len(), Some(Backend::File(file)), format!("image={}", path.display()))
            }
        };
        let lba = u64::from(config.lba);
        if bytes == 0 || !bytes.is_multiple_of(lba) || bytes > i64::MAX as u64 {
            let (hint, size) = (fitting(disk, bytes, lba), bytes);
            return Err(OptionError::Size { disk: name, size, lba: config.lba, hint });
        }
        // Memory is taken only once its size is known to be sensible.
        let backend = match backend {
            Some(backend) => backend,
            None => Backend::Ram(RamBackend::new(bytes)?),
        };
        let guid = guid(serial, index as u32 + 1);
        let format = Arc::new(AtomicU8::new(u8::from(config.lba == 4096)));
        let readonly = config.readonly;
        Ok(Self { bytes, format, backend, readonly, jobs: 0, formatting: None, guid })
    }
}

/// What an operator can do about a size that does not fit.
fn fitting(disk: &Disk, bytes: u64, lba: u64) -> String {
    let fit = bytes.next_multiple_of(lba).max(lba);
    match disk {
        Disk::Image(path) if bytes == 0 => {
            format!("give it a size: truncate -s 64M {}", path.display())
        }
        Disk::Image(path) => format!("round it up: truncate -s {fit} {}", path.display()),
        Disk::Ram(_) | Disk::Null(_) => format!("ask for {fit}"),
    }
}

/// A UUID (version 8, RFC 9562) that depends on serial number and identifier only.
pub(crate) fn guid(serial: &str, nsid: u32) -> [u8; 16] {
    let text = format!("{serial}/{nsid}");
    let wide = u128::from(hash(0, text.as_bytes())) << 64 | u128::from(hash(1, text.as_bytes()));
    let mut guid = wide.to_be_bytes();
    guid[6] = guid[6] & 0x0f | 0x80;
    guid[8] = guid[8] & 0x3f | 0x80;
    guid
}

/// FNV-1a (64 bit), with a final mix so that short texts differ in all bits. Not for secrets.
pub(crate) fn hash(seed: u8, bytes: &[u8]) -> u64 {
    let step = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
    let hash = bytes.iter().fold(step(0xcbf2_9ce4_8422_2325, &seed), step);
    let hash = (hash ^ hash >> 32).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    hash ^ hash >> 29
}
