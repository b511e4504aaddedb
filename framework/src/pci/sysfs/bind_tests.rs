use super::super::testing::{FakeFunction, FakeKernel, FakeMachine};
use super::*;

const ADDRESS: &str = "0000:01:00.0";

fn address() -> Address {
    ADDRESS.parse().unwrap()
}

/// A machine with one NVMe disk; returns the disk's folder as well.
fn disk() -> (FakeMachine, PathBuf) {
    let machine = FakeMachine::new().unwrap();
    let folder = machine.function(address(), &FakeFunction::nvme(3)).unwrap();
    let disk = machine.block(&folder.join("nvme/nvme0"), "nvme0n1", "259:0").unwrap();
    (machine, disk)
}

#[track_caller]
fn refused(machine: &FakeMachine, force: bool, parts: &[&str]) {
    let error = Move::bind(machine.roots(), address(), force).unwrap_err().to_string();
    for part in parts.iter().chain(&[ADDRESS]) {
        assert!(error.contains(part), "'{part}' is not in: {error}");
    }
}

fn bind(machine: &FakeMachine, kernel: &mut FakeKernel<'_>) -> Result<Outcome, MoveError> {
    Move::bind(machine.roots(), address(), false)?.carry_out(machine.roots(), kernel)
}

fn driver(machine: &FakeMachine) -> (Option<String>, Option<String>) {
    let function = Function::read(machine.roots(), address()).unwrap();
    (function.driver, function.driver_override)
}

#[test]
fn a_free_disk_goes_to_vfio_pci_and_back() {
    let (machine, _) = disk();
    let mut kernel = FakeKernel::new(&machine);
    let outcome = bind(&machine, &mut kernel).unwrap();
    assert!(outcome.changed);
    assert_eq!(driver(&machine), (Some(VFIO_PCI.into()), Some(VFIO_PCI.into())));
    let wrote = |file: &str, text: &str| (file.to_owned(), text.to_owned());
    let to = [
        wrote("driver_override", VFIO_PCI),
        wrote("unbind", ADDRESS),
        wrote("drivers_probe", ADDRESS),
    ];
    assert_eq!(kernel.written, to);

    assert!(!bind(&machine, &mut kernel).unwrap().changed, "it is there already");
    let back = Move::unbind(machine.roots(), address()).unwrap();
    back.carry_out(machine.roots(), &mut kernel).unwrap();
    assert_eq!(driver(&machine), (Some("nvme".into()), None));
    assert!(Move::unbind(machine.roots(), address()).unwrap().steps.is_empty());
    assert_eq!(kernel.written.len(), 6);
}

#[test]
fn a_function_that_no_kernel_driver_wants_ends_without_one() {
    let machine = FakeMachine::new().unwrap();
    let edu = FakeFunction { class: 0x00_ff00, driver: None, ..FakeFunction::nvme(4) };
    machine.function(address(), &edu).unwrap();
    let mut kernel = FakeKernel { native: None, ..FakeKernel::new(&machine) };
    bind(&machine, &mut kernel).unwrap();
    assert_eq!(kernel.written.len(), 2, "there was no driver to take it from");
    let back = Move::unbind(machine.roots(), address()).unwrap();
    let outcome = back.carry_out(machine.roots(), &mut kernel).unwrap();
    assert_eq!(outcome.function.driver, None);
}

#[test]
fn mounted_by_its_partition_or_by_name() {
    let (machine, disk) = disk();
    machine.partition(&disk, "nvme0n1p1", "259:1").unwrap();
    machine.mount("259:1", "/data", "ext4", "/dev/anything").unwrap();
    refused(&machine, true, &["nvme0n1p1 is mounted at /data", "nothing was changed"]);
    // btrfs shows a number of its own.
    let (machine, _) = self::disk();
    machine.mount("0:44", "/b", "btrfs", "/dev/nvme0n1").unwrap();
    refused(&machine, true, &["nvme0n1 is mounted at /b"]);
}

#[test]
fn under_lvm_md_and_encryption() {
    let (machine, disk) = disk();
    let part = machine.partition(&disk, "nvme0n1p2", "259:2").unwrap();
    let crypt = [("dm/name", "secret\n"), ("dm/uuid", "CRYPT-LUKS2-1-secret\n")];
    let crypt = machine.holder(&part, "dm-0", "254:0", &crypt).unwrap();
    let volume = [("dm/name", "data-home\n"), ("dm/uuid", "LVM-abc\n")];
    machine.holder(&crypt, "dm-1", "254:1", &volume).unwrap();
    machine.mount("9:9", "/home", "xfs", "/dev/mapper/data-home").unwrap();
    let parts =
        ["encrypted volume secret (dm-0)", "LVM volume data-home", "dm-1 is mounted at /home"];
    refused(&machine, true, &parts);

    let (machine, disk) = self::disk();
    machine.holder(&disk, "md127", "9:127", &[("md/level", "raid1\n")]).unwrap();
    refused(&machine, true, &["nvme0n1 is part of md array md127 (raid1)"]);
}

