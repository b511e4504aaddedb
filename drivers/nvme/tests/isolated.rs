//! Tier `Isolated`: a virtual function for each client that asks for it, with an address space of its
//! own; what one has, and what becomes of it, concerns nobody else.
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

use common::{Rig, bytes, pattern};
use doorbell::broker::{Broker, Policy};
use doorbell::client::{Client, QueueSpec};
use doorbell::tier::Tier;
use doorbell::wire::{FunctionState, RevokeTarget, StatusReport};
use doorbell_nvme::spec::{IoOpcode, Sqe};
use doorbell_nvme::{Lba, Nvme, NvmeAdmin, NvmeProtocol};

const SOCKET: &str = "DOORBELL_TEST_SOCKET";

fn isolated(depth: u32) -> QueueSpec {
    QueueSpec::depth(depth).at_least(Tier::Isolated)
}

fn free(status: &StatusReport) -> usize {
    let functions = status.virtual_functions.iter();
    functions.filter(|function| function.state == FunctionState::Free).count()
}

/// Waits until the broker's status is as `wanted`.
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

/// Reads a block to any address, with a queue that checks nothing.
async fn read_to(client: &Client, spec: QueueSpec, iova: u64) -> bool {
    let queue = client.claim::<NvmeProtocol>(spec).await.unwrap().into_queue::<()>().unwrap();
    let read = queue.submit((), |_, ()| Sqe { prp1: iova, ..Sqe::io(IoOpcode::READ, 1) });
    let (outcome, ()) = read.unwrap().await.unwrap();
    queue.release().await.unwrap();
    outcome.status.is_success()
}

#[test]
fn clients_on_functions_of_their_own_share_nothing_but_the_medium() {
    pollster::block_on(async {
        let rig = Rig::new("ram=16M,vfs=2");
        let spec = isolated(8);
        // Arenas first, so that all have addresses of their own.
        let connect = || Client::builder().arena_bytes(8 << 20).connect(&rig.socket);
        let (a, b) = (connect().await.unwrap(), connect().await.unwrap());
        let shared = rig.nvme().await;

        let one = Nvme::claim(&a, spec).await.unwrap();
        let two = Nvme::claim(&b, spec).await.unwrap();
        for (nvme, seed) in [(&one, 1), (&two, 2), (&shared, 3)] {
            let ns = nvme.namespace(1).unwrap();
            ns.write(Lba(seed * 8), pattern(nvme, 4096, seed)).await.unwrap();
        }
        // The medium is the same for all.
        for (nvme, seed) in [(&one, 2), (&two, 3), (&shared, 1)] {
            let ns = nvme.namespace(1).unwrap();
            let read = ns.read(Lba(seed * 8), nvme.dma().alloc(4096).unwrap()).await.unwrap();
            assert!(*read == bytes(4096, seed)[..]);
        }
        assert_eq!(one.queue().tier(), Tier::Isolated);
        assert_eq!(shared.queue().tier(), Tier::Cooperative);
        let ids = [&shared, &one, &two].map(|nvme| nvme.controller().controller_id);
        assert_eq!(ids, [1, 2, 3]);

        let status = shared.client().status().await.unwrap();
        let functions: Vec<_> = status.sessions.iter().map(|s| s.function.as_deref()).collect();
        assert_eq!(functions, [Some("soft:nvme/vf0"), Some("soft:nvme/vf1"), None]);
        let names = status.virtual_functions.iter().map(|function| match &function.state {
            FunctionState::Given { name, .. } => name.as_str(),
            other => panic!("{other:?}"),
        });
        assert_eq!(names.collect::<Vec<_>>(), ["soft:nvme/vf0", "soft:nvme/vf1"]);

        // Where each has its memory: not where another has.
        let arenas: Vec<_> = status.sessions.iter().map(|session| session.arenas[0].iova).collect();
        assert!(arenas[0] != arenas[1] && arenas[1] != arenas[2], "{arenas:x?}");
        let theirs = [arenas[1], arenas[2]].map(|iova| iova + (8 << 20) - 4096);
        for iova in theirs {
            let before = shared.client().status().await.unwrap().faults;
            assert!(!read_to(&a, isolated(2), iova).await, "{iova:#x} is another's memory");
            let counted = |status: &StatusReport| status.faults > before;
            until(shared.client(), "the fault", counted).await;
        }
        // Without isolation the same command reaches the neighbour: the tier says so.
        let near = connect().await.unwrap();
        assert!(read_to(&near, QueueSpec::depth(2), theirs[1]).await);
    });
}

