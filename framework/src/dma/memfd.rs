//! Sealed memfds: the only memory that a device is given.
//!
//! A memfd that is sealed against shrinking cannot be truncated under a mapping, so neither the
//! broker nor a software device takes a SIGBUS from a client's `ftruncate`.
//!
//! What a seal does not stop (tried on Linux 6.18): `fallocate(PUNCH_HOLE)`. The one who punches
//! sees fresh zero pages and loses its own data; a device's pinned page stays valid. In a *hugetlb*
//! memfd a punched page may not come back if no huge page is free, and a software device that
//! touches it then takes a SIGBUS: a broker that serves clients it does not trust refuses hugetlb
//! arenas on software devices ([`Memfd::is_huge`]).

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use doorbell_queues::SharedMem;
use rustix::fs::{FallocateFlags, FileType, MemfdFlags, OFlags, SealFlags};

use super::DmaError;
use super::map::{HUGE_PAGE, PAGE, Prefault, map_fd};

/// `f_type` of tmpfs, statfs(2).
const TMPFS: i64 = 0x0102_1994;
/// `f_type` of hugetlbfs, statfs(2).
const HUGETLBFS: i64 = 0x9584_58f6;

/// Whether memory should lie in huge pages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HugePages {
    /// Base pages.
    No,
    /// 2 MiB pages if the system has enough of them free, else base pages.
    IfAvailable,
}

/// A memfd that can neither shrink nor grow and whose seals cannot change.
///
/// # Invariants
/// * sealed with `F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL`, not sealed against writing;
/// * `len` is its size for ever: positive, and a multiple of the page size (of 2 MiB if `huge`).
#[derive(Debug)]
pub struct Memfd {
    fd: OwnedFd,
    len: u64,
    huge: bool,
}

fn os(what: &'static str) -> impl Fn(rustix::io::Errno) -> DmaError {
    move |errno| DmaError::Os { what, source: errno.into() }
}

fn bad(why: impl Into<String>) -> DmaError {
    DmaError::BadArena { why: why.into() }
}

impl Memfd {
    const SEALS: SealFlags = SealFlags::SHRINK.union(SealFlags::GROW).union(SealFlags::SEAL);

    /// Creates zeroed memory of `len` bytes, rounded up to whole pages (to 2 MiB in huge pages).
    /// `name` is what `/proc/PID/maps` shows.
    ///
    /// # Errors
    /// [`DmaError::BadLength`] for no bytes, [`DmaError::Os`] from the kernel.
    pub fn create(name: &str, len: usize, pages: HugePages) -> Result<Self, DmaError> {
        let max = isize::MAX as usize - HUGE_PAGE;
        if len == 0 || len > max {
            return Err(DmaError::BadLength { len, max });
        }
        if pages == HugePages::IfAvailable
            && let Some(memfd) = Self::create_huge(name, len.next_multiple_of(HUGE_PAGE) as u64)
        {
            return Ok(memfd);
        }
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let fd = rustix::fs::memfd_create(name, flags).map_err(os("memfd_create"))?;
        let len = len.next_multiple_of(PAGE) as u64;
        rustix::fs::ftruncate(&fd, len).map_err(os("sizing a memfd (ftruncate)"))?;
        Self::seal(fd, len, false)
    }

    /// `None` if the system has not enough free huge pages (or none at all).
    fn create_huge(name: &str, len: u64) -> Option<Self> {
        let flags = MemfdFlags::CLOEXEC
            | MemfdFlags::ALLOW_SEALING
            | MemfdFlags::HUGETLB
            | MemfdFlags::HUGE_2MB;
        let fd = rustix::fs::memfd_create(name, flags).ok()?;
        rustix::fs::ftruncate(&fd, len).ok()?;
        // Takes the pages now: a hugetlb page that is missing at first touch is a SIGBUS.
        rustix::fs::fallocate(&fd, FallocateFlags::empty(), 0, len).ok()?;
        Self::seal(fd, len, true).ok()
    }

    fn seal(fd: OwnedFd, len: u64, huge: bool) -> Result<Self, DmaError> {
        rustix::fs::fcntl_add_seals(&fd, Self::SEALS).map_err(os("sealing a memfd"))?;
        Ok(Self { fd, len, huge })
    }

