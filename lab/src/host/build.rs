//! Where a kernel with everything built in comes from if none was named.

use std::path::Path;

use crate::error::{Result, unavailable};
use crate::host::kernel::{Kernel, VARIABLE};

/// There is none: building one from `fragment` is left to a person, as `lab/README.md` describes it.
///
/// # Errors
/// Always [`LabError::Unavailable`](crate::LabError::Unavailable), with what to do.
pub fn built(fragment: &Path) -> Result<Kernel> {
    unavailable(format!(
        "no kernel with iommufd was named: build one with {} (lab/README.md says how) and set {VARIABLE} to it",
        fragment.display()
    ))
}
