//! list, bind, unbind and check, on this machine and on made-up ones.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod common;

use common::{Ended, doorbell, run};
use doorbell::pci::Address;
use doorbell::pci::sysfs::testing::{FakeFunction, FakeMachine};

const ADDRESS: &str = "0000:01:00.0";

/// Runs a command on a made-up machine.
#[track_caller]
fn on(machine: &FakeMachine, arguments: &[&str]) -> Ended {
    run(doorbell().args(arguments).arg("--root").arg(machine.folder()))
}

fn at(address: &str) -> Address {
    address.parse().unwrap()
}

/// A machine with a mounted NVMe disk that shares its group, and a network card.
fn machine() -> FakeMachine {
    let machine = FakeMachine::new().unwrap();
    let nvme = FakeFunction { numa_node: 1, ..FakeFunction::nvme(3) };
    let folder = machine.function(at(ADDRESS), &nvme).unwrap();
    let disk = machine.block(&folder.join("nvme/nvme0"), "nvme0n1", "259:0").unwrap();
    machine.partition(&disk, "nvme0n1p1", "259:1").unwrap();
    machine.mount("259:1", "/data", "ext4", "/dev/nvme0n1p1").unwrap();
    let card = FakeFunction {
        vendor: 0x8086,
        device: 0x10d3,
        class: 0x02_0000,
        driver: Some("e1000e"),
        ..FakeFunction::nvme(3)
    };
    machine.function(at("0000:01:00.1"), &card).unwrap();
    let ids = "1b36  Red Hat, Inc.\n\t0010  QEMU NVM Express Controller\n8086  Intel\n";
    machine.write("usr/share/misc/pci.ids", ids).unwrap();
    machine
}

#[test]
fn list_shows_what_a_driver_matches() {
    let machine = machine();
    let text = on(&machine, &["list"]).text();
    for part in [
        "0000:01:00.0  1b36:0010  nvme  nvme",
        "3      1     Red Hat, Inc. QEMU NVM Express Controller",
        "shares its group with 0000:01:00.1 (e1000e)",
        "in use: nvme0n1p1 is mounted at /data",
    ] {
        assert!(text.contains(part), "'{part}' is not in:\n{text}");
    }
    assert_eq!(text.lines().filter(|line| line.starts_with("0000:")).count(), 1);
    let all = on(&machine, &["list", "--all"]).text();
    assert!(all.contains("0000:01:00.1  8086:10d3  -     e1000e"), "{all}");
    let json = on(&machine, &["list", "--json"]).json();
    assert_eq!(json[0]["address"], ADDRESS);
    assert_eq!(json[0]["matched"], "nvme");
    assert_eq!(json[0]["function"]["numa_node"], 1);
    assert_eq!(json[0]["shares_group_with"][0]["driver"], "e1000e");
}

#[test]
fn list_says_who_holds_a_device() {
    let machine = machine();
    machine.set_driver(at(ADDRESS), Some("vfio-pci")).unwrap();
    machine.process(4711, "qemu", &["/dev/vfio/3"]).unwrap();
    let text = on(&machine, &["list"]).text();
    assert!(text.contains("held by process 4711 (qemu), which has /dev/vfio/3 open"), "{text}");
}

#[test]
fn a_broken_function_hides_no_other() {
    let machine = machine();
    let broken = machine.function(at("0000:02:00.0"), &FakeFunction::nvme(4)).unwrap();
    machine.write(broken.join("class"), "0xzz").unwrap();
    let text = on(&machine, &["list"]).text();
    assert!(
        text.contains(ADDRESS) && text.contains("left out:") && text.contains("0xzz"),
        "{text}"
    );
}

#[test]
fn without_devices_there_is_a_hint() {
    let machine = FakeMachine::new().unwrap();
    let text = on(&machine, &["list"]).text();
    assert!(text.contains("doorbell serve soft:nvme"), "{text}");
}

#[test]
fn bind_refuses_a_disk_in_use_and_shows_what_it_would_do() {
    let machine = machine();
    let bind = ["bind", ADDRESS];
    on(&machine, &bind).fails_with(&[ADDRESS, "nvme0n1p1 is mounted at /data"]);
    on(&machine, &["bind", ADDRESS, "--force"]).fails_with(&["mounted at /data"]);
    on(&machine, &["bind", "0000:09:00.0"]).fails_with(&["0000:09:00.0", "doorbell list"]);
    on(&machine, &["bind", "nvme0"]).fails_with(&["no PCI address", "--help"]);

    machine.write("proc/self/mountinfo", "").unwrap();
    let plan = on(&machine, &["bind", ADDRESS, "--dry-run"]).text();
    for part in
        ["echo vfio-pci >", "driver/unbind", "drivers_probe", "cannot be used yet: 0000:01:00.1"]
    {
        assert!(plan.contains(part), "'{part}' is not in:\n{plan}");
    }
    let folder = machine.roots().function(at(ADDRESS));
    assert_eq!(std::fs::read_to_string(folder.join("driver_override")).unwrap(), "(null)\n");
    // Files that nobody acts upon: the driver does not change, and that is noticed.
    let ended = on(&machine, &bind);
    ended.fails_with(&["vfio-pci did not take it", "nvme has it"]);
}

#[test]
fn unbind_of_what_vfio_does_not_have_is_nothing() {
    let machine = machine();
    assert!(on(&machine, &["unbind", ADDRESS]).text().contains("nvme has it already"));
    machine.set_driver(at(ADDRESS), Some("vfio-pci")).unwrap();
    let plan = on(&machine, &["unbind", ADDRESS, "--dry-run"]).text();
    assert!(plan.contains("driver/unbind"), "{plan}");
    machine.process(4711, "qemu", &["/dev/vfio/3"]).unwrap();
    on(&machine, &["unbind", ADDRESS]).fails_with(&["4711", "qemu", "end it first"]);
}

#[test]
fn check_works_wherever_software_devices_do() {
    let text = run(doorbell().arg("check")).text();
    for part in ["io_uring", "IOMMU", "locked memory", "Software devices and vfio-user work"] {
        assert!(text.contains(part), "'{part}' is not in:\n{text}");
    }
    let json = run(doorbell().args(["check", "--json"])).json();
    assert_eq!(json["software"], true);
    assert!(json["findings"].as_array().unwrap().len() > 8);
    // What is required decides about the status.
    let machine = FakeMachine::new().unwrap();
    assert_eq!(on(&machine, &["check"]).code, Some(0));
    on(&machine, &["check", "--require", "vfio"]).fails_with(&["missing: IOMMU"]);
    on(&machine, &["check", ADDRESS]).fails_with(&["missing: ", ADDRESS]);
}

#[test]
fn list_works_on_this_machine() {
    let all = run(doorbell().args(["list", "--all", "--json"])).json();
    for function in all.as_array().unwrap() {
        assert!(function["address"].as_str().unwrap().parse::<Address>().is_ok());
    }
    run(doorbell().args(["list", "--all"])).text();
}
