//! What every driver must do on every bus: a plan of checks, and the program `conformance` that runs
//! it against a real device, a virtual one, or a software device.
//!
//! A run starts the real `doorbell serve` for the device, connects as clients do, and starts client
//! processes (this same program in a [role]), which it kills, revokes and lets live. It uses
//! the public client API only, so what passes here is what programs can rely on.
//!
//! * [`plan`]: what a check is, and how a plan is run and reported.
//! * [`rig`]: the broker process, connections to it, and the seeded dice.
//! * [`role`]: the client processes.
//! * [`common`]: checks of any driver. [`nvme`], [`edu`]: those of one.
//! * [`cli`]: the command line.
//!
//! **It destroys what is on the device.** It is a program for labs. A disk with anything but zeros in
//! its first MiB is refused unless told otherwise.
//!
//! Rules: every wait has a deadline; nothing is asserted about time; what is random follows from a
//! seed, which is printed. A check that the device or the bus cannot do is skipped with the reason,
//! and is not counted as passed.
#![forbid(unsafe_code)]

use std::process::ExitCode;

pub mod cli;
pub mod common;
pub mod dice;
pub mod edu;
pub mod nvme;
pub mod plan;
pub mod process;
pub mod rig;
pub mod role;

/// The program: a plan, or a client process of one.
#[must_use]
pub fn program() -> ExitCode {
    match role::asked() {
        Some(outcome) => plan::exit(outcome),
        None => cli::run(),
    }
}
