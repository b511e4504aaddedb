//! The bus `vfio-user` against servers that behave and servers that do not.

mod hostile;
mod peer;
mod relay;
mod server;
mod works;
