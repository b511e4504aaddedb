//! The catalogue of proofs: what the lab can say about Doorbell, and where it can say it.

/// The machines that the lab boots.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Site {
    /// VT-d, two NUMA nodes, and devices of every kind.
    Main,
    /// No IOMMU.
    NoIommu,
    /// virtio-iommu, which remaps no interrupts.
    VirtioIommu,
    /// A guest that drives our software controller over vfio-user with its own driver: no IOMMU, firmware that uses
    /// the disk first, a reboot.
    Served,
    /// The same behind VT-d with an identity map (`iommu=pt`).
    ServedPassthrough,
    /// The same behind VT-d that translates (`iommu=nopt`).
    ServedTranslated,
    /// The same with memory that the server cannot map: all DMA is by messages.
    ServedPrivate,
}

/// The machines whose guest drives a device that we serve.
pub const SERVED: [Site; 4] =
    [Site::Served, Site::ServedPassthrough, Site::ServedTranslated, Site::ServedPrivate];

impl Site {
    /// Its name in messages between guest and host.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Main => "main",
            Self::NoIommu => "no-iommu",
            Self::VirtioIommu => "virtio-iommu",
            Self::Served => "served",
            Self::ServedPassthrough => "served-pt",
            Self::ServedTranslated => "served-nopt",
            Self::ServedPrivate => "served-private",
        }
    }
}

/// Rounds of a plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rounds {
    /// In each: what the first leaves behind the second finds.
    Each,
    /// In the first one: a plan of its own, which starts and ends many brokers by itself.
    First,
    /// In the last one: it leaves the machine without the device that it is about.
    Last,
}

impl Rounds {
    /// Whether round `round` of `of` is meant, counted from 1.
    #[must_use]
    pub const fn has(self, round: u32, of: u32) -> bool {
        match self {
            Self::Each => true,
            Self::First => round == 1,
            Self::Last => round >= of,
        }
    }
}

/// One proof.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Proof {
    /// Its name; `--only` chooses by it.
    pub name: &'static str,
    /// What it shows, in a line.
    pub about: &'static str,
    /// The machines that it is done on.
    pub sites: &'static [Site],
    /// In which boot of the machine.
    pub boot: u32,
    /// Whether it is done over each bus of the kernel; else once.
    pub each_bus: bool,
    /// In which rounds of the plan it is done.
    pub rounds: Rounds,
}

impl Proof {
    /// Whether one of these is a part of its name; all proofs are meant if there is none.
    #[must_use]
    pub fn is_named_by(&self, only: &[String]) -> bool {
        only.is_empty() || only.iter().any(|part| self.name.contains(part.as_str()))
    }
}

const fn over_each_bus(name: &'static str, about: &'static str) -> Proof {
    Proof { name, about, sites: &[Site::Main], boot: 1, each_bus: true, rounds: Rounds::Each }
}

const fn plan(name: &'static str, about: &'static str) -> Proof {
    Proof { rounds: Rounds::First, ..over_each_bus(name, about) }
}

const fn once(sites: &'static [Site], name: &'static str, about: &'static str) -> Proof {
    Proof { name, about, sites, boot: 1, each_bus: false, rounds: Rounds::Each }
}

const fn served(sites: &'static [Site], name: &'static str, about: &'static str) -> Proof {
    Proof { rounds: Rounds::Last, ..once(sites, name, about) }
}

/// The proof that needs the framework's test program.
pub const BUS_TESTS: Proof =
    plan("bus-tests", "the framework's own tests of its buses, on a real controller");

