//! Shadow doorbells from client to controller: on the soft bus, and over vfio-user, where each register
//! write that is spared is a message that is not sent.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test program: helpers may fail as tests do"
)]

mod common;

use std::os::fd::AsFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use common::{Rig, bytes, everywhere, pattern};
use doorbell::broker::Broker;
use doorbell::client::{Client, QueueSpec};
use doorbell::soft::HarnessOptions;
use doorbell::tier::Tier;
use doorbell::vfio_user::server::{Server, ServerError, ServerOptions, Stopper};
use doorbell::vfio_user::socket::{Received, Receiver};
use doorbell::vfio_user::{Command, Frame, Kind, Limits, Outgoing, Request};
use doorbell::wire::RevokeTarget;
use doorbell_nvme::soft::SoftNvme;
use doorbell_nvme::{Lba, Nvme};
use rustix::event::{PollFd, PollFlags, poll};

/// Writes and reads back, one command at a time.
async fn moves_data(nvme: &Nvme, rounds: u64) {
    let ns = nvme.namespace(1).unwrap();
    for round in 0..rounds {
        let at = Lba(round % 64 * 8);
        ns.write(at, pattern(nvme, 4096, round)).await.unwrap();
        let back = ns.read(at, nvme.dma().alloc(4096).unwrap()).await.unwrap();
        assert!(*back == bytes(4096, round)[..], "round {round}");
    }
}

#[test]
fn data_moves_with_shadow_doorbells_on_every_executor() {
    everywhere(|| async {
        let rig = Rig::new("ram=16M,dbbuf=1");
        // Rings that wrap often, with a size that is no power of two.
        let nvme = rig.nvme_with(8 << 20, QueueSpec::depth(5)).await;
        assert!(nvme.controller().shadow_doorbells);
        assert_eq!(nvme.queue().tier(), Tier::Cooperative);
        moves_data(&nvme, 300).await;
        let neighbour = rig.nvme().await;
        moves_data(&neighbour, 100).await;
        moves_data(&nvme, 100).await;
    });
}

#[test]
fn a_controller_that_does_not_offer_them_has_registers() {
    pollster::block_on(async {
        let rig = Rig::new("ram=16M");
        let nvme = rig.nvme().await;
        assert!(!nvme.controller().shadow_doorbells);
        moves_data(&nvme, 50).await;
    });
}

#[test]
fn they_are_configured_again_after_each_reset() {
    pollster::block_on(async {
        let rig = Rig::new("ram=16M,dbbuf=1");
        for _ in 0..3 {
            let nvme = rig.nvme().await;
            moves_data(&nvme, 40).await;
            rig.client().await.reset().await.unwrap();
            let ns = nvme.namespace(1).unwrap();
            let buffer = nvme.dma().alloc(4096).unwrap();
            let error = ns.read(Lba(0), buffer).await.unwrap_err().to_string();
            assert!(error.contains("reset"), "{error}");
            drop(nvme);
            let next = rig.nvme().await;
            assert!(next.controller().shadow_doorbells);
            moves_data(&next, 40).await;
        }
    });
}

#[test]
fn an_id_that_is_given_out_again_begins_at_zero() {
    pollster::block_on(async {
        let rig = Rig::new("ram=16M,dbbuf=1,queues=1");
        // The former holder leaves the words wherever it came to.
        for round in 0..12 {
            let nvme = rig.nvme_with(8 << 20, QueueSpec::depth(4)).await;
            assert_eq!(nvme.queue().id(), 1);
            moves_data(&nvme, round).await;
            nvme.release().await.unwrap();
        }
        let victim = rig.nvme().await;
        moves_data(&victim, 7).await;
        let revoked = RevokeTarget::Queue(victim.queue().id());
        assert_eq!(rig.client().await.revoke(revoked).await.unwrap(), (1, 1));
        let ns = victim.namespace(1).unwrap();
        assert!(ns.read(Lba(0), victim.dma().alloc(4096).unwrap()).await.is_err());
        drop(victim);
        moves_data(&rig.nvme().await, 50).await;
    });
}

#[test]
fn a_page_that_all_share_is_cooperative_and_a_function_of_ones_own_is_isolated() {
    pollster::block_on(async {
        let rig = Rig::new("ram=16M,dbbuf=1,vfs=1");
        let client = rig.client().await;
        let spec = QueueSpec::depth(4).at_least(Tier::Paged);
        let refused = Nvme::claim(&client, spec).await.unwrap_err().to_string();
        assert!(refused.contains("shadow doorbells") && refused.contains("cooperative"));
        // Nothing was taken by the refusal.
        moves_data(&Nvme::claim(&client, QueueSpec::depth(4)).await.unwrap(), 5).await;

        let spec = QueueSpec::depth(4).at_least(Tier::Isolated);
        let alone = rig.nvme_with(8 << 20, spec).await;
        assert_eq!(alone.queue().tier(), Tier::Isolated);
        assert!(alone.controller().shadow_doorbells);
        moves_data(&alone, 100).await;
    });
}

/// The first doorbell that is not the admin queue's; CAP.DSTRD is 4.
const FIRST_IO_DOORBELL: u64 = 0x1000 + 2 * (4 << 4);

