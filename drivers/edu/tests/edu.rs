//! The driver, its client and the model together: a broker on threads of this process, clients
//! through its real socket.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test may fail by panic"
)]

use std::path::PathBuf;
use std::time::Duration;

use doorbell::broker::{Broker, Timeouts};
use doorbell::client::{Client, ClientError, QueueSpec};
use doorbell::queues::{QueueProtocol, Tag};
use doorbell_edu::{BUFFER, Edu, EduAdmin, EduError, EduReply};
use tempfile::TempDir;

struct Rig {
    broker: Broker,
    socket: PathBuf,
    _dir: TempDir,
}

impl Rig {
    fn try_new(options: &str) -> Result<Self, String> {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("edu.sock");
        let broker = Broker::builder(doorbell_edu::registry())
            .device(format!("soft:edu{options}").parse().unwrap())
            .socket(&socket)
            .timeouts(Timeouts { shutdown: Duration::from_secs(1), ..Timeouts::default() })
            .start()
            .map_err(|error| error.to_string())?;
        Ok(Self { broker, socket, _dir: dir })
    }

    fn new(options: &str) -> Self {
        Self::try_new(options).unwrap()
    }

    async fn client(&self) -> Client {
        Client::builder().arena_bytes(0).connect(&self.socket).await.unwrap()
    }

    async fn edu(&self) -> Edu {
        Edu::connect(&self.client().await).await.unwrap()
    }
}

fn bytes(len: usize, seed: usize) -> Vec<u8> {
    (0..len).map(|at| ((at + seed).wrapping_mul(0x9e37_79b1) >> 11) as u8).collect()
}

#[test]
fn factorials_and_data_come_back() {
    // Long enough that every wait really sleeps until the interrupt.
    let rig = Rig::new(",latency=2ms");
    pollster::block_on(async {
        let edu = rig.edu().await;
        assert_eq!(edu.version(), (1, 0));
        for (number, factorial) in [(0, 1), (1, 1), (5, 120), (12, 479_001_600)] {
            assert_eq!(edu.factorial(number).await.unwrap(), factorial);
        }
        for (offset, len) in [(0, 1), (1, 3), (0, BUFFER), (BUFFER - 1, 1), (63, 1025)] {
            let data = bytes(len, offset + len);
            edu.write(offset, &data).await.unwrap();
            assert_eq!(edu.read(offset, len).await.unwrap(), data, "{len} bytes at {offset}");
        }
        edu.write(0, &bytes(100, 1)).await.unwrap();
        edu.write(50, &bytes(10, 2)).await.unwrap();
        let whole = [&bytes(100, 1)[..50], &bytes(10, 2), &bytes(100, 1)[60..]].concat();
        assert_eq!(edu.read(0, 100).await.unwrap(), whole);
    });
    rig.broker.stop().unwrap();
}

#[test]
fn it_needs_no_broker_process() {
    pollster::block_on(async {
        let edu = Edu::open("soft:edu,latency=0us").await.unwrap();
        assert_eq!(edu.factorial(10).await.unwrap(), 3_628_800);
        let failed = Edu::open("soft:edu,speed=1").await.unwrap_err();
        assert!(failed.to_string().contains("device soft:edu,speed=1: option speed"), "{failed}");
    });
}

#[test]
fn requests_of_many_clients_take_turns() {
    let rig = Rig::new("");
    let clients: Vec<_> = (0..8_usize)
        .map(|number| {
            let socket = rig.socket.clone();
            std::thread::spawn(move || {
                pollster::block_on(async {
                    let client = Client::builder().arena_bytes(0).connect(&socket).await.unwrap();
                    let edu = Edu::connect(&client).await.unwrap();
                    for round in 0..20 {
                        let (offset, data) = (number * 500, bytes(500, number * 100 + round));
                        edu.write(offset, &data).await.unwrap();
                        assert_eq!(edu.factorial(6).await.unwrap(), 720);
                        assert_eq!(edu.read(offset, 500).await.unwrap(), data);
                    }
                });
            })
        })
        .collect();
    for client in clients {
        client.join().unwrap();
    }
}

#[test]
fn bad_input_is_refused_on_both_sides() {
    let rig = Rig::new("");
    pollster::block_on(async {
        let edu = rig.edu().await;
        for (offset, len) in [(0, 0), (0, BUFFER + 1), (BUFFER, 1), (usize::MAX, 2), (4000, 96)] {
            let failed = edu.read(offset, len).await.unwrap_err();
            assert!(matches!(failed, EduError::Range { .. }), "{failed}");
            let failed = edu.write(offset, &vec![0; len.min(5000)]).await.unwrap_err();
            assert!(failed.to_string().contains("do not lie in the buffer"), "{failed}");
        }
        let failed = edu.factorial(13).await.unwrap_err();
        assert!(failed.to_string().contains("refused: the factorial of 13"), "{failed}");
        // A client that checks nothing.
        let client = rig.client().await;
        let ask = async |operation: EduAdmin| client.admin::<_, EduReply>(&operation).await;
        for operation in [
            EduAdmin::Read { offset: 4095, len: 1 },
            EduAdmin::Read { offset: u16::MAX, len: u16::MAX },
            EduAdmin::Read { offset: 0, len: 0 },
            EduAdmin::Write { offset: 0, data: vec![1; 60_000] },
            EduAdmin::Write { offset: 4095, data: vec![1] },
            EduAdmin::Factorial(u32::MAX),
        ] {
            let failed = ask(operation.clone()).await.unwrap_err();
            assert!(matches!(failed, ClientError::Refused { .. }), "{operation:?}: {failed}");
            assert!(failed.to_string().contains("refused: "), "{failed}");
        }
        assert_eq!(edu.factorial(3).await.unwrap(), 6, "it goes on");
    });
}

