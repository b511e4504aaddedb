//! Doorbells that are taken away under a client at work: real pages, real SIGBUS, and a broker that tells
//! why later, or not at all. What a client is told first is what it is told for good.

use std::os::fd::OwnedFd;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use doorbell::client::{Client, QueueHandle, QueueSpec};
use doorbell::queues::{EndReason, QueueError};
use doorbell::wire::codec::{encode_event, encode_reply};
use doorbell::wire::{EndCause, Event, Packet, Reply, Request, RevokeTarget};

use crate::fake::{Fake, connect, event, fake, grant, plain, welcome};
use crate::support::{Command, Loop};

/// A fake whose slices are `pages`. It revokes when it is asked to, and hangs up when asked for a reset.
fn broker(pages: OwnedFd) -> (OwnedFd, Fake) {
    fake(Box::new(move |id, request| match request {
        Request::Hello { .. } => plain(id, &welcome()),
        Request::DonateArena { .. } => plain(id, &Reply::ArenaMapped { arena: 0, iova: 1 << 32 }),
        Request::Claim { .. } => {
            let bytes = encode_reply(id, &Reply::Granted(grant(false))).unwrap();
            Some(vec![Packet { bytes, fds: vec![pages.try_clone().unwrap(), event()] }])
        }
        Request::Revoke { .. } => {
            let ended = Event::QueueEnded { queue: 1, cause: EndCause::Revoked, quiesced: true };
            let mut packets = vec![encode_event(&ended).unwrap().into()];
            packets.extend(plain(id, &Reply::Revoked { queues: 1, sessions: 1 })?);
            Some(packets)
        }
        Request::Reset => None,
        _ => plain(id, &Reply::Done),
    }))
}

struct Rig {
    queue: QueueHandle<Loop, ()>,
    client: Client,
    pages: OwnedFd,
    _fake: Fake,
}

async fn rig(time_limit: Duration) -> Rig {
    let pages = rustix::fs::memfd_create("slice", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
    rustix::fs::ftruncate(&pages, 4096).unwrap();
    let (socket, fake) = broker(pages.try_clone().unwrap());
    let client = connect(socket).await.unwrap();
    let spec = QueueSpec::depth(4).time_limit(time_limit);
    let queue = client.claim::<Loop>(spec).await.unwrap().into_queue().unwrap();
    Rig { queue, client, pages, _fake: fake }
}

fn reason(error: &QueueError) -> EndReason {
    let QueueError::Ended { reason, .. } = error else { panic!("{error}") };
    *reason
}

/// Takes the doorbells away, has the client miss them, and lets `tell` happen: what each of the
/// commands in flight is told, of which some came before and some after the loss.
async fn told(rig: &Rig, tell: impl AsyncFnOnce(&Client)) -> EndReason {
    let submit = || rig.queue.submit((), |_, ()| Command::Nop.entry()).unwrap();
    let mut in_flight = vec![submit()];
    rig.queue.flush();
    rustix::fs::ftruncate(&rig.pages, 0).unwrap();
    in_flight.push(submit());
    // This store finds no page.
    rig.queue.flush();
    in_flight.push(submit());
    let cx = &mut Context::from_waker(Waker::noop());
    for command in &mut in_flight {
        assert!(
            matches!(std::pin::Pin::new(command).poll(cx), Poll::Pending),
            "nobody said why yet"
        );
    }
    assert_eq!(rig.queue.ended(), None);
    tell(&rig.client).await;
    let mut reasons = Vec::new();
    for command in in_flight {
        reasons.push(reason(&command.await.unwrap_err().error));
    }
    assert!(reasons.iter().all(|reason| *reason == reasons[0]), "{reasons:?}");
    assert_eq!(rig.queue.ended().as_ref().map(reason), Some(reasons[0]));
    reasons[0]
}

const LONG: Duration = Duration::from_secs(60);
const SHORT: Duration = Duration::from_millis(200);

#[test]
fn the_broker_says_why_after_the_doorbell_is_lost() {
    pollster::block_on(async {
        let rig = rig(LONG).await;
        let revoke = async |client: &Client| {
            client.revoke(RevokeTarget::Queue(1)).await.unwrap();
        };
        assert_eq!(told(&rig, revoke).await, EndReason::Revoked);
    });
}

#[test]
fn a_broker_that_ends_takes_its_doorbells_with_it() {
    pollster::block_on(async {
        let rig = rig(LONG).await;
        let hang_up = async |client: &Client| {
            client.reset().await.unwrap_err();
        };
        assert_eq!(told(&rig, hang_up).await, EndReason::BrokerGone);
    });
}

#[test]
fn a_broker_that_never_says_why_is_waited_for_no_longer_than_for_a_command() {
    pollster::block_on(async {
        let rig = rig(SHORT).await;
        assert_eq!(told(&rig, async |_| {}).await, EndReason::DoorbellLost);
        // What it says after that changes nothing.
        rig.client.revoke(RevokeTarget::Queue(1)).await.unwrap();
        assert_eq!(rig.queue.ended().as_ref().map(reason), Some(EndReason::DoorbellLost));
    });
}

#[test]
fn a_loop_that_never_parks_is_told_too() {
    pollster::block_on(async {
        let rig = rig(SHORT).await;
        rustix::fs::ftruncate(&rig.pages, 0).unwrap();
        rig.queue.post((), |_, ()| Command::Nop.entry()).unwrap();
        rig.queue.flush();
        let error = loop {
            match rig.queue.reap(1, |_| panic!("nobody has seen the command")) {
                Ok(reaped) => assert_eq!(reaped, 0),
                Err(error) => break error,
            }
            std::thread::yield_now();
        };
        assert_eq!(reason(&error), EndReason::DoorbellLost);
    });
}
