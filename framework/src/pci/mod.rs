//! PCI as software sees it: addresses and config space.
//!
//! Used from both sides: a bus reads the config space of a device that it opened, and the servers
//! of software devices make one up for whoever drives them.
#![forbid(unsafe_code)]

pub mod address;
pub mod capability;
pub mod ids;
pub mod layout;
#[cfg(feature = "broker")]
pub mod sysfs;

pub use address::{Address, BadAddress};
pub use capability::{BadConfig, ConfigSpace};
