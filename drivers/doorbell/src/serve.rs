//! `doorbell serve`.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};
use doorbell::DeviceSpec;
use doorbell::broker::{Broker, Policy, Turn};
use doorbell_bench::cores;
use rustix::process::{Signal, set_parent_process_death_signal};

use crate::cli::Serve;
use crate::{output, registry, sockets};

/// Runs a broker until it is told to end.
pub(crate) fn run(args: &Serve) -> Result<()> {
    let spec: DeviceSpec = args.spec.parse()?;
    if args.with_parent {
        let asked = set_parent_process_death_signal(Some(Signal::KILL));
        asked.context("asking to end with the parent")?;
    }
    if let Some(core) = args.core {
        // Before any thread is started: they all stay there.
        cores::pin_to(core)?;
    }
    let policy = args.policy.as_ref().map(Policy::load).transpose()?.unwrap_or_default();
    let socket = socket(args, &spec)?;
    let shown = socket.display().to_string();
    let builder = Broker::builder(registry::all()).device(spec).socket(&socket).policy(policy);
    let serving = || output::print(format!("serving {} at {shown}\n", args.spec));
    if let Some(limit) = args.reconnect {
        let mut printed = Ok(());
        let limit = limit.map(Duration::from_secs_f64);
        builder.run_again(limit, |turn| {
            let now = match turn {
                Turn::Serving { .. } => serving(),
                Turn::Waiting { device } => {
                    output::print(format!("device {device} went; waiting for it to come back\n"))
                }
            };
            // The first failure is told in the end; a broker serves without a terminal too.
            if printed.is_ok() {
                printed = now;
            }
        })?;
        return printed;
    }
    let broker = builder.until_signal().start()?;
    serving()?;
    Ok(broker.wait()?)
}

/// Where to listen: as told, or by the device's short name, or by its model and the first number
/// that is free.
fn socket(args: &Serve, spec: &DeviceSpec) -> Result<PathBuf> {
    if let Some(socket) = &args.socket {
        return Ok(socket.clone());
    }
    sockets::place_for(&match &args.name {
        Some(name) => name.clone(),
        None => sockets::free_name(&model(spec)),
    })
}

/// What kind of device it is, in a word.
fn model(spec: &DeviceSpec) -> String {
    match spec {
        DeviceSpec::Soft { model, .. } => model.clone(),
        DeviceSpec::Pci { address, .. } => address.to_string().replace([':', '.'], "-") + "-",
        DeviceSpec::VfioUser(_) => "vfio-user".to_owned(),
    }
}
