//! A namespace in memory.

use doorbell::dma::{HugePages, Memfd, Prefault};
use doorbell::queues::SharedMem;

use crate::soft::options::OptionError;

/// The memory of a RAM namespace. Its pages come into being when they are first touched.
#[derive(Debug)]
pub(crate) struct RamBackend {
    pub(crate) memory: SharedMem,
}

impl RamBackend {
    /// `bytes` zero bytes.
    pub(crate) fn new(bytes: u64) -> Result<Self, OptionError> {
        let failed = |problem: String| OptionError::Ram { size: bytes, problem };
        let pages = bytes.next_multiple_of(4096);
        let len = usize::try_from(pages).map_err(|error| failed(error.to_string()))?;
        let memory = Memfd::create("nvme-ram", len, HugePages::No)
            .and_then(|memfd| memfd.map(Prefault::No))
            .map_err(|error| failed(error.to_string()))?;
        Ok(Self { memory })
    }
}
