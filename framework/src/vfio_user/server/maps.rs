//! The client's memory: DMA_MAP and DMA_UNMAP.
//!
//! The file behind a descriptor is mapped here once, however many pieces of it the device sees: a
//! guest behind a translating IOMMU maps thousands of pages one by one.
//!
//! A file may shrink after it was mapped: clients in the field do not seal their memory. Whoever
//! touches a page beyond its end then finds memory that is nobody's ([`crate::dma::guard`]), and the
//! client is let go.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use doorbell_queues::SharedMem;
use rustix::fs::{FileType, OFlags};
use rustix::io::Errno;

use crate::bus::proof::PartitionId;
use crate::dma::Access;
use crate::dma::guard::{Watch, map_guest};
use crate::dma::map::PAGE;
use crate::soft::signals::new_eventfd;
use crate::vfio_user::message::{DmaMap, DmaUnmap};

/// Maps at a time (`max_dma_maps`).
pub(super) const MOST_MAPS: usize = 65_535;
/// All memory is one client's.
pub(super) const CLIENT: PartitionId = PartitionId(0);

/// Device, inode, and whether it is only read.
type Identifier = (u64, u64, bool);

#[derive(Debug)]
struct Backing {
    memory: SharedMem,
    users: usize,
}

/// Whom a file that shrinks is reported to.
#[derive(Debug)]
pub(super) struct Shrunk {
    /// Readable once one has.
    pub(super) event: OwnedFd,
    lost: Arc<AtomicBool>,
}

impl Shrunk {
    pub(super) fn new() -> io::Result<Self> {
        let event = new_eventfd().map_err(io::Error::other)?;
        Ok(Self { event, lost: Arc::default() })
    }

    fn watch(&self) -> Result<Watch, Errno> {
        let event = self.event.try_clone().map_err(|_| Errno::MFILE)?;
        Ok(Watch { lost: Arc::clone(&self.lost), event })
    }
}

/// What a client has mapped.
#[derive(Debug)]
pub(super) struct Maps {
    shrunk: Arc<Shrunk>,
    /// First address to size, and the file behind it if there is one.
    maps: BTreeMap<u64, (u64, Option<Identifier>)>,
    files: HashMap<Identifier, Backing>,
}

/// A map that was checked: what to tell the device.
#[derive(Debug)]
pub(super) struct NewMap {
    pub(super) memory: Option<SharedMem>,
    pub(super) access: Access,
    file: Option<Identifier>,
}

impl Maps {
    pub(super) fn new(shrunk: Arc<Shrunk>) -> Self {
        Self { shrunk, maps: BTreeMap::new(), files: HashMap::new() }
    }

    pub(super) fn len(&self) -> usize {
        self.maps.len()
    }

    /// Checks a map, and maps its memory into this process.
    ///
    /// # Errors
    /// EINVAL for a range that is empty, wraps, is not whole pages, or lies outside of its file;
    /// EEXIST if it overlaps a map; EACCES if the descriptor does not allow it; ENOSPC if there are
    /// too many.
    pub(super) fn prepare(&mut self, map: &DmaMap, fds: &[OwnedFd]) -> Result<NewMap, Errno> {
        let access = match map.flags {
            DmaMap::READABLE => Access::Read,
            DmaMap::WRITEABLE => Access::Write,
            flags if flags == DmaMap::READABLE | DmaMap::WRITEABLE => Access::ReadWrite,
            _ => return Err(Errno::INVAL),
        };
        let page = PAGE as u64;
        let whole = [map.address, map.size].iter().all(|n| n.is_multiple_of(page));
        let end = map.address.checked_add(map.size).ok_or(Errno::INVAL)?;
        if map.size == 0 || !whole || map.argsz < DmaMap::ARGSZ {
            return Err(Errno::INVAL);
        }
        let before = self.maps.range(..end).next_back();
        if before.is_some_and(|(address, (size, _))| address + size > map.address) {
            return Err(Errno::EXIST);
        }
        if self.maps.len() >= MOST_MAPS {
            return Err(Errno::NOSPC);
        }
        let fd = match fds {
            [fd] => fd,
            // Messages reach it.
            [] if map.offset == 0 => return Ok(NewMap { memory: None, access, file: None }),
            _ => return Err(Errno::INVAL),
        };
        let (memory, file) = self.open(map, fd, access)?;
        Ok(NewMap { memory: Some(memory), access, file })
    }

