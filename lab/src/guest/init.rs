//! What the first program of a system has to do before anything else runs, and after.

use std::fs;
use std::io;
use std::path::Path;

use rustix::mount::{MountFlags, mount};
use rustix::system::{RebootCommand, reboot};

/// Kernel file systems, and memory for what is written: the root itself is read-only.
const MOUNTS: [(&str, &str); 7] = [
    ("proc", "/proc"),
    ("sysfs", "/sys"),
    ("devtmpfs", "/dev"),
    ("tmpfs", "/dev/shm"),
    ("tmpfs", "/tmp"),
    ("tmpfs", "/run"),
    ("debugfs", "/sys/kernel/debug"),
];

/// Mounts what programs expect. A kernel that has mounted one of these already, or has none of a kind, is fine.
///
/// # Errors
/// If there is no `/proc`, `/sys`, `/dev` or no writable `/tmp` afterwards.
pub fn mount_all() -> io::Result<()> {
    for (kind, place) in MOUNTS {
        if place == "/dev/shm" && !Path::new(place).is_dir() {
            fs::create_dir(place)?;
        }
        match mount(kind, place, kind, MountFlags::NOSUID, None) {
            Ok(()) | Err(rustix::io::Errno::BUSY) => {}
            Err(_) if kind == "debugfs" => {}
            Err(error) => {
                return Err(io::Error::other(format!("cannot mount {kind} at {place}: {error}")));
            }
        }
    }
    Ok(())
}

/// Ends the machine: QEMU is told not to start again.
pub fn power_off() {
    rustix::fs::sync();
    // With nothing left to do if the kernel refuses: the host's deadline ends the machine.
    let _ = reboot(RebootCommand::Restart);
}
