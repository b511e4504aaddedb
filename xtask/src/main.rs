//! Set-up, tests, checks and the demo, each by one command: cargo xtask <command>.
fn main() {}
