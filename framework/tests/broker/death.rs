//! Clients that die, at whatever point.

use doorbell::client::{Client, QueueSpec};
use doorbell::wire::ReclaimCause;

use crate::support::process::{Process, role, until_parent_is_gone};
use crate::support::{Command, Loop, OK, TestBroker, claim, run};

/// What another process does: `death::client_role`.
#[test]
fn client_role() {
    let Some(arguments) = role() else { return };
    let [kind, socket, depth] = arguments.as_slice() else { panic!("{arguments:?}") };
    let depth: u32 = depth.parse().unwrap();
    pollster::block_on(async {
        let client = Client::builder().arena_bytes(1 << 20).connect(socket).await.unwrap();
        let claimed = client.claim::<Loop>(QueueSpec::depth(depth)).await.unwrap();
        let queue = claimed.into_queue::<doorbell::dma::DmaShared>().unwrap();
        let mut flying = Vec::new();
        for _ in 0..depth {
            let buffer = client.dma().alloc_shared(4096).unwrap();
            flying.push(queue.submit(buffer, |_, _| Command::Stone.entry()).unwrap());
        }
        queue.flush();
        println!("full {}", queue.id());
        if kind == "panic" {
            // Unwinds over the queue with everything in flight.
            drop(flying);
            std::process::exit(3);
        }
        until_parent_is_gone();
    });
}

fn victim(broker: &TestBroker, kind: &str, depth: u32) -> Process {
    let socket = broker.socket.to_str().unwrap();
    Process::start("death::client_role", &[kind, socket, &depth.to_string()])
}

#[test]
fn a_killed_client_with_a_full_queue_leaves_nothing_behind() {
    let broker = TestBroker::start("soft:loop,queues=2");
    let witness = broker.connect();
    let queue = pollster::block_on(claim(&witness, 8));
    let mut ids = Vec::new();
    for _ in 0..5 {
        let mut victim = victim(&broker, "kill", 64);
        ids.push(victim.says("full"));
        let pid = victim.pid();
        victim.kill();
        broker.until("the victim to be taken back", |status| {
            status.reclaims.iter().any(|report| {
                report.pid == pid
                    && report.cause == ReclaimCause::Died
                    && (report.queues, report.mappings, report.bytes) == (1, 1, 1 << 20)
                    && report.quarantined == 0
            }) && status.sessions.iter().all(|session| session.pid != pid)
        });
        // Others notice nothing.
        assert_eq!(pollster::block_on(run(&queue, Command::Nop)), OK);
    }
    // Each got what the one before had.
    assert!(ids.iter().all(|id| *id == ids[0]), "{ids:?}");
    let status = pollster::block_on(witness.status()).unwrap();
    assert_eq!((status.resets, status.quarantined_bytes, status.faults), (0, 0, 0));
}

#[test]
fn a_client_that_exits_with_commands_in_flight_leaves_nothing_behind() {
    let broker = TestBroker::start("soft:loop,queues=1");
    let mut victim = victim(&broker, "panic", 16);
    victim.says("full");
    broker.until("the victim to be taken back", |status| {
        status.reclaims.iter().any(|report| report.pid == victim.pid() && report.queues == 1)
    });
    let client = broker.connect();
    let queue = pollster::block_on(claim(&client, 16));
    assert_eq!(pollster::block_on(run(&queue, Command::Nop)), OK);
}

#[test]
fn a_victim_whose_queue_does_not_end_costs_the_others_a_reset() {
    let broker = TestBroker::with("soft:loop", |b| b.timeouts(crate::support::short()));
    let witness = broker.connect();
    let queue = pollster::block_on(claim(&witness, 8));
    {
        let client = broker.connect();
        let stubborn = pollster::block_on(claim(&client, 8));
        assert_eq!(pollster::block_on(run(&stubborn, Command::Stubborn)), OK);
    }
    broker.until("the device to be reset", |status| status.resets == 1);
    let lost = pollster::block_on(async {
        let held = queue.submit((), |_, ()| Command::Nop.entry());
        match held {
            Err(rejected) => rejected.reason.to_string(),
            Ok(flying) => flying.await.unwrap_err().error.to_string(),
        }
    });
    assert!(lost.contains("the device was reset"), "{lost}");
    // A new queue works, and the old one's id comes back once its owner has let go.
    drop(queue);
    let queue = pollster::block_on(claim(&witness, 8));
    assert_eq!(pollster::block_on(run(&queue, Command::Nop)), OK);
    broker.until("all but one queue to be free", |status| {
        status.sessions.iter().map(|session| session.queues.len()).sum::<usize>() == 1
            && status.quarantined_bytes == 0
    });
}

#[test]
fn what_cannot_be_taken_back_is_never_used_again() {
    let broker = TestBroker::with("soft:loop,queues=3", |b| b.timeouts(crate::support::short()));
    let witness = broker.connect();
    let queue = pollster::block_on(claim(&witness, 8));
    let stuck = {
        let client = broker.connect();
        let stubborn = pollster::block_on(claim(&client, 8));
        assert_eq!(pollster::block_on(run(&stubborn, Command::Stubborn)), OK);
        let _: crate::support::Answer =
            pollster::block_on(client.admin(&crate::support::Op::Deafen)).unwrap();
        stubborn.id()
    };
    broker.until("the device to be out of service", |status| {
        status.out_of_service.as_deref().is_some_and(|why| why.contains("did not reset"))
            && status.quarantined_queues == [stuck]
            && status.quarantined_bytes == 1 << 20
    });
    let error = pollster::block_on(witness.claim::<Loop>(QueueSpec::depth(4))).unwrap_err();
    assert!(error.to_string().contains("out of service"), "{error}");
    let rejected = queue.submit((), |_, ()| Command::Nop.entry()).err();
    assert!(rejected.is_some_and(|r| r.reason.to_string().contains("the device is gone")));
}
