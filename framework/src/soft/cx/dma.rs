//! A model's DMA: copies between host memory and its own, all or nothing.

use std::sync::atomic::Ordering;

use bytemuck::Pod;
use doorbell_queues::SharedMem;

use super::SoftCx;
use crate::dma::{Access, Fault};
use crate::soft::iommu::{Part, Piece};
use crate::soft::remote::Remote;

impl SoftCx {
    /// Reads a value: a command, a descriptor. Word by word if `T` is up to 128 bytes, a multiple
    /// of 8, and aligned to 8.
    ///
    /// # Errors
    /// [`Fault`].
    #[inline]
    pub fn read<T: Pod>(&mut self, iova: u64) -> Result<T, Fault> {
        let len = size_of::<T>() as u64;
        if let Some(piece) = self.iommu.whole(iova, len.max(1), Access::Read)
            && let Ok(value) = piece.memory.read(piece.offset)
        {
            return Ok(value);
        }
        let mut value = T::zeroed();
        self.read_bytes(iova, bytemuck::bytes_of_mut(&mut value))?;
        Ok(value)
    }

    /// Writes a value. The host may see it torn: see [`SoftCx::store_entry`].
    ///
    /// # Errors
    /// [`Fault`].
    #[inline]
    pub fn write<T: Pod>(&mut self, iova: u64, value: &T) -> Result<(), Fault> {
        self.write_bytes(iova, bytemuck::bytes_of(value))
    }

    /// Copies host memory to `to`.
    ///
    /// # Errors
    /// [`Fault`]; `to` is unchanged then.
    #[inline]
    pub fn read_bytes(&mut self, iova: u64, to: &mut [u8]) -> Result<(), Fault> {
        let len = to.len() as u64;
        if let Some(piece) = self.iommu.whole(iova, len.max(1), Access::Read) {
            // In bounds: the mapping holds the range.
            let _ = piece.memory.copy_out(piece.offset, to);
            return Ok(());
        }
        let mut done = 0;
        self.parts(iova, len, Access::Read, |part, remote| {
            let (Part::Here(Piece { len, .. }) | Part::There(_, len)) = part;
            let Some(now) = to.get_mut(done..done + len) else { return true };
            done += len;
            match part {
                Part::Here(piece) => piece.memory.copy_out(piece.offset, now).is_ok(),
                Part::There(at, _) => remote.read(at, now),
            }
        })
    }

