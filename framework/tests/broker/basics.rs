//! What a client that behaves sees.

use doorbell::Tier;
use doorbell::client::{Client, ClientError, QueueSpec};
use doorbell::local;
use doorbell::wire::Refusal;

use crate::support::{
    Answer, Command, Loop, OK, Op, PATIENCE, Plain, TestBroker, claim, registry, run,
};

#[test]
fn a_client_claims_a_queue_and_the_device_writes_its_memory() {
    let broker = TestBroker::start("soft:loop");
    pollster::block_on(async {
        let client = broker.connect();
        assert_eq!(client.device().name, "soft:loop");
        assert_eq!(client.device().driver, "loop");
        let queue = claim(&client, 8).await;
        assert_eq!(queue.tier(), Tier::Cooperative);
        let buffer = client.dma().alloc_shared(4096).unwrap();
        let fill = Command::Fill { iova: buffer.iova(), len: 4096, byte: 0x5a };
        assert_eq!(run(&queue, fill).await, OK);
        let buffer = buffer.into_box().unwrap();
        assert!(buffer.iter().all(|byte| *byte == 0x5a));
        queue.release().await.unwrap();
    });
}

#[test]
fn status_tells_what_is_held_and_nothing_is_held_afterwards() {
    let broker = TestBroker::start("soft:loop");
    let client = broker.connect();
    let status = pollster::block_on(async {
        let queue = claim(&client, 8).await;
        let status = client.status().await.unwrap();
        drop(queue);
        status
    });
    let me = &status.sessions[0];
    assert_eq!(me.pid, std::process::id() as i32);
    assert_eq!(me.session, client.session());
    assert!(me.operator);
    assert_eq!((me.queues.len(), me.queues[0].entries), (1, 16));
    assert_eq!(me.arenas.iter().map(|arena| arena.bytes).sum::<u64>(), 1 << 20);
    assert_eq!((status.device.queues, status.faults, status.resets), (8, 0, 0));
    drop(client);
    broker.until("the client to be forgotten", |status| {
        status.sessions.iter().all(|session| session.queues.is_empty() && session.arenas.is_empty())
            && status.reclaims.last().is_some_and(|report| report.bytes == 1 << 20)
    });
}

#[test]
fn queue_ids_and_memory_come_round_again() {
    let broker = TestBroker::start("soft:loop,queues=2");
    pollster::block_on(async {
        let client = broker.connect();
        let before = client.dma().stats();
        for _ in 0..20 {
            let (one, two) = (claim(&client, 4).await, claim(&client, 4).await);
            let error = client.claim::<Loop>(QueueSpec::depth(4)).await.unwrap_err();
            let text = error.to_string();
            assert!(
                matches!(error, ClientError::Refused { refusal: Refusal::NoQueueLeft { .. }, .. }),
                "{text}"
            );
            assert!(text.contains("all 2 queues of device soft:loop are taken"), "{text}");
            assert_eq!(run(&one, Command::Nop).await, OK);
            assert_eq!(run(&two, Command::Nop).await, OK);
            one.release().await.unwrap();
            two.release().await.unwrap();
        }
        assert_eq!(client.dma().stats(), before);
    });
}

#[test]
fn a_dropped_queue_is_given_back_and_its_buffers_too() {
    let broker = TestBroker::start("soft:loop,queues=1");
    pollster::block_on(async {
        let client = broker.connect();
        let before = client.dma().stats();
        {
            let queue = client.claim::<Loop>(QueueSpec::depth(4)).await.unwrap();
            let queue = queue.into_queue::<doorbell::dma::DmaShared>().unwrap();
            let buffer = client.dma().alloc_shared(4096).unwrap();
            drop(queue.submit(buffer, |_, _| Command::Stone.entry()).unwrap());
        }
        // The only queue: granted again once the broker has confirmed its end.
        let again = loop {
            match client.claim::<Loop>(QueueSpec::depth(4)).await {
                Ok(claimed) => break claimed,
                Err(ClientError::Refused { refusal: Refusal::NoQueueLeft { .. }, .. }) => {}
                Err(error) => panic!("{error}"),
            }
        };
        drop(again);
        let deadline = doorbell::Deadline::after(PATIENCE);
        while client.dma().stats() != before {
            client.status().await.unwrap();
            assert!(!deadline.expired(), "{:?}", client.dma().stats());
        }
    });
}

#[test]
fn what_cannot_be_claimed_is_said_before_anything_is_asked() {
    let broker = TestBroker::start("soft:loop");
    pollster::block_on(async {
        let client = broker.connect();
        for depth in [0, 256, 5000] {
            let error = client.claim::<Loop>(QueueSpec::depth(depth)).await.unwrap_err();
            assert!(matches!(error, ClientError::Depth { max: 255, .. }), "{error}");
        }
        assert_eq!(claim(&client, 255).await.capacity(), 255);
        let spec = QueueSpec::depth(4).at_least(Tier::Isolated);
        let error = client.claim::<Loop>(spec).await.unwrap_err();
        assert!(
            matches!(error, ClientError::Refused { refusal: Refusal::Tier { .. }, .. }),
            "{error}"
        );
    });
}

