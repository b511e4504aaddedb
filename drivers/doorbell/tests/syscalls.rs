//! No system call on the data path: strace counts those of a client that does many operations and of
//! one that does ten times as many.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod common;

use std::process::Command;

use common::{Broker, run};
use doorbell_bench::Placement;

const FEW: u64 = 5_000;
const MANY: u64 = 10 * FEW;

/// System calls for [`MANY`] operations that are too many: one for every fifty.
const ENOUGH: u64 = (MANY - FEW) / 50;

const ATTEMPTS: u32 = 6;

#[test]
fn ten_times_the_operations_are_not_more_system_calls() {
    if Command::new("strace").arg("-V").output().is_err() {
        println!("SKIPPED: strace is not installed (apt-get install strace)");
        return;
    }
    let Some(cores) = Placement::choose().unwrap() else {
        println!("SKIPPED: with one core, client and device must wake each other");
        return;
    };
    let broker = Broker::serve_with("soft:nvme,ram=8M", |serve, _| {
        serve.args(["--core", &cores.device.to_string()]);
    });
    for (name, how) in [
        ("reads by post and reap", &["--depth", "1"][..]),
        ("reads by futures", &["--depth", "1", "--futures"]),
        ("flushes", &["--depth", "1", "--flush"]),
        ("reads at depth 32", &["--depth", "32"]),
    ] {
        let count = |operations| system_calls(&broker, cores, how, operations);
        // Where other processes take the cores away, device and client fall asleep and must wake
        // each other, by system calls: so the quietest of some attempts counts.
        let quietest = (0..ATTEMPTS)
            .map(|_| {
                let (few, many) = (count(FEW), count(MANY));
                println!("{name}: {few} system calls for {FEW} operations, {many} for {MANY}");
                many.saturating_sub(few)
            })
            .find(|more| *more < ENOUGH);
        assert!(quietest.is_some(), "{name}: system calls grow with the operations");
    }
}

/// System calls of the I/O thread (the process's first) in a bench of so many operations.
fn system_calls(broker: &Broker, cores: Placement, how: &[&str], operations: u64) -> u64 {
    let trace = broker.folder.path().join(format!("trace-{operations}"));
    let mut strace = Command::new("strace");
    strace.args(["-f", "-qq", "-e", "signal=none", "-o"]).arg(&trace);
    strace.arg(env!("CARGO_BIN_EXE_doorbell")).args(["bench", "--json", "--ios"]);
    strace
        .arg(operations.to_string())
        .args(["--core", &cores.client.to_string()])
        .args(how)
        .arg("--socket")
        .arg(&broker.socket);
    let bench = run(&mut strace);
    assert_eq!(bench.json()["results"][0]["operations"], operations);
    let text = std::fs::read_to_string(&trace).unwrap();
    let first = text.split_whitespace().next().unwrap().to_owned();
    let of_first = |line: &&str| line.split_whitespace().next() == Some(first.as_str());
    // Reading the clock is the loop's, not the data path's; mostly it is no system call anyway.
    let counts = |line: &&str| !line.contains(" clock_gettime(") && !line.contains("resumed>");
    text.lines().filter(of_first).filter(counts).count() as u64
}
