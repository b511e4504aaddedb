//! The doorbell program: serve, status, revoke, bench, demo, nvme.
fn main() {}
