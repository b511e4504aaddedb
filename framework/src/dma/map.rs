//! Mapping a descriptor into this process. One of the few places of this crate with `unsafe` code.
//!
//! What it does not do: it cannot stop another holder of the same memory from punching holes into
//! it. A hole reads as zeroes (or, in hugetlb memory with no huge page left, raises SIGBUS).

#[cfg(feature = "soft")]
use std::os::fd::AsFd;
use std::os::fd::BorrowedFd;
use std::ptr::NonNull;
use std::sync::Arc;

use doorbell_queues::SharedMem;
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

use super::DmaError;
#[cfg(feature = "soft")]
use super::Memfd;

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
/// memory that was checked ([`super::Memfd`]), or use [`super::map_revocable`].
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

/// A mapping whose pages can be exchanged under those who use it.
///
/// A device's thread reads its doorbells through one mapping of the whole BAR. Exchanging a page of
/// it gives that page to one client alone, or takes it away, without a word changing on the data
/// path.
///
/// # Invariants
/// `memory` is the whole of a mapping made by [`map_fd`].
#[cfg(feature = "soft")]
#[derive(Debug)]
pub(crate) struct Exchangeable {
    memory: SharedMem,
}

#[cfg(feature = "soft")]
impl Exchangeable {
    /// Maps the whole of `memfd`.
    pub(crate) fn map(memfd: &Memfd) -> Result<Self, DmaError> {
        Ok(Self { memory: memfd.map(Prefault::No)? })
    }

    /// The memory, as it is seen by all holders of the mapping.
    pub(crate) fn memory(&self) -> &SharedMem {
        &self.memory
    }

    /// Puts `len` bytes of `source` from `source_offset` in the place of those at `offset`, all whole
    /// pages. An access of another thread meanwhile sees the old page or the new one.
    pub(crate) fn exchange(
        &self,
        offset: u64,
        source: &Memfd,
        source_offset: u64,
        len: u64,
    ) -> Result<(), DmaError> {
        let page = PAGE as u64;
        let fits = |size: u64, at: u64| at.checked_add(len).is_some_and(|end| end <= size);
        let whole = [offset, source_offset, len].iter().all(|n| n.is_multiple_of(page));
        let inside = fits(self.memory.len() as u64, offset) && fits(source.len(), source_offset);
        if len == 0 || !whole || !inside {
            return Err(DmaError::BadArena { why: "no such pages to exchange".into() });
        }
        let (prot, flags) =
            (ProtFlags::READ | ProtFlags::WRITE, MapFlags::SHARED | MapFlags::FIXED);
        // SAFETY:
        // * `offset + len` is inside the mapping (checked), so the address does not wrap;
        // * the range is part of a mapping of ours (type invariant), so nothing else is replaced;
        //   it stays readable and writable throughout, for the kernel replaces it under its lock;
        // * every view of it is a `SharedMem`, which expects others to change its bytes at any
        //   time; no Rust reference to it exists;
        // * `Mapped::drop` unmaps the whole range, whatever lies in it.
        let mapped = unsafe {
            let at = self.memory.as_ptr().add(offset as usize).cast();
            mmap(at, len as usize, prot, flags, source.as_fd(), source_offset)
        };
        mapped.map(drop).map_err(|errno| DmaError::Os {
            what: "exchanging pages of a mapping (mmap)",
            source: errno.into(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dma::{HugePages, Memfd};

    #[test]
    fn the_last_view_unmaps() {
        let memfd = Memfd::create("test", 4096, HugePages::No).unwrap();
        let memory = memfd.map(Prefault::No).unwrap();
        let address = format!("{:x}-", memory.as_ptr() as usize);
        let mapped = || std::fs::read_to_string("/proc/self/maps").unwrap().contains(&address);
        let word = memory.word32(8).unwrap();
        drop(memory);
        assert!(mapped(), "a word keeps its memory mapped");
        drop(word);
        assert!(!mapped());
    }

    #[cfg(feature = "soft")]
    #[test]
    fn pages_are_exchanged_under_their_users() {
        let whole = Memfd::create("test", 3 * PAGE, HugePages::No).unwrap();
        let other = Memfd::create("test", 2 * PAGE, HugePages::No).unwrap();
        let mapping = Exchangeable::map(&whole).unwrap();
        let seen = mapping.memory().clone();
        seen.fill(0, seen.len(), 1).unwrap();
        other.map(Prefault::No).unwrap().fill(PAGE, PAGE, 2).unwrap();
        let page = PAGE as u64;
        mapping.exchange(page, &other, page, page).unwrap();
        let firsts = || [0, 1, 2].map(|i| seen.read::<u8>(i * PAGE).unwrap());
        assert_eq!(firsts(), [1, 2, 1]);
        mapping.exchange(page, &whole, page, page).unwrap();
        assert_eq!(firsts(), [1, 1, 1]);
        for (offset, source, len) in [
            (1, 0, page),
            (0, 1, page),
            (0, 0, 1),
            (0, 0, 0),
            (0, 0, 3 * page),
            (3 * page, 0, page),
        ] {
            assert!(mapping.exchange(offset, &other, source, len).is_err());
        }
        assert!(mapping.exchange(u64::MAX - 4095, &other, 0, page).is_err());
    }
}
