//! Surprise removal: the device's thread ends at any moment. One test in this binary, because the
//! model that dies is steered by a static.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test may fail by panic")]

use std::sync::atomic::{AtomicBool, Ordering};

use doorbell::broker::Broker;
use doorbell::bus::{Identity, Region, Width};
use doorbell::client::{Client, QueueSpec};
use doorbell::driver::Registry;
use doorbell::soft::{Idle, Progress, SoftCx, SoftDevice};
use doorbell_nvme::{Io, Lba, Nvme, NvmeDriver, NvmeError};
use doorbell_queues::{EndReason, QueueError};

static DIE: AtomicBool = AtomicBool::new(false);

/// A controller that vanishes.
struct Mortal(Box<dyn SoftDevice>);

impl SoftDevice for Mortal {
    fn identity(&self) -> Identity {
        self.0.identity()
    }
    fn regions(&self) -> Vec<Region> {
        self.0.regions()
    }
    fn vectors(&self) -> u16 {
        self.0.vectors()
    }
    fn read(&mut self, cx: &mut SoftCx, region: u8, offset: u64, width: Width) -> u64 {
        self.0.read(cx, region, offset, width)
    }
    fn write(&mut self, cx: &mut SoftCx, region: u8, offset: u64, width: Width, value: u64) {
        self.0.write(cx, region, offset, width, value);
    }
    fn poll(&mut self, cx: &mut SoftCx) -> Progress {
        assert!(!DIE.load(Ordering::Relaxed), "removed (on purpose)");
        self.0.poll(cx)
    }
    fn idle(&self) -> Idle<'_> {
        self.0.idle()
    }
    fn reset(&mut self, cx: &mut SoftCx) {
        self.0.reset(cx);
    }
}

fn mortal(options: &[(String, String)]) -> Result<Box<dyn SoftDevice>, String> {
    doorbell_nvme::soft::build(options).map(|device| Box::new(Mortal(device)) as Box<_>)
}

#[test]
fn every_future_is_told_and_nothing_more_is_granted() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("nvme.sock");
    let registry = Registry::new().driver::<NvmeDriver>().model("nvme", mortal);
    let spec = "soft:nvme,ram=1M".parse().unwrap();
    let broker = Broker::builder(registry).device(spec).socket(&socket).start().unwrap();
    pollster::block_on(async {
        let client = Client::connect(&socket).await.unwrap();
        let nvme = Nvme::claim(&client, QueueSpec::depth(8)).await.unwrap();
        let ns = nvme.namespace(1).unwrap();
        ns.flush().await.unwrap();
        DIE.store(true, Ordering::Relaxed);
        let reads: Vec<Io<'_>> =
            (0..8).map(|at| ns.read(Lba(at), nvme.dma().alloc(512).unwrap())).collect();
        for io in reads {
            let failed = io.await.unwrap_err();
            let NvmeError::Queue(QueueError::Ended { reason, .. }) = failed.error else {
                panic!("{failed}")
            };
            assert_eq!(reason, EndReason::DeviceGone);
        }
        let refused = Nvme::claim(&client, QueueSpec::depth(8)).await.unwrap_err();
        assert!(refused.to_string().contains("removed"), "{refused}");
        nvme.release().await.unwrap();
        assert_eq!(client.dma().stats().in_use, 0);
    });
    drop(broker);
}
