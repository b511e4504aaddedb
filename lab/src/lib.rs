//! The virtual lab: a Linux guest with VT-d on, whose kernel hands QEMU's devices to Doorbell's broker.
//!
//! `cargo xtask lab` is what people use. It boots guests whose root is the host's own file system (read-only, by 9p),
//! so that the programs under test are those that cargo has just built; inside, `lab-guest` runs a plan of named
//! proofs and reports each over a serial port. The host then compares the disk images with what the guest says it
//! wrote.
//!
//! | module | what it holds |
//! |---|---|
//! | [`host`] | finding QEMU and a kernel, describing machines, booting them, reading what guests report |
//! | [`protocol`] | what guest and host say to each other |
//! | [`pattern`] | disk contents that both sides can make for themselves |
//! | [`proofs`] | the proofs' names, what they are about, and which machine they need |
//! | `guest` | the first program in the guest, and what the proofs work with |
//! | `plan` | the proofs, which run in the guest (feature `guest`) |
#![forbid(unsafe_code)]

mod error;
#[cfg(feature = "guest")]
pub mod guest;
pub mod host;
pub mod pattern;
#[cfg(feature = "guest")]
pub mod plan;
pub mod proofs;
pub mod protocol;

pub use error::{LabError, Result};
