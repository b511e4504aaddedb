//! File operations under way, in an io_uring of the device's thread.
//!
//! The one place of the controller with `unsafe` code: a submission entry carries addresses and a
//! descriptor that the kernel uses after the call returned. [`Ring`] owns both, so its interface is
//! safe:
//!
//! # Invariants
//! * One operation per slot at a time; a slot's buffer is its chunk of `pool`.
//! * `pool` is dropped only when no operation is under way; otherwise it is leaked.
//! * A slot keeps a reference to the file of its operation until the operation completed.
//!
//! The buffers are not registered with the kernel: for I/O through the page cache that saves nothing,
//! and it would count against the limit of locked memory.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use doorbell::queues::SharedMem;
use io_uring::{IoUring, cqueue, opcode, squeue, types};

/// How long a ring that is dropped waits for operations under way.
const DRAIN: Duration = Duration::from_secs(5);

/// `RWF_DSYNC`: the data is on the medium before the write completes (pwritev2(2)).
const RWF_DSYNC: i32 = 0x2;
const FALLOC_KEEP_SIZE: i32 = 0x01;
const FALLOC_PUNCH_HOLE: i32 = 0x02;
const FALLOC_ZERO_RANGE: i32 = 0x10;

/// How a range of a file becomes zeroes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Erase {
    /// Keep the blocks allocated (fallocate: zero range).
    Zero,
    /// Give the blocks back (fallocate: punch hole).
    Punch,
}

/// File operations under way.
pub(crate) struct Ring {
    ring: IoUring,
    pool: SharedMem,
    chunk: usize,
    /// Per slot: the file of the operation under way.
    files: Vec<Option<Arc<File>>>,
    inflight: usize,
    unsubmitted: bool,
}

impl std::fmt::Debug for Ring {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ring").field("inflight", &self.inflight).finish_non_exhaustive()
    }
}

impl Ring {
    /// A ring of `slots` operations with a buffer of `chunk` bytes (a multiple of 4096) each.
    pub(crate) fn new(slots: u16, chunk: usize) -> io::Result<Self> {
        let entries = u32::from(slots).next_power_of_two();
        let ring = IoUring::new(entries)?;
        let pool = SharedMem::zeroed(usize::from(slots) * chunk);
        let files = (0..slots).map(|_| None).collect();
        Ok(Self { ring, pool, chunk, files, inflight: 0, unsubmitted: false })
    }

    /// The buffers: slot `n` has `chunk` bytes from `n * chunk`. While an operation of a slot is
    /// under way the kernel reads or writes its chunk.
    pub(crate) fn pool(&self) -> &SharedMem {
        &self.pool
    }

    /// Offset of a slot's buffer in the pool.
    pub(crate) fn offset(&self, slot: u16) -> usize {
        usize::from(slot) * self.chunk
    }

    /// Bytes of a slot's buffer.
    pub(crate) fn chunk(&self) -> usize {
        self.chunk
    }

    /// Operations under way.
    pub(crate) fn inflight(&self) -> usize {
        self.inflight
    }

    /// True if the kernel did not take all operations yet: [`Ring::submit`] must be called again.
    pub(crate) fn is_deferred(&self) -> bool {
        self.unsubmitted
    }