#[test]
fn members_that_are_not_active_and_btrfs() {
    let (machine, _) = disk();
    machine.write("run/udev/data/b259:0", "S:disk\nE:ID_FS_TYPE=LVM2_member\n").unwrap();
    refused(&machine, true, &["nvme0n1 carries a member of LVM"]);
    let (machine, _) = disk();
    machine.write("run/udev/data/b259:0", "E:ID_FS_TYPE=ext4\n").unwrap();
    machine.write("sys/fs/btrfs/uuid-1/devices/nvme0n1", "").unwrap();
    refused(&machine, true, &["mounted btrfs file system (uuid-1)"]);
}

#[test]
fn swap_by_a_link() {
    let (machine, disk) = disk();
    machine.partition(&disk, "nvme0n1p3", "259:3").unwrap();
    let swaps = "Filename Type Size Used Priority\n/dev/disk/by-id/x partition 1 0 -2\n";
    machine.write("proc/swaps", swaps).unwrap();
    std::fs::create_dir_all(machine.folder().join("dev/disk/by-id")).unwrap();
    std::os::unix::fs::symlink("../../nvme0n1p3", machine.folder().join("dev/disk/by-id/x"))
        .unwrap();
    refused(&machine, true, &["nvme0n1p3 is swap"]);
}

#[test]
fn a_multipath_disk_is_found_by_its_path() {
    let machine = FakeMachine::new().unwrap();
    let folder = machine.function(address(), &FakeFunction::nvme(3)).unwrap();
    machine.block(&folder.join("nvme/nvme0"), "nvme0c0n1", "259:5").unwrap();
    let virtual_folder = machine.roots().sys.join("devices/virtual/nvme-subsystem/nvme-subsys0");
    let head = machine.block(&virtual_folder, "nvme0n1", "259:0").unwrap();
    machine.partition(&head, "nvme0n1p1", "259:1").unwrap();
    machine.mount("259:1", "/", "ext4", "/dev/nvme0n1p1").unwrap();
    refused(&machine, true, &["nvme0n1p1 is mounted at /"]);
    // The controller of another function has no path to it.
    let other: Address = "0000:02:00.0".parse().unwrap();
    machine.function(other, &FakeFunction::nvme(4)).unwrap();
    Move::bind(machine.roots(), other, false).unwrap();
}

#[test]
fn an_open_disk_is_refused_unless_forced() {
    let (machine, _) = disk();
    let folder = machine.roots().function(address());
    let node = "sys/devices/pci0000:00/0000:01:00.0/nvme/nvme0/ng0n1";
    machine.write(format!("{node}/dev"), "249:0\n").unwrap();
    std::os::unix::fs::symlink(
        "../../../class/nvme-generic",
        machine.folder().join(node).join("subsystem"),
    )
    .unwrap();
    assert!(folder.exists());
    machine.process(41, "dd", &["/dev/nvme0n1", "socket:[1]", "/dev/null"]).unwrap();
    machine.process(42, "nvme\u{1b}", &["/dev/ng0n1"]).unwrap();
    let parts = ["nvme0n1 is open in process 41 (dd)", "ng0n1 is open in process 42 (nvme?)"];
    refused(&machine, false, &parts);
    Move::bind(machine.roots(), address(), true).unwrap();
    machine.mount("259:0", "/data", "ext4", "/dev/nvme0n1").unwrap();
    refused(&machine, true, &["mounted at /data"]);
}

#[test]
fn a_network_interface_that_is_up_and_virtual_functions() {
    let machine = FakeMachine::new().unwrap();
    let nic = FakeFunction { class: 0x02_0000, driver: Some("e1000e"), ..FakeFunction::nvme(3) };
    let folder = machine.function(address(), &nic).unwrap();
    machine.write(folder.join("net/eth0/flags"), "0x1003\n").unwrap();
    std::fs::create_dir_all(machine.folder().join("sys/class/net")).unwrap();
    std::os::unix::fs::symlink(
        folder.join("net/eth0"),
        machine.folder().join("sys/class/net/eth0"),
    )
    .unwrap();
    refused(&machine, true, &["network interface eth0 is up"]);
    machine.write(folder.join("net/eth0/flags"), "0x1002\n").unwrap();
    Move::bind(machine.roots(), address(), false).unwrap();
    machine.virtual_function(address(), 0, "0000:01:00.1".parse().unwrap(), 5).unwrap();
    refused(&machine, true, &["1 virtual functions are enabled"]);
    Move::bind(machine.roots(), "0000:01:00.1".parse().unwrap(), false).unwrap();
}

