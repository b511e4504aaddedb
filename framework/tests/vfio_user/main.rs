//! The bus `vfio-user` against servers that behave and servers that do not.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may fail by panic")]

mod commands;
mod hostile;
mod peer;
mod relay;
mod server;
mod works;
