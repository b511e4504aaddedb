//! A guest that drives a device of ours, which `doorbell export` serves over vfio-user, with its kernel's own driver.

pub(super) mod commands;
pub(super) mod driver;
pub(super) mod files;
pub(super) mod load;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::cx::{Cx, Trouble};
use crate::guest::process::{Ended, until};

/// The controller's namespaces, in the order of the images.
const FILES: u32 = 1;
const LOAD: u32 = 2;
/// The controller's own device file.
const CONTROLLER: &str = "/dev/nvme0";

/// A block device of the kernel's.
struct Namespace {
    /// Its device file.
    device: String,
    /// Its folder in sysfs.
    folder: PathBuf,
}

/// The block device of a namespace, once the kernel has made it. Which name it gets the kernel does not promise: it
/// looks at all namespaces at the same time.
fn namespace(nsid: u32) -> Result<Namespace, Trouble> {
    let found = until("the kernel's block devices", || {
        for entry in fs::read_dir("/sys/class/block")?.flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let id = fs::read_to_string(entry.path().join("nsid")).unwrap_or_default();
            let device = format!("/dev/{name}");
            if name.starts_with("nvme0n")
                && id.trim() == nsid.to_string()
                && Path::new(&device).exists()
            {
                return Ok(Some(Namespace { device, folder: entry.path() }));
            }
        }
        Ok(None)
    })?;
    Ok(found)
}

impl Namespace {
    /// One of its attributes.
    fn attribute(&self, name: &str) -> Result<String, Trouble> {
        Ok(fs::read_to_string(self.folder.join(name))?.trim().to_owned())
    }
}

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