#[test]
fn a_device_without_queues_says_so() {
    let rig = Rig::new("");
    pollster::block_on(async {
        let client = Client::connect(&rig.socket).await.unwrap();
        let claimed = client.claim::<NoProtocol>(QueueSpec::depth(4)).await;
        let failed = claimed.map(drop).unwrap_err();
        assert!(matches!(failed, ClientError::NoQueues { .. }), "{failed}");
        assert!(failed.to_string().contains("use the operations of its driver, edu"), "{failed}");
        assert_eq!(client.status().await.unwrap().device.queues, 0);
    });
}

#[test]
fn an_interrupt_that_never_comes_is_told_with_device_and_step() {
    let rig = Rig::new(",interrupt=never");
    pollster::block_on(async {
        let failed = rig.edu().await.factorial(5).await.unwrap_err();
        let text = failed.to_string();
        assert!(
            text.contains(
                "device soft:edu: waited 5.000 s for interrupt 0: the end of a factorial"
            ),
            "{text}"
        );
        // The device itself still answers.
        assert_eq!(rig.edu().await.version(), (1, 0));
    });
    rig.broker.stop().unwrap();
}

#[test]
fn an_engine_that_does_not_stop_is_told_and_blocks_nobody_for_ever() {
    let rig = Rig::new(",dma=stuck");
    pollster::block_on(async {
        let edu = rig.edu().await;
        let failed = edu.read(0, 1).await.unwrap_err();
        assert!(failed.to_string().contains("interrupt 0: the end of a DMA transfer"), "{failed}");
        // The engine still runs: nothing else is begun on it.
        let failed = edu.factorial(1).await.unwrap_err();
        assert!(failed.to_string().contains("soft:edu: its engines to stop"), "{failed}");
        // A reset of the function frees it; nobody's session ends.
        edu.client().reset().await.unwrap();
        assert_eq!(edu.factorial(3).await.unwrap(), 6);
        assert_eq!(edu.client().status().await.unwrap().resets, 1);
        drop(futures_once(edu.read(0, 1)).await);
        edu.client().status().await.unwrap();
    });
    let failed = rig.broker.stop().unwrap_err();
    // Whoever began the last transfer still waits for its end.
    assert!(
        failed.to_string().contains("waited 1.000 s for the device, which others use"),
        "{failed}"
    );
}

#[test]
fn what_is_no_edu_device_is_not_served() {
    for (options, says) in [
        (",id=wrong", "device soft:edu: identification: id(0x1000bad) is not 0xRRrr00ed"),
        (",id=gone", "device soft:edu: it is gone (a register that never does reads all ones)"),
        (",liveness=wrong", "liveness check: liveness(0x12345678) is not 0xedcba987"),
        (",dma=never", "device soft:edu,dma=never: dma=never: the only choice is stuck"),
    ] {
        let failed = Rig::try_new(options).map(drop).unwrap_err();
        assert!(failed.contains(says), "{failed}");
    }
}

#[test]
fn a_request_that_was_given_up_harms_nobody() {
    let rig = Rig::new(",latency=20ms");
    pollster::block_on(async {
        let edu = rig.edu().await;
        edu.write(0, &bytes(4000, 1)).await.unwrap();
        for round in 0..5 {
            // Begun and dropped: the driver goes on, or has not begun.
            drop(futures_once(edu.write(0, &bytes(4000, 2))).await);
            drop(futures_once(edu.factorial(7)).await);
            assert_eq!(edu.factorial(4).await.unwrap(), 24, "round {round}");
            let seen = edu.read(0, 4000).await.unwrap();
            assert!(seen == bytes(4000, 1) || seen == bytes(4000, 2), "torn in round {round}");
        }
    });
    rig.broker.stop().unwrap();
}

/// Polls a future once.
async fn futures_once<F: Future>(future: F) -> Option<F::Output> {
    let mut future = std::pin::pin!(future);
    std::future::poll_fn(|cx| {
        std::task::Poll::Ready(match future.as_mut().poll(cx) {
            std::task::Poll::Ready(output) => Some(output),
            std::task::Poll::Pending => None,
        })
    })
    .await
}

/// A protocol of nobody.
#[derive(Debug)]
enum NoProtocol {}

impl QueueProtocol for NoProtocol {
    type Entry = u64;
    type Completion = u64;
    type Outcome = ();
    const PHASE_WORD: usize = 4;
    fn phase(word: u32) -> bool {
        word & 1 != 0
    }
    fn stamp(_entry: &mut u64, _tag: Tag) {}
    fn tag(completion: &u64) -> Tag {
        Tag(*completion as u16)
    }
    fn submission_head(_completion: &u64) -> Option<u16> {
        None
    }
    fn outcome(_completion: &u64) {}
}
