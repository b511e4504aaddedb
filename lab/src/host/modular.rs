//! Debian's own kernel.

use std::path::Path;

use crate::error::{Result, unavailable};
use crate::host::kernel::Kernel;

/// x
///
/// # Errors
/// x
pub fn debian(_init: &Path) -> Result<Kernel> {
    unavailable("not yet")
}
