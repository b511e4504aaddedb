//! Commands that outlive their time limit: abort, then the queue's end, then a reset.

use std::time::Duration;

use doorbell::client::QueueSpec;
use doorbell::queues::SpinBudget;

use crate::support::protocol::ABORTED;
use crate::support::{Command, OK, TestBroker, claim_with, run, short};

/// A limit that passes soon, and not by itself on a busy machine.
fn hurried(depth: u32) -> QueueSpec {
    let limit = Duration::from_millis(700);
    QueueSpec::depth(depth).time_limit(limit).spin(SpinBudget::adaptive(0))
}

#[test]
fn a_command_that_hangs_is_aborted_and_the_queue_lives() {
    let broker = TestBroker::start("soft:loop");
    let client = broker.connect();
    pollster::block_on(async {
        let queue = claim_with(&client, hurried(4)).await;
        assert_eq!(run(&queue, Command::Hang).await, ABORTED);
        assert_eq!(run(&queue, Command::Nop).await, OK);
        assert!(queue.ended().is_none());
    });
}

#[test]
fn under_tokio_too() {
    let broker = TestBroker::start("soft:loop");
    let client = broker.connect();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let queue = claim_with(&client, hurried(4)).await;
        assert_eq!(run(&queue, Command::Hang).await, ABORTED);
        assert_eq!(run(&queue, Command::Nop).await, OK);
    });
}

#[test]
fn a_command_that_cannot_be_aborted_ends_its_queue_and_no_other() {
    let broker = TestBroker::with("soft:loop", |builder| builder.timeouts(short()));
    let (client, other) = (broker.connect(), broker.connect());
    pollster::block_on(async {
        let bystander = claim_with(&other, QueueSpec::depth(4)).await;
        let queue = claim_with(&client, hurried(4)).await;
        let flying = queue.submit((), |_, ()| Command::Stone.entry()).unwrap();
        let innocent = queue.submit((), |_, ()| Command::Hold.entry()).unwrap();
        for future in [flying, innocent] {
            let lost = future.await.unwrap_err();
            assert!(lost.error.to_string().contains("timed out"), "{}", lost.error);
            assert!(lost.buffer.is_some(), "the queue is quiesced: buffers come back");
        }
        assert_eq!(run(&bystander, Command::Nop).await, OK);
        queue.release().await.unwrap();
        let status = client.status().await.unwrap();
        assert_eq!(status.resets, 0);
        let again = claim_with(&client, hurried(4)).await;
        assert_eq!(run(&again, Command::Nop).await, OK);
    });
}

#[test]
fn a_queue_that_cannot_be_ended_costs_a_reset() {
    let broker = TestBroker::with("soft:loop", |builder| builder.timeouts(short()));
    let (client, other) = (broker.connect(), broker.connect());
    pollster::block_on(async {
        let bystander = claim_with(&other, QueueSpec::depth(4)).await;
        let held = bystander.submit((), |_, ()| Command::Hold.entry()).unwrap();
        bystander.flush();
        let queue = claim_with(&client, hurried(4)).await;
        assert_eq!(run(&queue, Command::Stubborn).await, OK);
        let lost = run_lost(&queue, Command::Stone).await;
        assert!(lost.contains("timed out"), "{lost}");
        let lost = held.await.unwrap_err();
        assert!(lost.error.to_string().contains("the device was reset"), "{}", lost.error);
        assert!(lost.buffer.is_some());
        assert_eq!(client.status().await.unwrap().resets, 1);
        for client in [&client, &other] {
            let queue = claim_with(client, QueueSpec::depth(4)).await;
            assert_eq!(run(&queue, Command::Nop).await, OK);
        }
    });
}

async fn run_lost(queue: &crate::support::Plain, command: Command) -> String {
    let flying = queue.submit((), |_, ()| command.entry()).unwrap();
    flying.await.unwrap_err().error.to_string()
}

#[test]
fn waiting_for_a_slot_has_a_limit_too() {
    let broker = TestBroker::with("soft:loop", |builder| builder.timeouts(short()));
    let client = broker.connect();
    pollster::block_on(async {
        let queue = claim_with(&client, hurried(1)).await;
        // Its future is gone, and nobody can abort it.
        drop(queue.submit((), |_, ()| Command::Stone.entry()).unwrap());
        let error = queue.slot_free().await.unwrap_err();
        assert!(error.to_string().contains("timed out"), "{error}");
    });
}

#[test]
fn a_request_that_takes_too_long_is_an_error_that_says_so() {
    use crate::support::{Answer, Op};
    let broker = TestBroker::start("soft:loop");
    let client = broker.connect();
    pollster::block_on(async {
        let limit = Duration::from_millis(20);
        let error = client.admin_within::<Op, Answer>(&Op::Slow, limit).await.unwrap_err();
        let text = error.to_string();
        assert!(text.contains("waited 0.020 s for the answer to 'admin operation'"), "{text}");
        let _: Answer = client.admin(&Op::Finish).await.unwrap();
    });
}
