//! The first program of a guest whose kernel comes in modules: loads them, makes the host's file system the root, and
//! becomes the program that the kernel's command line names.
#![forbid(unsafe_code)]

use std::error::Error;
use std::fs;
use std::io;
use std::os::unix::process::CommandExt;
use std::process::Command;

use rustix::mount::{MountFlags, mount, mount_move};
use rustix::system::{RebootCommand, finit_module, reboot};

fn main() {
    if std::process::id() != 1 {
        return;
    }
    if let Err(error) = become_the_guest() {
        complain(&format!("lab-init: {error}"));
    }
    // Nothing else is there to go on; a kernel that refuses is ended by the host's deadline.
    let _ = reboot(RebootCommand::Restart);
}

/// To the console, which the host keeps.
#[allow(clippy::print_stderr, reason = "the console is where a guest says what went wrong")]
fn complain(what: &str) {
    eprintln!("{what}");
}

fn become_the_guest() -> Result<(), Box<dyn Error>> {
    let plain = MountFlags::empty();
    mount("proc", "/proc", "proc", plain, None)?;
    // A kernel may have mounted it before us.
    let _ = mount("devtmpfs", "/dev", "devtmpfs", plain, None);
    load_modules()?;
    let line = fs::read_to_string("/proc/cmdline")?;
    let init = line.split_whitespace().find_map(|word| word.strip_prefix("lab.init="));
    let init = init.ok_or("the command line has no lab.init=PROGRAM")?.to_owned();
    let options = c"trans=virtio,version=9p2000.L,cache=loose";
    mount("rootfs", "/root", "9p", MountFlags::RDONLY, options)
        .map_err(|error| format!("cannot mount the host's file system: {error}"))?;
    std::env::set_current_dir("/root")?;
    mount_move(".", "/")?;
    rustix::process::chroot(".")?;
    std::env::set_current_dir("/")?;
    let error: io::Error = Command::new(&init).exec();
    Err(format!("cannot start {init}: {error}").into())
}

/// In the order of their names, which the host chose. A module that the kernel has already is fine, and one that it
/// does not want says so on the console: what depends on it will fail by itself.
fn load_modules() -> io::Result<()> {
    let mut modules: Vec<_> =
        fs::read_dir("/modules")?.flatten().map(|entry| entry.path()).collect();
    modules.sort();
    for module in modules {
        match finit_module(fs::File::open(&module)?, c"", 0) {
            Ok(()) | Err(rustix::io::Errno::EXIST) => {}
            Err(error) => complain(&format!("lab-init: {}: {error}", module.display())),
        }
    }
    Ok(())
}
