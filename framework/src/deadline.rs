//! Every wait has a deadline, and its error says what was waited for.

use std::time::{Duration, Instant};

/// A point in time after which a wait gives up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Deadline {
    start: Instant,
    limit: Duration,
}

/// A wait gave up.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("waited {:.3} s for {what}", after.as_secs_f64())]
pub struct TimedOut {
    /// What was waited for, and of which device.
    pub what: String,
    /// The limit that was passed.
    pub after: Duration,
}

impl Deadline {
    /// `limit` from now.
    #[must_use]
    pub fn after(limit: Duration) -> Self {
        Self { start: Instant::now(), limit }
    }

    /// True once the limit has passed.
    #[must_use]
    pub fn expired(&self) -> bool {
        self.start.elapsed() >= self.limit
    }

    /// What is left; zero once the limit has passed.
    #[must_use]
    pub fn remaining(&self) -> Duration {
        self.limit.saturating_sub(self.start.elapsed())
    }

    /// The whole limit.
    #[must_use]
    pub fn limit(&self) -> Duration {
        self.limit
    }

    /// The error for giving up on `what`.
    #[must_use]
    pub fn timed_out(&self, what: impl Into<String>) -> TimedOut {
        TimedOut { what: what.into(), after: self.limit }
    }

    /// `Ok` before the deadline, the error after it.
    ///
    /// # Errors
    /// [`TimedOut`] once the limit has passed.
    pub fn check(&self, what: impl Fn() -> String) -> Result<(), TimedOut> {
        if self.expired() { Err(self.timed_out(what())) } else { Ok(()) }
    }
}