#[test]
fn admin_operations_are_typed_and_long_ones_delay_nobody() {
    let broker = TestBroker::start("soft:loop");
    let (one, two) = (broker.connect(), broker.connect());
    let slow = one.clone();
    let slow = std::thread::spawn(move || {
        pollster::block_on(slow.admin::<Op, Answer>(&Op::Slow)).unwrap()
    });
    pollster::block_on(async {
        for client in [&one, &two] {
            let answer: Answer = client.admin(&Op::Ping(7)).await.unwrap();
            assert_eq!(answer, Answer::Pong(7));
            let queue = claim(client, 4).await;
            assert_eq!(run(&queue, Command::Nop).await, OK);
            let Answer::You { pid, operator, queues, .. } =
                client.admin(&Op::WhoAmI).await.unwrap()
            else {
                panic!("not who");
            };
            assert_eq!((pid, operator), (std::process::id() as i32, true));
            assert_eq!(queues, [queue.id()]);
        }
        let done: Answer = two.admin(&Op::Finish).await.unwrap();
        assert_eq!(done, Answer::Done);
    });
    assert_eq!(slow.join().unwrap(), Answer::Done);
}

#[test]
fn answers_that_are_too_long_or_of_another_driver_are_errors() {
    let broker = TestBroker::start("soft:loop");
    pollster::block_on(async {
        let client = broker.connect();
        let answer: Answer = client.admin(&Op::Bytes(60_000)).await.unwrap();
        assert_eq!(answer, Answer::Bytes(vec![7; 60_000]));
        let error = client.admin::<Op, Answer>(&Op::Bytes(70_000)).await.unwrap_err();
        assert!(error.to_string().contains("the reply cannot be sent"), "{error}");
        let error = client.admin::<Vec<u8>, Answer>(&vec![200; 9]).await.unwrap_err();
        assert!(error.to_string().contains("same version"), "{error}");
        let error = client.admin::<Op, u8>(&Op::Ping(u32::MAX)).await.unwrap_err();
        assert!(matches!(error, ClientError::Codec { .. }), "{error}");
    });
}

#[test]
fn a_request_can_be_dropped_at_any_point() {
    use std::future::Future;
    use std::task::{Context, Waker};

    let broker = TestBroker::start("soft:loop,queues=1");
    let client = broker.connect();
    let before = client.dma().stats();
    for _ in 0..50 {
        let mut claim = Box::pin(client.claim::<Loop>(QueueSpec::depth(4)));
        // The request is on its way after the first poll.
        let _ = claim.as_mut().poll(&mut Context::from_waker(Waker::noop()));
        drop(claim);
    }
    broker.until("the only queue to be free", |status| {
        status.sessions.iter().all(|session| session.queues.is_empty() && session.pending < 2)
    });
    let deadline = doorbell::Deadline::after(PATIENCE);
    while client.dma().stats() != before {
        pollster::block_on(client.status()).unwrap();
        assert!(!deadline.expired(), "{:?}", client.dma().stats());
    }
    let _queue: Plain = pollster::block_on(claim(&client, 4));
}

#[test]
fn a_device_of_this_process_needs_no_broker_process() {
    pollster::block_on(async {
        let client = local::open("soft:loop,queues=3", &registry()).await.unwrap();
        let queue = claim(&client, 4).await;
        drop(client);
        // The queue keeps the device.
        assert_eq!(run(&queue, Command::Nop).await, OK);
        let client = queue.client();
        drop(queue);
        assert!(client.status().await.unwrap().sessions[0].operator);

        let error = local::open("soft:none", &registry()).await.unwrap_err();
        assert_eq!(
            error.to_string(),
            "device soft:none: no software model 'none'; this program has: loop"
        );
        let error = local::open("soft:loop,size=3", &registry()).await.unwrap_err();
        assert!(error.to_string().contains("has no option 'size'"), "{error}");
        let error = local::open("ffff:ff:1f.7", &registry()).await.unwrap_err();
        let text = error.to_string();
        assert!(
            text.starts_with("device ffff:ff:1f.7: ") && text.contains("no such PCI function"),
            "{text}"
        );
        let error = local::open("nonsense", &registry()).await.unwrap_err();
        assert!(error.to_string().contains("names no device"), "{error}");
    });
}

#[test]
fn a_second_arena_grows_the_pool() {
    let broker = TestBroker::start("soft:loop");
    pollster::block_on(async {
        let client = Client::builder().arena_bytes(64 << 10).connect(&broker.socket).await.unwrap();
        assert!(client.dma().alloc(1 << 20).is_err());
        client.grow(2 << 20).await.unwrap();
        let queue = claim(&client, 4).await;
        let buffer = client.dma().alloc_shared(1 << 20).unwrap();
        let fill = Command::Fill { iova: buffer.iova(), len: 1 << 20, byte: 3 };
        assert_eq!(run(&queue, fill).await, OK);
        assert!(buffer.into_box().unwrap().iter().all(|byte| *byte == 3));
    });
}

#[test]
fn what_a_queue_keeps_comes_back_with_its_rings() {
    let broker = TestBroker::start("soft:loop");
    pollster::block_on(async {
        let client = Client::connect(&broker.socket).await.unwrap();
        let table = client.dma().alloc_shared(4096).unwrap();
        let mut claimed = client.claim::<Loop>(QueueSpec::depth(4)).await.unwrap();
        claimed.keep(table.keep());
        let table = table.into_box().unwrap_err();
        let queue = claimed.into_queue::<()>().unwrap();
        let table = table.into_box().unwrap_err();
        queue.release().await.unwrap();
        assert!(table.into_box().is_ok(), "the device is done with the queue");
    });
}
