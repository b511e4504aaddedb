use doorbell::pci::sysfs::testing::{FakeFunction, FakeMachine};

use super::*;

const FREE: &str = "Max locked memory         unlimited            unlimited            bytes\n";

/// A machine on which everything is as it should be, with one NVMe controller bound to vfio-pci.
fn good() -> FakeMachine {
    let machine = FakeMachine::new().unwrap();
    for (path, text) in [
        ("proc/cmdline", "root=/dev/vda1 quiet"),
        ("proc/cpuinfo", "flags : fpu vmx"),
        ("proc/interrupts", "24: 0 0 IR-PCI-MSIX-0000:01:00.0 0-edge nvme0q0"),
        ("proc/self/limits", FREE),
        ("proc/self/status", "CapEff:\t0000000000000000"),
        ("proc/meminfo", "HugePages_Total: 4\nHugePages_Free: 3\nHugepagesize: 2048 kB"),
        ("proc/devices", "246 vfio-dev\n247 vfio"),
        ("proc/sys/kernel/osrelease", "6.1.0-test"),
        ("sys/class/iommu/dmar0/intel-iommu/ecap", "f00f4a"),
        ("sys/devices/system/node/node0/cpulist", "0-1"),
        ("sys/module/vfio_iommu_type1/parameters/dma_entry_limit", "65535"),
    ] {
        machine.write(path, text).unwrap();
    }
    for node in ["vfio/vfio", "vfio/3", "iommu"] {
        machine.node(node).unwrap();
    }
    let nvme = FakeFunction { driver: Some("vfio-pci"), ..FakeFunction::nvme(3) };
    machine.function(address(), &nvme).unwrap();
    machine
}

fn address() -> doorbell::pci::Address {
    "0000:01:00.0".parse().unwrap()
}

fn report(machine: &FakeMachine) -> Report {
    let mut findings = super::machine(machine.roots());
    findings.extend(device::named(machine.roots(), address()));
    Report::new(findings, true)
}

/// The one thing that is missing, with what to do.
#[track_caller]
fn missing(machine: &FakeMachine) -> (String, String) {
    let findings = report(machine).findings;
    let missing: Vec<_> = findings.iter().filter(|one| one.state == State::Missing).collect();
    assert_eq!(missing.len(), 1, "{missing:?}");
    let todo = missing[0].todo.clone().unwrap_or_default();
    (missing[0].what.clone(), format!("{}; {todo}", missing[0].found))
}

fn state(machine: &FakeMachine, what: &str) -> Option<State> {
    report(machine).findings.iter().find(|one| one.what == what).map(|one| one.state)
}

#[test]
fn a_machine_on_which_all_is_well() {
    let machine = good();
    let report = report(&machine);
    assert!(report.vfio && report.cdev && report.device == Some(true), "{}", report.text());
    report.verdict(Require::Cdev).unwrap();
    let text = report.text();
    assert!(text.contains("1 groups (Intel VT-d)") && text.contains("3 of 4 free"), "{text}");
    assert!(text.contains("by the container and by iommufd"), "{text}");
}

#[test]
fn a_stock_kernel_has_the_container_only() {
    let machine = good();
    std::fs::remove_file(machine.folder().join("dev/iommu")).unwrap();
    machine.write("proc/devices", "247 vfio").unwrap();
    let report = report(&machine);
    assert!(report.vfio && !report.cdev);
    report.verdict(Require::Vfio).unwrap();
    let error = report.verdict(Require::Cdev).unwrap_err().to_string();
    assert!(error.contains("/dev/iommu, VFIO cdev"), "{error}");
}

#[test]
fn an_iommu_that_is_off_says_where_to_turn_it_on() {
    let machine = FakeMachine::new().unwrap();
    let found = |machine: &FakeMachine| {
        let iommu = iommu::look(machine.roots()).remove(0);
        assert_eq!(iommu.state, State::Missing);
        format!("{} {}", iommu.found, iommu.todo.unwrap())
    };
    assert!(found(&machine).contains("BIOS or UEFI"));
    machine.write("proc/cpuinfo", "processor: 0\nflags : fpu hypervisor").unwrap();
    assert!(found(&machine).contains("intel-iommu"));
    machine.write("sys/firmware/acpi/tables/DMAR", "").unwrap();
    assert!(found(&machine).contains("intel_iommu=on"));
    std::fs::remove_file(machine.folder().join("sys/firmware/acpi/tables/DMAR")).unwrap();
    machine.write("sys/firmware/acpi/tables/IVRS", "").unwrap();
    assert!(found(&machine).contains("dmesg"));
    machine.write("proc/cmdline", "quiet amd_iommu=off").unwrap();
    assert!(found(&machine).contains("take amd_iommu=off"));
}

