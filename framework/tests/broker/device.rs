//! What the device does: faults, and leaving.

use doorbell::client::QueueSpec;

use crate::support::protocol::FAULTED;
use crate::support::{Answer, Command, Loop, OK, Op, TestBroker, claim, run};

#[test]
fn faults_are_counted_shown_and_told_to_the_driver() {
    let broker = TestBroker::start("soft:loop");
    let client = broker.connect();
    pollster::block_on(async {
        let queue = claim(&client, 4).await;
        let fill = Command::Fill { iova: 0xdead_0000, len: 16, byte: 0 };
        assert_eq!(run(&queue, fill).await, FAULTED);
        let _: Answer = client.admin(&Op::Touch(0x1_2345_6000)).await.unwrap();
    });
    broker.until("two faults", |status| {
        status.faults == 2 && status.last_fault.is_some_and(|fault| fault.iova == 0x1_2345_6000)
    });
    let deadline = doorbell::Deadline::after(crate::support::PATIENCE);
    loop {
        let seen: Answer = pollster::block_on(client.admin(&Op::Seen)).unwrap();
        if seen == (Answer::Seen { faults: 2, removed: false }) {
            break;
        }
        assert!(!deadline.expired(), "{seen:?}");
    }
}

#[test]
fn one_clients_addresses_mean_nothing_in_anothers_hands_once_it_is_gone() {
    let broker = TestBroker::start("soft:loop");
    let (one, two) = (broker.connect(), broker.connect());
    pollster::block_on(async {
        let theirs = one.dma().alloc_shared(4096).unwrap();
        let iova = theirs.iova();
        let own = two.dma().alloc_shared(4096).unwrap();
        assert_ne!(iova, own.iova());
        drop((theirs, one));
        broker.until("the first client to be gone", |status| {
            status.reclaims.iter().any(|report| report.mappings == 1)
        });
        let queue = claim(&two, 4).await;
        assert_eq!(run(&queue, Command::Fill { iova, len: 64, byte: 1 }).await, FAULTED);
        let iova = own.iova();
        assert_eq!(run(&queue, Command::Fill { iova, len: 64, byte: 1 }).await, OK);
    });
}

#[test]
fn a_device_that_fails_is_reset_and_serves_again() {
    let broker = TestBroker::start("soft:loop");
    let client = broker.connect();
    pollster::block_on(async {
        let queue = claim(&client, 4).await;
        let held = queue.submit((), |_, ()| Command::Hold.entry()).unwrap();
        let _: Answer = client.admin(&Op::Fail).await.unwrap();
        let lost = held.await.unwrap_err();
        assert!(lost.error.to_string().contains("reset"), "{}", lost.error);
        queue.release().await.unwrap();
        assert_eq!(run(&claim(&client, 4).await, Command::Nop).await, OK);
    });
    broker.until("one reset", |status| status.resets == 1 && status.out_of_service.is_none());
}

#[test]
fn a_device_that_goes_ends_every_grant() {
    let mut broker = TestBroker::start("soft:loop");
    let (one, two) = (broker.connect(), broker.connect());
    pollster::block_on(async {
        let queues = [claim(&one, 4).await, claim(&two, 4).await];
        let flying = [
            queues[0].submit((), |_, ()| Command::Hold.entry()).unwrap(),
            queues[1].submit((), |_, ()| Command::Hold.entry()).unwrap(),
        ];
        let _: Result<Answer, _> = one.admin(&Op::Vanish).await;
        for future in flying {
            let lost = future.await.unwrap_err();
            assert!(lost.error.to_string().contains("the device is gone"), "{}", lost.error);
            assert!(lost.buffer.is_some(), "a device that is gone writes no buffer");
        }
        let error = one.claim::<Loop>(QueueSpec::depth(4)).await.unwrap_err();
        assert!(error.to_string().contains("removed"), "{error}");
        for queue in queues {
            queue.release().await.unwrap();
        }
        drop((one, two));
    });
    broker.until("everything to be taken back", |status| {
        status.reclaims.iter().filter(|report| report.mappings == 1).count() == 2
            && status.quarantined_bytes == 0
    });
    // The driver cannot shut down what is not there.
    assert!(broker.broker.take().unwrap().stop().is_err());
}
