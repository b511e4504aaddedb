//! Surprise removal: the device's thread ends at any moment. One test in this binary, because the
//! model that dies is steered by a static.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test may fail by panic"
)]

#[path = "common/meddle.rs"]
mod meddle;

use std::sync::atomic::{AtomicBool, Ordering};

use doorbell::broker::Broker;
use doorbell::client::{Client, QueueSpec};
use doorbell::driver::Registry;
use doorbell_nvme::{Io, Lba, Nvme, NvmeDriver, NvmeError};
use doorbell_queues::{EndReason, QueueError};
use meddle::{Meddle, Meddled};

static DIE: AtomicBool = AtomicBool::new(false);

/// A controller that vanishes.
struct Mortal;

impl Meddle for Mortal {
    fn poll(&mut self) -> bool {
        assert!(!DIE.load(Ordering::Relaxed), "removed (on purpose)");
        true
    }
}

#[test]
fn every_future_is_told_and_nothing_more_is_granted() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("nvme.sock");
    let registry = Registry::new()
        .driver::<NvmeDriver>()
        .model("nvme", |options| Meddled::build(options, Mortal));
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