#[test]
fn what_a_function_has_is_its_clients() {
    pollster::block_on(async {
        let rig = Rig::new("ram=16M,vfs=1,vfqueues=2");
        let one = rig.nvme_with(8 << 20, isolated(4)).await;
        let client = one.client();
        // Later queues come from the function too, whatever is asked for.
        let two = Nvme::claim(client, QueueSpec::depth(4)).await.unwrap();
        assert_eq!(two.queue().tier(), Tier::Isolated);
        assert_eq!((one.queue().id(), two.queue().id()), (1, 2));
        let refused = Nvme::claim(client, QueueSpec::depth(4)).await.unwrap_err().to_string();
        assert!(refused.contains("all 2 queues of device soft:nvme/vf0"), "{refused}");
        two.namespace(1).unwrap().write(Lba(0), pattern(&two, 4096, 5)).await.unwrap();
        client.grow(4 << 20).await.unwrap();

        // What concerns all users of the medium is not done through it.
        let format = NvmeAdmin::Format { nsid: 1, lbaf: 1 };
        let refused = one.admin(&format).await.unwrap_err().to_string();
        assert!(refused.contains("through the device itself"), "{refused}");
        let operator = rig.client().await;
        let refused = operator.admin::<_, doorbell_nvme::NvmeReply>(&format).await.unwrap_err();
        assert!(refused.to_string().contains("while no I/O queue exists"), "{refused}");

        // A connection with queues of the device itself stays there.
        let shared = rig.nvme().await;
        let refused = Nvme::claim(shared.client(), isolated(4)).await.unwrap_err().to_string();
        assert!(refused.contains("open another connection"), "{refused}");
        // Both have a queue 1: its number alone does not say whose.
        let refused = operator.revoke(RevokeTarget::Queue(1)).await.unwrap_err().to_string();
        assert!(refused.contains("soft:nvme and soft:nvme/vf0"), "{refused}");
        assert_eq!(operator.revoke(RevokeTarget::Queue(2)).await.unwrap(), (1, 1));
        let session = client
            .status()
            .await
            .unwrap()
            .sessions
            .iter()
            .find_map(|session| session.function.as_ref().map(|_| session.session));
        let revoked = operator.revoke(RevokeTarget::Session(session.unwrap())).await.unwrap();
        assert_eq!(revoked, (2, 1));
        until(&operator, "the function", |status| free(status) == 1).await;
        shared.namespace(1).unwrap().flush().await.unwrap();
        operator.admin::<_, doorbell_nvme::NvmeReply>(&NvmeAdmin::Smart).await.unwrap();
    });
}

#[test]
fn without_a_free_function_there_is_a_clear_refusal() {
    pollster::block_on(async {
        let none = Rig::new("ram=16M");
        let refused = Nvme::claim(&none.client().await, isolated(4)).await.unwrap_err().to_string();
        assert!(refused.contains("has no virtual functions"), "{refused}");

        let rig = Rig::new("ram=16M,vfs=2");
        let one = rig.nvme_with(8 << 20, isolated(4)).await;
        let two = rig.nvme_with(8 << 20, isolated(4)).await;
        let third = rig.client().await;
        let refused = Nvme::claim(&third, isolated(4)).await.unwrap_err().to_string();
        assert!(
            refused.contains("all 2 virtual functions") && !refused.contains('\n'),
            "{refused}"
        );
        // Nothing was taken by the refusal, and less can be had.
        drop(Nvme::claim(&third, QueueSpec::depth(4)).await.unwrap());
        drop(one);
        until(&third, "a free function", |status| free(status) == 1).await;
        let fourth = rig.nvme_with(8 << 20, isolated(4)).await;
        for nvme in [&two, &fourth] {
            let ns = nvme.namespace(1).unwrap();
            ns.write(Lba(9), pattern(nvme, 4096, 9)).await.unwrap();
        }
    });
}

