//! A small ringed device for tests of broker and client: its protocol, its software model, its
//! driver, and processes to play clients.
#![allow(dead_code, unreachable_pub, reason = "each test binary uses its own part")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "these are tests")]

pub mod driver;
pub mod model;
pub mod process;
pub mod protocol;

use std::path::PathBuf;
use std::time::Duration;

use doorbell::broker::{Broker, Builder, Timeouts};
use doorbell::client::{Client, QueueHandle, QueueSpec};
use doorbell::driver::Registry;
use doorbell::queues::{EndReason, QueueError, RejectReason, Rejected};

pub use driver::{Answer, LoopDriver, Op};
pub use protocol::{Command, Loop, OK};

/// Longer than anything here takes; a test that waits so long has failed.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// Driver and model of the test device, as a program would register them.
pub fn registry() -> Registry {
    Registry::new().driver::<LoopDriver>().model("loop", model::make)
}

/// A broker on threads of this process, at a socket in a folder of its own.
pub struct TestBroker {
    pub broker: Option<Broker>,
    pub socket: PathBuf,
    _folder: tempfile::TempDir,
}

/// Short limits, for tests of what happens when they pass; long enough that a busy machine does not
/// pass them by itself.
pub fn short() -> Timeouts {
    Timeouts {
        hello: Duration::from_millis(1500),
        write: Duration::from_millis(1500),
        quiesce: Duration::from_millis(1000),
        abort: Duration::from_millis(1000),
        events: Duration::from_millis(5),
        ..Timeouts::default()
    }
}

impl TestBroker {
    pub fn start(spec: &str) -> Self {
        Self::with(spec, |builder| builder)
    }

    pub fn with(spec: &str, options: impl FnOnce(Builder) -> Builder) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("loop.sock");
        let builder = Broker::builder(registry())
            .device(spec.parse().unwrap())
            .socket(&socket)
            .timeouts(Timeouts { events: Duration::from_millis(5), ..Timeouts::default() });
        let broker = options(builder).start().unwrap();
        Self { broker: Some(broker), socket, _folder: folder }
    }

    pub fn connect(&self) -> Client {
        pollster::block_on(Client::builder().arena_bytes(1 << 20).connect(&self.socket)).unwrap()
    }

    pub fn stop(&mut self) {
        if let Some(broker) = self.broker.take() {
            broker.stop().unwrap();
        }
    }

    /// Asks for the status until it is as wanted.
    pub fn until(&self, what: &str, wanted: impl Fn(&doorbell::wire::StatusReport) -> bool) {
        let client =
            pollster::block_on(Client::builder().arena_bytes(0).connect(&self.socket)).unwrap();
        let deadline = doorbell::Deadline::after(PATIENCE);
        loop {
            let status = pollster::block_on(client.status()).unwrap();
            if wanted(&status) {
                return;
            }
            assert!(!deadline.expired(), "waited for {what}: {status:#?}");
        }
    }
}

/// A queue of the test device with nothing to keep per command.
pub type Plain = QueueHandle<Loop, ()>;

/// Claims a queue of `depth`.
pub async fn claim(client: &Client, depth: u32) -> Plain {
    claim_with(client, QueueSpec::depth(depth)).await
}

/// Claims a queue.
pub async fn claim_with(client: &Client, spec: QueueSpec) -> Plain {
    client.claim::<Loop>(spec).await.unwrap().into_queue().unwrap()
}

/// Submits a command and waits for its status.
pub async fn run(queue: &Plain, command: Command) -> u32 {
    queue.submit((), |_, ()| command.entry()).unwrap().await.unwrap().0.status
}

/// Submits a command and waits for the queue's end.
pub async fn run_to_end(queue: &Plain, command: Command) -> EndReason {
    let error = match queue.submit((), |_, ()| command.entry()) {
        Ok(flying) => flying.await.unwrap_err().error,
        Err(Rejected { reason: RejectReason::Ended(error), .. }) => error,
        Err(rejected) => panic!("{rejected:?}"),
    };
    match error {
        QueueError::Ended { reason, .. } => reason,
        other => panic!("{other}"),
    }
}
