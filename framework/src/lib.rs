//! A framework for user-space device drivers.
//!
//! A **broker** process owns a device, its IOMMU space and its admin queue. **Client** processes
//! ask it for grants over a Unix socket: a queue pair whose doorbells they map, memory of their own
//! that the device can reach at an IOVA in their own partition, an interrupt. From then on client
//! and device talk to each other alone: no system call and no broker on the data path. What was
//! granted can be revoked, and is taken back when the client dies.
//!
//! Where to look:
//!
//! * [`driver`]: the trait that a device's author implements, and the registry of drivers.
//! * [`bus`]: how a device is reached. The kernel's VFIO (`container`, `cdev`), and `soft`.
//! * [`dma`]: sealed memfds, IOVA partitions, buffers that the CPU or the device owns.
//! * [`soft`]: software devices: the harness that runs a model on a thread, and its soft IOMMU.
//! * [`broker`]: sessions, policy, quotas, grants, and the teardown proof chain.
//! * [`client`]: what a program uses; [`local`] is the same without a broker process.
//! * [`wait`]: interrupts under tokio, tokio-uring, or no runtime at all.
//! * [`poll`]: pinned threads that poll many queues near their device.
//! * [`wire`]: the control protocol between client and broker.
//! * [`pci`]: PCI addresses and config space.
//! * [`topology`]: which cores and which memory are near a device.
//!
//! The queues themselves are the crate [`doorbell_queues`], re-exported as [`queues`].
//!
//! What it does not do: it isolates clients only as far as the [`Tier`] of a grant says.
#![deny(unsafe_code)]

pub use doorbell_queues as queues;

#[cfg(feature = "broker")]
pub mod broker;
pub mod bus;
#[cfg(feature = "client")]
pub mod client;
pub mod deadline;
pub mod dma;
#[cfg(feature = "broker")]
pub mod driver;
#[cfg(feature = "broker")]
pub mod local;
pub mod pci;
#[cfg(feature = "client")]
pub mod poll;
#[cfg(feature = "soft")]
pub mod soft;
pub mod spec;
pub mod tier;
pub mod topology;
#[cfg(feature = "vfio-user")]
pub mod vfio_user;
#[cfg(feature = "client")]
pub mod wait;
#[cfg(feature = "client")]
pub mod wire;

#[cfg(feature = "broker")]
pub use broker::serve::{serve, serve_with};
pub use deadline::{Deadline, TimedOut};
pub use spec::DeviceSpec;
pub use tier::Tier;
