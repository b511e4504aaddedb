//! The harness, end to end, with the copy engine.

use std::collections::BTreeSet;
use std::os::fd::AsFd;
use std::time::Duration;

use doorbell_queues::Doorbell;
use rustix::event::{EventfdFlags, eventfd};

use super::testing::*;
use super::{HarnessOptions, Progress, SoftCx, SoftDevice};
use crate::bus::proof::PartitionQuiesced;
use crate::bus::{Bus, BusError, DeviceEvent, Identity, QueueToken, Region, SoftBus, Width};
use crate::deadline::Deadline;
use crate::dma::{Access, DmaError, Fault, HugePages, Mapping, Memfd, Prefault, map_fd};
use crate::tier::Tier;

const SPIN: Duration = Duration::from_micros(50);

fn soon() -> Deadline {
    Deadline::after(Duration::from_secs(20))
}

/// A client's memfd, mapped for the device in a partition of its own.
fn client_memory(rig: &mut Rig, len: usize) -> (Memfd, doorbell_queues::SharedMem, Mapping) {
    let memfd = Memfd::create("client", len, HugePages::No).unwrap();
    let mut partition = rig.iova.partition(memfd.len()).unwrap();
    let iova = partition.alloc(memfd.len()).unwrap();
    let space = rig.bus.dma();
    let id = partition.id();
    let mapping = space.map(id, iova, &memfd, 0, memfd.len(), Access::ReadWrite).unwrap();
    let memory = memfd.map(Prefault::No).unwrap();
    (memfd, memory, mapping)
}

fn proof(mapping: &Mapping) -> PartitionQuiesced {
    PartitionQuiesced::of(mapping.partition, &BTreeSet::new(), vec![]).unwrap()
}

