//! A kernel built from Debian's source.

use std::path::Path;

use crate::error::{Result, unavailable};
use crate::host::kernel::Kernel;

/// x
///
/// # Errors
/// x
pub fn built(_fragment: &Path) -> Result<Kernel> {
    unavailable("no kernel: set DOORBELL_LAB_KERNEL")
}
