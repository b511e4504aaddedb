//! A client process that is killed with a full queue in flight: everything it had comes back, and the
//! others do not notice.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test may fail by panic"
)]

mod common;

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use common::{Rig, pattern};
use doorbell::client::{Client, QueueSpec};
use doorbell_nvme::{Lba, Nvme};

const SOCKET: &str = "DOORBELL_TEST_SOCKET";

/// The process that is killed. As a test of its own, without the variable, it does nothing.
#[test]
fn victim() {
    let Some(socket) = std::env::var_os(SOCKET) else { return };
    pollster::block_on(async {
        let client = Client::connect(&socket).await.unwrap();
        let nvme = Nvme::claim(&client, QueueSpec::depth(64)).await.unwrap();
        let ns = nvme.namespace(1).unwrap();
        for at in 0..64 {
            ns.post_write(Lba(at * 8), pattern(&nvme, 4096, at)).unwrap();
        }
        nvme.flush();
        println!("\nin flight");
        loop {
            let mut back = Vec::new();
            nvme.reap(64, |done| back.extend(done.buffer)).unwrap();
            for buffer in back {
                ns.post_write(Lba(0), buffer).unwrap();
            }
            nvme.flush();
        }
    });
}

fn start(rig: &Rig) -> Child {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["victim", "--exact", "--nocapture"])
        .env(SOCKET, &rig.socket)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    assert!(lines.any(|line| line.unwrap() == "in flight"), "the client did not come up");
    child
}

#[test]
fn everything_comes_back_and_nobody_notices() {
    let rig = Rig::new("ram=1M,queues=2");
    pollster::block_on(async {
        let nvme = rig.nvme().await;
        let ns = nvme.namespace(1).unwrap();
        let mut buffer = nvme.dma().alloc(4096).unwrap();
        for _ in 0..5 {
            // The last of two queues: the next round needs it again.
            let mut child = start(&rig);
            for at in 0..100 {
                buffer = ns.read(Lba(at), buffer).await.unwrap();
            }
            child.kill().unwrap();
            child.wait().unwrap();
            let give_up = Instant::now() + Duration::from_secs(30);
            loop {
                buffer = ns.write(Lba(1000), buffer).await.unwrap();
                let status = nvme.client().status().await.unwrap();
                if status.sessions.len() == 1 {
                    break;
                }
                assert!(
                    Instant::now() < give_up,
                    "the dead client still holds something: {status:?}"
                );
            }
        }
        let other = rig.nvme().await;
        other.namespace(1).unwrap().flush().await.unwrap();
    });
}
