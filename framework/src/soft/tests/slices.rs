//! Slices of BARs for clients, and taking them back.

use std::os::fd::AsFd;

use doorbell_queues::Doorbell;

use super::SPIN;
use crate::bus::{Bus, BusError, QueueToken};
use crate::dma::{Prefault, map_fd};
use crate::soft::testing::{CopyEngine, DOORBELL, Rig, eventually, options};
use crate::tier::Tier;

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
