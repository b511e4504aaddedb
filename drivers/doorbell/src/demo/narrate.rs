//! What the demo tells while it runs: on standard output, or on standard error where that is kept
//! for JSON.

use std::io::Write;
use std::time::Instant;

/// Tells the steps.
#[derive(Debug)]
pub(super) struct Narrator {
    to_stderr: bool,
    since: Instant,
}

impl Narrator {
    pub(super) fn new(to_stderr: bool) -> Self {
        Self { to_stderr, since: Instant::now() }
    }

    /// A step begins.
    pub(super) fn step(&self, text: &str) {
        self.line(&format!("{:>5.1} s  {text}", self.since.elapsed().as_secs_f64()));
    }

    /// Something about the step.
    pub(super) fn detail(&self, text: &str) {
        self.line(&format!("         {text}"));
    }

    /// Text as it is.
    pub(super) fn line(&self, text: &str) {
        // A demo whose reader has gone still runs to its end and says by its status how it went.
        let _ = if self.to_stderr {
            writeln!(std::io::stderr(), "{text}")
        } else {
            writeln!(std::io::stdout(), "{text}")
        };
    }
}
