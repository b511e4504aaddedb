//! The machines of the plan.

use crate::host::firmware;
use crate::host::machine::{Disk, Iommu, Machine};
use crate::host::served::{Image, Served};
use crate::proofs::Site;

/// The disk that most proofs use: 16 MiB at 0000:00:04.0.
pub const DISK: Disk = Disk { name: "disk", blocks: 32768, seed: 0x0d15_c000 };
/// A disk in one IOMMU group with [`TWIN`], at 0000:00:09.0.
pub const HELD: Disk = Disk { name: "held", blocks: 2048, seed: 0x0d15_c001 };
/// A function of the same device, at 0000:00:09.1, which the kernel's own driver keeps.
pub const TWIN: Disk = Disk { name: "twin", blocks: 2048, seed: 0x0d15_c002 };
/// A disk in a slot that can be emptied, below 0000:00:0a.0.
pub const SLOT: Disk = Disk { name: "slot", blocks: 2048, seed: 0x0d15_c003 };
/// A disk on NUMA node 1.
pub const FAR: Disk = Disk { name: "far", blocks: 2048, seed: 0x0d15_c004 };
/// A disk for programs that write what they like, at 0000:00:06.0; its proofs fill it with a pattern in the end.
pub const SCRATCH: Disk = Disk { name: "scratch", blocks: 16384, seed: 0x0d15_c006 };
/// The namespace that the physical function and its virtual functions share, below 0000:00:0b.0.
pub const SHARED: Disk = Disk { name: "shared", blocks: 8192, seed: 0x0d15_c005 };

/// The namespace that guests make a file system on: 128 MiB.
pub const FILES: Image = Image { name: "files", blocks: 1 << 18, seed: 0x0d15_c006, filled: 128 };
/// The namespace for firmware, for loads and for Format NVM: 48 MiB.
pub const LOAD: Image =
    Image { name: "load", blocks: 96 << 10, seed: 0x0d15_c007, filled: firmware::BLOCKS as u64 };
/// The serial number of the controller that is served.
pub const SERIAL: &str = "LAB-SERVED";
/// Our software controller, at 0000:00:04.0.
const CONTROLLER: Served =
    Served { name: "nvme0", model: MODEL, images: &[FILES, LOAD], slot: "04.0" };
/// The same, and it offers shadow doorbells.
const SHADOWED: Served =
    Served { model: "nvme,serial=LAB-SERVED,queues=8,depth=1024,dbbuf=yes", ..CONTROLLER };
/// A device without queues, at 0000:00:05.0, as QEMU's own one in the main machine.
const ENGINE: Served = Served { name: "edu", model: "edu", images: &[], slot: "05.0" };
/// Eight queue pairs: more than the guest has processors. 1024 entries each, the most that Linux uses.
const MODEL: &str = "nvme,serial=LAB-SERVED,queues=8,depth=1024";

/// The machine for a site.
#[must_use]
pub fn machine(site: Site) -> Machine {
    let machine = Machine::new(site.name());
    let disk = |machine: Machine| machine.nvme(DISK, "bus=pcie.0,addr=04.0");
    let served = |machine: Machine| machine.served(CONTROLLER);
    match site {
        Site::Main => main(disk(machine)),
        Site::NoIommu => disk(machine).iommu(Iommu::Absent),
        Site::VirtioIommu => disk(machine).iommu(Iommu::Virtio),
        Site::Served => served(machine).iommu(Iommu::Absent).shared_memory().firmware().boots(2),
        // The last of the words on the kernel's command line counts.
        Site::ServedPassthrough => machine.served(SHADOWED).shared_memory().append("iommu=pt"),
        Site::ServedTranslated => served(machine).served(ENGINE).shared_memory(),
        Site::ServedPrivate => served(machine).iommu(Iommu::Absent),
    }
}

fn main(machine: Machine) -> Machine {
    machine
        .two_nodes()
        .device("edu,id=edu,bus=pcie.0,addr=05.0")
        .nvme(SCRATCH, "bus=pcie.0,addr=06.0")
        .nvme(HELD, "bus=pcie.0,addr=09.0,multifunction=on")
        .nvme(TWIN, "bus=pcie.0,addr=09.1")
        .device("pcie-root-port,id=slot-port,bus=pcie.0,addr=0a.0,chassis=10,slot=10")
        .nvme(SLOT, "bus=slot-port")
        .device("pcie-root-port,id=vf-port,bus=pcie.0,addr=0b.0,chassis=11,slot=11")
        .disk(SHARED)
        .device("nvme-subsys,id=subsystem")
        .device(
            "nvme,id=pf,serial=pf,subsys=subsystem,bus=vf-port,max_ioqpairs=8,msix_qsize=9,\
             sriov_max_vfs=2,sriov_vq_flexible=4,sriov_vi_flexible=4",
        )
        .device("nvme-ns,drive=shared-drive,bus=pf,nsid=1,shared=on")
        .device("pxb-pcie,id=far-bridge,bus_nr=64,numa_node=1,bus=pcie.0,addr=0c.0")
        .device("pcie-root-port,id=far-port,bus=far-bridge,chassis=12,slot=12")
        .nvme(FAR, "bus=far-port")
}
