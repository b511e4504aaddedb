//! NVM Express for Doorbell: control plane driver, client API, and a software controller.
//!
//! * [`spec`]: layouts and numbers of the specification, shared by all of the below.
//! * [`protocol`]: the queue protocol: what a queue needs to know of entries and completions.
//! * [`prp`]: PRP entries: where a command's data lies.
//! * [`admin`]: what clients ask of the driver, and its answers.
//! * [`client`] (feature `client`): namespaces, reads and writes.
//! * [`driver`] (feature `driver`): the control plane, which runs in a broker.
//! * [`soft`] (feature `soft`): the software controller.
//!
//! Clauses are those of *NVM Express Base Specification 2.0* ("base 2.0"), *NVM Express NVM Command
//! Set Specification 1.0* and *NVMe over PCIe Transport Specification 1.0*.
#![deny(unsafe_code)]

#[cfg(any(feature = "client", feature = "driver"))]
pub mod admin;
#[cfg(feature = "client")]
pub mod client;
#[cfg(feature = "driver")]
pub mod driver;
pub mod protocol;
#[cfg(any(feature = "client", feature = "driver"))]
pub mod prp;
#[cfg(feature = "soft")]
pub mod soft;
pub mod spec;

#[cfg(any(feature = "client", feature = "driver"))]
pub use admin::{ControllerInfo, NamespaceInfo, NvmeAdmin, NvmeReply, Smart};
#[cfg(feature = "client")]
pub use client::{
    BadRange, Completion, Done, Io, IoError, Lba, Namespace, Nvme, NvmeError, Range, SharedNvme,
};
#[cfg(feature = "driver")]
pub use driver::NvmeDriver;
pub use protocol::{NvmeProtocol, Outcome};

/// What this crate adds to a program's registry: the driver, and with feature `soft` the model
/// `soft:nvme`.
#[cfg(feature = "driver")]
#[must_use]
pub fn registry() -> doorbell::driver::Registry {
    let registry = doorbell::driver::Registry::new().driver::<NvmeDriver>();
    #[cfg(feature = "soft")]
    let registry = registry.model("nvme", soft::build);
    registry
}
