//! Every failure is one line that names what was wrong and what to do, and a status that is not 0.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod common;

use std::os::fd::OwnedFd;
use std::path::Path;

use common::{Broker, doorbell, file, run};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketAddrUnix, SocketFlags, SocketType};
use rustix::process::Signal;

#[test]
fn an_unknown_device() {
    for (spec, part) in [
        ("nvme", "no known bus"),
        ("soft:tape", "'tape'"),
        ("soft:nvme,colour=red", "colour"),
        ("soft:nvme,ram=much", "ram"),
        ("ffff:ff:1f.7", "no such PCI function"),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("x.sock");
        run(doorbell().args(["serve", spec, "--socket"]).arg(&socket)).fails_with(&[part]);
        assert!(!socket.exists(), "{spec} left a socket");
    }
}

#[test]
fn no_broker_at_the_socket() {
    run(doorbell().args(["bench", "--socket", "/nowhere/x.sock"]))
        .fails_with(&["/nowhere/x.sock", "doorbell serve"]);
}

#[test]
fn the_socket_of_a_dead_broker() {
    let mut broker = Broker::serve("soft:nvme,ram=1M");
    broker.process.signal(Signal::KILL);
    common::wait(&mut broker.process.0);
    assert!(broker.socket.exists());
    let socket = broker.socket.display().to_string();
    // The kernel takes an io_uring apart after its process has ended: until then the socket still
    // listens, and closes at once.
    common::until("the kernel to close the socket", || {
        let status = broker.ask(&["status"]);
        status.fails_with(&[&socket]);
        status.err.contains("dead").then_some(())
    });
    for command in [["status", "--json"], ["nvme", "smart"], ["bench", "--flush"]] {
        broker.ask(&command).fails_with(&[&socket, "dead", "doorbell serve"]);
    }
}

#[test]
fn refused_by_the_policy() {
    let broker = Broker::serve_with("soft:nvme,ram=1M", |command, folder| {
        policy(command, folder, "[[rule]]\nuid = 4294967294\n");
    });
    broker.ask(&["nvme", "identify"]).fails_with(&["policy", "uid"]);
}

#[test]
fn an_operator_s_command_by_someone_who_is_none() {
    let broker = Broker::serve_with("soft:nvme,ram=1M", |command, folder| {
        policy(command, folder, "[[rule]]\nany = true\n");
    });
    broker.ask(&["revoke", "--queue", "1"]).fails_with(&["operator"]);
}

#[test]
fn more_than_the_quota() {
    let broker = Broker::serve_with("soft:nvme,ram=1M", |command, folder| {
        policy(command, folder, "[[rule]]\nany = true\nbytes = \"1M\"\n");
    });
    broker.ask(&["bench", "--ios", "1"]).fails_with(&["quota", "bytes", "policy"]);
    let broker = Broker::serve_with("soft:nvme,ram=1M", |command, folder| {
        policy(command, folder, "[[rule]]\nany = true\nqueues = 0\n");
    });
    broker.ask(&["bench", "--ios", "1"]).fails_with(&["queues"]);
}

fn policy(command: &mut std::process::Command, folder: &Path, text: &str) {
    let file = folder.join("policy.toml");
    std::fs::write(&file, text).unwrap();
    command.arg("--policy").arg(file);
}

#[test]
fn a_policy_that_cannot_be_read() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("policy.toml");
    std::fs::write(&file, "[[rule]]\ncolour = \"red\"\n").unwrap();
    let serve = |policy: &Path| {
        run(doorbell()
            .args(["serve", "soft:nvme,ram=1M", "--policy"])
            .arg(policy)
            .arg("--socket")
            .arg(folder.path().join("x")))
    };
    serve(&file).fails_with(&["policy.toml", "line", "colour"]);
    serve(&folder.path().join("none")).fails_with(&["none"]);
}

