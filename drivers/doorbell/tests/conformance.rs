//! The conformance plan on software devices: the same checks that a lab runs on real ones.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test may fail by panic, and says why"
)]

use std::path::PathBuf;

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