    /// Takes a descriptor that another process sent, if it is a memfd that may be an arena: sealed
    /// with `F_SEAL_SHRINK`, `F_SEAL_GROW` and `F_SEAL_SEAL`, open for reading and writing, in tmpfs
    /// or hugetlbfs, not empty, whole pages. Anything else (regular files, DAX, pipes, sockets,
    /// secret memory) is refused.
    ///
    /// # Errors
    /// [`DmaError::BadArena`] names the rule that it breaks.
    pub fn check(fd: OwnedFd) -> Result<Self, DmaError> {
        let stat =
            rustix::fs::fstat(&fd).map_err(os("looking at a received descriptor (fstat)"))?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Err(bad("it is no memory but a pipe, socket, device or folder"));
        }
        let seals = rustix::fs::fcntl_get_seals(&fd)
            .map_err(|_| bad("it has no seals: a file or secret memory, not a memfd"))?;
        for (seal, name) in [
            (SealFlags::SHRINK, "F_SEAL_SHRINK"),
            (SealFlags::GROW, "F_SEAL_GROW"),
            (SealFlags::SEAL, "F_SEAL_SEAL"),
        ] {
            if !seals.contains(seal) {
                return Err(bad(format!("it is not sealed with {name}")));
            }
        }
        if seals.intersects(SealFlags::WRITE | SealFlags::FUTURE_WRITE) {
            return Err(bad("it is sealed against writing, so it cannot be mapped for a device"));
        }
        let mode = rustix::fs::fcntl_getfl(&fd).map_err(os("F_GETFL of a received descriptor"))?;
        if mode & OFlags::RWMODE != OFlags::RDWR {
            return Err(bad("it is not open for reading and writing"));
        }
        let file_system = rustix::fs::fstatfs(&fd).map_err(os("fstatfs"))?;
        // The field's type differs between platforms; both magic numbers fit in 32 bits.
        let kind = i64::from(file_system.f_type as u32);
        let huge = match kind {
            TMPFS => false,
            HUGETLBFS => true,
            other => return Err(bad(format!("it lies in file system type {other:#x}"))),
        };
        let page = if huge { usize::try_from(stat.st_blksize).unwrap_or(HUGE_PAGE) } else { PAGE };
        let len = u64::try_from(stat.st_size).unwrap_or(0);
        if len == 0 || !len.is_multiple_of(page as u64) || isize::try_from(len).is_err() {
            return Err(bad(format!("its size, {len} bytes, is not a whole number of pages")));
        }
        Ok(Self { fd, len, huge })
    }

    /// True for memory of which no page can be taken away: a file of tmpfs that is sealed against
    /// shrinking. Touching it raises no SIGBUS. Huge pages do not count: one that was punched out may
    /// not come back.
    #[must_use]
    pub fn cannot_shrink(fd: BorrowedFd<'_>) -> bool {
        let sealed = rustix::fs::fcntl_get_seals(fd);
        let tmpfs = || rustix::fs::fstatfs(fd).is_ok_and(|fs| i64::from(fs.f_type as u32) == TMPFS);
        sealed.is_ok_and(|seals| seals.contains(SealFlags::SHRINK)) && tmpfs()
    }

    /// Size in bytes; it never changes.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "a memfd of this type is never empty")]
    pub fn len(&self) -> u64 {
        self.len
    }

    /// True if it lies in huge pages.
    #[must_use]
    pub fn is_huge(&self) -> bool {
        self.huge
    }

    /// A second descriptor of the same memory.
    ///
    /// # Errors
    /// [`DmaError::Os`] if this process has no descriptor left.
    pub fn try_clone(&self) -> Result<Self, DmaError> {
        let fd = self
            .fd
            .try_clone()
            .map_err(|source| DmaError::Os { what: "duplicating a memfd", source })?;
        Ok(Self { fd, len: self.len, huge: self.huge })
    }

    /// The descriptor, to be sent to another process.
    #[must_use]
    pub fn into_fd(self) -> OwnedFd {
        self.fd
    }

    /// Maps the whole of it.
    ///
    /// # Errors
    /// [`DmaError::Os`] from the kernel.
    pub fn map(&self, prefault: Prefault) -> Result<SharedMem, DmaError> {
        self.map_range(0, self.len, prefault)
    }

    /// Maps `len` bytes from `offset`, both multiples of the page size.
    ///
    /// # Errors
    /// [`DmaError::BadArena`] if the range is not inside; [`DmaError::Os`] from the kernel.
    pub fn map_range(
        &self,
        offset: u64,
        len: u64,
        prefault: Prefault,
    ) -> Result<SharedMem, DmaError> {
        let inside = offset.checked_add(len).is_some_and(|end| end <= self.len);
        let Some(len) = usize::try_from(len).ok().filter(|_| inside) else {
            return Err(bad(format!(
                "{len} bytes from {offset:#x} are beyond its {} bytes",
                self.len
            )));
        };
        map_fd(self.fd.as_fd(), offset, len, prefault)
    }

    /// True if every page is present, so that mapping it takes no memory.
    ///
    /// # Errors
    /// [`DmaError::Os`].
    pub fn populated(&self) -> Result<bool, DmaError> {
        let stat = rustix::fs::fstat(&self.fd).map_err(os("fstat of a memfd"))?;
        // `st_blocks` counts units of 512 bytes, whatever the block size (stat(2)).
        Ok(u64::try_from(stat.st_blocks).unwrap_or(0).saturating_mul(512) >= self.len)
    }

    /// What identifies the memory on this system, whatever descriptor it came by: device and inode.
    ///
    /// # Errors
    /// [`DmaError::Os`].
    pub fn identity(&self) -> Result<(u64, u64), DmaError> {
        let stat = rustix::fs::fstat(&self.fd).map_err(os("fstat of a memfd"))?;
        Ok((stat.st_dev, stat.st_ino))
    }
}