    /// Readable when an operation has completed and was not reaped.
    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        // SAFETY: the descriptor is open for as long as `self.ring` lives, which is borrowed.
        unsafe { BorrowedFd::borrow_raw(self.ring.as_raw_fd()) }
    }

    /// Reads `len` bytes at `at` of `file` to offset `to` of the slot's buffer.
    #[must_use]
    pub(crate) fn read(
        &mut self,
        slot: u16,
        file: &Arc<File>,
        at: u64,
        (to, len): (usize, usize),
    ) -> bool {
        let Some((address, len)) = self.buffer(slot, to, len) else { return false };
        let fd = types::Fd(file.as_raw_fd());
        let entry = opcode::Read::new(fd, address, len).offset(at).build();
        self.push(slot, file, entry)
    }

    /// Writes `len` bytes from offset `from` of the slot's buffer at `at` of `file`; with `durable`
    /// they are on the medium when it completes.
    #[must_use]
    pub(crate) fn write(
        &mut self,
        slot: u16,
        file: &Arc<File>,
        at: u64,
        (from, len): (usize, usize),
        durable: bool,
    ) -> bool {
        let Some((address, len)) = self.buffer(slot, from, len) else { return false };
        let fd = types::Fd(file.as_raw_fd());
        let flags = if durable { RWF_DSYNC } else { 0 };
        let entry = opcode::Write::new(fd, address, len).offset(at).rw_flags(flags).build();
        self.push(slot, file, entry)
    }

    /// Puts everything that was written to `file` on the medium (fdatasync).
    #[must_use]
    pub(crate) fn sync(&mut self, slot: u16, file: &Arc<File>) -> bool {
        let fd = types::Fd(file.as_raw_fd());
        let entry = opcode::Fsync::new(fd).flags(types::FsyncFlags::DATASYNC).build();
        self.push(slot, file, entry)
    }

    /// Makes `len` bytes at `at` of `file` read as zeroes. The file's size does not change.
    #[must_use]
    pub(crate) fn erase(
        &mut self,
        slot: u16,
        file: &Arc<File>,
        (at, len): (u64, u64),
        how: Erase,
    ) -> bool {
        let mode = match how {
            Erase::Zero => FALLOC_ZERO_RANGE | FALLOC_KEEP_SIZE,
            Erase::Punch => FALLOC_PUNCH_HOLE | FALLOC_KEEP_SIZE,
        };
        let fd = types::Fd(file.as_raw_fd());
        let entry = opcode::Fallocate::new(fd, len).offset(at).mode(mode).build();
        self.push(slot, file, entry)
    }

    /// Hands everything to the kernel. Costs nothing if there is nothing.
    pub(crate) fn submit(&mut self) {
        if self.unsubmitted {
            match self.ring.submit() {
                Ok(_) => self.unsubmitted = !self.ring.submission().is_empty(),
                // The kernel is short of something, or was interrupted: the next poll tries again.
                Err(error) => tracing::debug!(%error, "io_uring submission is deferred"),
            }
        }
    }

    /// Calls `done` with slot and result (bytes, or a negative errno) of what has completed.
    #[inline]
    pub(crate) fn reap(&mut self, done: &mut Vec<(u16, i32)>) {
        if self.inflight == 0 {
            return;
        }
        for cqe in self.ring.completion() {
            let cqe: cqueue::Entry = cqe;
            let slot = cqe.user_data() as u16;
            if self.files.get_mut(usize::from(slot)).and_then(Option::take).is_some() {
                self.inflight -= 1;
                done.push((slot, cqe.result()));
            }
        }
    }

    /// Address and length of a part of a slot's buffer, if it lies inside.
    fn buffer(&self, slot: u16, offset: usize, len: usize) -> Option<(*mut u8, u32)> {
        let end = offset.checked_add(len)?;
        let inside = end <= self.chunk && usize::from(slot) < self.files.len();
        let part = self.pool.slice(self.offset(slot), self.chunk).ok().filter(|_| inside)?;
        Some((part.as_ptr().wrapping_add(offset), u32::try_from(len).ok()?))
    }

    /// False if nothing was started: the slot is busy, or the ring full. Neither can be: a job has
    /// one slot and one operation at a time, and the ring has an entry for each slot.
    fn push(&mut self, slot: u16, file: &Arc<File>, entry: squeue::Entry) -> bool {
        let Some(holder @ None) = self.files.get_mut(usize::from(slot)) else { return false };
        let entry = entry.user_data(u64::from(slot));
        // SAFETY:
        // * the addresses lie in the slot's chunk of `pool` (see `buffer`), which lives until the
        //   operation completed, and which no Rust reference points into (`SharedMem`);
        // * `holder` keeps the descriptor open until the operation completed;
        // * no other operation of this slot is under way, so buffers of operations do not overlap.
        let pushed = unsafe { self.ring.submission().push(&entry) }.is_ok();
        if pushed {
            *holder = Some(Arc::clone(file));
            self.inflight += 1;
            self.unsubmitted = true;
        }
        pushed
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        let until = Instant::now() + DRAIN;
        let mut done = Vec::new();
        self.submit();
        while self.inflight > 0 && Instant::now() < until {
            let nap = types::Timespec::new().nsec(10_000_000);
            let args = types::SubmitArgs::new().timespec(&nap);
            // An error is a timeout or a signal; the deadline bounds both.
            let _ = self.ring.submitter().submit_with_args(1, &args);
            self.reap(&mut done);
        }
        if self.inflight > 0 {
            tracing::error!(
                operations = self.inflight,
                "file operations do not end; their buffers are left behind"
            );
            // The kernel may still write there: never give this memory back.
            std::mem::forget(self.pool.clone());
        }
    }
}
