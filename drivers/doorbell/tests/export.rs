//! `doorbell export`: a process that serves a software device over vfio-user, and another that drives it.
#![allow(clippy::unwrap_used, reason = "a test program: helpers may fail as tests do")]

mod common;

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use common::{Broker, Guard, doorbell, file, run, wait};
use rustix::process::Signal;

/// A device that is exported; its first line of output was read.
fn export(arguments: &[&str], socket: &Path) -> Guard {
    let mut command = doorbell();
    command.arg("export").args(arguments).arg("--socket").arg(socket).stdout(Stdio::piped());
    let mut child = command.stderr(Stdio::null()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert!(line.starts_with("exporting soft:nvme") && line.contains("nvme.sock"), "{line}");
    Guard(child)
}

fn served_at(socket: &Path) -> String {
    format!("vfio-user:{}", socket.display())
}

fn place() -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("nvme.sock");
    (folder, socket)
}

#[test]
fn what_a_broker_writes_is_in_the_image_at_the_end() {
    let (folder, socket) = place();
    let image = folder.path().join("disk, with a comma.img");
    file(&image, 8 << 20);
    let mut server = export(&["nvme,queues=4", "--image", image.to_str().unwrap()], &socket);
    let data: Vec<u8> = (0..512_000_u32).map(|at| ((at * 7) >> 3) as u8).collect();
    let source = folder.path().join("data");
    std::fs::write(&source, &data).unwrap();
    for round in 0..2 {
        // One broker after the other.
        let broker = Broker::serve(&served_at(&socket));
        let lba = (100 + round * 2000).to_string();
        let arguments = ["nvme", "write", "--lba", &lba, "--in", source.to_str().unwrap()];
        broker.ask(&arguments).text();
        let read = broker.ask(&["nvme", "read", "--lba", &lba, "--blocks", "1000"]);
        assert!(read.code == Some(0) && read.out == data, "{}", read.err);
        let mut broker = broker;
        broker.process.signal(Signal::TERM);
        assert!(wait(&mut broker.process.0).success());
    }
    server.signal(Signal::TERM);
    assert!(wait(&mut server.0).success());
    assert!(!socket.exists(), "the socket is removed");
    let on_disk = std::fs::read(&image).unwrap();
    for lba in [100, 2100] {
        assert!(on_disk[lba * 512..][..data.len()] == data[..], "from block {lba}");
    }
}

#[test]
fn once_ends_with_its_client() {
    let (_folder, socket) = place();
    let mut server = export(&["nvme,ram=1M", "--once", "--mode", "660"], &socket);
    let mode = std::os::unix::fs::PermissionsExt::mode(&socket.metadata().unwrap().permissions());
    assert_eq!(mode & 0o777, 0o660);
    drop(std::os::unix::net::UnixStream::connect(&socket).unwrap());
    assert!(wait(&mut server.0).success());
    assert!(!socket.exists());
}

#[test]
fn a_killed_servers_socket_is_taken_over() {
    let (_folder, socket) = place();
    let server = export(&["nvme,ram=1M"], &socket);
    drop(server);
    assert!(socket.exists(), "SIGKILL leaves it behind");
    let mut server = export(&["nvme,ram=1M"], &socket);
    server.signal(Signal::INT);
    assert!(wait(&mut server.0).success());
}

#[test]
fn what_is_wrong_is_said_in_one_line() {
    let (folder, socket) = place();
    let ask = |arguments: &[&str]| -> Command {
        let mut command = doorbell();
        command.arg("export").args(arguments).arg("--socket").arg(&socket);
        command
    };
    run(&mut ask(&["floppy"])).fails_with(&["floppy", "nvme"]);
    run(&mut ask(&["nvme,ram=x"])).fails_with(&["ram=x", "size"]);
    run(&mut ask(&["nvme", "--image", "/nonexistent.img"]))
        .fails_with(&["/nonexistent.img", "truncate"]);
    run(&mut ask(&["nvme", "--mode", "rw"])).fails_with(&["--mode", "octal"]);
    assert!(!socket.exists(), "nothing is left behind");
    std::fs::write(&socket, "data").unwrap();
    run(&mut ask(&["nvme"])).fails_with(&["nvme.sock", "no socket"]);
    std::fs::remove_file(&socket).unwrap();
    let _server = export(&["nvme,ram=1M"], &socket);
    run(&mut ask(&["nvme"])).fails_with(&["another server listens"]);
    let long = folder.path().join("x".repeat(100));
    run(doorbell().args(["export", "nvme", "--socket"]).arg(long)).fails_with(&["107"]);
}