#[test]
fn a_broker_of_another_version() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.sock");
    let flags = SocketFlags::CLOEXEC;
    let listener: OwnedFd =
        rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None).unwrap();
    rustix::net::bind(&listener, &SocketAddrUnix::new(&path).unwrap()).unwrap();
    rustix::net::listen(&listener, 1).unwrap();
    let broker = std::thread::spawn(move || {
        let client = rustix::net::accept(&listener).unwrap();
        let mut hello = [0; 512];
        rustix::net::recv(&client, &mut hello, RecvFlags::empty()).unwrap();
        // Magic, version 9, kind 4 (version refused), the request's id, 8 bytes of body:
        // it speaks 9 to 9, was addressed in 1.
        let mut answer = b"DRBL\x09\x00\x04\x00".to_vec();
        answer.extend_from_slice(&hello[8..12]);
        answer.extend_from_slice(&[8, 0, 0, 0, 9, 0, 9, 0, 1, 0, 0, 0]);
        rustix::net::send(&client, &answer, SendFlags::empty()).unwrap();
    });
    run(doorbell().args(["nvme", "identify", "--socket"]).arg(&path))
        .fails_with(&["version 9", "same release"]);
    broker.join().unwrap();
}

#[test]
fn an_image_that_is_missing_or_too_small() {
    let folder = tempfile::tempdir().unwrap();
    let serve = |image: &Path| {
        let spec = format!("soft:nvme,image={}", image.display());
        run(doorbell().args(["serve", &spec, "--socket"]).arg(folder.path().join("x.sock")))
    };
    let image = folder.path().join("disk.img");
    serve(&image).fails_with(&["disk.img"]);
    file(&image, 0);
    serve(&image).fails_with(&["disk.img"]);
    file(&image, 100);
    serve(&image).fails_with(&["disk.img"]);
    serve(folder.path()).fails_with(&[&folder.path().display().to_string()]);
}

#[test]
fn a_socket_that_is_taken() {
    let broker = Broker::serve("soft:nvme,ram=1M");
    broker.ask(&["serve", "soft:nvme,ram=1M"]).fails_with(&["another broker"]);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("file");
    file(&path, 10);
    run(doorbell().args(["serve", "soft:nvme,ram=1M", "--socket"]).arg(&path))
        .fails_with(&["no socket"]);
    assert!(path.exists());
}

#[test]
fn ranges_and_namespaces_that_are_not_there() {
    let broker = Broker::serve("soft:nvme,ram=1M");
    broker.ask(&["nvme", "read", "--namespace", "7"]).fails_with(&["namespace 7", "there are 1"]);
    broker.ask(&["nvme", "read", "--lba", "2047", "--blocks", "2"]).fails_with(&["2048 blocks"]);
    broker.ask(&["nvme", "read", "--blocks", "0"]).fails_with(&["0 blocks"]);
    let odd = broker.folder.path().join("odd");
    file(&odd, 513);
    broker.ask(&["nvme", "write", "--in", odd.to_str().unwrap()]).fails_with(&["513 bytes"]);
    broker.ask(&["nvme", "write"]).fails_with(&["nothing to write"]);
    broker.ask(&["bench", "--read", "0"]).fails_with(&["--overwrite"]);
    broker.ask(&["bench", "--block", "1000"]).fails_with(&["1000 bytes", "--block"]);
    broker.ask(&["bench", "--depth", "0"]).fails_with(&["depth of 0"]);
    broker.ask(&["bench", "--depth", "5000", "--ios", "1"]).fails_with(&["depth", "possible"]);
}

#[test]
fn a_command_line_that_makes_no_sense() {
    for arguments in
        [&["bench", "--colour"][..], &["paint"], &["revoke"], &["bench", "--block", "x"]]
    {
        run(doorbell().args(arguments)).fails_with(&["--help"]);
    }
}

#[test]
fn help_is_no_failure_and_has_examples() {
    for command in ["serve", "status", "revoke", "demo", "bench"] {
        let text = run(doorbell().args([command, "--help"])).text();
        assert!(text.contains("Examples:"), "{command}");
    }
    assert!(run(doorbell().arg("--help")).text().contains("doorbell demo"));
}
