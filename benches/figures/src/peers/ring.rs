//! Operations under way in an io_uring of this thread.
//!
//! A small module with `unsafe` code of its own: a submission entry carries an address and a
//! descriptor that the kernel uses after the call returned. [`Ring`] owns both, so its interface is
//! safe:
//!
//! # Invariants
//! * A slot has one operation at a time; its buffer is its chunk of `pool`.
//! * `file` is open for as long as the ring is; the kernel keeps it for operations that it has taken.
//! * `pool` is freed only when no operation is under way; otherwise it is leaked.
#![allow(unsafe_code, reason = "the kernel uses memory and descriptors after a call has returned")]

use std::fs::File;
use std::os::fd::AsRawFd;

use anyhow::{Context, Result, ensure};
use doorbell_queues::SharedMem;
use io_uring::{IoUring, opcode, squeue, types};

/// Alignment of a buffer that `O_DIRECT` accepts on every disk.
const ALIGN: usize = 4096;

/// See the module.
pub(super) struct Ring {
    ring: IoUring,
    pool: SharedMem,
    /// Offset of the first chunk: what aligns it.
    first: usize,
    chunk: usize,
    /// Which slots have an operation under way.
    busy: Vec<bool>,
    file: Option<File>,
    in_flight: usize,
}

impl std::fmt::Debug for Ring {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ring").field("in_flight", &self.in_flight).finish_non_exhaustive()
    }
}

impl Ring {
    /// A ring of `slots` operations with an aligned buffer of `chunk` bytes each, to
    /// read from `file`.
    pub(super) fn new(slots: u32, chunk: usize, file: Option<File>) -> Result<Self> {
        let entries = slots.max(1).next_power_of_two();
        let ring = IoUring::new(entries).context("the kernel gives no io_uring")?;
        let pool = SharedMem::zeroed(slots as usize * chunk + ALIGN);
        let first = pool.as_ptr().align_offset(ALIGN);
        ensure!(first < ALIGN, "memory that cannot be aligned");
        let busy = vec![false; slots as usize];
        Ok(Self { ring, pool, first, chunk, busy, file, in_flight: 0 })
    }

    /// Does nothing, by way of the kernel. False if the slot is busy.
    pub(super) fn no_op(&mut self, slot: u32) -> bool {
        self.push(slot, &opcode::Nop::new().build())
    }

    /// Reads a chunk at `at` of the file into the slot's buffer. False if the slot is busy.
    pub(super) fn read(&mut self, slot: u32, at: u64) -> Result<bool> {
        let fd = types::Fd(self.file.as_ref().context("a ring without a file")?.as_raw_fd());
        let index = slot as usize;
        ensure!(index < self.busy.len() && self.chunk > 0, "there is no buffer {slot}");
        // Inside of the pool: its length is that of all chunks and the alignment.
        let address = self.pool.as_ptr().wrapping_add(self.first + index * self.chunk);
        let len = u32::try_from(self.chunk).context("a chunk")?;
        Ok(self.push(slot, &opcode::Read::new(fd, address, len).offset(at).build()))
    }

    /// Hands everything to the kernel.
    pub(super) fn submit(&mut self) -> Result<usize> {
        self.ring.submit().context("submitting to an io_uring")
    }

    /// True if the kernel did not take everything yet.
    pub(super) fn has_unsubmitted(&mut self) -> bool {
        !self.ring.submission().is_empty()
    }

    /// Hands everything to the kernel and waits until `wanted` operations have completed.
    pub(super) fn submit_and_wait(&mut self, wanted: usize) -> Result<usize> {
        self.ring.submit_and_wait(wanted).context("waiting for an io_uring")
    }

    /// Calls `done` with slot and result of what has completed.
    #[inline]
    pub(super) fn reap(&mut self, mut done: impl FnMut(u32, i32)) {
        for completion in self.ring.completion() {
            let slot = completion.user_data() as u32;
            if self.busy.get_mut(slot as usize).is_some_and(std::mem::take) {
                self.in_flight -= 1;
                done(slot, completion.result());
            }
        }
    }

    /// Copies a slot's buffer.
    pub(super) fn copy_out(&self, slot: u32, to: &mut [u8]) -> Result<()> {
        ensure!(to.len() <= self.chunk, "more than a buffer has");
        Ok(self.pool.copy_out(self.first + slot as usize * self.chunk, to)?)
    }

    fn push(&mut self, slot: u32, entry: &squeue::Entry) -> bool {
        let Some(busy @ false) = self.busy.get_mut(slot as usize) else { return false };
        let entry = entry.clone().user_data(u64::from(slot));
        // SAFETY:
        // * an address in the entry is of the slot's chunk of `pool`, which lives until the operation
        //   has completed (`Drop`), and which no Rust reference points into (`SharedMem`);
        // * a descriptor in it is that of `file`, which is open until the ring is dropped;
        // * no other operation of the slot is under way, so no two operations share a buffer.
        *busy = unsafe { self.ring.submission().push(&entry) }.is_ok();
        self.in_flight += usize::from(*busy);
        *busy
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        if self.in_flight > 0 {
            let nap = types::Timespec::new().sec(5);
            let args = types::SubmitArgs::new().timespec(&nap);
            // An error is a timeout or a signal: what is then still under way keeps its buffers.
            let _ = self.ring.submitter().submit_with_args(self.in_flight, &args);
            self.reap(|_, _| ());
        }
        if self.in_flight > 0 {
            std::mem::forget(self.pool.clone());
        }
    }
}
