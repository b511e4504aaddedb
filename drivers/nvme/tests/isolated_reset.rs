//! Resets with virtual functions: one of a function ends its client's queues only, one of the device
//! ends all, and a function that cannot be turned off is never used again. One test in this binary,
//! because the controllers are stopped by statics.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test may fail by panic"
)]

#[path = "common/meddle.rs"]
mod meddle;

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use doorbell::broker::{Broker, Timeouts};
use doorbell::client::{Client, QueueSpec};
use doorbell::driver::Registry;
use doorbell::tier::Tier;
use doorbell::wire::{FunctionState, StatusReport};
use doorbell_nvme::{Lba, Nvme, NvmeDriver};
use doorbell_queues::{EndReason, QueueError};
use meddle::{Meddle, Meddled};

static PRIMARY: AtomicBool = AtomicBool::new(false);
static FIRST: AtomicBool = AtomicBool::new(false);
static OTHERS: AtomicBool = AtomicBool::new(false);

/// Register CC, and its bit EN.
const CC: u64 = 0x14;

/// A controller that processes no commands until it is reset.
struct Freezing(&'static AtomicBool);

impl Meddle for Freezing {
    fn poll(&mut self) -> bool {
        !self.0.load(Ordering::Relaxed)
    }

    fn write(&mut self, offset: u64, value: u64) {
        if offset == CC && value & 1 == 0 {
            self.0.store(false, Ordering::Relaxed);
        }
    }

    fn function(&self, index: u16) -> Box<dyn Meddle> {
        Box::new(Freezing(if index == 0 { &FIRST } else { &OTHERS }))
    }
}

struct Rig {
    socket: PathBuf,
    _broker: Broker,
    _dir: tempfile::TempDir,
}

impl Rig {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("nvme.sock");
        let registry = Registry::new()
            .driver::<NvmeDriver>()
            .model("nvme", |options| Meddled::build(options, Freezing(&PRIMARY)));
        let limit = Duration::from_millis(500);
        let timeouts =
            Timeouts { abort: limit, quiesce: limit, create: limit, ..Timeouts::default() };
        let spec = "soft:nvme,ram=1M,vfs=2".parse().unwrap();
        let broker = Broker::builder(registry).device(spec).socket(&socket).timeouts(timeouts);
        Self { _broker: broker.start().unwrap(), socket, _dir: dir }
    }

    async fn nvme(&self, tier: Tier) -> Nvme {
        let client = Client::connect(&self.socket).await.unwrap();
        claim(&client, tier).await.unwrap()
    }
}

async fn claim(client: &Client, tier: Tier) -> Result<Nvme, doorbell_nvme::NvmeError> {
    let limit = Duration::from_millis(100);
    Nvme::claim(client, QueueSpec::depth(4).time_limit(limit).at_least(tier)).await
}

async fn read(nvme: &Nvme) -> Option<EndReason> {
    let ns = nvme.namespace(1).unwrap();
    let failed = ns.read(Lba(0), nvme.dma().alloc(512).unwrap()).await.err()?;
    match failed.error.queue() {
        Some(&QueueError::Ended { reason, .. }) => Some(reason),
        _ => panic!("{failed}"),
    }
}

async fn until(client: &Client, what: &str, wanted: impl Fn(&StatusReport) -> bool) {
    let give_up = Instant::now() + Duration::from_secs(30);
    loop {
        let status = client.status().await.unwrap();
        if wanted(&status) {
            return;
        }
        assert!(Instant::now() < give_up, "waited in vain for {what}: {status:?}");
    }
}

#[test]
fn resets_end_what_they_must_and_nothing_else() {
    pollster::block_on(async {
        of_a_function().await;
        of_the_device().await;
        that_do_not_come().await;
    });
}

async fn of_a_function() {
    let rig = Rig::new();
    let victim = rig.nvme(Tier::Isolated).await;
    let (other, shared) = (rig.nvme(Tier::Isolated).await, rig.nvme(Tier::Cooperative).await);
    FIRST.store(true, Ordering::Relaxed);
    let reason = read(&victim).await.expect("the controller stands still");
    assert!(matches!(reason, EndReason::TimedOut | EndReason::DeviceReset), "{reason}");
    assert!(!FIRST.load(Ordering::Relaxed), "it was reset");
    assert_eq!((read(&other).await, read(&shared).await), (None, None));
    let status = shared.client().status().await.unwrap();
    assert_eq!((status.resets, status.out_of_service), (0, None));
    // The same client goes on, on the same function.
    let again = claim(victim.client(), Tier::Isolated).await.unwrap();
    assert_eq!(again.queue().tier(), Tier::Isolated);
    assert_eq!(read(&again).await, None);
}

async fn of_the_device() {
    let rig = Rig::new();
    let shared = rig.nvme(Tier::Cooperative).await;
    let isolated = [rig.nvme(Tier::Isolated).await, rig.nvme(Tier::Isolated).await];
    PRIMARY.store(true, Ordering::Relaxed);
    let reason = read(&shared).await.expect("the controller stands still");
    assert!(matches!(reason, EndReason::TimedOut | EndReason::DeviceReset), "{reason}");
    for nvme in isolated {
        until(shared.client(), "the end of its queue", |status| {
            let on_function = status.sessions.iter().filter(|session| session.function.is_some());
            on_function.flat_map(|session| &session.queues).all(|queue| queue.ended.is_some())
        })
        .await;
        assert_eq!(read(&nvme).await, Some(EndReason::DeviceReset));
        let refused = claim(nvme.client(), Tier::Isolated).await.unwrap_err().to_string();
        assert!(refused.contains("connect again"), "{refused}");
    }
    let free = |status: &StatusReport| {
        status.virtual_functions.iter().all(|function| function.state == FunctionState::Free)
    };
    until(shared.client(), "both functions", free).await;
    assert_eq!(read(&rig.nvme(Tier::Isolated).await).await, None);
    assert_eq!(read(&rig.nvme(Tier::Cooperative).await).await, None);
}

async fn that_do_not_come() {
    let rig = Rig::new();
    let (first, second) = (rig.nvme(Tier::Isolated).await, rig.nvme(Tier::Isolated).await);
    // Nobody can turn a function off now.
    PRIMARY.store(true, Ordering::Relaxed);
    drop(first);
    let lost = |status: &StatusReport| {
        matches!(status.virtual_functions[0].state, FunctionState::Lost { .. })
    };
    until(second.client(), "the function to be given up", lost).await;
    assert_eq!(read(&second).await, None);
    PRIMARY.store(false, Ordering::Relaxed);
    let third = Client::connect(&rig.socket).await.unwrap();
    let refused = claim(&third, Tier::Isolated).await.unwrap_err().to_string();
    assert!(refused.contains("taken or out of use"), "{refused}");
}
