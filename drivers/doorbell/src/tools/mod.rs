//! What an operator needs around real devices: what is there, who drives it, what is missing.

pub(crate) mod args;
pub(crate) mod bind;
pub(crate) mod check;
pub(crate) mod list;
mod table;
