//! Waiting without a broker: queues over memory of this process, with real eventfds, threads and
//! runtimes, and a device that a test moves itself.
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout, reason = "these are tests")]

#[path = "../support/protocol.rs"]
#[allow(dead_code, unreachable_pub, reason = "each test binary uses its own part")]
mod protocol;
mod rig;

mod lost;
mod runtimes;
mod turns;
