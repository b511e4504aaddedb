//! Grants end: by the operator, by the client's death, by the broker's.

mod common;

use std::io::Read;

use common::{Broker, until, wait};
use rustix::process::Signal;

#[test]
fn a_revoked_client_is_told_so_and_the_next_one_gets_its_queue() {
    let broker = Broker::serve("soft:nvme,ram=8M");
    let mut client = broker.busy_client();
    broker.await_queue_of(client.pid());
    let said = broker.ask(&["revoke", "--pid", &client.pid().to_string()]).text();
    assert!(said.contains("revoked 1 queue of 1 session"), "{said}");
    assert!(!wait(&mut client.0).success());
    let mut error = String::new();
    client.0.stderr.take().unwrap().read_to_string(&mut error).unwrap();
    assert!(error.lines().count() == 1 && error.contains("revoked"), "{error}");
    assert_eq!(broker.ask(&["bench", "--ios", "10"]).code, Some(0));
}

#[test]
fn what_a_killed_client_held_is_taken_back() {
    let broker = Broker::serve("soft:nvme,ram=8M");
    let client = broker.busy_client();
    broker.await_queue_of(client.pid());
    client.signal(Signal::KILL);
    let reclaim = until("the broker to take everything back", || {
        let status = broker.status();
        let reclaims = status["reclaims"].as_array().unwrap().clone();
        reclaims.into_iter().find(|reclaim| reclaim["pid"] == client.pid())
    });
    assert_eq!(reclaim["cause"], "died");
    assert_eq!((reclaim["queues"].as_u64(), reclaim["quarantined"].as_u64()), (Some(1), Some(0)));
    assert!(reclaim["bytes"].as_u64().unwrap() > 0);
    let text = broker.ask(&["status"]).text();
    assert!(text.contains("taken back") && text.contains("died"), "{text}");
    assert_eq!(broker.ask(&["bench", "--ios", "10"]).code, Some(0));
}

#[test]
fn a_client_whose_broker_dies_says_so_and_ends() {
    let broker = Broker::serve("soft:nvme,ram=8M");
    let mut client = broker.busy_client();
    broker.await_queue_of(client.pid());
    broker.process.signal(Signal::KILL);
    assert!(!wait(&mut client.0).success());
    let mut error = String::new();
    client.0.stderr.take().unwrap().read_to_string(&mut error).unwrap();
    assert!(error.lines().count() == 1 && error.contains("broker"), "{error}");
}

#[test]
fn nothing_to_revoke_is_an_error() {
    let broker = Broker::serve("soft:nvme,ram=1M");
    broker.ask(&["revoke", "--session", "4711"]).fails_with(&["4711", "doorbell status"]);
}
