//! What a model or a caller does wrong stays an error value.

use std::time::Duration;

use super::{SPIN, client_memory, proof, soon};
use crate::bus::{Bus, BusError, DeviceEvent, Identity, Region, SoftBus, Width};
use crate::deadline::Deadline;
use crate::dma::Access;
use crate::soft::testing::{CopyEngine, RESETS, Rig, VECTORS, options, pages};
use crate::soft::{HarnessOptions, Progress, SoftCx, SoftDevice};

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
fn a_thread_is_named_pinned_and_gone_at_drop() {
    let cpu = crate::topology::allowed().unwrap().iter().next();
    let rig = Rig::of(CopyEngine::default(), HarnessOptions { cpu, ..options() });
    assert_eq!(&*rig.bus.identity().name, "soft:copy");
    let control = rig.bus.control().clone();
    drop(rig);
    assert!(!control.alive());
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