impl AsFd for Memfd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn raw(flags: MemfdFlags, len: u64, seals: SealFlags) -> OwnedFd {
        let fd = rustix::fs::memfd_create("test", flags | MemfdFlags::CLOEXEC).unwrap();
        rustix::fs::ftruncate(&fd, len).unwrap();
        if flags.contains(MemfdFlags::ALLOW_SEALING) {
            rustix::fs::fcntl_add_seals(&fd, seals).unwrap();
        }
        fd
    }

    fn refused(fd: OwnedFd) -> String {
        match Memfd::check(fd) {
            Err(error @ DmaError::BadArena { .. }) => error.to_string(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_was_created_passes_the_check_and_cannot_change() {
        for pages in [HugePages::No, HugePages::IfAvailable] {
            let memfd = Memfd::create("test", 10_000, pages).unwrap();
            assert!(memfd.len() >= 12_288 && memfd.len().is_multiple_of(4096));
            let fd = memfd.try_clone().unwrap().into_fd();
            assert!(rustix::fs::ftruncate(&fd, 4096).is_err(), "it must not shrink");
            assert!(rustix::fs::ftruncate(&fd, 1 << 30).is_err(), "it must not grow");
            let checked = Memfd::check(fd).unwrap();
            assert_eq!((checked.len(), checked.is_huge()), (memfd.len(), memfd.is_huge()));
            assert_eq!(checked.identity().unwrap(), memfd.identity().unwrap());
            memfd.map(Prefault::No).unwrap().fill(8192, 1_000, 7).unwrap();
            assert_eq!(checked.map(Prefault::No).unwrap().read::<u8>(9_000).unwrap(), 7);
        }
    }

    #[test]
    fn whatever_is_no_sealed_memfd_is_refused_by_name() {
        let all = Memfd::SEALS;
        let sealing = MemfdFlags::ALLOW_SEALING;
        for (missing, name) in [
            (SealFlags::SHRINK, "F_SEAL_SHRINK"),
            (SealFlags::GROW, "F_SEAL_GROW"),
            (SealFlags::SEAL, "F_SEAL_SEAL"),
        ] {
            assert!(refused(raw(sealing, 4096, all.difference(missing))).contains(name));
        }
        for seal in [SealFlags::WRITE, SealFlags::FUTURE_WRITE] {
            assert!(refused(raw(sealing, 4096, all | seal)).contains("against writing"));
        }
        assert!(refused(raw(MemfdFlags::empty(), 4096, all)).contains("F_SEAL_SHRINK"));
        assert!(refused(raw(sealing, 0, all)).contains("0 bytes"));
        assert!(refused(raw(sealing, 4097, all)).contains("4097 bytes"));
        assert!(refused(tempfile::tempfile().unwrap().into()).contains("seal"));
        let (socket, _peer) = std::os::unix::net::UnixStream::pair().unwrap();
        assert!(refused(socket.into()).contains("no memory"));
        assert!(refused(rustix::pipe::pipe().unwrap().0).contains("no memory"));
        assert!(refused(std::fs::File::open("/").unwrap().into()).contains("no memory"));
        assert!(refused(std::fs::File::open("/dev/null").unwrap().into()).contains("no memory"));
    }

    #[test]
    fn a_descriptor_that_only_reads_is_refused() {
        use std::os::fd::AsRawFd;
        let memfd = Memfd::create("test", 4096, HugePages::No).unwrap();
        let path = format!("/proc/self/fd/{}", memfd.as_fd().as_raw_fd());
        let read_only = std::fs::File::open(path).unwrap();
        assert!(refused(read_only.into()).contains("reading and writing"));
    }

    #[test]
    fn ranges_outside_are_refused() {
        let memfd = Memfd::create("test", 8192, HugePages::No).unwrap();
        for (offset, len) in [(0, 8193), (4096, 8192), (u64::MAX, 4096), (8192, 4096), (0, 0)] {
            assert!(memfd.map_range(offset, len, Prefault::No).is_err(), "{offset}+{len}");
        }
        assert!(memfd.map_range(1, 4096, Prefault::No).is_err(), "an offset inside a page");
        assert_eq!(memfd.map_range(4096, 4096, Prefault::No).unwrap().len(), 4096);
        assert!(Memfd::create("test", 0, HugePages::No).is_err());
        assert!(Memfd::create("test", usize::MAX, HugePages::No).is_err());
    }

    #[test]
    fn memory_is_populated_once_it_was_touched() {
        let memfd = Memfd::create("test", 8192, HugePages::No).unwrap();
        assert!(!memfd.populated().unwrap());
        memfd.map(Prefault::Yes).unwrap();
        assert!(memfd.populated().unwrap());
    }
}
