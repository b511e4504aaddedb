//! What can go wrong in the lab, sorted by what it means for whoever asked.

use std::fmt::Display;
use std::path::Path;

/// Why the lab could not do its work. Every message is one line.
#[derive(Debug, thiserror::Error)]
pub enum LabError {
    /// The machine lacks something and the lab cannot get it: no network, no package, no tool. Nothing was proved and
    /// nothing was refuted: the work counts as skipped.
    #[error("{0}")]
    Unavailable(String),
    /// Something was there and did not do what it must.
    #[error("{0}")]
    Failed(String),
}

/// Shorthand of this crate.
pub type Result<T, E = LabError> = std::result::Result<T, E>;

impl LabError {
    /// A failure to do `what` with a file.
    pub(crate) fn file(what: &str, path: &Path, error: impl Display) -> Self {
        Self::Failed(format!("cannot {what} {}: {error}", path.display()))
    }

    /// Whether this is a skip rather than a failure.
    #[must_use]
    pub fn is_unavailable(&self) -> bool {
        matches!(self, Self::Unavailable(_))
    }
}

/// An error of [`LabError::Unavailable`].
pub(crate) fn unavailable<T>(why: impl Into<String>) -> Result<T> {
    Err(LabError::Unavailable(why.into()))
}

/// An error of [`LabError::Failed`].
pub(crate) fn failed<T>(why: impl Into<String>) -> Result<T> {
    Err(LabError::Failed(why.into()))
}
