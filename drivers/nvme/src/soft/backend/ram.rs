//! A namespace in memory.

use std::sync::Arc;

use doorbell::dma::{HugePages, Memfd, Prefault};
use doorbell::queues::SharedMem;
use rustix::fs::{FallocateFlags, fallocate};

use crate::soft::options::OptionError;

const PAGE: u64 = 4096;

/// The memory of a RAM namespace. Its pages come into being when they are first touched.
#[derive(Debug, Clone)]
pub(crate) struct RamBackend {
    pub(crate) memory: SharedMem,
    memfd: Arc<Memfd>,
}

impl RamBackend {
    /// `bytes` zero bytes.
    pub(crate) fn new(bytes: u64) -> Result<Self, OptionError> {
        let failed = |problem: String| OptionError::Ram { size: bytes, problem };
        let len = usize::try_from(bytes.next_multiple_of(PAGE));
        let len = len.map_err(|error| failed(error.to_string()))?;
        let make = || {
            let memfd = Memfd::create("nvme-ram", len, HugePages::No)?;
            Ok::<_, doorbell::dma::DmaError>((memfd.map(Prefault::No)?, memfd))
        };
        let (memory, memfd) = make().map_err(|error| failed(error.to_string()))?;
        Ok(Self { memory, memfd: Arc::new(memfd) })
    }

    /// Zeroes a range, which must lie inside. With `release` its whole pages go back to the system.
    pub(crate) fn zero(&self, at: u64, len: u64, release: bool) {
        let (first, last) = (at.next_multiple_of(PAGE), (at + len) / PAGE * PAGE);
        if release && first < last {
            let punch = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
            if fallocate(&*self.memfd, punch, first, last - first).is_ok() {
                self.fill(at, first);
                self.fill(last, at + len);
                return;
            }
        }
        self.fill(at, at + len);
    }

    fn fill(&self, from: u64, to: u64) {
        // In bounds: every range was checked against the namespace.
        let _ = self.memory.fill(from as usize, (to - from) as usize, 0);
    }

    /// Bytes of memory that it takes at present.
    #[cfg(test)]
    pub(crate) fn resident(&self) -> u64 {
        rustix::fs::fstat(&*self.memfd).map_or(0, |stat| stat.st_blocks as u64 * 512)
    }
}
