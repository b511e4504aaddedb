//! [`Finding`]: one line of `doorbell check`.

use serde::Serialize;

/// How it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum State {
    /// As it should be.
    Ok,
    /// It is not there, and need not be.
    Note,
    /// It works, with a risk or a limit.
    Warn,
    /// Something does not work without it.
    Missing,
}

impl State {
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Note => "note",
            Self::Warn => "warn",
            Self::Missing => "missing",
        }
    }
}

/// What does not work where something is missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Part {
    /// Software devices and vfio-user: everything else needs this as well.
    Software,
    /// Real devices.
    Vfio,
    /// Real devices by iommufd and the VFIO cdev.
    Cdev,
    /// One device.
    Device,
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Finding {
    pub(super) part: Part,
    /// What was looked at, in a word or two.
    pub(super) what: String,
    pub(super) state: State,
    /// What was found.
    pub(super) found: String,
    /// What to do.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) todo: Option<String>,
}

impl Finding {
    pub(super) fn new(part: Part, what: &str, state: State, found: impl Into<String>) -> Self {
        Self { part, what: what.to_owned(), state, found: found.into(), todo: None }
    }

    pub(super) fn ok(part: Part, what: &str, found: impl Into<String>) -> Self {
        Self::new(part, what, State::Ok, found)
    }

    pub(super) fn todo(mut self, todo: impl Into<String>) -> Self {
        self.todo = Some(todo.into());
        self
    }
}
