//! The IOMMU: there, turned on, and able to remap interrupts.

use doorbell::pci::sysfs::{Roots, names, printable, text};

use super::finding::{Finding, Part, State};

const PAGE: usize = 4096;
/// A machine with hundreds of cores has a column for each of them in every line.
const INTERRUPTS: usize = 64 << 20;

pub(super) fn look(roots: &Roots) -> Vec<Finding> {
    let groups = names(&roots.sys.join("kernel/iommu_groups")).unwrap_or_default().len();
    let mut findings = vec![units(roots, groups)];
    if groups > 0 {
        findings.push(remapping(roots));
    }
    findings.extend(switches(roots));
    findings
}

fn units(roots: &Roots, groups: usize) -> Finding {
    const WHAT: &str = "IOMMU";
    if groups > 0 {
        let units = names(&roots.sys.join("class/iommu")).unwrap_or_default();
        let kinds: Vec<_> = units.iter().map(|unit| kind(unit)).collect();
        let mut kinds: Vec<_> = kinds.into_iter().flatten().collect();
        kinds.dedup();
        let by = if kinds.is_empty() { String::new() } else { format!(" ({})", kinds.join(", ")) };
        return Finding::ok(Part::Vfio, WHAT, format!("{groups} groups{by}"));
    }
    let table = |name: &str| roots.sys.join("firmware/acpi/tables").join(name).exists();
    let line = text(&roots.proc.join("cmdline"), 1 << 16).unwrap_or_default();
    let off = |option: &str| line.split_whitespace().any(|word| word == option);
    let (found, todo) = if table("DMAR") {
        ("the firmware offers VT-d (ACPI table DMAR), and the kernel has it off", INTEL)
    } else if table("IVRS") && (off("amd_iommu=off") || off("iommu=off")) {
        (
            "the firmware offers AMD-Vi (ACPI table IVRS); the kernel's command line turns it off",
            AMD,
        )
    } else if table("IVRS") {
        ("the firmware offers AMD-Vi (ACPI table IVRS), and the kernel has it off", AMD_LOG)
    } else if is_virtual(roots) {
        ("this virtual machine has none", GUEST)
    } else {
        ("the firmware offers none (no ACPI table DMAR or IVRS)", FIRMWARE)
    };
    Finding::new(Part::Vfio, WHAT, State::Missing, found).todo(todo)
}

const INTEL: &str = "add intel_iommu=on to the kernel's command line (GRUB_CMDLINE_LINUX in \
                     /etc/default/grub, then update-grub) and restart";
const AMD: &str = "take amd_iommu=off and iommu=off from the kernel's command line and restart";
const AMD_LOG: &str = "look for AMD-Vi in the kernel's log: dmesg | grep -i amd-vi";
const GUEST: &str = "give it a virtual one (QEMU: -machine q35,kernel-irqchip=split -device \
                     intel-iommu,intremap=on,caching-mode=on), or use software devices";
const FIRMWARE: &str = "turn on VT-d or AMD-Vi (also called IOMMU) in the BIOS or UEFI setup";

fn kind(unit: &str) -> Option<&'static str> {
    let kinds = [
        ("dmar", "Intel VT-d"),
        ("ivhd", "AMD-Vi"),
        ("smmu", "Arm SMMU"),
        ("virtio", "virtio-iommu"),
    ];
    kinds
        .iter()
        .find(|(begin, _)| unit.starts_with(begin) || unit.contains(begin))
        .map(|(_, kind)| *kind)
}

fn is_virtual(roots: &Roots) -> bool {
    let cpus = text(&roots.proc.join("cpuinfo"), INTERRUPTS).unwrap_or_default();
    let flags = cpus.lines().find(|line| line.starts_with("flags"));
    flags.is_some_and(|flags| flags.split_whitespace().any(|flag| flag == "hypervisor"))
}

/// Without it a device can forge interrupts, and VFIO refuses to hand it out. The kernel names the
/// interrupt chips that remap `IR-...`.
fn remapping(roots: &Roots) -> Finding {
    const WHAT: &str = "interrupt remapping";
    let interrupts = text(&roots.proc.join("interrupts"), INTERRUPTS).unwrap_or_default();
    if interrupts.split_whitespace().any(|word| word.starts_with("IR-")) {
        return Finding::ok(Part::Vfio, WHAT, "on");
    }
    if !cfg!(target_arch = "x86_64") {
        return Finding::new(Part::Vfio, WHAT, State::Note, "not looked at on this architecture");
    }
    if unsafe_interrupts(roots) {
        return Finding::new(
            Part::Vfio,
            WHAT,
            State::Warn,
            "off, and allow_unsafe_interrupts is set",
        )
        .todo("a device can forge interrupts of others: only for devices and drivers you trust");
    }
    let able = names(&roots.sys.join("class/iommu")).unwrap_or_default().iter().any(|unit| {
        let path = roots.sys.join("class/iommu").join(unit).join("intel-iommu/ecap");
        // Extended capability register, bit 3 (VT-d 4.1, 11.4.3).
        let ecap = text(&path, PAGE).ok().and_then(|ecap| u64::from_str_radix(&ecap, 16).ok());
        ecap.is_some_and(|ecap| ecap >> 3 & 1 == 1)
    });
    let found = if able { "off, although the IOMMU can" } else { "off" };
    Finding::new(Part::Vfio, WHAT, State::Missing, found).todo(
        "turn on x2APIC and interrupt remapping in the BIOS or UEFI setup and take nointremap and \
         intremap=off from the kernel's command line; VFIO refuses devices without it",
    )
}

fn unsafe_interrupts(roots: &Roots) -> bool {
    is_on(roots, "vfio_iommu_type1", "allow_unsafe_interrupts")
        || is_on(roots, "iommufd", "allow_unsafe_interrupts")
}

pub(super) fn is_on(roots: &Roots, module: &str, parameter: &str) -> bool {
    let path = roots.sys.join("module").join(module).join("parameters").join(parameter);
    matches!(text(&path, PAGE).as_deref(), Ok("Y" | "1"))
}

/// Switches that make real devices less safe.
fn switches(roots: &Roots) -> Vec<Finding> {
    let mut findings = Vec::new();
    if is_on(roots, "vfio", "enable_unsafe_noiommu_mode") {
        let found = "vfio.enable_unsafe_noiommu_mode is set";
        findings.push(
            Finding::new(Part::Vfio, "no-IOMMU mode", State::Warn, found)
                .todo("devices bound without an IOMMU can reach all of memory: turn it off"),
        );
    }
    let line = text(&roots.proc.join("cmdline"), 1 << 16).unwrap_or_default();
    if let Some(word) = line.split_whitespace().find(|word| word.starts_with("pcie_acs_override")) {
        let found = format!("{} is on the kernel's command line", printable(word));
        findings.push(
            Finding::new(Part::Vfio, "IOMMU groups", State::Warn, found)
                .todo("devices in different groups may reach each other all the same"),
        );
    }
    findings
}
