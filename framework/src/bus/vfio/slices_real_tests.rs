//! Slices of a real controller's BAR, revoked while they are in use: `DOORBELL_TEST_NVME` names one that
//! `vfio-pci` has, `DOORBELL_TEST_REVOKE` the feature that revokes.

use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};

use super::real_tests::{PATIENCE, address, buses, identify_by};
use super::*;
use crate::bus::QueueToken;
use crate::bus::proof::PartitionId;
use crate::dma::{Access, DmaError, HugePages, Memfd, Prefault, Watch, map_revocable};

fn open(kind: &str, number: &str) -> VfioBus {
    let options = [("bus", kind), ("dmabuf-revoke", number), ("dmabuf-memattr", "15")];
    VfioBus::open(address(), &options.map(|(key, value)| (key.to_owned(), value.to_owned())))
        .unwrap()
}

fn proof() -> Quiesced {
    QueueToken::mint(1, PartitionId(3)).quiesced()
}

/// A slice as a client has it.
fn mapped(slice: &Slice) -> (SharedMem, Arc<AtomicBool>) {
    let lost = Arc::new(AtomicBool::new(false));
    let event = rustix::event::eventfd(0, rustix::event::EventfdFlags::NONBLOCK).unwrap();
    let watch = Watch { lost: Arc::clone(&lost), event };
    let memory = map_revocable(slice.fd.as_fd(), slice.offset, slice.len as usize, watch).unwrap();
    (memory, lost)
}

fn ring(doorbells: &SharedMem) {
    doorbells.store_u32(0, 1, Ordering::Release).unwrap();
}

fn on(kind: &str, number: &str) {
    let bus = open(kind, number);
    assert!(bus.features().contains(&Feature::DmaBufMmap), "{}", bus.about());
    assert!(!bus.exports_device_fd());
    let memfd = Memfd::create("test", 0x4000, HugePages::No).unwrap();
    let memory = memfd.map(Prefault::No).unwrap();
    let (space, whose) = (bus.dma(), PartitionId(3));
    let _mapping =
        space.map(whose, real_tests::IOVA, &memfd, 0, 0x4000, Access::ReadWrite).unwrap();
    let export = || bus.export(0, 0x1000, 8, Tier::Paged).unwrap();
    let (first, second) = (export(), export());
    assert_eq!((first.tier, first.offset, first.len), (Tier::Paged, 0, 0x1000));
    assert!(matches!(bus.export(0, 0x1000, 8, Tier::Isolated), Err(BusError::NoSlice { .. })));
    let ((victim, lost), (neighbour, next_lost)) = (mapped(&first), mapped(&second));
    // A real doorbell, rung through the slice.
    identify_by(&bus, &memory, || ring(&victim));
    let again = first.fd.try_clone().unwrap();
    let revoked = bus.revoke(first, proof()).unwrap();
    assert_eq!(revoked.queue(), 1);
    ring(&victim);
    assert!(lost.load(Ordering::Acquire));
    identify_by(&bus, &memory, || ring(&neighbour));
    assert!(!next_lost.load(Ordering::Acquire));
    // What was revoked cannot be mapped again; the page can be given out again.
    assert!(crate::dma::map_fd(again.as_fd(), 0, 4096, Prefault::No).is_err());
    let third = export();
    let (next, _) = mapped(&third);
    identify_by(&bus, &memory, || ring(&next));
    // A reset takes nothing away for good; the end of the device does.
    bus.reset(Deadline::after(PATIENCE)).unwrap();
    identify_by(&bus, &memory, || ring(&neighbour));
    peer(&bus, whose);
    drop((space, bus));
    ring(&neighbour);
    assert!(next_lost.load(Ordering::Acquire));
}

/// The device's own BAR in its own address space, on cdev.
fn peer(bus: &VfioBus, whose: PartitionId) {
    let space = bus.dma();
    assert!(bus.export_peer(0, 0x1000, 8).is_err(), "whole pages only");
    let slice = bus.export_peer(0, 0x1000, 0x1000).unwrap();
    let at = 6 << 30;
    let mapped = space.map_peer(whose, at, &slice, Access::ReadWrite);
    if bus.kind() == "container" {
        assert!(matches!(mapped, Err(DmaError::Peer { .. })), "{mapped:?}");
        return;
    }
    let mapping = mapped.unwrap();
    assert!(space.map_peer(whose, at, &slice, Access::Read).is_err(), "it overlaps");
    let held = BTreeSet::new();
    let proof = crate::bus::PartitionQuiesced::of(whose, &held, Vec::new()).unwrap();
    assert_eq!(space.unmap(mapping, &proof).unwrap().range(), (at, 0x1000));
}

#[test]
#[ignore = "needs a kernel that revokes dma-bufs, and a controller named by DOORBELL_TEST_NVME"]
fn a_slice_rings_a_real_doorbell_until_it_is_revoked() {
    let number = std::env::var("DOORBELL_TEST_REVOKE").expect("name the feature that revokes");
    let buses = buses();
    for kind in &buses {
        on(kind, &number);
    }
    // Another feature, and none, are found out.
    for wrong in ["15", "99"] {
        let bus = open(&buses[0], wrong);
        assert!(!bus.features().contains(&Feature::DmaBufMmap), "{}", bus.about());
        let refused = bus.export(0, 0x1000, 8, Tier::Paged).unwrap_err().to_string();
        assert!(refused.contains("this kernel cannot revoke BAR slices"), "{refused}");
    }
}
