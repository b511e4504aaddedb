//! A broker process, and commands of other processes against it.

mod common;

use std::process::{Command, Stdio};

use common::{Broker, file, run, wait};
use rustix::process::Signal;

#[test]
fn status_shows_the_device_and_that_nobody_is_there() {
    let broker = Broker::serve("soft:nvme,ram=8M");
    let status = broker.status();
    assert_eq!(status["device"]["driver"], "nvme");
    assert_eq!(status["broker_pid"], broker.process.pid());
    assert_eq!(status["sessions"].as_array().unwrap().len(), 0);
    let text = broker.ask(&["status"]).text();
    assert!(text.contains("soft:nvme,ram=8M") && text.contains("driver nvme"), "{text}");
    assert!(text.contains("no clients"), "{text}");
}

#[test]
fn what_is_written_is_read_again_and_is_in_the_image() {
    let folder = tempfile::tempdir().unwrap();
    let image = folder.path().join("disk.img");
    file(&image, 8 << 20);
    let broker = Broker::serve(&format!("soft:nvme,image={}", image.display()));
    let data: Vec<u8> = (0..1_536_000_u32).map(|at| ((at * 7) >> 3) as u8).collect();
    let source = folder.path().join("data");
    std::fs::write(&source, &data).unwrap();
    let source = source.to_str().unwrap();

    let said = broker.ask(&["nvme", "write", "--lba", "100", "--in", source]).text();
    assert!(said.contains("3000 blocks"), "{said}");
    let read = broker.ask(&["nvme", "read", "--lba", "100", "--blocks", "3000"]);
    assert_eq!(read.code, Some(0), "{}", read.err);
    assert!(read.out == data, "what was read is not what was written");
    let on_disk = std::fs::read(&image).unwrap();
    assert!(on_disk[51_200..51_200 + data.len()] == data[..], "the image has something else");

    let to = folder.path().join("back");
    let arguments =
        ["nvme", "read", "--lba", "101", "--blocks", "2", "--out", to.to_str().unwrap()];
    broker.ask(&arguments).text();
    assert_eq!(std::fs::read(&to).unwrap(), data[512..1536]);
}

#[test]
fn the_device_tells_what_it_is_and_how_it_is() {
    let broker = Broker::serve("soft:nvme,ram=8M,ram=4M");
    let identity = broker.ask(&["nvme", "identify", "--json"]).json();
    let sizes: Vec<u64> = identity["namespaces"]
        .as_array()
        .unwrap()
        .iter()
        .map(|info| info["blocks"].as_u64().unwrap() << info["block_shift"].as_u64().unwrap())
        .collect();
    assert_eq!(sizes, [8 << 20, 4 << 20]);
    let text = broker.ask(&["nvme", "identify"]).text();
    assert!(text.contains("namespace 2"), "{text}");

    let reads = || broker.ask(&["nvme", "smart", "--json"]).json()["host_reads"].as_u64().unwrap();
    let before = reads();
    broker.ask(&["nvme", "read", "--blocks", "1"]).text();
    assert_eq!(reads(), before + 1);
    assert!(broker.ask(&["nvme", "smart"]).text().contains("temperature"));
}

#[test]
fn a_bench_reports_in_every_form() {
    let broker = Broker::serve("soft:nvme,ram=8M");
    let page = broker.folder.path().join("bench.html");
    let bench = broker.ask(&[
        "bench",
        "--depth",
        "1,4",
        "--block",
        "4k,64k",
        "--ios",
        "500",
        "--json",
        "--report",
        page.to_str().unwrap(),
    ]);
    let results = bench.json()["results"].clone();
    let results = results.as_array().unwrap();
    assert_eq!(results.len(), 4);
    assert!(results.iter().all(|result| result["operations"] == 500));
    assert!(results[0]["p50_ns"].as_u64().unwrap() > 0);
    assert!(std::fs::read_to_string(page).unwrap().contains("<svg"));

    let flush = broker.ask(&["bench", "--flush", "--depth", "1", "--ios", "100"]).text();
    assert!(flush.contains("flush, QD 1") && flush.contains('█'), "{flush}");
    let mixed = ["bench", "--read", "50", "--overwrite", "--ios", "200", "--futures"];
    assert!(broker.ask(&mixed).text().contains("50 % read 4 KiB, QD 32"));
}

#[test]
fn a_bench_needs_no_broker() {
    let bench = run(common::doorbell().args([
        "bench",
        "--spec",
        "soft:nvme,null=1M",
        "--depth",
        "2",
        "--ios",
        "100",
        "--json",
    ]));
    assert_eq!(bench.json()["results"][0]["operations"], 100);
}

/// Runs a command with a terminal around it; `None` if this machine has no `script`.
#[allow(clippy::print_stdout, reason = "a test that is skipped says so")]
fn on_a_terminal(arguments: &str) -> Option<common::Ended> {
    let line = format!("{} {arguments}", env!("CARGO_BIN_EXE_doorbell"));
    let mut script = Command::new("script");
    script.args(["--quiet", "--return", "--command", &line, "/dev/null"]).stdin(Stdio::null());
    if Command::new("script").arg("--version").output().is_err() {
        println!("SKIPPED: script is not installed (apt-get install bsdutils)");
        return None;
    }
    Some(run(&mut script))
}

#[test]
fn on_a_terminal_there_is_progress_and_a_hex_dump() {
    let bench = "bench --spec soft:nvme,ram=1M --depth 1 --ios 5000";
    let Some(bench) = on_a_terminal(bench) else { return };
    assert!(bench.text().contains("read 4 KiB, QD 1"), "{bench:?}");
    let broker = Broker::serve("soft:nvme,ram=1M");
    let read = format!("nvme read --socket {}", broker.socket.display());
    let dump = on_a_terminal(&read).map(|read| read.text()).unwrap_or_default();
    assert!(dump.contains("00000000  00 00") && dump.contains('*'), "{dump}");
}

#[test]
fn a_broker_that_is_told_to_end_takes_its_socket_with_it() {
    let mut broker = Broker::serve("soft:nvme,ram=1M");
    assert!(broker.socket.exists());
    broker.process.signal(Signal::TERM);
    assert!(wait(&mut broker.process.0).success());
    assert!(!broker.socket.exists());
}
