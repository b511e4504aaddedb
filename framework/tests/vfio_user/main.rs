//! The bus `vfio-user` against servers that behave and servers that do not.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "these are tests")]

mod commands;
mod hostile;
mod peer;
mod relay;
mod server;
mod troubled;
mod works;
