//! A whole `main` for a driver's author: [`serve`].

use std::process::ExitCode;

use super::{Broker, Policy};
use crate::driver::{Driver, Registry};

const USAGE: &str = "usage: PROGRAM DEVICE SOCKET [POLICY]
  DEVICE  the device to serve: soft:MODEL[,KEY=VALUE...], a PCI address, vfio-user:PATH
  SOCKET  where clients connect
  POLICY  a TOML file that says who may have what; without it only this user may";

/// Serves one device with the driver `D` until SIGTERM or SIGINT: `PROGRAM DEVICE SOCKET [POLICY]`.
///
/// ```ignore
/// fn main() -> std::process::ExitCode {
///     doorbell::serve::<MyDevice>()
/// }
/// ```
#[must_use]
pub fn serve<D: Driver>() -> ExitCode {
    serve_with(Registry::new().driver::<D>())
}

/// As [`serve`], with a registry: several drivers, software models.
#[must_use]
pub fn serve_with(registry: Registry) -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match run(registry, &arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(line) => {
            #[expect(clippy::print_stderr, reason = "this is a program's main")]
            {
                eprintln!("{line}");
            }
            ExitCode::FAILURE
        }
    }
}

fn run(registry: Registry, arguments: &[String]) -> Result<(), String> {
    let (device, socket, policy) = match arguments {
        [device, socket] => (device, socket, None),
        [device, socket, policy] => (device, socket, Some(policy)),
        _ => return Err(USAGE.to_owned()),
    };
    let spec = device.parse().map_err(|error: crate::spec::BadSpec| error.to_string())?;
    let mut builder = Broker::builder(registry).device(spec).socket(socket);
    if let Some(file) = policy {
        builder = builder.policy(Policy::load(file).map_err(|error| error.to_string())?);
    }
    builder.run().map_err(|error| error.to_string())
}
