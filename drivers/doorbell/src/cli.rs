//! The command line.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::tools::args::{Bind, Check, List, Unbind};

mod bench;
mod edu;
mod nvme;

pub(crate) use bench::{Arrivals, Bench, Wait};
pub(crate) use edu::{Edu, EduRead, EduWrite};
pub(crate) use nvme::{Blocks, Nvme, NvmeRead, NvmeWrite};

/// Serves devices to client processes, and looks at, measures and demonstrates them.
#[derive(Debug, Parser)]
#[command(name = "doorbell", version, max_term_width = 100, after_help = EXAMPLES)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

const EXAMPLES: &str = "\
Examples:
  doorbell demo                                     the whole path on real data, in a minute
  doorbell serve soft:nvme,ram=64M --name nvme0     a broker for a software NVMe device
  doorbell export nvme --image disk.img --socket /tmp/nvme.sock
                                                    the same device for a virtual machine
  doorbell status                                   who holds what of it
  doorbell bench --depth 1,32 --report bench.html   latency and IOPS
  doorbell check                                    can this machine run Doorbell, and what is missing
  doorbell list                                     PCI functions that a driver here matches

DOORBELL_LOG=debug (or info, or doorbell=trace) chooses what is logged to standard error.";

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    Serve(Serve),
    Export(Export),
    Status(Status),
    Revoke(Revoke),
    Reset(Reset),
    Demo(Demo),
    Bench(Bench),
    #[command(subcommand)]
    Nvme(Nvme),
    #[command(subcommand)]
    Edu(Edu),
    List(List),
    Bind(Bind),
    Unbind(Unbind),
    Check(Check),
    /// A client of the demo, started by it.
    #[command(hide = true)]
    DemoClient {
        /// What it is to do, as JSON.
        role: String,
    },
    /// A client of a benchmark with several, started by it.
    #[command(hide = true)]
    BenchClient {
        /// What it works with, as JSON.
        setup: String,
    },
}

/// Holds a device and gives its queues to clients.
///
/// Prints one line when clients can connect, and runs until SIGINT or SIGTERM. What clients hold is
/// then taken back, and the device is left disabled.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  doorbell serve soft:nvme,ram=64M
  doorbell serve soft:nvme,image=disk.img,ram=64M --name nvme0
  doorbell serve soft:nvme,image=disk.img --socket /tmp/nvme.sock --policy policy.toml
  doorbell serve vfio-user:/run/nvme-server.sock --name nvme1 --reconnect
  doorbell serve soft:edu --name edu0

Software NVMe devices: each image=FILE, ram=SIZE or null=SIZE is one namespace, in this order, from 1.")]
pub(crate) struct Serve {
    /// The device: soft:MODEL[,KEY=VALUE...], a PCI address, or vfio-user:PATH
    pub(crate) spec: String,
    /// Where clients connect; /run/doorbell/NAME.sock, or a folder of this user's if that cannot be
    /// written
    #[arg(long, value_name = "PATH")]
    pub(crate) socket: Option<PathBuf>,
    /// The device's short name, which becomes the socket's
    #[arg(long, value_name = "NAME", conflicts_with = "socket")]
    pub(crate) name: Option<String>,
    /// Who may have what (TOML); without it only this user may have anything
    #[arg(long, value_name = "FILE")]
    pub(crate) policy: Option<PathBuf>,
    /// Keep the broker and the device's thread on this core
    #[arg(long, value_name = "CORE")]
    pub(crate) core: Option<usize>,
    /// When the device goes (a device server that ends), wait until it is back and serve it again; at
    /// most so many seconds each time, if a number is given
    #[arg(long, value_name = "SECONDS", num_args = 0..=1, require_equals = true, value_parser = seconds)]
    pub(crate) reconnect: Option<Option<f64>>,
    /// End when the process that started this one does
    #[arg(long, hide = true)]
    pub(crate) with_parent: bool,
}

/// Serves a software device over vfio-user: to a virtual machine, or to `doorbell serve vfio-user:PATH`.
///
/// Prints one line when a client can connect, and runs until SIGINT or SIGTERM. Clients are served one
/// after the other; the device is reset between them, and what it keeps is durable at the end.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  doorbell export nvme --image disk.img --socket /tmp/nvme.sock
  doorbell export nvme,ram=256M,queues=8 --socket /tmp/nvme.sock

QEMU (10.1 or newer) takes it so; the guest's memory must be shared:
  -object memory-backend-memfd,id=mem,size=1G,share=on -machine memory-backend=mem
  -device '{\"driver\":\"vfio-user-pci\",\"socket\":{\"type\":\"unix\",\"path\":\"/tmp/nvme.sock\"}}'

Software NVMe devices: each image=FILE, ram=SIZE or null=SIZE is one namespace, in this order, from 1.")]
pub(crate) struct Export {
    /// The device: MODEL[,KEY=VALUE...]
    pub(crate) model: String,
    /// An image as a namespace: the option image=FILE of the model; may be repeated
    #[arg(long, value_name = "FILE")]
    pub(crate) image: Vec<PathBuf>,
    /// Where clients connect
    #[arg(long, value_name = "PATH")]
    pub(crate) socket: PathBuf,
    /// Who may connect: the mode of the socket file, in octal
    #[arg(long, value_name = "MODE", default_value = "600", value_parser = mode)]
    pub(crate) mode: u32,
    /// Keep the device's thread on this core
    #[arg(long, value_name = "CORE")]
    pub(crate) core: Option<usize>,
    /// End when the first client has gone
    #[arg(long)]
    pub(crate) once: bool,
}

