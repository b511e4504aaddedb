//! [`Namespace`]: reads, writes and the rest, with every check before the device.

use std::fmt;
use std::sync::Arc;

use doorbell::dma::DmaBox;
use doorbell_queues::{RejectReason, Rejected, Tag};

use super::Nvme;
use super::error::{BadNamespace, BadRange, IoError, NvmeError, Refused};
use super::extent::{Extent, Geometry, Lba, MOST_BLOCKS};
use super::io::{Done, Io, Transfer};
use super::mode::{Mode, Single, Tagged};
use super::payload::Payload;
use super::request::Request;
use crate::admin::NamespaceInfo;
use crate::spec::IoOpcode;
use crate::spec::command::Rw12;

/// Blocks of a namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Range {
    /// First block.
    pub lba: Lba,
    /// How many, 1 to 2^32 - 1.
    pub blocks: u32,
}

/// A namespace, seen through one queue pair. It is a cheap copy of numbers and a borrow of its
/// [`Nvme`].
pub struct Namespace<'n, M: Mode = Single> {
    nvme: &'n Nvme<M>,
    info: &'n NamespaceInfo,
    shape: Geometry,
    /// Most blocks of a command that moves data, 1 to 65,536.
    most_data: u32,
}

impl<M: Mode> Clone for Namespace<'_, M> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<M: Mode> Copy for Namespace<'_, M> {}

impl<M: Mode> fmt::Debug for Namespace<'_, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Namespace")
            .field("nsid", &self.info.nsid)
            .field("shape", &self.shape)
            .finish_non_exhaustive()
    }
}

impl<'n, M: Mode> Namespace<'n, M> {
    pub(super) fn new(nvme: &'n Nvme<M>, info: &'n NamespaceInfo) -> Result<Self, NvmeError> {
        let refuse = |why: String| {
            let device = Arc::clone(nvme.device());
            NvmeError::Namespace(Box::new(BadNamespace { device, nsid: info.nsid, why }))
        };
        if info.metadata != 0 || info.protected {
            return Err(refuse(format!(
                "its blocks carry {} bytes of metadata, which this client does not support; \
                 format it with another LBA format",
                info.metadata
            )));
        }
        let shape = Geometry::new(info.blocks, u32::from(info.block_shift)).ok_or_else(|| {
            refuse(format!("{} blocks of 2^{} bytes cannot be", info.blocks, info.block_shift))
        })?;
        let most_data = (nvme.max_transfer() >> shape.block_shift).min(MOST_BLOCKS);
        if most_data == 0 {
            return Err(refuse(format!(
                "one block is {} bytes and one command moves at most {}",
                shape.block_size(),
                nvme.max_transfer()
            )));
        }
        Ok(Self { nvme, info, shape, most_data: most_data as u32 })
    }

    /// Its identifier, from 1.
    #[must_use]
    pub fn nsid(&self) -> u32 {
        self.info.nsid
    }