/// Writes of I/O queues' doorbell registers in a message of the client's.
fn doorbells_in(frame: &Frame) -> u64 {
    let is_doorbell = |region, offset| region == 0 && offset >= FIRST_IO_DOORBELL;
    match (frame.header.kind, frame.command()) {
        (
            Kind::Command { .. },
            Ok(command @ (Command::RegionWrite | Command::RegionWriteMulti)),
        ) => match Request::decode(command, &frame.payload).unwrap() {
            Request::RegionWrite(write) => is_doorbell(write.region, write.offset).into(),
            Request::RegionWriteMulti(multi) => {
                let writes = multi.writes.iter();
                writes.filter(|write| is_doorbell(write.region, write.offset)).count() as u64
            }
            other => panic!("{other:?}"),
        },
        _ => 0,
    }
}

/// Passes messages on until either side closes.
fn pass_on(from: &UnixStream, to: &UnixStream, doorbells: &AtomicU64) {
    let mut receiver = Receiver::new(Limits::new(1 << 20, 16));
    let mut outgoing = Outgoing::new(usize::MAX);
    let wait = |socket: &UnixStream, flags| {
        let _ = poll(&mut [PollFd::new(socket, flags)], None);
    };
    loop {
        match receiver.receive(from.as_fd()) {
            Ok(Received::Frame(frame)) => {
                doorbells.fetch_add(doorbells_in(&frame), Ordering::Relaxed);
                let mut bytes = Vec::new();
                frame.header.encode(&mut bytes);
                bytes.extend_from_slice(&frame.payload);
                outgoing.push(bytes, frame.fds).unwrap();
                loop {
                    match outgoing.flush(to.as_fd()) {
                        Ok(true) => break,
                        Ok(false) => wait(to, PollFlags::OUT),
                        Err(_) => return,
                    }
                }
            }
            Ok(Received::Empty) => wait(from, PollFlags::IN),
            Ok(Received::Closed) | Err(_) => {
                let _ = to.shutdown(std::net::Shutdown::Both);
                return;
            }
        }
    }
}

/// A device server of this process, and someone between it and its client who counts.
struct Served {
    socket: std::path::PathBuf,
    doorbells: Arc<AtomicU64>,
    stopper: Stopper,
    server: Option<JoinHandle<Result<(), ServerError>>>,
    _folder: tempfile::TempDir,
}

impl Served {
    /// `spin` is how long the device's thread polls before it sleeps.
    fn new(shadows: bool, spin: Duration) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (path, socket) = (folder.path().join("server.sock"), folder.path().join("client.sock"));
        let device = SoftNvme::builder().ram(16 << 20).queues(4).dbbuf(shadows).build().unwrap();
        let harness = HarnessOptions { name: "soft:nvme".into(), spin, ..Default::default() };
        let options = ServerOptions::at(&path);
        let mut server = Server::bind(Box::new(device), harness, &options).unwrap();
        let stopper = server.stopper();
        let server = Some(std::thread::spawn(move || server.run()));
        let doorbells = Arc::new(AtomicU64::new(0));
        let (listener, count) = (UnixListener::bind(&socket).unwrap(), Arc::clone(&doorbells));
        std::thread::spawn(move || {
            let (client, _) = listener.accept().unwrap();
            let server = UnixStream::connect(&path).unwrap();
            let back = (server.try_clone().unwrap(), client.try_clone().unwrap());
            std::thread::spawn(move || pass_on(&back.0, &back.1, &AtomicU64::new(0)));
            pass_on(&client, &server, &count);
        });
        Self { socket, doorbells, stopper, server, _folder: folder }
    }

    /// A broker that reaches the doorbells by messages only.
    fn broker(&self) -> (Broker, std::path::PathBuf) {
        let spec = format!("vfio-user:{},map=none", self.socket.display()).parse().unwrap();
        let socket = self.socket.with_file_name("broker.sock");
        let broker = Broker::builder(doorbell_nvme::registry()).device(spec).socket(&socket);
        (broker.start().unwrap(), socket)
    }

    fn doorbells(&self) -> u64 {
        self.doorbells.load(Ordering::Relaxed)
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        self.stopper.stop();
        if let Some(server) = self.server.take() {
            server.join().unwrap().unwrap();
        }
    }
}

/// Runs `rounds` of a write and a read over messages; how many doorbell registers were written.
fn messages(shadows: bool, spin: Duration, rounds: u64) -> u64 {
    let served = Served::new(shadows, spin);
    let (broker, socket) = served.broker();
    pollster::block_on(async {
        let client = Client::connect(&socket).await.unwrap();
        let nvme = Nvme::claim(&client, QueueSpec::depth(16)).await.unwrap();
        assert_eq!(nvme.controller().shadow_doorbells, shadows);
        moves_data(&nvme, rounds).await;
    });
    let doorbells = served.doorbells();
    drop(broker);
    doorbells
}

/// Longer than any test.
const ALWAYS: Duration = Duration::from_secs(3600);

#[test]
fn over_vfio_user_a_device_that_polls_gets_no_doorbell_message() {
    let rounds = 200;
    // One for each command at least: they come one after the other.
    let before = messages(false, ALWAYS, rounds);
    assert!(before >= 2 * rounds, "{before} doorbell messages for {} commands", 2 * rounds);
    let after = messages(true, ALWAYS, rounds);
    assert_eq!(after, 0, "of {before}");
}

#[test]
fn over_vfio_user_a_device_that_sleeps_is_woken_by_messages() {
    // It sleeps whenever it finds nothing.
    let doorbells = messages(true, Duration::ZERO, 300);
    assert!(doorbells > 0);
}
