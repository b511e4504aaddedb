//! Data, registers, maps: what goes through the soft IOMMU and what does not.

use std::collections::BTreeSet;

use super::{SPIN, client_memory, proof, soon};
use crate::bus::proof::PartitionQuiesced;
use crate::bus::{Bus, DeviceEvent, Width};
use crate::dma::{Access, DmaError, Fault, HugePages, Memfd, Prefault};
use crate::soft::testing::{DOORBELL, RESETS, Rig, bytes, eventually, pattern};

#[test]
fn data_goes_through_dma() {
    let rig = Rig::new(SPIN);
    let source = rig.device.alloc_shared(10_000).unwrap();
    let target = rig.device.alloc_shared(10_000).unwrap();
    pattern(&source.mem());
    rig.set_up(source.iova(), target.iova(), 10_000).unwrap();
    let record = rig.run(1);
    assert_eq!((record.copied, record.faulted), (10_000, 0));
    assert_eq!(bytes(&target.mem()), bytes(&source.mem()));
    assert_eq!(rig.bus.events(), []);
}

#[test]
fn registers_are_read_and_written_by_message() {
    let rig = Rig::new(SPIN);
    let bar = rig.device.bar(0).unwrap();
    bar.write64(8, 0x1122_3344_5566_7788).unwrap();
    assert_eq!(bar.read64(8).unwrap(), 0x1122_3344_5566_7788);
    // A doorbell by message, as a peer that maps nothing writes it.
    rig.set_up(0, 0, 0).unwrap();
    bar.write32(DOORBELL, 7).unwrap();
    assert_eq!(bar.read32(DOORBELL).unwrap(), 7);
    eventually("the doorbell written by message", || rig.record().sequence == 7);
    for (width, value) in [(Width::B1, 0xab), (Width::B2, 0xabcd), (Width::B8, 0xab << 40)] {
        bar.write(0x2000, width, value).unwrap();
        assert_eq!(bar.read(0x2000, width).unwrap(), value);
    }
}

#[test]
fn dma_outside_of_what_is_mapped_is_refused_counted_and_reported() {
    let rig = Rig::new(SPIN);
    let source = rig.device.alloc_shared(4096).unwrap();
    pattern(&source.mem());
    let nowhere = 0x7_0000_0000;
    rig.set_up(source.iova(), nowhere, 64).unwrap();
    assert_eq!(rig.run(1).faulted, 1);
    let fault = Fault { iova: nowhere, len: 64, access: Access::Write };
    assert_eq!(rig.bus.events(), [DeviceEvent::Fault(fault)]);
    assert_eq!(rig.bus.control().fault_count(), 1);
    assert_eq!(rig.bus.events(), [], "reported once");

    rig.set_up(nowhere, source.iova(), 64).unwrap();
    assert_eq!(rig.run(2).faulted, 1);
    let fault = Fault { iova: nowhere, len: 64, access: Access::Read };
    assert_eq!(rig.bus.events(), [DeviceEvent::Fault(fault)]);
    assert_eq!(rig.bus.control().fault_count(), 2);
}

#[test]
fn what_was_unmapped_when_answered_cannot_be_reached() {
    let mut rig = Rig::new(SPIN);
    let source = rig.device.alloc_shared(4096).unwrap();
    pattern(&source.mem());
    let (_memfd, memory, mapping) = client_memory(&mut rig, 4096);
    let (iova, space) = (mapping.iova, rig.bus.dma());
    rig.set_up(source.iova(), iova, 4096).unwrap();
    assert_eq!(rig.run(1).faulted, 0);
    assert_eq!(bytes(&memory), bytes(&source.mem()));

    memory.fill(0, 4096, 0).unwrap();
    let quiesced = proof(&mapping);
    let unmapped = space.unmap(mapping, &quiesced).unwrap();
    assert_eq!(unmapped.range(), (iova, 4096));
    assert_eq!(rig.run(2).faulted, 1);
    assert!(bytes(&memory).iter().all(|byte| *byte == 0), "the device wrote after the unmap");
}

