//! Broker and clients, whole: real sockets, real processes, a software device.
#![allow(clippy::unwrap_used, clippy::panic, reason = "these are tests")]

#[path = "../support/mod.rs"]
mod support;

mod basics;
mod death;
mod device;
mod executors;
mod fake;
mod hostile;
mod lifecycle;
mod limits;
mod lost;
mod pollers;
mod strange;
mod timeouts;
