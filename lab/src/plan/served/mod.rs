//! A guest that drives a device of ours, which `doorbell export` serves over vfio-user, with its kernel's own driver.

pub(super) mod commands;
pub(super) mod driver;
pub(super) mod files;
pub(super) mod load;

use std::fs;
use std::process::Command;

use super::cx::{Cx, Trouble};
use crate::guest::process::Ended;

/// The block devices of the controller's namespaces.
const FILES: &str = "/dev/nvme0n1";
const LOAD: &str = "/dev/nvme0n2";
/// The controller's own device file.
const CONTROLLER: &str = "/dev/nvme0";

/// Runs a program of others to its end.
fn run(cx: &mut Cx<'_>, command: &mut Command) -> Result<Ended, Trouble> {
    Ok(cx.programs.run(command)?)
}

/// The same; it must succeed.
fn must(cx: &mut Cx<'_>, command: &mut Command) -> Result<Ended, Trouble> {
    let program = command.get_program().to_string_lossy().into_owned();
    let ended = run(cx, command)?;
    if ended.status.success() {
        return Ok(ended);
    }
    let said = format!("{} {}", String::from_utf8_lossy(&ended.out), ended.err);
    let said: Vec<_> = said.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    let tail = said.get(said.len().saturating_sub(4)..).unwrap_or_default().join("; ");
    Err(Trouble::Failed(format!("{program} {} ended with {}: {tail}", ended.name, ended.status)))
}

/// Has the kernel forget what it knows of disks, so that it must read them again.
fn drop_caches() -> Result<(), Trouble> {
    rustix::fs::sync();
    Ok(fs::write("/proc/sys/vm/drop_caches", "3")?)
}

/// One program of the guest's system, wherever it is kept.
fn system(program: &str) -> Result<Command, Trouble> {
    let path = crate::host::process::find_program(program).ok_or_else(|| {
        Trouble::Skipped(format!("there is no {program} on this machine: install e2fsprogs"))
    })?;
    Ok(Command::new(path))
}