    /// Calls `each` for every part of a range until it says false: then the access has failed.
    #[cold]
    fn parts(
        &mut self,
        iova: u64,
        len: u64,
        access: Access,
        mut each: impl FnMut(Part<'_>, &mut Remote) -> bool,
    ) -> Result<(), Fault> {
        let (remote, mut ok) = (&mut self.remote, true);
        self.iommu.parts(iova, len, access, |part| ok = ok && each(part, remote))?;
        match (ok, self.remote.interrupted) {
            (true, _) => Ok(()),
            // No fault of anyone's: it is done again.
            (false, true) => Err(Fault { iova, len, access }),
            (false, false) => Err(self.iommu.fault(iova, len, access)),
        }
    }

    /// Reads an aligned 32-bit word of host memory that the host stores to at any time, such as a shadow
    /// doorbell: one load, and what the host stored before that value is visible (`Acquire`).
    ///
    /// # Errors
    /// [`Fault`]; also for memory that only messages reach, where every look would be a message.
    #[inline]
    pub fn load_u32(&mut self, iova: u64) -> Result<u32, Fault> {
        if let Some(piece) = self.iommu.whole(iova, 4, Access::Read)
            && let Ok(value) = piece.memory.load_u32(piece.offset, Ordering::Acquire)
        {
            return Ok(value);
        }
        Err(self.iommu.fault(iova, 4, Access::Read))
    }

    /// Writes an aligned 32-bit word of host memory in one store (`Release`).
    ///
    /// # Errors
    /// As [`SoftCx::load_u32`].
    #[inline]
    pub fn store_u32(&mut self, iova: u64, value: u32) -> Result<(), Fault> {
        if let Some(piece) = self.iommu.whole(iova, 4, Access::Write)
            && piece.memory.store_u32(piece.offset, value, Ordering::Release).is_ok()
        {
            return Ok(());
        }
        Err(self.iommu.fault(iova, 4, Access::Write))
    }

    /// True if the last [`Fault`] was none: a read of memory that a peer has was given up, because
    /// the host wants an answer to something else first. A model that says
    /// [`super::SoftDevice::repeats_dma`] makes the access again in a later poll.
    #[must_use]
    #[inline]
    pub fn interrupted(&self) -> bool {
        self.remote.interrupted
    }

    /// Copies `from` to host memory.
    ///
    /// # Errors
    /// [`Fault`].
    #[inline]
    pub fn write_bytes(&mut self, iova: u64, from: &[u8]) -> Result<(), Fault> {
        let len = from.len() as u64;
        if let Some(piece) = self.iommu.whole(iova, len.max(1), Access::Write) {
            // In bounds: the mapping holds the range.
            let _ = piece.memory.copy_in(piece.offset, from);
            return Ok(());
        }
        let mut done = 0;
        self.parts(iova, len, Access::Write, |part, remote| {
            let (Part::Here(Piece { len, .. }) | Part::There(_, len)) = part;
            let Some(now) = from.get(done..done + len) else { return true };
            done += len;
            match part {
                Part::Here(piece) => piece.memory.copy_in(piece.offset, now).is_ok(),
                Part::There(at, _) => remote.write(at, now),
            }
        })
    }

    /// Copies `len` bytes of the model's own memory (`source` from `offset`) to host memory: the
    /// data of a read command. One copy, no buffer between.
    ///
    /// # Errors
    /// [`Fault`]. A range outside of `source` is the model's bug: it is cut off, and logged.
    pub fn write_from(
        &mut self,
        iova: u64,
        source: &SharedMem,
        offset: usize,
        len: usize,
    ) -> Result<(), Fault> {
        if let Some(piece) = self.iommu.whole(iova, (len as u64).max(1), Access::Write) {
            own_range(piece.memory.copy_from(piece.offset, source, offset, len));
            return Ok(());
        }
        let mut from = offset;
        self.parts(iova, len as u64, Access::Write, |part, remote| match part {
            Part::Here(piece) => {
                own_range(piece.memory.copy_from(piece.offset, source, from, piece.len));
                from += piece.len;
                true
            }
            Part::There(at, len) => {
                let mut buffer = remote.buffer(len);
                own_range(source.copy_out(from, &mut buffer));
                from += len;
                let written = remote.write(at, &buffer);
                remote.keep(buffer);
                written
            }
        })
    }

    /// Copies `len` bytes of host memory to the model's own memory (`target` from `offset`): the
    /// data of a write command.
    ///
    /// # Errors
    /// [`Fault`]. A range outside of `target` is the model's bug: it is cut off, and logged.
    pub fn read_into(
        &mut self,
        iova: u64,
        target: &SharedMem,
        offset: usize,
        len: usize,
    ) -> Result<(), Fault> {
        if let Some(piece) = self.iommu.whole(iova, (len as u64).max(1), Access::Read) {
            own_range(target.copy_from(offset, piece.memory, piece.offset, len));
            return Ok(());
        }
        let mut to = offset;
        self.parts(iova, len as u64, Access::Read, |part, remote| match part {
            Part::Here(piece) => {
                own_range(target.copy_from(to, piece.memory, piece.offset, piece.len));
                to += piece.len;
                true
            }
            Part::There(at, len) => {
                let mut buffer = remote.buffer(len);
                let read = remote.read(at, &mut buffer);
                if read {
                    own_range(target.copy_in(to, &buffer));
                }
                to += len;
                remote.keep(buffer);
                read
            }
        })
    }

    /// Fills host memory with one byte.
    ///
    /// # Errors
    /// [`Fault`].
    pub fn fill(&mut self, iova: u64, len: usize, byte: u8) -> Result<(), Fault> {
        self.parts(iova, len as u64, Access::Write, |part, remote| match part {
            Part::Here(piece) => piece.memory.fill(piece.offset, piece.len, byte).is_ok(),
            Part::There(at, len) => {
                let mut buffer = remote.buffer(len);
                buffer.fill(byte);
                let written = remote.write(at, &buffer);
                remote.keep(buffer);
                written
            }
        })
    }

    /// Checks that a range can be accessed, so that a transfer in several steps moves all or nothing.
    ///
    /// # Errors
    /// [`Fault`].
    #[inline]
    pub fn check(&mut self, iova: u64, len: usize, access: Access) -> Result<(), Fault> {
        self.iommu.check(iova, len as u64, access)
    }

    /// Calls `each` with every mapped piece of a range, in order: for I/O that goes straight between
    /// host memory and a file. A model that keeps a clone of a piece's memory keeps it *mapped in
    /// this process* but not in the IOMMU: it must finish such I/O before it completes the command,
    /// deletes the command's queue, or answers a reset.
    ///
    /// # Errors
    /// [`Fault`]; `each` was not called then. Memory that only messages reach is a fault here.
    pub fn pieces(
        &mut self,
        iova: u64,
        len: usize,
        access: Access,
        each: impl FnMut(Piece<'_>),
    ) -> Result<(), Fault> {
        self.iommu.pieces(iova, len as u64, access, each)
    }

    /// Stores a completion entry so that its word at byte `last_word` (it holds the phase) becomes
    /// visible last, in one aligned 8-byte store with `Release`, as the host's ring reads it.
    ///
    /// # Errors
    /// [`Fault`] if the entry is not mapped for writing, crosses mappings, or is not aligned to 8, or
    /// if `last_word` is not inside `T`, or `T` is not whole 8-byte words: then nothing is stored.
    #[inline]
    pub fn store_entry<T: Pod>(
        &mut self,
        iova: u64,
        entry: &T,
        last_word: usize,
    ) -> Result<(), Fault> {
        let len = size_of::<T>() as u64;
        match self.iommu.whole(iova, len.max(1), Access::Write) {
            Some(piece) if piece.memory.publish(piece.offset, entry, last_word).is_ok() => Ok(()),
            Some(_) => Err(self.iommu.fault(iova, len, Access::Write)),
            None => self.send_entry(iova, bytemuck::bytes_of(entry), last_word),
        }
    }

    /// As [`SoftCx::store_entry`], to a peer that has the memory: the word comes in a message of its
    /// own, after the others.
    #[cold]
    fn send_entry(&mut self, iova: u64, entry: &[u8], last_word: usize) -> Result<(), Fault> {
        let len = entry.len() as u64;
        let fits = iova.is_multiple_of(8) && len.is_multiple_of(8) && last_word < entry.len();
        let remote = self.iommu.is_remote(iova, len, Access::Write);
        let word = last_word - last_word % 8;
        let parts = entry.split_at_checked(word).and_then(|(before, rest)| {
            let (word, after) = rest.split_at_checked(8)?;
            Some((before, word, after))
        });
        let Some((before, last, after)) = parts.filter(|_| fits && remote) else {
            return Err(self.iommu.fault(iova, len, Access::Write));
        };
        let at = iova + word as u64;
        if !before.is_empty() {
            self.write_bytes(iova, before)?;
        }
        if !after.is_empty() {
            self.write_bytes(at + 8, after)?;
        }
        self.write_bytes(at, last)
    }
}

/// A model asked for bytes outside of its own memory.
#[inline]
fn own_range(copied: Result<(), doorbell_queues::OutOfBounds>) {
    if let Err(error) = copied {
        tracing::error!(%error, "a software model copied outside of its own memory");
    }
}