    /// What the driver knows of it.
    #[must_use]
    pub fn info(&self) -> &'n NamespaceInfo {
        self.info
    }

    /// Bytes of a block: 512, 4096, or another power of two.
    #[must_use]
    pub fn block_size(&self) -> usize {
        self.shape.block_size() as usize
    }

    /// Size in blocks.
    #[must_use]
    pub fn blocks(&self) -> u64 {
        self.shape.blocks
    }

    /// Size in bytes.
    #[must_use]
    pub fn len_bytes(&self) -> u64 {
        self.shape.bytes()
    }

    /// Most bytes that one command moves; longer requests are split.
    #[must_use]
    pub fn max_transfer(&self) -> usize {
        (u64::from(self.most_data) << self.shape.block_shift) as usize
    }

    #[inline]
    fn request(&self, opcode: IoOpcode, most_blocks: u32, flags: Rw12) -> Request {
        Request {
            lba: Lba(0),
            blocks: 0,
            most_blocks,
            nsid: self.info.nsid,
            flags,
            block_shift: self.shape.block_shift as u8,
            opcode,
        }
    }

    #[cold]
    fn bad(&self, range: BadRange) -> NvmeError {
        let device = Arc::clone(self.nvme.device());
        NvmeError::BadRange(Box::new(Refused { device, nsid: self.info.nsid, range }))
    }

    #[inline(always)]
    fn transfer(
        &self,
        opcode: IoOpcode,
        extent: Result<Extent, BadRange>,
        flags: Rw12,
        buffer: DmaBox<[u8]>,
    ) -> Io<'n, M> {
        let request = self.request(opcode, self.most_data, flags);
        let request = extent.as_ref().map_or(request, |extent| request.of(*extent));
        let mut io = Io(Transfer::new(self.nvme, request));
        match extent {
            Ok(_) => io.0.begin(Some(buffer)),
            Err(range) => io.0.refuse(self.bad(range), Some(buffer)),
        }
        io
    }

    /// Reads as many blocks as `buffer` holds, from `lba` (NVM command set 1.0, 3.2.4).
    ///
    /// # Errors
    /// [`IoError`] with the buffer: [`NvmeError::BadRange`] before anything reaches the device,
    /// [`NvmeError::Status`] with what the device said, [`NvmeError::Queue`].
    #[inline]
    pub fn read(&self, lba: Lba, buffer: DmaBox<[u8]>) -> Io<'n, M> {
        let extent = self.shape.at_lba(lba, buffer.len());
        self.transfer(IoOpcode::READ, extent, Rw12(0), buffer)
    }

    /// [`Namespace::read`] from a byte offset, which must be a multiple of the block size.
    ///
    /// # Errors
    /// As [`Namespace::read`].
    #[inline]
    pub fn read_at(&self, offset: u64, buffer: DmaBox<[u8]>) -> Io<'n, M> {
        let extent = self.shape.at_byte(offset, buffer.len());
        self.transfer(IoOpcode::READ, extent, Rw12(0), buffer)
    }

    /// Writes `buffer` from `lba` on (NVM command set 1.0, 3.2.6). With a volatile write cache the
    /// data is durable only after [`Namespace::flush`].
    ///
    /// # Errors
    /// As [`Namespace::read`]. After an error of a request that was split, any of its blocks may
    /// have been written.
    #[inline]
    pub fn write(&self, lba: Lba, buffer: DmaBox<[u8]>) -> Io<'n, M> {
        let extent = self.shape.at_lba(lba, buffer.len());
        self.transfer(IoOpcode::WRITE, extent, Rw12(0), buffer)
    }

    /// [`Namespace::write`] at a byte offset, which must be a multiple of the block size.
    ///
    /// # Errors
    /// As [`Namespace::write`].
    #[inline]
    pub fn write_at(&self, offset: u64, buffer: DmaBox<[u8]>) -> Io<'n, M> {
        let extent = self.shape.at_byte(offset, buffer.len());
        self.transfer(IoOpcode::WRITE, extent, Rw12(0), buffer)
    }

    /// [`Namespace::write`] that completes when the data is durable (Force Unit Access, NVM command
    /// set 1.0, 3.2.6).
    ///
    /// # Errors
    /// As [`Namespace::write`].
    #[inline]
    pub fn write_through(&self, lba: Lba, buffer: DmaBox<[u8]>) -> Io<'n, M> {
        let extent = self.shape.at_lba(lba, buffer.len());
        self.transfer(IoOpcode::WRITE, extent, Rw12(0).with_fua(true), buffer)
    }

    /// Compares `buffer` with the blocks from `lba` on (NVM command set 1.0, 3.2.1).
    ///
    /// # Errors
    /// As [`Namespace::read`]; a difference is an error for which [`NvmeError::is_mismatch`] is
    /// true. [`NvmeError::NotSupported`] if the controller has no such command.
    #[inline]
    pub fn compare(&self, lba: Lba, buffer: DmaBox<[u8]>) -> Io<'n, M> {
        if !self.nvme.controller().commands.compare {
            let request = self.request(IoOpcode::COMPARE, 1, Rw12(0));
            let mut io = Io(Transfer::new(self.nvme, request));
            io.0.refuse(self.not_supported(IoOpcode::COMPARE), Some(buffer));
            return io;
        }
        let extent = self.shape.at_lba(lba, buffer.len());
        self.transfer(IoOpcode::COMPARE, extent, Rw12(0), buffer)
    }

    /// Makes every completed write of this namespace durable (base 2.0, 7.1).
    ///
    /// # Errors
    /// [`NvmeError::Status`], [`NvmeError::Queue`].
    #[inline]
    pub fn flush(&self) -> Done<'n, M> {
        let mut done = Done(Transfer::new(self.nvme, self.request(IoOpcode::FLUSH, 1, Rw12(0))));
        done.0.begin(None);
        done
    }

    /// Fills blocks with zeros without moving data (NVM command set 1.0, 3.2.8).
    ///
    /// # Errors
    /// [`NvmeError::BadRange`], [`NvmeError::Status`], [`NvmeError::Queue`];
    /// [`NvmeError::NotSupported`] if the controller has no such command.
    pub fn write_zeroes(&self, lba: Lba, blocks: u64) -> Done<'n, M> {
        let controller = self.nvme.controller();
        let most = controller.max_zeroes.map_or(MOST_BLOCKS, |most| most >> self.shape.block_shift);
        let most = most.clamp(1, MOST_BLOCKS) as u32;
        let request = self.request(IoOpcode::WRITE_ZEROES, most, Rw12(0));
        let extent = self.shape.extent(lba, blocks);
        let request = extent.as_ref().map_or(request, |extent| request.of(*extent));
        let mut done = Done(Transfer::new(self.nvme, request));
        match extent {
            _ if !controller.commands.write_zeroes => {
                done.0.refuse(self.not_supported(IoOpcode::WRITE_ZEROES), None);
            }
            Ok(_) => done.0.begin(None),
            Err(range) => done.0.refuse(self.bad(range), None),
        }
        done
    }

    /// Tells the device that blocks are not needed (NVM command set 1.0, 3.2.3). What they read as
    /// afterwards is the device's to choose: see [`NamespaceInfo::deallocated_reads_zero`].
    ///
    /// # Errors
    /// [`NvmeError::BadRange`] if a range is, or for none or more than
    /// [`ControllerInfo::max_ranges`](crate::admin::ControllerInfo::max_ranges) of them;
    /// [`NvmeError::Status`], [`NvmeError::Queue`]; [`NvmeError::NotSupported`] if the controller
    /// has no such command.
    pub async fn deallocate(&self, ranges: &[Range]) -> Result<(), NvmeError> {
        self.check_ranges(ranges)?;
        let request = self.request(IoOpcode::DATASET_MANAGEMENT, 1, Rw12(0));
        let command = loop {
            match request.submit_ranges(self.nvme, ranges) {
                Ok(command) => break command,
                Err(Rejected { reason: RejectReason::Full(_), .. }) => {
                    M::slot_free(self.nvme.queue()).await?;
                }
                Err(Rejected { reason: RejectReason::Ended(error), .. }) => {
                    return Err(error.into());
                }
            }
        };
        let tag = command.tag();
        match command.await {
            Ok((outcome, _)) if outcome.status.is_success() => Ok(()),
            failed => {
                let (error, _) = request.failed(self.nvme, tag, Lba(0), failed);
                if error.is_deletion() {
                    return Err(M::ending(self.nvme.queue()).await.into());
                }
                Err(error)
            }
        }
    }

    fn check_ranges(&self, ranges: &[Range]) -> Result<(), NvmeError> {
        let controller = self.nvme.controller();
        if !controller.commands.dataset_management {
            return Err(self.not_supported(IoOpcode::DATASET_MANAGEMENT));
        }
        let most = usize::from(controller.max_ranges);
        let most_blocks = u64::from(controller.max_range_blocks.unwrap_or(u32::MAX));
        let too_long = ranges.iter().any(|range| u64::from(range.blocks) > most_blocks);
        if ranges.is_empty() || ranges.len() > most || too_long {
            let ranges = ranges.len();
            return Err(self.bad(BadRange::Ranges { ranges, most, most_blocks }));
        }
        for range in ranges {
            self.shape.extent(range.lba, range.blocks.into()).map_err(|bad| self.bad(bad))?;
        }
        Ok(())
    }

    #[cold]
    fn not_supported(&self, command: IoOpcode) -> NvmeError {
        NvmeError::NotSupported { device: Arc::clone(self.nvme.device()), command }
    }

    /// Places a read whose completion goes to [`Nvme::reap`], without a future: for loops that
    /// drive a queue themselves. It must fit one command.
    ///
    /// # Errors
    /// [`IoError`] with the buffer: [`NvmeError::Full`], [`NvmeError::BadRange`] (also for a length
    /// above [`Namespace::max_transfer`]), [`NvmeError::Queue`].
    #[inline]
    pub fn post_read(&self, lba: Lba, buffer: DmaBox<[u8]>) -> Result<Tag, IoError> {
        self.post(IoOpcode::READ, lba, buffer)
    }

    /// As [`Namespace::post_read`], a write.
    ///
    /// # Errors
    /// As [`Namespace::post_read`].
    #[inline]
    pub fn post_write(&self, lba: Lba, buffer: DmaBox<[u8]>) -> Result<Tag, IoError> {
        self.post(IoOpcode::WRITE, lba, buffer)
    }

    /// As [`Namespace::post_read`], a flush.
    ///
    /// # Errors
    /// [`NvmeError::Full`], [`NvmeError::Queue`].
    #[inline]
    pub fn post_flush(&self) -> Result<Tag, NvmeError> {
        let request = self.request(IoOpcode::FLUSH, 1, Rw12(0));
        let posted = request.post(self.nvme, request.whole(), None, Payload::nothing());
        posted.map_err(|rejected| turned_away(rejected).error)
    }

    #[inline(always)]
    fn post(&self, opcode: IoOpcode, lba: Lba, buffer: DmaBox<[u8]>) -> Result<Tag, IoError> {
        let extent = self.shape.at_lba(lba, buffer.len()).and_then(|extent| {
            if extent.blocks <= u64::from(self.most_data) {
                return Ok(extent);
            }
            let most = self.max_transfer() as u64;
            Err(BadRange::TooLong { len: buffer.len() as u64, most })
        });
        let extent = match extent {
            Ok(extent) => extent,
            Err(range) => {
                return Err(IoError { error: self.bad(range), buffer: Some(buffer) });
            }
        };
        let request = self.request(opcode, self.most_data, Rw12(0)).of(extent);
        let payload = Payload::whole(buffer.into_shared());
        let base = payload.iova();
        request.post(self.nvme, request.whole(), base, payload).map_err(turned_away)
    }
}

#[cold]
fn turned_away(rejected: Rejected<Payload>) -> IoError {
    let error = match rejected.reason {
        RejectReason::Full(queue) => NvmeError::Full(queue),
        RejectReason::Ended(error) => error.into(),
    };
    IoError { error, buffer: rejected.buffer.into_buffer() }
}
