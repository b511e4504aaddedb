//! A controller whose admin queue stands still: commands time out, the abort does not help, and the
//! reset does. One test in this binary, because the controller is stopped by a static.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test may fail by panic"
)]

#[path = "common/meddle.rs"]
mod meddle;

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use doorbell::broker::{Broker, Timeouts};
use doorbell::client::{Client, QueueSpec};
use doorbell::driver::Registry;
use doorbell_nvme::{Lba, Nvme, NvmeAdmin, NvmeDriver, NvmeError, NvmeReply};
use doorbell_queues::{EndReason, QueueError};
use meddle::{Meddle, Meddled};

static FROZEN: AtomicBool = AtomicBool::new(false);

/// Register CC, and its bit EN.
const CC: u64 = 0x14;

/// A controller that processes no commands until it is reset.
struct Freezing;

impl Meddle for Freezing {
    fn poll(&mut self) -> bool {
        !FROZEN.load(Ordering::Relaxed)
    }

    fn write(&mut self, offset: u64, value: u64) {
        if offset == CC && value & 1 == 0 {
            FROZEN.store(false, Ordering::Relaxed);
        }
    }
}

async fn smart(client: &Client) -> Result<NvmeReply, NvmeError> {
    Ok(client.admin(&NvmeAdmin::Smart).await?)
}

#[test]
fn a_stuck_controller_is_reset_by_whoever_may() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("nvme.sock");
    let registry = Registry::new()
        .driver::<NvmeDriver>()
        .model("nvme", |options| Meddled::build(options, Freezing));
    let spec = "soft:nvme,ram=1M".parse().unwrap();
    let limit = Duration::from_millis(500);
    let timeouts = Timeouts { abort: limit, quiesce: limit, ..Timeouts::default() };
    let broker = Broker::builder(registry).device(spec).socket(&socket).timeouts(timeouts);
    let broker = broker.start().unwrap();
    pollster::block_on(async {
        let client = Client::connect(&socket).await.unwrap();
        smart(&client).await.unwrap();

        // Nobody has a queue: the driver resets the controller itself.
        FROZEN.store(true, Ordering::Relaxed);
        let late = smart(&client).await.unwrap_err().to_string();
        assert!(late.contains("GET_LOG_PAGE") && late.contains("must be reset"), "{late}");
        smart(&client).await.unwrap();
        assert!(!FROZEN.load(Ordering::Relaxed));

        // With queues it is for the broker: every client is told.
        let limit = Duration::from_millis(100);
        let nvme = Nvme::claim(&client, QueueSpec::depth(4).time_limit(limit)).await.unwrap();
        let ns = nvme.namespace(1).unwrap();
        FROZEN.store(true, Ordering::Relaxed);
        let failed = ns.read(Lba(0), nvme.dma().alloc(512).unwrap()).await.unwrap_err();
        let NvmeError::Queue(QueueError::Ended { reason, .. }) = failed.error else {
            panic!("{failed}")
        };
        assert!(matches!(reason, EndReason::TimedOut | EndReason::DeviceReset), "{reason}");
        assert!(failed.buffer.is_some(), "a device that was reset is done with it");
        let again = Nvme::claim(&client, QueueSpec::depth(4)).await.unwrap();
        again.namespace(1).unwrap().flush().await.unwrap();
    });
    drop(broker);
}
