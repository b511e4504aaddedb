//! What every device needs: rings, sealed memory, descriptors, memory that can be locked.

use std::fs::File;
use std::os::fd::OwnedFd;

use doorbell::pci::sysfs::{Roots, text};
use io_uring::IoUring;
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};

use super::finding::{Finding, Part, State};
use super::limits;

/// Descriptors that a broker with a few dozen clients needs.
const FILES: u64 = 1024;

pub(super) fn look(roots: &Roots) -> Vec<Finding> {
    vec![kernel(roots), rings(roots), memory(), descriptors(roots), vfio_user()]
}

fn kernel(roots: &Roots) -> Finding {
    let release = text(&roots.proc.join("sys/kernel/osrelease"), 4096);
    let release = release.unwrap_or_else(|error| error.to_string());
    Finding::ok(Part::Software, "kernel", release)
}

/// The broker runs on io_uring, which administrators and container engines like to forbid.
fn rings(roots: &Roots) -> Finding {
    let error = match IoUring::new(4) {
        Ok(_) => return Finding::ok(Part::Software, "io_uring", "a ring can be made"),
        Err(error) => error,
    };
    let switch = text(&roots.proc.join("sys/kernel/io_uring_disabled"), 64).unwrap_or_default();
    let todo = match switch.as_str() {
        "1" => {
            "only members of the group in kernel.io_uring_group may: join it, or \
             sysctl kernel.io_uring_disabled=0"
        }
        "2" => "sysctl kernel.io_uring_disabled=0",
        _ => "allow io_uring_setup in the seccomp profile of this container or service",
    };
    let found = format!("no ring can be made: {error}");
    Finding::new(Part::Software, "io_uring", State::Missing, found).todo(todo)
}

fn memory() -> Finding {
    let flags = MemfdFlags::ALLOW_SEALING | MemfdFlags::CLOEXEC;
    let sealed = memfd_create("doorbell-check", flags).and_then(|memory: OwnedFd| {
        fcntl_add_seals(&memory, SealFlags::SHRINK | SealFlags::GROW)?;
        Ok(File::from(memory))
    });
    match sealed {
        Ok(_) => Finding::ok(Part::Software, "memfd", "memory can be shared and sealed"),
        Err(error) => {
            let found = format!("no sealed memory: {error}");
            Finding::new(Part::Software, "memfd", State::Missing, found)
                .todo("allow memfd_create in the seccomp profile of this container or service")
        }
    }
}

/// Each queue and each client takes an eventfd and a few more descriptors.
fn descriptors(roots: &Roots) -> Finding {
    let limit = match limits::of(roots, "Max open files") {
        Ok(limit) => limit,
        Err(error) => return Finding::new(Part::Software, "open files", State::Warn, error),
    };
    let found = format!("{} descriptors, of at most {}", limit.soft_text(), limit.hard_text());
    if limit.soft.is_none_or(|soft| soft >= FILES) {
        return Finding::ok(Part::Software, "open files", found);
    }
    Finding::new(Part::Software, "open files", State::Warn, found)
        .todo("ulimit -n 1024, or LimitNOFILE= of the service: each client and queue takes a few")
}

fn vfio_user() -> Finding {
    Finding::ok(Part::Software, "vfio-user", "needs a Unix socket only: no IOMMU, no privileges")
}
