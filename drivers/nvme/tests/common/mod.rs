//! What the conformance tests share: a broker with a software controller on threads of this process,
//! and clients that reach it through its real socket.
#![allow(dead_code, reason = "each test binary uses its part of this")]

use std::future::Future;
use std::path::PathBuf;
use std::time::Duration;

use doorbell::broker::Broker;
use doorbell::client::{Client, QueueSpec};
use doorbell::dma::DmaBox;
use doorbell_nvme::Nvme;
use tempfile::TempDir;

/// A broker, its device, and a folder with its socket.
pub(crate) struct Rig {
    pub(crate) broker: Broker,
    pub(crate) socket: PathBuf,
    _dir: TempDir,
}

/// A time limit for commands that are meant to run into it.
pub(crate) const SHORT: Duration = Duration::from_millis(100);

impl Rig {
    /// Serves `soft:nvme,OPTIONS`.
    pub(crate) fn new(options: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("nvme.sock");
        let spec = format!("soft:nvme,{options}").parse().unwrap();
        let broker = Broker::builder(doorbell_nvme::registry())
            .device(spec)
            .socket(&socket)
            .start()
            .unwrap();
        Self { broker, socket, _dir: dir }
    }

    pub(crate) async fn client(&self) -> Client {
        Client::connect(&self.socket).await.unwrap()
    }

    /// A client with an arena of `bytes` and a queue.
    pub(crate) async fn nvme_with(&self, bytes: usize, spec: QueueSpec) -> Nvme {
        let client = Client::builder().arena_bytes(bytes).connect(&self.socket).await.unwrap();
        Nvme::claim(&client, spec).await.unwrap()
    }

    /// A client with a queue of 16.
    pub(crate) async fn nvme(&self) -> Nvme {
        self.nvme_with(8 << 20, QueueSpec::depth(16)).await
    }
}

/// Runs a test on every executor that is supported: one without a runtime, tokio, tokio-uring.
pub(crate) fn everywhere<Fut: Future<Output = ()>>(test: impl Fn() -> Fut) {
    pollster::block_on(test());
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(test());
    tokio_uring::start(test());
}

/// A buffer with a pattern that tells every byte's place, and `seed`, apart.
pub(crate) fn pattern(nvme: &Nvme, len: usize, seed: u64) -> DmaBox<[u8]> {
    let mut buffer = nvme.dma().alloc(len).unwrap();
    buffer.copy_from_slice(&bytes(len, seed));
    buffer
}

/// The pattern itself.
pub(crate) fn bytes(len: usize, seed: u64) -> Vec<u8> {
    let word = |at: usize| (at as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ seed;
    (0..len).map(|at| (word(at / 8) >> (8 * (at % 8))) as u8).collect()
}
