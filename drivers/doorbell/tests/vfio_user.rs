//! A device server of this program behind a broker of this program.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "these are tests")]

mod common;

use std::io::{BufRead, BufReader, Lines};
use std::path::Path;
use std::process::{ChildStdout, Stdio};

use common::{Guard, doorbell, run, wait};
use rustix::process::Signal;

/// A process that says something when it is ready.
struct Process {
    guard: Guard,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Process {
    fn start(arguments: &[&str]) -> Self {
        let mut child = doorbell()
            .args(arguments)
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Self { guard: Guard(child), lines }
    }

    /// The next line, which begins so.
    fn says(&mut self, wanted: &str) {
        let line = self.lines.next().unwrap().unwrap();
        assert!(line.starts_with(wanted), "{line}");
    }
}

fn export(image: &Path, socket: &Path) -> Process {
    let option = image.to_str().unwrap();
    let arguments = ["export", "nvme", "--image", option, "--socket", socket.to_str().unwrap()];
    let mut server = Process::start(&arguments);
    server.says("exporting ");
    server
}

/// Writes through one client and reads through another.
fn moves_data(socket: &Path, folder: &Path, seed: u32) {
    let socket = socket.to_str().unwrap();
    let data: Vec<u8> = (0..512_000_u32).map(|at| ((at * seed) >> 3) as u8).collect();
    let source = folder.join("data");
    std::fs::write(&source, &data).unwrap();
    let source = source.to_str().unwrap();
    let write = ["nvme", "write", "--socket", socket, "--lba", "16", "--in", source];
    run(doorbell().args(write)).text();
    let read = ["nvme", "read", "--socket", socket, "--lba", "16", "--blocks", "1000"];
    let read = run(doorbell().args(read));
    assert_eq!(read.code, Some(0), "{}", read.err);
    assert!(read.out == data, "what was read is not what was written");
}

#[test]
fn data_passes_with_mapped_doorbells_and_with_doorbells_by_messages() {
    let folder = tempfile::tempdir().unwrap();
    let (image, server) = (folder.path().join("disk.img"), folder.path().join("server.sock"));
    common::file(&image, 8 << 20);
    let _server = export(&image, &server);
    for (options, seed) in [("", 7), (",map=none", 11)] {
        let socket = folder.path().join("broker.sock");
        let spec = format!("vfio-user:{}{options}", server.display());
        let mut broker = Process::start(&["serve", &spec, "--socket", socket.to_str().unwrap()]);
        broker.says("serving ");
        moves_data(&socket, folder.path(), seed);
        broker.guard.signal(Signal::TERM);
        assert!(wait(&mut broker.guard.0).success());
    }
}

#[test]
fn a_server_that_dies_ends_the_broker_or_is_waited_for() {
    let folder = tempfile::tempdir().unwrap();
    let (image, server) = (folder.path().join("disk.img"), folder.path().join("server.sock"));
    common::file(&image, 8 << 20);
    let socket = folder.path().join("broker.sock");
    let spec = format!("vfio-user:{}", server.display());
    let serve = ["serve", &spec, "--socket", socket.to_str().unwrap()];

    let mut first = export(&image, &server);
    let mut broker = doorbell();
    broker.args(serve).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut broker = Guard(broker.spawn().unwrap());
    let mut lines = BufReader::new(broker.0.stdout.take().unwrap()).lines();
    assert!(lines.next().unwrap().unwrap().starts_with("serving "));
    first.guard.signal(Signal::KILL);
    wait(&mut first.guard.0);
    assert!(!wait(&mut broker.0).success());
    let mut said = String::new();
    std::io::Read::read_to_string(broker.0.stderr.as_mut().unwrap(), &mut said).unwrap();
    assert!(said.contains(&spec) && said.contains("removed"), "{said}");

    let mut first = export(&image, &server);
    let mut again = Process::start(&[&serve[..], &["--reconnect"]].concat());
    again.says("serving ");
    moves_data(&socket, folder.path(), 3);
    first.guard.signal(Signal::KILL);
    wait(&mut first.guard.0);
    again.says(&format!("device {spec} went; waiting"));
    let _second = export(&image, &server);
    again.says("serving ");
    moves_data(&socket, folder.path(), 5);
    again.guard.signal(Signal::TERM);
    assert!(wait(&mut again.guard.0).success());
}

#[test]
fn waiting_ends_by_a_signal_and_by_its_limit() {
    let folder = tempfile::tempdir().unwrap();
    let (image, server) = (folder.path().join("disk.img"), folder.path().join("server.sock"));
    common::file(&image, 8 << 20);
    let socket = folder.path().join("broker.sock");
    let spec = format!("vfio-user:{}", server.display());
    for (reconnect, ends_well) in [("--reconnect", true), ("--reconnect=0.1", false)] {
        let mut first = export(&image, &server);
        let arguments = ["serve", &spec, "--socket", socket.to_str().unwrap(), reconnect];
        let mut broker = Process::start(&arguments);
        broker.says("serving ");
        first.guard.signal(Signal::KILL);
        wait(&mut first.guard.0);
        broker.says("device ");
        if ends_well {
            broker.guard.signal(Signal::TERM);
        }
        assert_eq!(wait(&mut broker.guard.0).success(), ends_well);
    }
}
