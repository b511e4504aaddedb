//! A broker process with an edu device, and commands of other processes against it.
#![allow(clippy::unwrap_used, reason = "a test may fail by panic")]

mod common;

use std::process::{Command, Stdio};

use common::{Broker, Guard, doorbell, run, until, wait};
use rustix::process::Signal;

fn command(broker: &Broker, arguments: &[&str]) -> Command {
    let mut command = doorbell();
    command.args(arguments).arg("--socket").arg(&broker.socket);
    command
}

#[test]
fn a_device_without_queues_is_served_like_any_other() {
    let broker = Broker::serve("soft:edu,latency=1ms");
    let identity = broker.ask(&["edu", "identify"]).text();
    assert_eq!(identity, "soft:edu: edu, version 1.0\n");
    assert_eq!(broker.ask(&["edu", "factorial", "10"]).text(), "10! = 3628800\n");
    let file = broker.folder.path().join("data");
    std::fs::write(&file, b"hello, device").unwrap();
    let file = file.to_str().unwrap();
    let said = broker.ask(&["edu", "write", "--offset", "7", "--in", file]).text();
    assert_eq!(said, "wrote 13 bytes from offset 7\n");
    let read = broker.ask(&["edu", "read", "--offset", "14", "--bytes", "6"]);
    assert_eq!((read.code, &read.out[..]), (Some(0), &b"device"[..]), "{read:?}");
    assert_eq!(broker.ask(&["reset"]).text(), "reset soft:edu\n");
    let status = broker.ask(&["status"]).text();
    assert!(status.contains("driver edu") && status.contains("it has no queues"), "{status}");
}

#[test]
fn what_cannot_be_is_one_line() {
    let broker = Broker::serve("soft:edu");
    let ask = |arguments: &[&str]| broker.ask(arguments);
    ask(&["edu", "factorial", "13"]).fails_with(&["refused: the factorial of 13", "0! to 12!"]);
    let outside = ["edu", "read", "--offset", "4000", "--bytes", "96"];
    ask(&outside).fails_with(&["device soft:edu: 96 bytes at offset 4000"]);
    ask(&["edu", "write"]).fails_with(&["nothing to write"]);
    ask(&["nvme", "identify"]).fails_with(&["soft:edu is driven by edu, not by nvme"]);
    ask(&["bench"]).fails_with(&["soft:edu: it has no queues"]);
    let nvme = Broker::serve("soft:nvme,ram=1M");
    nvme.ask(&["edu", "identify"]).fails_with(&["it is driven by nvme, not by edu"]);
}

#[test]
fn a_wrong_device_is_not_served() {
    for (spec, says) in [
        ("soft:edu,id=wrong", "soft:edu: identification: "),
        ("soft:edu,liveness=wrong", "soft:edu: liveness check: "),
        ("soft:edu,color=red", "option color"),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("edu.sock");
        let ended = run(doorbell().args(["serve", spec, "--socket"]).arg(&socket));
        ended.ends_with(&[says]);
        assert!(!socket.exists(), "{spec}");
    }
}

#[test]
fn a_client_that_is_killed_in_the_middle_of_a_transfer_leaves_nothing_behind() {
    let mut broker = Broker::serve("soft:edu,latency=200ms");
    let file = broker.folder.path().join("data");
    std::fs::write(&file, vec![0xaa; 4000]).unwrap();
    for round in 0..3_u8 {
        let arguments = ["edu", "write", "--in", file.to_str().unwrap()];
        let mut victim = command(&broker, &arguments);
        let mut victim = Guard(victim.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap());
        let pid = victim.pid();
        let sessions = || broker.status()["sessions"].as_array().unwrap().clone();
        until("the transfer to be under way, or over", || {
            let at_it = |session: &serde_json::Value| {
                session["pid"] == pid && session["pending"].as_u64() > Some(0)
            };
            let over = victim.0.try_wait().unwrap().is_some();
            (over || sessions().iter().any(at_it)).then_some(())
        });
        victim.signal(Signal::KILL);
        victim.0.wait().unwrap();
        until("the victim's session to end", || {
            sessions().iter().all(|session| session["pid"] != pid).then_some(())
        });
        // The next client's data is its own, whatever the engine still did for the dead one.
        let own = vec![round; 1000];
        std::fs::write(broker.folder.path().join("own"), &own).unwrap();
        let own_file = broker.folder.path().join("own");
        broker.ask(&["edu", "write", "--in", own_file.to_str().unwrap()]).text();
        let read = broker.ask(&["edu", "read", "--bytes", "1000"]);
        assert_eq!((read.code, &read.out), (Some(0), &own), "{}", read.err);
    }
    let status = broker.status();
    assert_eq!((&status["faults"], &status["resets"]), (&0.into(), &0.into()), "{status}");
    broker.process.signal(Signal::TERM);
    assert!(wait(&mut broker.process.0).success());
}
