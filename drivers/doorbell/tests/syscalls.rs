//! No system call on the data path: strace counts those of a client that does many operations and of
//! one that does ten times as many.

mod common;

use std::process::Command;

use common::{Broker, run};

const FEW: u64 = 5_000;
const MANY: u64 = 10 * FEW;

#[test]
fn ten_times_the_operations_are_not_more_system_calls() {
    if Command::new("strace").arg("-V").output().is_err() {
        println!("SKIPPED: strace is not installed (apt-get install strace)");
        return;
    }
    let broker = Broker::serve("soft:nvme,ram=8M");
    for (name, how) in [
        ("reads by post and reap", &["--depth", "1"][..]),
        ("reads by futures", &["--depth", "1", "--futures"]),
        ("flushes", &["--depth", "1", "--flush"]),
        ("reads at depth 32", &["--depth", "32"]),
    ] {
        let count = |operations| system_calls(&broker, how, operations);
        let (few, many) = (count(FEW), count(MANY));
        println!("{name}: {few} system calls for {FEW} operations, {many} for {MANY}");
        // A device that has gone to sleep because this machine had no core for its client must be
        // woken, by a system call: that may happen now and then.
        let more = many.saturating_sub(few);
        assert!(more < (MANY - FEW) / 50, "{name}: {few} system calls, and {many} for more I/O");
    }
}

/// System calls of the I/O thread (the process's first) in a bench of so many operations.
fn system_calls(broker: &Broker, how: &[&str], operations: u64) -> u64 {
    let trace = broker.folder.path().join(format!("trace-{operations}"));
    let mut strace = Command::new("strace");
    strace.args(["-f", "-qq", "-e", "signal=none", "-o"]).arg(&trace);
    strace.arg(env!("CARGO_BIN_EXE_doorbell")).args(["bench", "--json", "--ios"]);
    strace.arg(operations.to_string()).args(how).arg("--socket").arg(&broker.socket);
    let bench = run(&mut strace);
    assert_eq!(bench.json()["results"][0]["operations"], operations);
    let text = std::fs::read_to_string(&trace).unwrap();
    let first = text.split_whitespace().next().unwrap().to_owned();
    let of_first = |line: &&str| line.split_whitespace().next() == Some(first.as_str());
    // Reading the clock is the loop's, not the data path's; mostly it is no system call anyway.
    let counts = |line: &&str| !line.contains(" clock_gettime(") && !line.contains("resumed>");
    text.lines().filter(of_first).filter(counts).count() as u64
}
