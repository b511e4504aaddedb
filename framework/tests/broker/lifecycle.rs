//! A broker as a process of its own: start, stop, death, and what clients see of it.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use doorbell::broker::{Broker, BrokerError, Policy, Rights, Rule, Subject};
use doorbell::client::{Client, ClientError};

use crate::support::process::{Process, role};
use crate::support::{Command, OK, PATIENCE, TestBroker, claim, registry, run};

/// What another process does: `lifecycle::broker_role`.
#[test]
fn broker_role() {
    let Some(arguments) = role() else { return };
    let [socket] = arguments.as_slice() else { panic!("{arguments:?}") };
    let socket = Path::new(socket).to_owned();
    let seen = socket.clone();
    // Connects as soon as there is a broker, and says so.
    std::thread::spawn(move || {
        loop {
            if pollster::block_on(Client::connect(&seen)).is_ok() {
                println!("serving");
                return;
            }
        }
    });
    let spec = "soft:loop".parse().unwrap();
    Broker::builder(registry()).device(spec).socket(socket).run().unwrap();
    println!("ended");
}

fn start(socket: &Path) -> Process {
    let mut broker = Process::start("lifecycle::broker_role", &[socket.to_str().unwrap()]);
    broker.says("serving");
    broker
}

#[test]
fn sigterm_ends_it_in_good_order() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("s");
    let mut broker = start(&socket);
    pollster::block_on(async {
        let client = Client::connect(&socket).await.unwrap();
        let queue = claim(&client, 4).await;
        assert_eq!(run(&queue, Command::Nop).await, OK);
        let flying = queue.submit((), |_, ()| Command::Hold.entry()).unwrap();
        queue.flush();
        assert!(broker.terminate().success());
        let lost = flying.await.unwrap_err();
        assert!(lost.error.to_string().contains("the broker is gone"), "{}", lost.error);
        assert!(lost.buffer.is_some(), "it said that the queue had ended");
        let error = client.status().await.unwrap_err();
        assert!(matches!(error, ClientError::BrokerGone { .. }), "{error}");
        assert!(error.to_string().contains(socket.to_str().unwrap()));
    });
    assert!(!socket.exists());
    let error = pollster::block_on(Client::connect(&socket)).unwrap_err();
    assert!(error.to_string().contains("no such socket"), "{error}");
}

#[test]
fn clients_outlive_a_broker_that_is_killed_and_its_socket_is_taken_over() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("s");
    let mut broker = start(&socket);
    pollster::block_on(async {
        let client = Client::connect(&socket).await.unwrap();
        let queue = claim(&client, 4).await;
        let flying = queue.submit((), |_, ()| Command::Stone.entry()).unwrap();
        queue.flush();
        broker.kill();
        let lost = flying.await.unwrap_err();
        assert!(lost.error.to_string().contains("the broker is gone"), "{}", lost.error);
        assert!(lost.buffer.is_none(), "nobody can say what the device does");
    });
    assert!(socket.exists());
    let error = pollster::block_on(Client::connect(&socket)).unwrap_err();
    assert!(error.to_string().contains("the broker that made this socket is dead"), "{error}");
    let mut broker = start(&socket);
    pollster::block_on(async {
        let client = Client::connect(&socket).await.unwrap();
        let queue = claim(&client, 4).await;
        assert_eq!(run(&queue, Command::Nop).await, OK);
    });
    assert!(broker.terminate().success());
}

#[test]
fn a_socket_that_is_in_use_is_left_alone() {
    let broker = TestBroker::start("soft:loop");
    let again = |path: &Path| {
        let spec = "soft:loop".parse().unwrap();
        Broker::builder(registry()).device(spec).socket(path).start().unwrap_err()
    };
    let error = again(&broker.socket);
    assert!(matches!(error, BrokerError::SocketInUse { .. }), "{error}");
    broker.connect();
    let file = broker.socket.with_file_name("file");
    std::fs::write(&file, "data").unwrap();
    let error = again(&file);
    assert!(matches!(error, BrokerError::NotASocket { .. }), "{error}");
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "data");
    let error = again(Path::new("/no/such/folder/s"));
    assert!(error.to_string().contains("opening its folder"), "{error}");
}

#[test]
fn a_device_that_does_not_come_up_leaves_no_socket() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("s");
    let spec = "soft:loop,queues=x".parse().unwrap();
    let error = Broker::builder(registry()).device(spec).socket(&socket).start().unwrap_err();
    assert!(error.to_string().contains("queues=x"), "{error}");
    assert!(!socket.exists());
}

#[test]
fn the_sockets_mode_follows_the_policy() {
    let mode = |broker: &TestBroker| {
        std::fs::metadata(&broker.socket).unwrap().permissions().mode() & 0o777
    };
    assert_eq!(mode(&TestBroker::start("soft:loop")), 0o600);
    let rule = Rule { subject: Subject::Any, device: "*".to_owned(), rights: Rights::default() };
    let shared =
        TestBroker::with("soft:loop", |builder| builder.policy(Policy::from_rules(vec![rule])));
    assert_eq!(mode(&shared), 0o666);
}

#[test]
fn stopping_ends_every_grant_first() {
    let mut broker = TestBroker::start("soft:loop");
    let client = broker.connect();
    pollster::block_on(async {
        let queue = claim(&client, 4).await;
        let flying = queue.submit((), |_, ()| Command::Stone.entry()).unwrap();
        queue.flush();
        broker.stop();
        let lost = flying.await.unwrap_err();
        assert!(lost.buffer.is_some(), "{lost:?}");
        // Nothing is left to give back.
        queue.release().await.unwrap();
    });
    assert!(!broker.socket.exists());
}

#[test]
fn a_broker_keeps_no_descriptor_of_clients_that_left() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("s");
    let broker = start(&socket);
    let open = || std::fs::read_dir(format!("/proc/{}/fd", broker.pid())).unwrap().count();
    let round = || {
        pollster::block_on(async {
            let client = Client::connect(&socket).await.unwrap();
            let queue = claim(&client, 4).await;
            assert_eq!(run(&queue, Command::Nop).await, OK);
        });
    };
    round();
    let client = pollster::block_on(Client::connect(&socket)).unwrap();
    let alone = || {
        let status = pollster::block_on(client.status()).unwrap();
        status.sessions.len() == 1
    };
    let deadline = doorbell::Deadline::after(PATIENCE);
    while !alone() {
        assert!(!deadline.expired());
    }
    let before = open();
    for _ in 0..50 {
        round();
    }
    while !alone() || open() > before {
        assert!(!deadline.expired(), "{before} descriptors, then {}", open());
    }
}
