//! Asynchronous events reach the log, and are asked for again. One test in this binary: it listens
//! to everything that is logged.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test may fail by panic"
)]

use std::fmt::{Debug, Write};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use doorbell::bus::Device;
use doorbell::deadline::Deadline;
use doorbell::driver::{Driver, QueueMemory, QueueRequest, Who};
use doorbell::tier::Tier;
use doorbell_nvme::{NvmeAdmin, NvmeDriver};
use tracing::field::{Field, Visit};
use tracing::span;

/// Keeps what is logged, one line per event.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<String>>>);

struct Line(String);

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        write!(self.0, "{}={value:?} ", field.name()).unwrap();
    }
}

impl tracing::Subscriber for Log {
    fn enabled(&self, _: &tracing::Metadata<'_>) -> bool {
        true
    }
    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }
    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}
    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}
    fn event(&self, event: &tracing::Event<'_>) {
        let mut line = Line(String::new());
        event.record(&mut line);
        self.0.lock().unwrap().push(line.0);
    }
    fn enter(&self, _: &span::Id) {}
    fn exit(&self, _: &span::Id) {}
}

impl Log {
    /// Waits until `count` lines say `what`.
    async fn says(&self, what: &str, count: usize) {
        let deadline = Deadline::after(Duration::from_secs(20));
        loop {
            let found = self.0.lock().unwrap().iter().filter(|line| line.contains(what)).count();
            if found >= count {
                return;
            }
            assert!(!deadline.expired(), "'{what}' {found} times in {:#?}", self.0.lock().unwrap());
            doorbell::driver::rt::sleep(Duration::from_millis(1)).await;
        }
    }
}

#[test]
fn events_are_logged_read_off_and_asked_for_again() {
    let log = Log::default();
    tracing::subscriber::set_global_default(log.clone()).unwrap();
    let spec = "soft:nvme,ram=1M,queues=2,depth=16,dstrd=0".parse().unwrap();
    let bus = doorbell_nvme::registry().open_bus(&spec).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    tokio::task::LocalSet::new().block_on(&runtime, async {
        let (device, _) = Device::attach(bus, 64).unwrap();
        let driver = NvmeDriver::probe(device.clone()).await.unwrap();
        let ring = device.alloc_shared(8192).unwrap();
        let memory = QueueMemory { submission: ring.iova(), completion: ring.iova() + 4096 };
        let request = QueueRequest { entries: 16, at_least: Tier::Cooperative };
        let grant = driver.create_queue(1, &request, memory).await.unwrap();

        // An impossible tail, more often than there are requests outstanding.
        let bar = device.bar(0).unwrap();
        for round in 1..=6 {
            bar.write32(grant.submission_doorbell, 99).unwrap();
            log.says("an invalid value was written to a doorbell", round).await;
            bar.write32(grant.submission_doorbell, 0).unwrap();
        }

        // A namespace that changes.
        driver
            .recover(doorbell::driver::Scope::Device, Deadline::after(Duration::from_secs(20)))
            .await
            .unwrap();
        let who = Who { pid: 1, uid: 0, gid: 0, operator: true, queues: vec![] };
        driver.admin(&who, NvmeAdmin::Format { nsid: 1, lbaf: 1 }).await.unwrap();
        log.says("namespaces changed", 1).await;
        driver.shutdown(Deadline::after(Duration::from_secs(20))).await.unwrap();
    });
}
