//! PCI as software sees it: addresses and config space.
//!
//! Used from both sides: a bus reads the config space of a device that it opened, and the servers
//! of software devices make one up for whoever drives them.
#![forbid(unsafe_code)]

pub mod address;
pub mod config;
pub mod ids;
pub mod layout;
pub mod synthetic;
#[cfg(any(feature = "broker", feature = "vfio"))]
pub mod sysfs;

pub use address::{Address, BadAddress};
pub use config::{BadConfig, ConfigSpace};
