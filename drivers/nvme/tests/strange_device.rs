//! Devices that no controller should be: what the driver says of a BAR0 that is missing or too small,
//! and of a CAP that cannot be.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may fail by panic")]

use std::os::fd::OwnedFd;
use std::sync::Arc;

use doorbell::bus::{
    Bus, BusError, Device, DeviceEvent, Identity, Quiesced, Region, Revoked, Signals, Slice, Width,
};
use doorbell::deadline::Deadline;
use doorbell::dma::DmaSpace;
use doorbell::driver::Driver;
use doorbell::tier::Tier;
use doorbell_nvme::NvmeDriver;
use doorbell_queues::SharedMem;

/// A software controller with other regions, or another CAP.
struct Strange {
    bus: Arc<dyn Bus>,
    regions: Vec<Region>,
    cap: Option<u64>,
}

impl Bus for Strange {
    fn identity(&self) -> &Identity {
        self.bus.identity()
    }
    fn regions(&self) -> &[Region] {
        &self.regions
    }
    fn read(&self, region: u8, offset: u64, width: Width) -> Result<u64, BusError> {
        match (offset, self.cap) {
            (0, Some(cap)) => Ok(cap),
            _ => self.bus.read(region, offset, width),
        }
    }
    fn write(&self, region: u8, offset: u64, width: Width, value: u64) -> Result<(), BusError> {
        self.bus.write(region, offset, width, value)
    }
    fn map(&self, region: u8, offset: u64, len: u64) -> Result<SharedMem, BusError> {
        self.bus.map(region, offset, len)
    }
    fn export(&self, region: u8, offset: u64, len: u64, tier: Tier) -> Result<Slice, BusError> {
        self.bus.export(region, offset, len, tier)
    }
    fn revoke(&self, slice: Slice, proof: Quiesced) -> Result<Revoked, BusError> {
        self.bus.revoke(slice, proof)
    }
    fn vectors(&self) -> u16 {
        self.bus.vectors()
    }
    fn signals(&self, vector: u16) -> Result<Signals, BusError> {
        self.bus.signals(vector)
    }
    fn reset(&self, deadline: Deadline) -> Result<(), BusError> {
        self.bus.reset(deadline)
    }
    fn dma(&self) -> Arc<dyn DmaSpace> {
        self.bus.dma()
    }
    fn events(&self) -> Vec<DeviceEvent> {
        self.bus.events()
    }
    fn event_fd(&self) -> Result<Option<OwnedFd>, BusError> {
        self.bus.event_fd()
    }
    fn kind(&self) -> &'static str {
        self.bus.kind()
    }
}

/// What the driver says of BAR0 with `size` bytes (`None`: no such BAR) and of `cap`.
fn refusal(size: Option<u64>, cap: Option<u64>) -> String {
    let spec = "soft:nvme,ram=1M".parse().unwrap();
    let bus = doorbell_nvme::registry().open_bus(&spec).unwrap();
    let region = |size| Region { index: 0, size, mappable: Vec::new() };
    let regions = size.into_iter().map(region).collect();
    let (device, _) = Device::attach(Arc::new(Strange { bus, regions, cap }), 64).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let probed = tokio::task::LocalSet::new().block_on(&runtime, NvmeDriver::probe(device));
    let text = probed.expect_err("it must be refused").to_string();
    assert!(text.contains("soft:nvme"), "the device is named: {text}");
    text
}

/// CAP of a controller that can be: 64 entries, one stride, the NVM command set.
const CAP: u64 = 1 << 37 | 63;

#[test]
fn a_bar_that_is_missing_or_too_small_is_named_with_its_size() {
    assert!(refusal(None, None).contains("there is no BAR0; it has none"));
    for size in [0x10, 0x1000, 0x100f] {
        let text = refusal(Some(size), None);
        assert!(text.contains("capabilities (CAP)"), "the step is named: {text}");
        assert!(text.contains(&format!("BAR0 has {size:#x} bytes")), "{text}");
        assert!(text.contains("0x1010 at least"), "{text}");
    }
    let text = refusal(Some(0x4000), Some(CAP | 15 << 32));
    assert!(text.contains("doorbells every 131072 bytes"), "{text}");
}

#[test]
fn capabilities_that_cannot_be_are_refused_at_that_step() {
    for (cap, says) in [
        (u64::MAX, "all ones"),
        (0, "not brought it online"),
        (CAP & !0xffff, "MQES is 0"),
        (CAP & !(1 << 37), "CSS is 0x00"),
        (CAP | 15 << 48, "memory pages of 4096 << 15"),
    ] {
        let text = refusal(Some(0x4000), Some(cap));
        assert!(text.contains("capabilities (CAP)") && text.contains(says), "{cap:#x}: {text}");
    }
}
