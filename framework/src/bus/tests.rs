//! Devices as drivers use them: register tables, own memory, own queues.

use std::time::Duration;

use doorbell_queues::{Interrupt, SpinOnly};

use super::registers::is_all_ones;
use super::{Bus, BusError, QueueLayout, Width};
use crate::dma::DmaError;
use crate::soft::testing::{RESETS, Rig, VECTORS};

crate::registers! {
    /// The copy engine's registers.
    pub(crate) block CopyRegisters;

    /// Source address.
    source @ 0x00: u64, rw, never_ones => Source {
        /// Low half.
        low | with_low: 31:0,
        /// Four bits in the middle.
        nibble | with_nibble: 43:40,
        /// Topmost bit.
        top | with_top: 63,
        /// All of it.
        all | with_all: 63:0,
    }
    /// Length; any value can be.
    length @ 0x10: u64, rw => Length {}
    /// Low half of the length.
    length_low @ 0x10: u32, ro => LengthLow { first: 0 }
    /// Resets seen.
    resets @ 0x20: u64, ro => Resets {}
    /// Nothing.
    byte @ 0x25: u8, wo => Byte { field: 7:1 }
}

fn rig() -> Rig {
    Rig::new(Duration::from_micros(50))
}

#[test]
fn fields_are_where_the_table_says() {
    let value = Source::default().with_low(0x1_2345_6789).with_nibble(0xfa).with_top(true);
    assert_eq!(value.bits(), 0x8000_0a00_2345_6789, "too wide values are cut off");
    assert_eq!((value.low(), value.nibble(), value.top()), (0x2345_6789, 0xa, true));
    assert_eq!(value.all(), value.bits());
    assert_eq!(value.with_top(false).with_nibble(0).bits(), 0x2345_6789);
    assert_eq!(value.with_all(u64::MAX).bits(), u64::MAX);
    assert_eq!(Byte::from_bits(0xff).field(), 0x7f);
    assert_eq!(format!("{value:?}"), "source(0x80000a0023456789)");
}

#[test]
fn a_table_reads_and_writes_the_device() {
    let rig = rig();
    let registers = CopyRegisters::new(rig.device.bar(0).unwrap());
    registers.source().write(Source::default().with_low(7)).unwrap();
    registers.source().modify(|source| source.with_top(true)).unwrap();
    assert_eq!(registers.source().read().unwrap().bits(), (1 << 63) | 7);
    assert_eq!(registers.resets().read().unwrap().bits(), 0);
    registers.length().write(Length::from_bits(5)).unwrap();
    assert!(registers.length_low().read().unwrap().first());
    assert_eq!(registers.bar().size(), 0x4000);
}

#[test]
fn all_ones_mean_gone_where_they_cannot_be_a_value() {
    let rig = rig();
    let registers = CopyRegisters::new(rig.device.bar(0).unwrap());
    registers.source().write(Source::from_bits(u64::MAX)).unwrap();
    let error = registers.source().read().unwrap_err();
    assert!(matches!(error, BusError::Gone { .. }), "{error}");
    assert!(error.to_string().contains("soft:copy"), "{error}");
    registers.length().write(Length::from_bits(u64::MAX)).unwrap();
    assert_eq!(registers.length().read().unwrap().bits(), u64::MAX);
    assert!(is_all_ones(0xff, Width::B1) && !is_all_ones(0xff, Width::B2));
    assert!(is_all_ones(0xffff_ffff, Width::B4) && is_all_ones(u64::MAX, Width::B8));
}

#[test]
fn a_block_can_lie_anywhere_in_its_bar() {
    let rig = rig();
    let registers = CopyRegisters::at(rig.device.bar(0).unwrap(), 0x2000);
    registers.length().write(Length::from_bits(9)).unwrap();
    assert_eq!(rig.device.bar(0).unwrap().read64(0x2010).unwrap(), 9);
}

#[test]
fn the_drivers_memory_grows_up_to_its_partition() {
    let rig = rig();
    let before = rig.device.dma().stats();
    let large = rig.device.alloc_shared(5 << 20).unwrap();
    assert!(rig.device.dma().stats().arenas > before.arenas);
    let mut buffer = rig.device.alloc(100).unwrap();
    buffer.fill(1);
    assert!(matches!(rig.device.alloc(1 << 30), Err(DmaError::NoIova { .. })));
    assert!(matches!(rig.device.alloc(0), Err(DmaError::BadLength { .. })));
    assert!(matches!(rig.device.alloc(usize::MAX), Err(DmaError::BadLength { .. })));
    assert!(large.iova() >= 4 << 30, "above 4 GiB");
}

fn layout() -> QueueLayout {
    QueueLayout {
        queue: 0,
        submission_entries: 32,
        submission_entry: 64,
        completion_entries: 16,
        completion_entry: 16,
        region: 0,
        submission_doorbell: 0x1000,
        completion_doorbell: 0x1004,
        vector: 0,
        slots: 15,
    }
}

#[test]
fn a_driver_has_queues_of_its_own() {
    let rig = rig();
    let spin = |_, armed: Option<_>| {
        assert!(armed.is_some(), "a software device has an arm word");
        Ok(Box::new(SpinOnly) as Box<dyn Interrupt>)
    };
    let own = rig.device.own_queue(&layout(), spin).unwrap();
    assert_eq!((own.parts.submission.len(), own.parts.completion.len()), (2048, 256));
    assert_ne!(own.submission_iova, own.completion_iova);
    assert_eq!(&*own.parts.name.device, "soft:copy");
    // The rings are the device's to reach for as long as the parts live.
    own.parts.submission.write(0, &7_u64).unwrap();
    rig.set_up(own.submission_iova, own.completion_iova, 8).unwrap();
    own.parts.submission_doorbell.ring(1);
    crate::soft::testing::eventually("the copy", || {
        own.parts.completion.read::<u64>(0).unwrap() == 7
    });
    let buffers = rig.device.dma().stats().buffers;
    drop(own);
    assert_eq!(rig.device.dma().stats().buffers, buffers - 2);
}

#[test]
fn queues_that_cannot_be_are_refused() {
    let rig = rig();
    let spin = |_, _| Ok(Box::new(SpinOnly) as Box<dyn Interrupt>);
    let refused = |layout: QueueLayout| rig.device.own_queue(&layout, spin).unwrap_err();
    let error = refused(QueueLayout { vector: VECTORS, ..layout() });
    assert!(matches!(error, BusError::Vector { .. }), "{error}");
    for offset in [0, RESETS, 0x4000, u64::MAX] {
        let error = refused(QueueLayout { submission_doorbell: offset, ..layout() });
        assert!(matches!(error, BusError::OutOfRegion { .. }), "{error}");
    }
    let error = refused(QueueLayout { completion_entry: usize::MAX, ..layout() });
    assert!(matches!(error, BusError::Dma { .. }), "{error}");
    let failing = |_, _| Err(std::io::Error::other("no interrupt here"));
    assert!(matches!(rig.device.own_queue(&layout(), failing), Err(BusError::Os { .. })));
    assert_eq!(rig.bus.vectors(), VECTORS);
}
