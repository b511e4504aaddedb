//! The host's side: from nothing to a guest that reports.

pub mod accelerator;
pub mod build;
pub mod cache;
pub mod debian;
pub mod kernel;
pub mod machine;
pub mod modular;
pub mod process;
pub mod qemu;
pub mod qmp;
pub mod running;
pub mod session;
pub mod sites;
