//! Mapping a descriptor into this process. One of the two places of this crate with `unsafe` code;
//! the other is [`super::buffer`].
//!
//! What it does not do: it cannot stop another holder of the same memory from punching holes into
//! it. A hole reads as zeroes (or, in hugetlb memory with no huge page left, raises SIGBUS).

use std::os::fd::BorrowedFd;
use std::ptr::NonNull;
use std::sync::Arc;

use doorbell_queues::SharedMem;
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

use super::DmaError;

/// Size of a base page in bytes. Every offset and length that is mapped is a multiple of it.
pub const PAGE: usize = 4096;

/// Size of a huge page in bytes (x86-64: a PMD).
pub const HUGE_PAGE: usize = 2 << 20;

/// When the pages of a mapping are made present.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Prefault {
    /// At the first access.
    No,
    /// At once, so that the data path takes no page fault, and the mapping process pays for the
    /// pages (`MAP_POPULATE`).
    Yes,
}

/// A live mapping.
///
/// # Invariants
/// `base .. base + len` is a `MAP_SHARED`, readable and writable mapping that nobody else unmaps.
#[derive(Debug)]
struct Mapped {
    base: NonNull<u8>,
    len: usize,
}

// SAFETY: only `Drop` uses the pointer, once.
unsafe impl Send for Mapped {}
// SAFETY: `&Mapped` offers no access to the memory.
unsafe impl Sync for Mapped {}

impl Drop for Mapped {
    fn drop(&mut self) {
        // SAFETY:
        // * the range was mapped by `map_fd` and is unmapped here only;
        // * every `SharedMem` over it is gone, for each holds the `Arc` of this value.
        let gone = unsafe { munmap(self.base.as_ptr().cast(), self.len) };
        if let Err(error) = gone {
            tracing::error!(%error, len = self.len, "munmap failed; the address range stays taken");
        }
    }
}

/// Maps `len` bytes of `fd` from `offset`, shared, readable and writable, at an address of the
/// kernel's choice. The memory is unmapped when the last view of it is dropped.
///
/// Touching a page beyond the end of the file raises SIGBUS, so the file must not shrink: pass
/// memory that was checked ([`super::Memfd`]) or that comes from a process that is trusted.
///
/// # Errors
/// [`DmaError::BadLength`] for an empty range; [`DmaError::Os`] if the kernel refuses (`offset` not
/// a multiple of the page size, `fd` not open for writing, sealed against writing).
pub fn map_fd(
    fd: BorrowedFd<'_>,
    offset: u64,
    len: usize,
    prefault: Prefault,
) -> Result<SharedMem, DmaError> {
    let os = |what| move |errno: rustix::io::Errno| DmaError::Os { what, source: errno.into() };
    if len == 0 || isize::try_from(len).is_err() {
        return Err(DmaError::BadLength { len, max: isize::MAX as usize });
    }
    let flags = match prefault {
        Prefault::No => MapFlags::SHARED,
        Prefault::Yes => MapFlags::SHARED | MapFlags::POPULATE,
    };
    let prot = ProtFlags::READ | ProtFlags::WRITE;
    // SAFETY: a new mapping at an address of the kernel's choice disturbs no existing memory.
    let base = unsafe { mmap(std::ptr::null_mut(), len, prot, flags, fd, offset) }
        .map_err(os("mapping shared memory (mmap)"))?;
    let Some(base) = NonNull::new(base.cast::<u8>()) else {
        return Err(os("mapping shared memory (mmap gave address 0)")(rustix::io::Errno::INVAL));
    };
    let owner = Arc::new(Mapped { base, len });
    // SAFETY:
    // * the range is readable and writable until `owner` unmaps it;
    // * mmap's result is page-aligned, so aligned to 8 bytes;
    // * the mapping is new, so no Rust reference to it exists. `DmaBox` makes references to parts
    //   of it only while nobody else has a view of those parts (see `super::buffer`).
    Ok(unsafe { SharedMem::new(base, len, owner) })
}
