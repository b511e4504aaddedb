//! The guest's side: the first program, and what the proofs work with.

pub mod init;
pub mod kernel_log;
pub mod pci;
pub mod port;
pub mod process;
pub mod programs;
