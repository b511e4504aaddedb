//! Clients of the plan that do what no command of `doorbell` does.

/// Runs the client that the command line names, and returns the exit status.
#[must_use]
pub fn main() -> i32 {
    2
}
