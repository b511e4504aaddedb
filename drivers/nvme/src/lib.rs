//! NVM Express for Doorbell: control plane driver, client API, and a software controller.
//!
//! * [`spec`]: layouts and numbers of the specification, shared by all of the below.

pub mod spec;
