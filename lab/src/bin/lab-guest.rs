//! The first program in the guest: mounts, asks the host what to do, does it, powers off.
#![forbid(unsafe_code)]

use std::io;
use std::process::Command;

use doorbell_lab::guest::init;
use doorbell_lab::guest::port::Port;
use doorbell_lab::plan;
use doorbell_lab::protocol::{FromGuest, ToGuest};

fn main() {
    if std::process::id() != 1 {
        // Not the first program: one of the clients of the plan.
        std::process::exit(plan::client::main());
    }
    if let Err(error) = run() {
        complain(&error);
    }
    init::power_off();
}

/// To the console, which the host keeps.
#[allow(clippy::print_stderr, reason = "the console is where a guest says what went wrong")]
fn complain(error: &io::Error) {
    eprintln!("lab-guest: {error}");
}

fn run() -> io::Result<()> {
    init::mount_all()?;
    let mut port = Port::open()?;
    let release = rustix::system::uname().release().to_string_lossy().into_owned();
    port.send(&FromGuest::Alive(release))?;
    let ToGuest::Job(job) = port.receive()? else {
        return Err(io::Error::other("the host's first message is no job"));
    };
    if let Some(line) = &job.shell {
        Command::new("/bin/sh").args(["-c", line]).current_dir("/tmp").status()?;
    } else {
        plan::run(&job, &mut port)?;
    }
    let again = job.boot < job.boots && job.shell.is_none();
    port.send(if again { &FromGuest::Reboot } else { &FromGuest::Finished })
}
