//! QEMU's educational device (`edu`) for Doorbell: a driver to learn from, client API, and a software
//! model.
//!
//! The device has a few registers, an engine that computes factorials, a DMA engine with a small
//! buffer, and one interrupt. It has no rings: clients reach it through the broker, by operations of
//! the driver. Its specification is QEMU's *EDU device* (`docs/specs/edu`), "edu" below.
//!
//! * [`regs`]: the registers as a table.
//! * [`admin`]: what clients ask of the driver, and its answers.
//! * [`client`] (feature `client`): factorials, and reads and writes of the buffer.
//! * [`driver`] (feature `driver`): the control plane, which runs in a broker.
//! * [`soft`] (feature `soft`): the software model, `soft:edu`.
//!
//! What it does not do: the buffer is the device's, and all of its clients see what lies in it.
#![forbid(unsafe_code)]

pub mod admin;
#[cfg(feature = "client")]
pub mod client;
#[cfg(feature = "driver")]
pub mod driver;
pub mod regs;
#[cfg(feature = "soft")]
pub mod soft;

pub use admin::{BUFFER, EduAdmin, EduReply, MOST_FACTORIAL};
#[cfg(feature = "client")]
pub use client::{Edu, EduError};
#[cfg(feature = "driver")]
pub use driver::EduDriver;

/// What this crate adds to a program's registry: the driver, and with feature `soft` the model
/// `soft:edu`.
#[cfg(feature = "driver")]
#[must_use]
pub fn registry() -> doorbell::driver::Registry {
    let registry = doorbell::driver::Registry::new().driver::<EduDriver>();
    #[cfg(feature = "soft")]
    let registry = registry.model("edu", soft::build);
    registry
}