/// Every proof, in the order in which a guest goes through them.
pub const ALL: &[Proof] = &[
    once(&[Site::Main], "kernel", "VT-d is on and remaps interrupts; the kernel offers the buses"),
    over_each_bus(
        "bring-up",
        "the broker takes the device over, serves it, and says over which bus",
    ),
    over_each_bus(
        "identify",
        "Identify shows the serial number and the size that the machine was given; shadow doorbells are in use",
    ),
    over_each_bus("read", "a read of the whole disk equals the image that the host made"),
    over_each_bus(
        "write",
        "what is written and flushed is in the image, and nothing else has changed",
    ),
    over_each_bus(
        "interrupts",
        "waiting without polling completes by MSI-X; the kernel counts the interrupts",
    ),
    over_each_bus(
        "two-clients",
        "two processes with queues and memory of their own, at the same time",
    ),
    over_each_bus(
        "stray-dma",
        "a command that points outside all mappings: fault in the kernel's log, data untouched",
    ),
    over_each_bus(
        "killed-client",
        "a client killed with I/O in flight: its queue and its mappings are gone",
    ),
    over_each_bus(
        "revoked-client",
        "a client that is revoked gets an error of one line; its neighbour goes on",
    ),
    over_each_bus(
        "broker-restart",
        "a broker that is killed, and one that is stopped: the next one takes over",
    ),
    over_each_bus(
        "reset",
        "a reset by the operator: every client gets an error of one line, the next claim works",
    ),
    over_each_bus(
        "numa",
        "a device on node 1: the broker stays on its processors, and its memory lies there",
    ),
    over_each_bus(
        "poller",
        "one poller near a device on node 1: on its processor, four queues, and their memory lies there",
    ),
    over_each_bus(
        "ordinary-user",
        "a user who owns the device's files and may pin memory serves without root",
    ),
    over_each_bus("memlock", "a limit on pinned memory that is too small: one line that names it"),
    over_each_bus(
        "slice",
        "tier paged is refused in one line: QEMU's NVMe has all doorbells in one page, and all shadows",
    ),
    over_each_bus(
        "revocable-slice",
        "a client that holds nothing but a dma-buf is revoked under load; kernels without: refused",
    ),
    over_each_bus(
        "virtual-function",
        "clients with a virtual function each: their own, used again after a kill, no more than two",
    ),
    plan("conformance", "the whole conformance plan on an NVMe controller"),
    plan(
        "edu",
        "the same for a driver without queues: QEMU's edu device, its engine, DMA and interrupt",
    ),
    BUS_TESTS,
    once(&[Site::Main], "operator", "bind, unbind, list and check on a live kernel"),
    once(&[Site::Main], "held", "a device that another driver holds: one line that says which"),
    once(
        &[Site::Main],
        "not-viable",
        "a group with a device of another driver in it: one line that names it",
    ),
    once(&[Site::Main], "released", "no process, no mapping and no file of a device is left"),
    Proof {
        rounds: Rounds::Last,
        ..over_each_bus(
            "unplug",
            "a device that is unplugged under load: every grant ends with an error of one line",
        )
    },
    once(&[Site::NoIommu], "no-iommu", "without an IOMMU the broker refuses in one line"),
    once(
        &[Site::VirtioIommu],
        "no-remapping",
        "without interrupt remapping the broker refuses in one line",
    ),
    served(
        &[Site::Served],
        "guest-firmware",
        "firmware has read and written our controller's disk before the kernel came",
    ),
    served(
        &SERVED,
        "guest-driver",
        "the guest's own nvme driver runs our controller: its size, its serial number, MSI-X",
    ),
    served(
        &[Site::ServedPassthrough],
        "guest-shadows",
        "the guest's driver keeps shadow doorbells, which all data goes by; a reset ends them until it tells again",
    ),
    served(
        &SERVED,
        "guest-files",
        "an ext4 file system: made, filled, read back from the disk, checked, unmounted",
    ),
    served(
        &SERVED,
        "guest-load",
        "fio writes and verifies at full queue depth, and with transfers of all sizes",
    ),
    served(
        &SERVED,
        "guest-resets",
        "the guest resets the controller and the function while it writes; nothing is lost",
    ),
    Proof {
        each_bus: true,
        ..served(
            &[Site::ServedTranslated],
            "guest-edu",
            "the edu model, served: our own driver in the guest drives it through vfio-pci",
        )
    },
    served(
        &[Site::Served],
        "guest-tools",
        "nvme-cli: what id-ctrl, id-ns, smart-log and error-log show",
    ),
    served(
        &[Site::Served],
        "guest-refusals",
        "nvme-cli sends commands that are not valid: each ends with the status it must",
    ),
    served(
        &[Site::Served],
        "guest-format",
        "nvme-cli formats a namespace, with 4096-byte blocks and back; it is empty afterwards",
    ),
    served(
        &SERVED,
        "guest-kept",
        "the files are still there, and can be renamed, truncated and removed",
    ),
    served(&SERVED, "guest-log", "the guest's kernel complains of nothing"),
    Proof {
        boot: 2,
        ..served(
            &[Site::Served],
            "guest-reboot",
            "after a reboot without power-off the files are there, and new ones can be written",
        )
    },
    Proof {
        boot: 2,
        ..served(
            &[Site::Served],
            "guest-reboot-log",
            "the guest's kernel complains of nothing after the reboot either",
        )
    },
];

/// A proof, by its name.
#[must_use]
pub fn named(name: &str) -> Option<&'static Proof> {
    ALL.iter().find(|proof| proof.name == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_book_has_a_row_for_each_proof() {
        let book = include_str!("../../book/src/lab.md");
        let rows: Vec<_> = book
            .lines()
            .filter(|line| line.starts_with("| `") && line.matches('|').count() == 5)
            .collect();
        let row = |proof: &Proof| {
            let buses = if proof.each_bus { "each bus" } else { "once" };
            let sites: Vec<_> = proof.sites.iter().map(|site| site.name()).collect();
            format!("| `{}` | {} | {buses} | {} |", proof.name, sites.join(", "), proof.about)
        };
        assert_eq!(rows, ALL.iter().map(row).collect::<Vec<_>>());
    }

    #[test]
    fn names_are_unique_and_can_be_typed() {
        for (at, proof) in ALL.iter().enumerate() {
            assert!(
                ALL.iter().skip(at + 1).all(|other| other.name != proof.name),
                "{}",
                proof.name
            );
            assert!(
                proof.name.chars().all(|c| c.is_ascii_lowercase() || c == '-'),
                "{}",
                proof.name
            );
            assert_eq!(named(proof.name), Some(proof));
        }
        assert_eq!(named("no-such-proof"), None);
    }
}
