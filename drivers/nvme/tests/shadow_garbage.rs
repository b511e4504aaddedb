//! Someone else with the pages of shadow doorbells scribbles over them: a device that lies, or another
//! client. Commands may wait until their time limit; nothing else may happen.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test program: helpers may fail as tests do"
)]

mod common;

use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use common::{Rig, SHORT, bytes, pattern};
use doorbell::client::QueueSpec;
use doorbell::dma::{Prefault, map_fd};
use doorbell::queues::SharedMem;
use doorbell_nvme::{Lba, Nvme};

/// The pages that the driver shares with its clients, found in this process, where the broker is.
fn pages() -> SharedMem {
    let fds = std::fs::read_dir("/proc/self/fd").unwrap().map(|entry| entry.unwrap().path());
    let ours = |path: &std::path::PathBuf| {
        let name = std::fs::read_link(path);
        name.is_ok_and(|name| name.to_string_lossy().contains("memfd:doorbell-shared"))
    };
    let path = fds.into_iter().find(ours).expect("the driver has shadow doorbells");
    let file = std::fs::File::options().read(true).write(true).open(path).unwrap();
    map_fd(file.as_fd(), 0, 8192, Prefault::Yes).unwrap()
}

/// Reads until the queue ends or all is done; how many came back, and why it ended.
async fn reads(nvme: &Nvme, count: u32) -> (u32, Option<String>) {
    let ns = nvme.namespace(1).unwrap();
    for done in 0..count {
        let buffer = nvme.dma().alloc(4096).unwrap();
        match ns.read(Lba(0), buffer).await {
            Ok(read) => assert!(*read == bytes(4096, 1)[..]),
            Err(error) => return (done, Some(error.to_string())),
        }
    }
    (count, None)
}

#[test]
fn garbage_in_the_words_ends_in_time_limits_at_worst() {
    let rig = Rig::new("ram=16M,dbbuf=1,queues=2");
    let memory = pages();
    let (stop, rounds) = (AtomicBool::new(false), AtomicU64::new(0));
    pollster::block_on(async {
        let nvme = rig.nvme().await;
        let ns = nvme.namespace(1).unwrap();
        ns.write(Lba(0), pattern(&nvme, 4096, 1)).await.unwrap();
    });
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut state = 1u64;
            while !stop.load(Ordering::Relaxed) {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                // EventIdx of all queues: the second page.
                for at in (4096..8192).step_by(64) {
                    let value = (state >> (at % 32)) as u32;
                    memory.store_u32(at, value, Ordering::Relaxed).unwrap();
                }
                rounds.fetch_add(1, Ordering::Relaxed);
            }
        });
        pollster::block_on(async {
            for _ in 0..4 {
                let spec = QueueSpec::depth(4).time_limit(SHORT);
                let nvme = rig.nvme_with(8 << 20, spec).await;
                let (done, ended) = reads(&nvme, 300).await;
                if let Some(error) = ended {
                    assert!(error.contains("time"), "after {done}: {error}");
                }
            }
        });
        stop.store(true, Ordering::Relaxed);
    });
    assert!(rounds.into_inner() > 0);
    // Whoever comes next finds words of its own.
    pollster::block_on(async {
        let nvme = rig.nvme().await;
        assert_eq!(reads(&nvme, 300).await, (300, None));
    });
}
