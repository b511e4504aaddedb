//! The host's side: from nothing to a guest that reports.
#![allow(
    clippy::print_stderr,
    reason = "what takes long, and a console's end, go to standard error as they come"
)]

pub mod accelerator;
pub mod build;
pub mod cache;
pub mod debian;
pub mod firmware;
pub mod kernel;
pub mod machine;
pub mod modular;
pub mod process;
pub mod qemu;
pub mod qmp;
pub mod running;
pub mod scratch;
pub mod served;
pub mod session;
pub mod sites;
pub mod tools;