#[test]
fn interrupts_that_are_not_remapped() {
    let machine = good();
    machine.write("proc/interrupts", "24: 0 0 PCI-MSIX-0000:01:00.0 0-edge nvme0q0").unwrap();
    if !cfg!(target_arch = "x86_64") {
        return;
    }
    let (what, said) = missing(&machine);
    assert_eq!(what, "interrupt remapping");
    assert!(said.contains("although the IOMMU can") && said.contains("intremap=off"), "{said}");
    let switch = "sys/module/vfio_iommu_type1/parameters/allow_unsafe_interrupts";
    machine.write(switch, "Y").unwrap();
    assert_eq!(state(&machine, "interrupt remapping"), Some(State::Warn));
    assert!(report(&machine).vfio);
}

#[test]
fn vfio_that_is_not_loaded_or_not_there() {
    let machine = good();
    machine.set_driver(address(), Some("nvme")).unwrap();
    std::fs::remove_dir_all(machine.folder().join("sys/bus/pci/drivers/vfio-pci")).unwrap();
    let driver = || {
        let found = vfio::look(machine.roots()).remove(0);
        format!("{} {}", found.found, found.todo.unwrap())
    };
    assert!(driver().contains("no such module"));
    let list = "kernel/a/other.ko.xz:\nkernel/drivers/vfio/pci/vfio-pci.ko.xz: kernel/x.ko.xz\n";
    machine.write("lib/modules/6.1.0-test/modules.dep", list).unwrap();
    assert!(driver().contains("modprobe vfio-pci"));
}

#[test]
fn memory_that_may_not_be_locked() {
    let machine = good();
    let limits = |soft: &str, hard: &str| {
        let line = format!("Max locked memory         {soft}   {hard}    bytes\n");
        machine.write("proc/self/limits", &line).unwrap();
    };
    limits("8388608", "8388608");
    let (what, said) = missing(&machine);
    assert_eq!(what, "locked memory");
    assert!(
        said.contains("8 MiB") && said.contains("limits.d") && said.contains("66 MiB"),
        "{said}"
    );
    limits("8388608", "unlimited");
    assert!(missing(&machine).1.contains("ulimit -l unlimited"));
    limits("69206016", "69206016");
    assert_eq!(state(&machine, "locked memory"), Some(State::Ok));
    limits("8388608", "8388608");
    machine.write("proc/self/status", "CapEff:\t0000000000004000").unwrap();
    assert_eq!(state(&machine, "locked memory"), Some(State::Ok), "CAP_IPC_LOCK");
    // A container's root has the capability and it does not count.
    machine.write("proc/self/ns/user", "").unwrap();
    machine.write("proc/self/uid_map", "0 100000 65536").unwrap();
    assert_eq!(state(&machine, "locked memory"), Some(State::Missing));
    for nonsense in ["", "Max locked memory", "Max locked memory x y"] {
        machine.write("proc/self/limits", nonsense).unwrap();
        assert_eq!(state(&machine, "locked memory"), Some(State::Warn), "{nonsense}");
    }
}

#[test]
fn a_device_that_is_not_ready() {
    let machine = good();
    machine.set_driver(address(), Some("nvme")).unwrap();
    assert_eq!(missing(&machine).0, "0000:01:00.0");
    assert!(missing(&machine).1.contains("doorbell bind"));
    assert!(report(&machine).verdict(Require::Vfio).is_err());
    let all = device::all(machine.roots());
    assert_eq!((all.len(), all[0].state), (1, State::Note), "nobody asked for this one");
    let other = FakeFunction { class: 0x03_0000, ..FakeFunction::nvme(3) };
    machine.function(address(), &other).unwrap();
    let text = report(&machine).text();
    assert!(text.contains("no driver for vendor 0x1b36"), "{text}");
}

#[test]
fn modes_that_are_not_safe_are_warned_of() {
    let machine = good();
    machine.write("sys/module/vfio/parameters/enable_unsafe_noiommu_mode", "Y").unwrap();
    machine.write("proc/cmdline", "quiet pcie_acs_override=downstream").unwrap();
    assert_eq!(state(&machine, "no-IOMMU mode"), Some(State::Warn));
    assert_eq!(state(&machine, "IOMMU groups"), Some(State::Warn));
}
