//! Doorbells of a region that cannot be mapped.

use doorbell::bus::vfio_user::{Mapping, Options};
use doorbell::bus::{Bus, MappedSignals, VfioUserBus};
use doorbell::deadline::Deadline;
use doorbell::dma::{Prefault, map_fd};
use doorbell::queues::Doorbell;
use doorbell::tier::Tier;
use std::os::fd::AsFd;

use crate::server::*;

fn unmapped() -> Options {
    Options { mapping: Mapping::Nothing, ..options() }
}

/// A doorbell as a client has it: in the exported slice, with the signals of a vector.
fn doorbell(bus: &VfioUserBus, offset: u64, vector: u16) -> Doorbell {
    let slice = bus.export(0, offset, 4, Tier::Cooperative).unwrap();
    assert_eq!((slice.tier, slice.len), (Tier::Cooperative, 0x1000));
    let memory = map_fd(slice.fd.as_fd(), slice.offset, slice.len as usize, Prefault::Yes).unwrap();
    let word = memory.word32((offset - slice.region_offset) as usize).unwrap();
    let signals = MappedSignals::map(bus.signals(vector).unwrap()).unwrap();
    Doorbell::new(word, Some(signals.wake.expect("the relay can sleep")))
}

fn last_write(server: &Server, offset: u64) -> Option<u32> {
    let model = server.model.lock().unwrap();
    let found = model.writes.iter().rev().find(|(at, _)| *at == offset)?;
    Some(u32::from_le_bytes(found.1[..].try_into().unwrap()))
}

fn rings(write_multiple: bool) {
    let mut model = Model::default();
    model.capabilities.write_multiple = Some(write_multiple);
    let (server, bus) = open(model, honest(), &unmapped());
    let bus = bus.unwrap();
    assert!(bus.regions()[0].mappable.is_empty());
    assert!(bus.about().contains("not mapped: map=none"), "{}", bus.about());
    let (tail, head) = (doorbell(&bus, 0x1008, 1), doorbell(&bus, 0x100c, 2));
    for round in 1..200u32 {
        tail.ring(round);
        if round % 3 == 0 {
            head.ring(round);
        }
        if round % 10 == 0 {
            // The relay is given time to fall asleep in some rounds, and none in others.
            eventually("the doorbell", || {
                (last_write(&server, 0x1008) == Some(round)).then_some(())
            });
        }
    }
    eventually("the last tail", || (last_write(&server, 0x1008) == Some(199)).then_some(()));
    eventually("the last head", || (last_write(&server, 0x100c) == Some(198)).then_some(()));
    let model = server.model.lock().unwrap();
    for offset in [0x1008, 0x100c] {
        let values = model.writes.iter().filter(|(at, _)| *at == offset);
        let values: Vec<u32> =
            values.map(|(_, bytes)| u32::from_le_bytes(bytes[..].try_into().unwrap())).collect();
        assert!(values.is_sorted(), "{values:?}");
    }
}

#[test]
fn every_last_value_is_passed_on() {
    rings(false);
}

#[test]
fn every_last_value_is_passed_on_in_messages_of_many() {
    rings(true);
}

#[test]
fn a_doorbell_that_is_given_out_anew_begins_at_zero() {
    let (server, bus) = open(Model::default(), honest(), &unmapped());
    let bus = bus.unwrap();
    let count = |server: &Server| server.model.lock().unwrap().writes.len();
    doorbell(&bus, 0x1000, 0).ring(1);
    eventually("the first ring", || (count(&server) == 1).then_some(()));
    // The next queue's first ring has the same value.
    doorbell(&bus, 0x1000, 0).ring(1);
    eventually("the second ring", || (count(&server) == 2).then_some(()));
    let kept = doorbell(&bus, 0x1000, 0);
    kept.ring(1);
    eventually("the third ring", || (count(&server) == 3).then_some(()));
    bus.reset(Deadline::after(std::time::Duration::from_secs(20))).unwrap();
    kept.ring(1);
    eventually("the ring after a reset", || (count(&server) == 4).then_some(()));
}

#[test]
fn a_retired_holder_wakes_nobody_and_its_successor_does() {
    let (server, bus) = open(Model::default(), honest(), &unmapped());
    let bus = bus.unwrap();
    doorbell(&bus, 0x1000, 1).ring(1);
    eventually("the first ring", || last_write(&server, 0x1000));
    bus.retire_signals(1);
    let next = doorbell(&bus, 0x1000, 1);
    next.ring(7);
    eventually("the successor's ring", || (last_write(&server, 0x1000) == Some(7)).then_some(()));
}

#[test]
fn ranges_of_two_pages_are_refused() {
    let (_server, bus) = open(Model::default(), honest(), &unmapped());
    let bus = bus.unwrap();
    for (offset, len) in [(0x1ffc, 8), (0x1000, 0x2000), (0x3ffc, 8), (0, 0)] {
        assert!(bus.map(0, offset, len).is_err(), "{offset:#x}+{len:#x}");
        assert!(bus.export(0, offset, len, Tier::Cooperative).is_err(), "{offset:#x}+{len:#x}");
    }
    let word = bus.map(0, 0x1008, 8).unwrap();
    word.write(4, &5_u32).unwrap();
    assert_eq!(word.read::<u32>(4).unwrap(), 5);
}
