//! The buses on a real controller (or a virtual machine's): `DOORBELL_TEST_NVME` names one that
//! `vfio-pci` has and whose contents do not matter; nothing is written to its media. `DOORBELL_TEST_BUS`
//! names a bus if it is to be that one alone.

use std::collections::BTreeSet;
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::*;
use crate::bus::proof::{PartitionId, PartitionQuiesced};
use crate::dma::{Access, HugePages, Memfd, Prefault};

pub(super) const IOVA: u64 = 5 << 30;
pub(super) const PATIENCE: Duration = Duration::from_secs(20);

pub(super) fn address() -> Address {
    let named = std::env::var("DOORBELL_TEST_NVME").expect("name a controller");
    named.parse().unwrap()
}

/// The buses to go through, in this order.
pub(super) fn buses() -> Vec<String> {
    match std::env::var("DOORBELL_TEST_BUS") {
        Ok(bus) => vec![bus],
        Err(_) => ["container", "cdev", "container"].map(str::to_owned).to_vec(),
    }
}

fn open(bus: &str) -> VfioBus {
    VfioBus::open(address(), &[("bus".to_owned(), bus.to_owned())]).unwrap()
}

fn until_ready(bus: &VfioBus, ready: u64) {
    let deadline = Deadline::after(PATIENCE);
    while bus.read(0, 0x1c, Width::B4).unwrap() & 1 != ready {
        assert!(!deadline.expired(), "CSTS.RDY is not {ready}");
        std::thread::yield_now();
    }
}

fn interrupted(eventfd: &OwnedFd) -> bool {
    let mut fds = [PollFd::new(eventfd, PollFlags::IN)];
    let timeout = Timespec { tv_sec: PATIENCE.as_secs() as i64, tv_nsec: 0 };
    poll(&mut fds, Some(&timeout)).unwrap() == 1
}

/// Identify Controller by an admin queue of two entries, completion by interrupt. Returns the ids in
/// the first bytes of what came.
fn identify(bus: &VfioBus, memory: &SharedMem) -> [u16; 2] {
    identify_by(bus, memory, || bus.write(0, 0x1000, Width::B4, 1).unwrap())
}

/// The same; `ring` stores 1 to the admin queue's doorbell.
pub(super) fn identify_by(bus: &VfioBus, memory: &SharedMem, ring: impl FnOnce()) -> [u16; 2] {
    bus.write(0, 0x14, Width::B4, 0).unwrap();
    until_ready(bus, 0);
    memory.fill(0, memory.len(), 0).unwrap();
    bus.write(0, 0x24, Width::B4, 1 << 16 | 1).unwrap();
    bus.write(0, 0x28, Width::B8, IOVA).unwrap();
    bus.write(0, 0x30, Width::B8, IOVA + 0x1000).unwrap();
    bus.write(0, 0x14, Width::B4, 4 << 20 | 6 << 16 | 1).unwrap();
    until_ready(bus, 1);
    let interrupt = bus.signals(0).unwrap().interrupt;
    // An interrupt of before is not the one that is waited for.
    let _ = rustix::io::read(&interrupt, &mut [0; 8]);
    let data = IOVA + 0x2000;
    let mut entry = [0u32; 16];
    (entry[0], entry[6], entry[7], entry[10]) = (6, data as u32, (data >> 32) as u32, 1);
    memory.write(0, &entry).unwrap();
    ring();
    assert!(interrupted(&interrupt), "no interrupt came");
    assert_eq!(memory.read::<u32>(0x100c).unwrap() >> 16, 1, "phase, and status 0");
    memory.read(0x2000).unwrap()
}

fn on(kind: &str) {
    let bus = open(kind);
    assert_eq!((bus.kind(), bus.identity().class), (kind, 0x01_0802));
    let msix = bus.function.config().unwrap().msix().unwrap().expect("a controller with MSI-X");
    for part in [msix.table, msix.pending] {
        assert!(bus.map(part.bar, part.offset & !0xfff, 8).is_err(), "a page of MSI-X is mapped");
        assert!(bus.export(part.bar, part.offset, 4, Tier::Cooperative).is_err());
    }
    let slice = bus.export(0, 0x1000, 8, Tier::Cooperative).unwrap();
    assert_eq!((slice.region_offset, slice.len), (0x1000, 0x1000));
    assert!(bus.config_write(layout::COMMAND, Width::B2, 0).is_err());
    assert!(bus.config_read(4096, Width::B1).is_err());

    let memfd = Memfd::create("test", 0x4000, HugePages::No).unwrap();
    let memory = memfd.map(Prefault::No).unwrap();
    let (space, whose) = (bus.dma(), PartitionId(3));
    let map = |iova, len| space.map(whose, iova, &memfd, 0, len, Access::ReadWrite);
    let mapping = map(IOVA, 0x4000).unwrap();
    for (iova, len) in
        [(IOVA + 0x3000, 0x1000), (IOVA - 0x1000, 0x2000), (0xfee0_0000, 0x1000), (1 << 50, 0x1000)]
    {
        assert!(map(iova, len).is_err(), "{iova:#x}");
    }
    let ids = [bus.identity().vendor, 0];
    assert_eq!(identify(&bus, &memory)[0], ids[0]);
    // A reset keeps mappings and interrupts, and a vector that was retired signals its new eventfd.
    bus.reset(Deadline::after(PATIENCE)).unwrap();
    assert_eq!(identify(&bus, &memory)[0], ids[0]);
    let old = bus.signals(0).unwrap().interrupt;
    let _ = rustix::io::read(&old, &mut [0; 8]);
    bus.retire_signals(0);
    assert_eq!(identify(&bus, &memory)[0], ids[0]);
    assert!(rustix::io::read(&old, &mut [0; 8]).is_err(), "a retired eventfd was signalled");

    let held = BTreeSet::new();
    let other = PartitionQuiesced::of(PartitionId(4), &held, Vec::new()).unwrap();
    let (mapping, _) = space.unmap(mapping, &other).unwrap_err();
    let proof = PartitionQuiesced::of(whose, &held, Vec::new()).unwrap();
    assert_eq!(space.unmap(mapping, &proof).unwrap().range(), (IOVA, 0x4000));
    assert!(bus.events().is_empty());
    // Open, it is nobody else's.
    let error = VfioBus::open(address(), &[]).unwrap_err();
    assert!(matches!(error, BusError::Open { .. }), "{error}");
}

#[test]
#[ignore = "needs an NVMe controller that vfio-pci has, named by DOORBELL_TEST_NVME"]
fn each_bus_drives_a_controller_and_leaves_it_as_it_was() {
    let config = format!("/sys/bus/pci/devices/{}/config", address());
    let command = || {
        let bytes = std::fs::read(&config).unwrap();
        u16::from_le_bytes([bytes[4], bytes[5]])
    };
    let before = command();
    for kind in buses() {
        on(&kind);
        assert_eq!(command(), before, "the command register after {kind}");
        assert_eq!(before & layout::COMMAND_BUS_MASTER, 0);
    }
}