#[test]
fn data_goes_through_dma() {
    let rig = Rig::new(SPIN);
    let source = rig.device.alloc_shared(10_000).unwrap();
    let target = rig.device.alloc_shared(10_000).unwrap();
    pattern(source.mem());
    rig.set_up(source.iova(), target.iova(), 10_000).unwrap();
    let record = rig.run(1);
    assert_eq!((record.copied, record.faulted), (10_000, 0));
    assert_eq!(bytes(target.mem()), bytes(source.mem()));
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
fn accesses_outside_of_a_region_are_refused() {
    let rig = Rig::new(SPIN);
    let cases =
        [(0, 0x4000, Width::B1), (0, 0x3ffc, Width::B8), (0, 2, Width::B4), (1, 0, Width::B4)];
    for (region, offset, width) in cases {
        let error = rig.bus.read(region, offset, width).unwrap_err();
        assert!(matches!(error, BusError::OutOfRegion { .. }), "{error}");
        assert!(error.to_string().contains("soft:copy"), "{error}");
        assert!(rig.bus.write(region, offset, width, 0).is_err());
    }
    for (offset, len) in [(0, 8), (0x1000, 0), (0x1000, 0x3001), (u64::MAX, 8), (0x1004, u64::MAX)]
    {
        assert!(rig.bus.map(0, offset, len).is_err(), "{offset:#x}+{len:#x}");
    }
    assert!(rig.device.bar(3).is_err());
    assert!(matches!(rig.bus.signals(VECTORS), Err(BusError::Vector { vectors: VECTORS, .. })));
}

#[test]
fn dma_outside_of_what_is_mapped_is_refused_counted_and_reported() {
    let rig = Rig::new(SPIN);
    let source = rig.device.alloc_shared(4096).unwrap();
    pattern(source.mem());
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
    pattern(source.mem());
    let (_memfd, memory, mapping) = client_memory(&mut rig, 4096);
    let (iova, space) = (mapping.iova, rig.bus.dma());
    rig.set_up(source.iova(), iova, 4096).unwrap();
    assert_eq!(rig.run(1).faulted, 0);
    assert_eq!(bytes(&memory), bytes(source.mem()));

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

/// The device falls asleep after every command, the host after every ring: neither misses the other.
#[test]
fn no_wake_up_is_lost() {
    let rig = Rig::new(Duration::ZERO);
    rig.set_up(0, 0, 0).unwrap();
    let doorbell = rig.doorbell();
    for sequence in 1..=3_000 {
        doorbell.ring(sequence);
        rig.sleep_until(sequence);
    }
}

/// As above, while another thread sends requests, so that both reasons to wake meet.
#[test]
fn requests_and_doorbells_wake_the_same_sleeper() {
    let rig = Rig::new(Duration::ZERO);
    rig.set_up(0, 0, 0).unwrap();
    let (doorbell, bar) = (rig.doorbell(), rig.device.bar(0).unwrap());
    std::thread::scope(|scope| {
        scope.spawn(|| (0..500).for_each(|_| assert_eq!(bar.read64(RESETS).unwrap(), 0)));
        for sequence in 1..=500 {
            doorbell.ring(sequence);
            rig.sleep_until(sequence);
        }
    });
}

#[test]
fn a_peer_that_cannot_kick_is_noticed() {
    let options = HarnessOptions { spin: Duration::ZERO, unkicked: true, ..options() };
    let rig = Rig::of(CopyEngine::default(), options);
    rig.set_up(0, 0, 0).unwrap();
    for sequence in 1..=20 {
        // Asleep, so that the next ring is one that only a nap's end notices.
        let _ = rig.ring_only(sequence);
        eventually("a nap to end", || rig.record().sequence == sequence);
    }
}

#[test]
fn interrupts_come_only_when_armed_and_once() {
    let rig = Rig::new(SPIN);
    rig.set_up(0, 0, 0).unwrap();
    rig.run(1);
    // A register access is answered after the poll that completed, so nothing is still to come.
    rig.device.bar(0).unwrap().read64(0).unwrap();
    assert!(!readable(&rig.signals.interrupt, Duration::ZERO), "nobody asked for it");
    doorbell_queues::wait::arm_word(rig.signals.armed.as_ref().unwrap());
    rig.run(2);
    assert!(readable(&rig.signals.interrupt, Duration::from_secs(20)));
    rig.run(3);
    rig.device.bar(0).unwrap().read64(0).unwrap();
    let mut count = [0; 8];
    rustix::io::read(&rig.signals.interrupt, &mut count).unwrap();
    assert_eq!(u64::from_ne_bytes(count), 1, "asking once gives one signal");
}

#[test]
fn an_interrupt_without_an_arm_word_always_comes_until_it_is_taken_away() {
    let rig = Rig::new(SPIN);
    rig.set_up(0, 0, 0).unwrap();
    let fd = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).unwrap();
    let control = rig.bus.control();
    control.install_interrupt(1, Some(fd.try_clone().unwrap())).unwrap();
    rig.run(1);
    assert!(readable(&fd, Duration::from_secs(20)));
    rustix::io::read(&fd, &mut [0; 8]).unwrap();
    control.install_interrupt(1, None).unwrap();
    rig.run(2);
    rig.device.bar(0).unwrap().read64(0).unwrap();
    assert!(!readable(&fd, Duration::ZERO));
    assert!(control.install_interrupt(VECTORS, None).is_err());
}

#[test]
fn retired_signals_reach_nobody() {
    let rig = Rig::new(Duration::ZERO);
    rig.set_up(0, 0, 0).unwrap();
    rig.bus.retire_signals(1);
    doorbell_queues::wait::arm_word(rig.signals.armed.as_ref().unwrap());
    rig.device.bar(0).unwrap().write32(DOORBELL, 1).unwrap();
    eventually("the completion", || rig.record().sequence == 1);
    rig.device.bar(0).unwrap().read64(0).unwrap();
    assert!(!readable(&rig.signals.interrupt, Duration::ZERO), "the former holder is signalled");
    let memory = || {
        let words = rig.bus.signals(1).unwrap().words.unwrap();
        rustix::fs::fstat(words.memory.as_fd()).unwrap().st_ino
    };
    assert_eq!(memory(), memory(), "the new ones are kept");
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
fn a_model_that_panics_is_gone_and_nothing_else() {
    let mut rig = Rig::new(SPIN);
    let (_memfd, memory, mapping) = client_memory(&mut rig, 4096);
    let bar = rig.device.bar(0).unwrap();
    let error = bar.write64(RESETS, 1).unwrap_err();
    assert!(matches!(error, BusError::Gone { .. }), "{error}");
    assert!(matches!(bar.read64(0), Err(BusError::Gone { .. })));
    assert!(matches!(rig.bus.reset(soon()), Err(BusError::Gone { .. })));
    assert!(!rig.bus.control().alive());
    assert_eq!(rig.bus.events(), [DeviceEvent::Removed]);
    assert_eq!(rig.bus.events(), [], "told once");
    // Doorbells do nothing, and memory can be taken back.
    rig.doorbell().ring(9);
    let quiesced = proof(&mapping);
    assert!(rig.bus.dma().unmap(mapping, &quiesced).is_ok());
    memory.fill(0, 4096, 1).unwrap();
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
    pattern(source.mem());
    // Unaligned, and across four mappings.
    rig.set_up(source.iova(), base + 100 * 4096 + 2_000, 3 * 4096).unwrap();
    assert_eq!(rig.run(1).faulted, 0);
    let expected = bytes(source.mem());
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

#[test]
fn a_thread_is_named_pinned_and_gone_at_drop() {
    let cpu = crate::topology::allowed().unwrap().iter().next();
    let rig = Rig::of(CopyEngine::default(), HarnessOptions { cpu, ..options() });
    assert_eq!(&*rig.bus.identity().name, "soft:copy");
    let control = rig.bus.control().clone();
    drop(rig);
    assert!(!control.alive());
}

#[test]
fn a_page_given_to_one_client_alone_can_be_taken_back() {
    let rig = Rig::of(CopyEngine::with_exclusive_pages(), options());
    rig.set_up(0, 0, 0).unwrap();
    let slice = rig.bus.export(0, DOORBELL, 4, Tier::Paged).unwrap();
    assert_eq!((slice.tier, slice.offset, slice.len), (Tier::Paged, 0, 4096));
    assert_eq!(rustix::fs::fstat(&slice.fd).unwrap().st_size, 4096, "nothing else can be mapped");
    let page = map_fd(slice.fd.as_fd(), slice.offset, 4096, Prefault::No).unwrap();
    let client = Doorbell::new(page.word32(0).unwrap(), rig.signals.wake.clone());

    client.ring(5);
    eventually("the client's doorbell", || rig.record().sequence == 5);
    // A mapping of the BAR, as a cooperative client has it, does not reach the page.
    rig.doorbell().ring(6);
    assert_eq!(rig.device.bar(0).unwrap().read32(DOORBELL).unwrap(), 5);
    assert!(rig.bus.map(0, DOORBELL, 4).is_err());
    assert!(rig.bus.export(0, DOORBELL, 8, Tier::Cooperative).is_err(), "given twice");
    assert!(rig.bus.export(0, 0x2000, 8, Tier::Cooperative).is_ok(), "its neighbour is free");

    let queue = QueueToken::mint(1, rig.device.partition());
    let _ = rig.bus.revoke(slice, queue.quiesced()).unwrap();
    assert_eq!(rig.device.bar(0).unwrap().read32(DOORBELL).unwrap(), 0);
    client.ring(7);
    assert_eq!(
        rig.device.bar(0).unwrap().read32(DOORBELL).unwrap(),
        0,
        "its mapping reaches nobody"
    );
    let word = rig.bus.map(0, DOORBELL, 4).unwrap().word32(0).unwrap();
    Doorbell::new(word, rig.signals.wake.clone()).ring(8);
    eventually("the next holder's doorbell", || rig.record().sequence == 8);
}

#[test]
fn a_slice_is_no_better_than_it_says() {
    let rig = Rig::new(SPIN);
    for wanted in [Tier::Paged, Tier::Mediated, Tier::Isolated] {
        let error = rig.bus.export(0, DOORBELL, 8, wanted).unwrap_err();
        assert!(matches!(error, BusError::Tier { best: Tier::Cooperative, .. }), "{error}");
    }
    let slice = rig.bus.export(0, 0x1ff8, 16, Tier::Cooperative).unwrap();
    assert_eq!((slice.region_offset, slice.len), (0x1000, 0x2000), "whole pages");
    assert_eq!(slice.tier, Tier::Cooperative);
    assert!(rig.bus.export(0, 0, 8, Tier::Cooperative).is_err(), "not mappable");
    let best = Rig::of(CopyEngine::with_exclusive_pages(), options());
    let error = best.bus.export(0, DOORBELL, 8, Tier::Mediated).unwrap_err();
    assert!(matches!(error, BusError::Tier { best: Tier::Paged, .. }), "{error}");
}

/// A model that describes BARs that cannot be.
struct Odd(Region);

impl SoftDevice for Odd {
    fn identity(&self) -> Identity {
        CopyEngine::default().identity()
    }
    fn regions(&self) -> Vec<Region> {
        vec![self.0.clone()]
    }
    fn vectors(&self) -> u16 {
        0
    }
    fn read(&mut self, _: &mut SoftCx, _: u8, _: u64, _: Width) -> u64 {
        0
    }
    fn write(&mut self, _: &mut SoftCx, _: u8, _: u64, _: Width, _: u64) {}
    fn poll(&mut self, _: &mut SoftCx) -> Progress {
        Progress::Idle
    }
    fn reset(&mut self, _: &mut SoftCx) {}
}

#[test]
fn bars_that_cannot_be_are_refused() {
    let cases = [
        (6, 0x4000, pages(0, 0x1000)),
        (0, 0x4000, pages(0, 0x5000)),
        (0, 0x4000, pages(0x800, 0x1000)),
        (0, 0x4000, pages(0x2000, 0x1000)),
        (0, u64::MAX, vec![]),
    ];
    for (index, size, mappable) in cases {
        let odd = Odd(Region { index, size, mappable });
        let refused = SoftBus::start(Box::new(odd), options());
        assert!(matches!(refused, Err(BusError::OutOfRegion { .. })), "{refused:?}");
    }
    let fine = Odd(Region { index: 5, size: 0x800, mappable: pages(0, 0x1000) });
    assert!(SoftBus::start(Box::new(fine), options()).is_ok());
}

#[test]
fn a_request_that_timed_out_does_not_happen_later() {
    let rig = Rig::new(SPIN);
    let control = rig.bus.control().clone();
    let (resume, held) = crossbeam_channel::bounded::<()>(0);
    let (entered, inside) = crossbeam_channel::bounded::<()>(1);
    std::thread::scope(|scope| {
        let blocker = control.clone();
        scope.spawn(move || {
            blocker.call("holding the thread", soon(), move |_, _| {
                let _ = entered.send(());
                let _ = held.recv_timeout(Duration::from_secs(20));
            })
        });
        inside.recv_timeout(Duration::from_secs(20)).unwrap();
        let now = Deadline::after(Duration::ZERO);
        let ran = control.call("something", now, |_, cx| {
            cx.iommu_mut().fault(1, 1, Access::Read);
        });
        let error = ran.unwrap_err();
        assert!(matches!(error, BusError::TimedOut { .. }), "{error}");
        assert!(error.to_string().contains("something"), "{error}");
        drop(resume);
    });
    rig.device.bar(0).unwrap().read64(0).unwrap();
    assert_eq!(control.fault_count(), 0, "the request ran after it was given up");
}