#[test]
fn the_policy_decides() {
    let served = |rule: &str| {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("nvme.sock");
        let uid = rustix::process::getuid().as_raw();
        let text = format!("[[rule]]\nuid = {uid}\n{rule}\n");
        let policy = Policy::parse(&text, std::path::Path::new("policy.toml")).unwrap();
        let broker = Broker::builder(doorbell_nvme::registry())
            .device("soft:nvme,ram=16M,vfs=2".parse().unwrap())
            .socket(&socket)
            .policy(policy);
        (broker.start().unwrap(), socket, dir)
    };
    pollster::block_on(async {
        let (_broker, socket, _dir) = served("max_tier = \"paged\"");
        let client = Client::connect(&socket).await.unwrap();
        let refused = Nvme::claim(&client, isolated(4)).await.unwrap_err().to_string();
        assert!(refused.contains("policy allows this user at most paged"), "{refused}");

        let (_broker, socket, _dir) = served("required_tier = \"isolated\"\nqueues = 2");
        let client = Client::connect(&socket).await.unwrap();
        let nvme = Nvme::claim(&client, QueueSpec::depth(4)).await.unwrap();
        assert_eq!(nvme.queue().tier(), Tier::Isolated);
        // Quotas count over all connections, wherever their queues are.
        let other = Client::connect(&socket).await.unwrap();
        let second = Nvme::claim(&other, QueueSpec::depth(4)).await.unwrap();
        for client in [&client, &other] {
            let refused = Nvme::claim(client, QueueSpec::depth(4)).await.unwrap_err().to_string();
            assert!(refused.contains("quota of queues exceeded"), "{refused}");
        }
        second.release().await.unwrap();
    });
}

/// The process that is killed. As a test of its own, without the variable, it does nothing.
#[test]
fn victim() {
    let Some(socket) = std::env::var_os(SOCKET) else { return };
    pollster::block_on(async {
        let client = Client::connect(&socket).await.unwrap();
        let nvme = Nvme::claim(&client, isolated(64)).await.unwrap();
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
fn a_killed_clients_function_can_be_had_again() {
    let rig = Rig::new("ram=1M,vfs=1");
    pollster::block_on(async {
        let nvme = rig.nvme().await;
        let ns = nvme.namespace(1).unwrap();
        let mut buffer = nvme.dma().alloc(4096).unwrap();
        for _ in 0..3 {
            // The only function: the next round needs it again.
            let mut child = start(&rig);
            assert_eq!(free(&nvme.client().status().await.unwrap()), 0);
            for at in 0..100 {
                buffer = ns.read(Lba(at), buffer).await.unwrap();
            }
            child.kill().unwrap();
            child.wait().unwrap();
            until(nvme.client(), "the dead client's function", |status| free(status) == 1).await;
            buffer = ns.write(Lba(1000), buffer).await.unwrap();
        }
        let status = nvme.client().status().await.unwrap();
        assert_eq!(status.sessions.len(), 1);
        assert_eq!(status.resets, 0);
        let next = rig.nvme_with(8 << 20, isolated(8)).await;
        next.namespace(1).unwrap().flush().await.unwrap();
    });
}

#[test]
fn an_image_is_served_by_all_functions() {
    let dir = tempfile::tempdir().unwrap();
    let image = dir.path().join("disk.img");
    std::fs::File::create(&image).unwrap().set_len(4 << 20).unwrap();
    let rig = Rig::new(&format!("image={},vfs=1", image.display()));
    pollster::block_on(async {
        let (one, shared) = (rig.nvme_with(8 << 20, isolated(8)).await, rig.nvme().await);
        let ns = one.namespace(1).unwrap();
        ns.write(Lba(8), pattern(&one, 4096, 4)).await.unwrap();
        ns.flush().await.unwrap();
        let ns = shared.namespace(1).unwrap();
        let read = ns.read(Lba(8), shared.dma().alloc(4096).unwrap()).await.unwrap();
        assert!(*read == bytes(4096, 4)[..]);
    });
    assert!(std::fs::read(&image).unwrap()[4096..8192] == bytes(4096, 4)[..]);
}