/// Which broker to talk to.
#[derive(Debug, Args)]
pub(crate) struct Target {
    /// The broker's socket; may be left out while just one broker is in the usual folders
    #[arg(long, short, value_name = "PATH")]
    pub(crate) socket: Option<PathBuf>,
    /// The device's short name, as `serve --name` was given it
    #[arg(long, short, value_name = "NAME", conflicts_with = "socket")]
    pub(crate) device: Option<String>,
}

/// Shows devices, clients, queues, tiers, bytes and mappings.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  doorbell status                        every broker in the usual folders
  doorbell status --device nvme0 --json  one of them, for a program")]
pub(crate) struct Status {
    #[command(flatten)]
    pub(crate) target: Target,
    /// Print JSON: a list with one object for each broker
    #[arg(long)]
    pub(crate) json: bool,
}

/// Takes back what a client holds.
///
/// Its queues are ended on the device and its memory is unmapped; its futures get an error that says
/// so. Only operators may (the broker's own user is one).
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  doorbell revoke --pid 4711
  doorbell revoke --device nvme0 --queue 3")]
pub(crate) struct Revoke {
    #[command(flatten)]
    pub(crate) target: Target,
    #[command(flatten)]
    pub(crate) whose: Whose,
}

/// Resets a device: every client's queue ends, and the device is brought up again.
///
/// Their futures get an error that says so. Only operators may (the broker's own user is one).
#[derive(Debug, Args)]
#[command(after_help = "\
Example:
  doorbell reset --device nvme0")]
pub(crate) struct Reset {
    #[command(flatten)]
    pub(crate) target: Target,
}

/// Whose grants.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub(crate) struct Whose {
    /// Everything that a process holds
    #[arg(long)]
    pub(crate) pid: Option<i32>,
    /// Everything of one session (`doorbell status` shows their numbers)
    #[arg(long)]
    pub(crate) session: Option<u64>,
    /// One queue
    #[arg(long)]
    pub(crate) queue: Option<u16>,
}

/// Shows the whole path on real data: a disk image, a broker, four client processes, one of them killed.
///
/// Makes an ext4 image, serves it by a software NVMe controller, reads all of it through the device
/// and compares it with the file, writes and reads back a pattern, kills a client with a full queue
/// in flight, measures latencies beside floors of the same run, and has e2fsck check the image at
/// the end. It needs about 600 MB in the folder for temporary files (TMPDIR) and a minute.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  doorbell demo
  doorbell demo --report demo.html
  doorbell demo --json > demo.json")]
pub(crate) struct Demo {
    /// Print one JSON object, and nothing else, on standard output
    #[arg(long)]
    pub(crate) json: bool,
    /// Where the HTML report goes
    #[arg(long, value_name = "FILE", default_value = "doorbell-demo.html")]
    pub(crate) report: PathBuf,
    /// Keep the image, checksums and the broker's log in this folder
    #[arg(long, value_name = "DIR")]
    pub(crate) keep: Option<PathBuf>,
    /// Make the same files and the same choices again
    #[arg(long)]
    pub(crate) seed: Option<u64>,
    /// Seconds for the latency figures, all together
    #[arg(long, value_name = "SECONDS", default_value_t = 9.0, value_parser = seconds)]
    pub(crate) measure: f64,
}

/// A size in bytes: `4096`, `4k`, `128K`, `1M`, `2GiB`; powers of 1024.
fn size(text: &str) -> Result<u64, String> {
    let digits = text.find(|letter: char| !letter.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let shift = match unit.to_ascii_lowercase().trim_end_matches("ib").trim_end_matches('b') {
        "" => 0,
        "k" => 10,
        "m" => 20,
        "g" => 30,
        _ => return Err("write a number and k, M or G: 4k".to_owned()),
    };
    number
        .parse::<u64>()
        .ok()
        .filter(|number| *number > 0)
        .and_then(|number| number.checked_mul(1 << shift))
        .ok_or_else(|| "write a number above 0, and k, M or G: 4k".to_owned())
}

/// A file mode in octal.
fn mode(text: &str) -> Result<u32, String> {
    let mode = u32::from_str_radix(text, 8).ok().filter(|mode| *mode <= 0o777);
    mode.ok_or_else(|| "write three octal digits: 660".to_owned())
}

/// A time in seconds, above 0.
fn seconds(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(seconds) if seconds > 0.0 && seconds <= 86_400.0 => Ok(seconds),
        _ => Err("write seconds, above 0 and at most a day".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn sizes() {
        assert_eq!(size("4k"), Ok(4096));
        assert_eq!(size("1MiB"), Ok(1 << 20));
        assert_eq!(size("512"), Ok(512));
        for bad in ["", "0", "k", "4x", "-1", "99999999999G"] {
            assert!(size(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn writes_must_be_wanted_and_grants_named() {
        let parse = |line: &str| Cli::try_parse_from(line.split(' '));
        assert!(parse("doorbell revoke").is_err());
        assert!(parse("doorbell revoke --pid 1 --queue 2").is_err());
        assert!(parse("doorbell revoke --queue 2").is_ok());
        assert!(parse("doorbell bench --flush --read 50").is_err());
        assert!(parse("doorbell bench --rate 10k --rounds 3 --mode interrupt").is_ok());
        assert!(parse("doorbell bench --rate 10k --sweep").is_err());
    }
}
