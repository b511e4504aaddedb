//! The conformance plan on software devices: the same checks that a lab runs on real ones. Once with the
//! device in the broker's process, once behind a device server of its own, over vfio-user.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test may fail by panic, and says why"
)]

mod common;

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::Stdio;

use common::{Guard, doorbell};
use doorbell_conformance::cli::{Driver, check};
use doorbell_conformance::rig::Setup;
use doorbell_conformance::role;

/// The client processes of the plans. As a test of its own, with no role to play, it does nothing.
#[test]
fn client() {
    if let Some(played) = role::asked() {
        played.unwrap();
    }
}

fn setup(device: &str) -> Setup {
    let arguments = ["client", "--exact", "--nocapture"];
    Setup {
        device: device.to_owned(),
        doorbell: env!("CARGO_BIN_EXE_doorbell").into(),
        client: (std::env::current_exe().unwrap(), arguments.map(str::to_owned).to_vec()),
        socket: None,
        serve: Vec::new(),
        seed: std::env::var("SEED").map_or(0xd00b, |seed| seed.parse().unwrap()),
        image: None,
        unplug: None,
        overwrite: false,
    }
}

#[track_caller]
fn holds(driver: Driver, setup: Setup, passed: usize) {
    println!("seed {} (SEED={} repeats it)", setup.seed, setup.seed);
    let verdicts = check(driver, setup, &[], |verdict| println!("{verdict:?}")).unwrap();
    let failed: Vec<_> = verdicts.iter().filter(|verdict| verdict.result == "failed").collect();
    assert!(failed.is_empty(), "{failed:?}");
    assert_eq!(verdicts.iter().filter(|verdict| verdict.result == "passed").count(), passed);
}

#[test]
fn an_nvme_controller_with_its_image() {
    let folder = tempfile::tempdir().unwrap();
    let image: PathBuf = folder.path().join("disk.img");
    std::fs::File::create(&image).unwrap().set_len(64 << 20).unwrap();
    let mut setup = setup(&format!("soft:nvme,image={}", image.display()));
    setup.image = Some(image);
    holds(Driver::Nvme, setup, 15);
}

#[test]
fn an_nvme_controller_with_long_blocks_and_pages_for_doorbells() {
    holds(Driver::Nvme, setup("soft:nvme,ram=64M,lba=4096,dstrd=10,mdts=8,queues=4"), 14);
}

#[test]
fn an_edu_device() {
    holds(Driver::Edu, setup("soft:edu,latency=500us"), 10);
}

/// A device server: `doorbell export`.
struct Exported {
    process: Guard,
    socket: PathBuf,
    /// Where the socket lies.
    _folder: tempfile::TempDir,
}

impl Exported {
    /// Starts it, and waits until it serves.
    #[track_caller]
    fn start(arguments: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("server.sock");
        let mut command = doorbell();
        command.arg("export").args(arguments).arg("--socket").arg(&socket);
        let mut process = Guard(command.stdout(Stdio::piped()).spawn().unwrap());
        let stdout = process.0.stdout.take().unwrap();
        let line = BufReader::new(stdout).lines().next().unwrap().unwrap();
        assert!(line.starts_with("exporting "), "{line}");
        Self { process, socket, _folder: folder }
    }

    /// The broker drives it, with more options behind the path. It is pulled out by killing the server.
    fn setup(&self, options: &str) -> Setup {
        let mut setup = setup(&format!("vfio-user:{}{options}", self.socket.display()));
        setup.unplug = Some(format!("kill -KILL {}", self.process.pid()));
        setup
    }
}

#[test]
fn an_nvme_controller_behind_a_device_server() {
    let folder = tempfile::tempdir().unwrap();
    let image: PathBuf = folder.path().join("disk.img");
    common::file(&image, 64 << 20);
    let server = Exported::start(&["nvme", "--image", image.to_str().unwrap()]);
    let mut setup = server.setup("");
    setup.image = Some(image);
    holds(Driver::Nvme, setup, 16);
}

#[test]
fn an_nvme_controller_whose_doorbells_are_rung_by_messages() {
    let server = Exported::start(&["nvme,ram=64M"]);
    holds(Driver::Nvme, server.setup(",map=none"), 15);
}

#[test]
fn an_edu_device_behind_a_device_server() {
    let server = Exported::start(&["edu,latency=500us"]);
    holds(Driver::Edu, server.setup(""), 10);
}

#[test]
fn a_device_that_is_not_right_does_not_pass() {
    let only = ["factorials".to_owned()];
    let verdicts = check(Driver::Edu, setup("soft:edu,interrupt=never"), &only, |_| {}).unwrap();
    let [verdict] = verdicts.as_slice() else { panic!("{verdicts:?}") };
    assert_eq!(verdict.result, "failed");
    assert!(verdict.why.as_ref().unwrap().contains("the end of a factorial"), "{verdict:?}");
    let failed = check(Driver::Edu, setup("soft:edu,id=wrong"), &[], |_| {}).unwrap_err();
    assert!(failed.to_string().contains("identification"), "{failed}");
}

#[test]
fn a_disk_with_data_is_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let image = folder.path().join("disk.img");
    let mut data = vec![0_u8; 16 << 20];
    data[1000] = 1;
    std::fs::write(&image, &data).unwrap();
    let device = format!("soft:nvme,image={}", image.display());
    let failed = check(Driver::Nvme, setup(&device), &[], |_| {}).unwrap_err();
    assert!(failed.to_string().contains("holds data in its first MiB"), "{failed}");
    assert_eq!(std::fs::read(&image).unwrap(), data);
}