#[test]
fn maps_that_cannot_be_are_refused() {
    let mut rig = Rig::new(SPIN);
    let (memfd, _memory, mapping) = client_memory(&mut rig, 3 * 4096);
    let (space, iova, id) = (rig.bus.dma(), mapping.iova, mapping.partition);
    let far = iova + (1 << 30);
    let cases = [
        (iova, 0, 4096, "overlap"),
        (iova + 2 * 4096, 0, 4096, "overlap at the end"),
        (far + 1, 0, 4096, "unaligned address"),
        (far, 1, 4096, "unaligned offset"),
        (far, 0, 4095, "unaligned length"),
        (far, 0, 0, "empty"),
        (far, 4096, 3 * 4096, "longer than its memory"),
        (far, u64::MAX - 4095, 4096, "an offset that wraps"),
        (u64::MAX - 4095, 0, 4096, "an address that wraps"),
        (0xfee0_0000, 0, 4096, "the MSI window"),
    ];
    for (at, offset, len, what) in cases {
        let refused = space.map(id, at, &memfd, offset, len, Access::ReadWrite);
        assert!(matches!(refused, Err(DmaError::BadRange { .. })), "{what}: {refused:?}");
    }
    let other =
        PartitionQuiesced::of(rig.iova.partition(4096).unwrap().id(), &BTreeSet::new(), Vec::new());
    let (mapping, _) = space.unmap(mapping, &other.unwrap()).unwrap_err();
    let quiesced = proof(&mapping);
    assert!(space.unmap(mapping, &quiesced).is_ok(), "the mapping came back whole");
}

#[test]
fn reset_clears_doorbells_and_reaches_the_model() {
    let rig = Rig::new(SPIN);
    rig.set_up(0, 0, 0).unwrap();
    rig.run(5);
    rig.bus.reset(soon()).unwrap();
    let bar = rig.device.bar(0).unwrap();
    assert_eq!(bar.read64(RESETS).unwrap(), 1);
    assert_eq!(bar.read32(DOORBELL).unwrap(), 0);
    assert_eq!(bar.read64(0x18).unwrap(), 0);
}

#[test]
fn many_small_maps_are_one_mapping_of_this_process() {
    let rig = Rig::new(SPIN);
    let pages = 2_000;
    let memfd = Memfd::create("guest", pages * 4096, HugePages::No).unwrap();
    let memory = memfd.map(Prefault::No).unwrap();
    let (space, id) = (rig.bus.dma(), rig.device.partition());
    let base = 0x20_0000_0000;
    // Pages in reverse order: neighbours for the device are none in memory.
    for page in 0..pages as u64 {
        let offset = (pages as u64 - 1 - page) * 4096;
        space.map(id, base + page * 4096, &memfd, offset, 4096, Access::ReadWrite).unwrap();
    }
    let source = rig.device.alloc_shared(3 * 4096).unwrap();
    pattern(&source.mem());
    // Unaligned, and across four mappings.
    rig.set_up(source.iova(), base + 100 * 4096 + 2_000, 3 * 4096).unwrap();
    assert_eq!(rig.run(1).faulted, 0);
    let expected = bytes(&source.mem());
    let at = |page: usize| (pages - 1 - page) * 4096;
    let mut seen = vec![0; 4096 - 2_000];
    memory.copy_out(at(100) + 2_000, &mut seen).unwrap();
    assert_eq!(seen, expected[..4096 - 2_000]);
    let mut seen = vec![0; 4096];
    memory.copy_out(at(101), &mut seen).unwrap();
    assert_eq!(seen, expected[4096 - 2_000..][..4096]);
    // The end runs into nothing: refused whole.
    rig.set_up(source.iova(), base + (pages as u64 - 1) * 4096, 2 * 4096).unwrap();
    assert_eq!(rig.run(2).faulted, 1);
    let mut last = vec![1; 4096];
    memory.copy_out(0, &mut last).unwrap();
    assert!(last.iter().all(|byte| *byte == 0), "half a transfer was written");
}