#[test]
fn a_9p_share_that_is_mounted() {
    let machine = FakeMachine::new().unwrap();
    let share =
        FakeFunction { class: 0x00_0200, driver: Some("virtio-pci"), ..FakeFunction::nvme(3) };
    let folder = machine.function(address(), &share).unwrap();
    machine.write(folder.join("virtio0/mount_tag"), "rootfs\0").unwrap();
    machine.mount("0:20", "/", "9p", "rootfs").unwrap();
    refused(&machine, true, &["9p share rootfs is mounted at /"]);
}

#[test]
fn bridges_missing_drivers_and_missing_iommus() {
    let machine = FakeMachine::new().unwrap();
    machine
        .function(address(), &FakeFunction { class: 0x06_0400, ..FakeFunction::nvme(3) })
        .unwrap();
    refused(&machine, true, &["is a bridge"]);
    let alone = FakeFunction { group: None, ..FakeFunction::nvme(3) };
    machine.function("0000:02:00.0".parse().unwrap(), &alone).unwrap();
    let error = Move::bind(machine.roots(), "0000:02:00.0".parse().unwrap(), true).unwrap_err();
    assert!(error.to_string().contains("doorbell check"), "{error}");

    let (machine, _) = disk();
    std::fs::remove_dir_all(machine.folder().join("sys/bus/pci/drivers/vfio-pci")).unwrap();
    refused(&machine, true, &["modprobe vfio-pci"]);
}

#[test]
fn a_step_that_fails_leaves_everything_as_it_was() {
    for fails in ["driver_override", "unbind", "drivers_probe"] {
        let (machine, _) = disk();
        let mut kernel = FakeKernel { fails: Some(fails), ..FakeKernel::new(&machine) };
        let error = bind(&machine, &mut kernel).unwrap_err().to_string();
        assert!(error.contains(fails) && error.contains("nvme has it"), "{error}");
        assert_eq!(driver(&machine).0.as_deref(), Some("nvme"), "{fails}");
        assert_eq!(driver(&machine).1, None, "{fails}");
    }
}

#[test]
fn a_driver_that_does_not_take_it_gives_it_back() {
    let (machine, _) = disk();
    let mut kernel = FakeKernel { refuses: Some(VFIO_PCI), ..FakeKernel::new(&machine) };
    let error = bind(&machine, &mut kernel).unwrap_err().to_string();
    assert!(error.contains("did not take it") && error.contains("it is back as it was"), "{error}");
    assert_eq!(driver(&machine), (Some("nvme".into()), None));

    bind(&machine, &mut FakeKernel::new(&machine)).unwrap();
    let mut kernel = FakeKernel { native: Some(VFIO_PCI), ..FakeKernel::new(&machine) };
    let back = Move::unbind(machine.roots(), address()).unwrap();
    let error = back.carry_out(machine.roots(), &mut kernel).unwrap_err().to_string();
    assert!(error.contains("vfio-pci.ids="), "{error}");
    assert_eq!(driver(&machine).0.as_deref(), Some(VFIO_PCI));
}

#[test]
fn what_cannot_be_put_back_is_said() {
    let (machine, _) = disk();
    let mut kernel = FakeKernel {
        refuses: Some(VFIO_PCI),
        fails: Some("nvme/bind"),
        ..FakeKernel::new(&machine)
    };
    let error = bind(&machine, &mut kernel).unwrap_err().to_string();
    assert!(error.contains("putting it back to nvme failed"), "{error}");
    assert!(error.contains("no driver has it now"), "{error}");
}

#[test]
fn a_function_that_is_held_is_not_taken_back() {
    let (machine, _) = disk();
    bind(&machine, &mut FakeKernel::new(&machine)).unwrap();
    machine.process(50, "doorbell", &["/dev/vfio/vfio", "/dev/vfio/3"]).unwrap();
    let error = Move::unbind(machine.roots(), address()).unwrap_err().to_string();
    assert!(error.contains("process 50 (doorbell)") && error.contains("/dev/vfio/3"), "{error}");
}

#[test]
fn a_move_that_could_not_look_everywhere_is_refused() {
    let (machine, _) = disk();
    std::fs::remove_file(machine.folder().join("dev/nvme0n1")).unwrap();
    let mut kernel = FakeKernel::new(&machine);
    let error = bind(&machine, &mut kernel).unwrap_err().to_string();
    assert!(error.contains("whether the kernel has nvme0n1 claimed"), "{error}");
    assert!(kernel.written.is_empty());
    let forced = Move::bind(machine.roots(), address(), true).unwrap();
    forced.carry_out(machine.roots(), &mut kernel).unwrap();
}