    /// The part of a file that a map names.
    fn open(
        &mut self,
        map: &DmaMap,
        fd: &OwnedFd,
        access: Access,
    ) -> Result<(SharedMem, Option<Identifier>), Errno> {
        let stat = rustix::fs::fstat(fd)?;
        let regular = FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile;
        let size = u64::try_from(stat.st_size).map_err(|_| Errno::INVAL)?;
        let end = map.offset.checked_add(map.size).ok_or(Errno::INVAL)?;
        // A map beyond the end of its file would be a SIGBUS to come.
        if !regular || !map.offset.is_multiple_of(PAGE as u64) || end > size {
            return Err(Errno::INVAL);
        }
        let mode = rustix::fs::fcntl_getfl(fd)? & OFlags::RWMODE;
        let read_only = mode == OFlags::RDONLY;
        if mode == OFlags::WRONLY || read_only && access != Access::Read {
            return Err(Errno::ACCESS);
        }
        let id = (stat.st_dev, stat.st_ino, read_only);
        let enough = |backing: &Backing| backing.memory.len() as u64 >= end;
        if !self.files.get(&id).is_some_and(enough) {
            let shrunk = &self.shrunk;
            let map_whole = |len: u64| {
                let len = usize::try_from(len).map_err(|_| Errno::NOMEM)?;
                let mapped = map_guest(fd.as_fd(), len, read_only, shrunk.watch()?);
                mapped.map_err(|_| Errno::NOMEM)
            };
            let memory = map_whole(size).or_else(|_| map_whole(end))?;
            // The pieces of a file that has grown since keep the older mapping of it.
            let users = self.files.get(&id).map_or(0, |backing| backing.users);
            self.files.insert(id, Backing { memory, users });
        }
        let backing = self.files.get_mut(&id).ok_or(Errno::NOMEM)?;
        let part = backing.memory.slice(map.offset as usize, map.size as usize);
        let part = part.map_err(|_| Errno::INVAL)?;
        backing.users += 1;
        Ok((part, Some(id)))
    }

    /// The device has taken the map.
    pub(super) fn insert(&mut self, map: &DmaMap, file: &NewMap) {
        self.maps.insert(map.address, (map.size, file.file));
    }

    /// The device has not taken the map.
    pub(super) fn abandon(&mut self, new: &NewMap) {
        self.release(new.file);
    }

    /// The maps that an unmap takes away: all that lie in its range, each an address and a size. The
    /// specification has one map in mind; QEMU unmaps everything at once when a guest moves the device
    /// to another domain of its virtual IOMMU, as VFIO's ioctl can.
    ///
    /// # Errors
    /// EINVAL for a range that wraps; ENOENT if there is no map in it, or one reaches beyond it.
    pub(super) fn find(&self, unmap: &DmaUnmap) -> Result<Vec<(u64, u64)>, Errno> {
        if unmap.flags != 0 || unmap.argsz < DmaUnmap::ARGSZ {
            return Err(Errno::INVAL);
        }
        let start = unmap.address;
        let end = start.checked_add(unmap.size).ok_or(Errno::INVAL)?;
        let before = self.maps.range(..start).next_back();
        let cut = before.is_some_and(|(address, (size, _))| address + size > start);
        let inside: Vec<_> =
            self.maps.range(start..end).map(|(address, (size, _))| (*address, *size)).collect();
        match inside.last() {
            Some((address, size)) if !cut && address + size <= end => Ok(inside),
            _ => Err(Errno::NOENT),
        }
    }

    /// The device has let go of these.
    pub(super) fn remove(&mut self, maps: &[(u64, u64)]) {
        for (address, _) in maps {
            if let Some((_, file)) = self.maps.remove(address) {
                self.release(file);
            }
        }
    }

    fn release(&mut self, file: Option<Identifier>) {
        let Some(id) = file else { return };
        if let Some(backing) = self.files.get_mut(&id) {
            backing.users -= 1;
            if backing.users == 0 {
                self.files.remove(&id);
            }
        }
    }
}
