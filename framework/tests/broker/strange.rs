//! Clients against brokers that are none: of another version, silent, or talking nonsense.

use std::os::fd::{AsFd, OwnedFd};
use std::thread::JoinHandle;
use std::time::Duration;

use doorbell::Tier;
use doorbell::client::{Client, ClientError, QueueSpec};
use doorbell::dma::{HugePages, Memfd};
use doorbell::queues::EndReason;
use doorbell::wait::Eventfd;
use doorbell::wire::codec::{encode_event, encode_refused, encode_reply};
use doorbell::wire::socket::{pair, receive, send};
use doorbell::wire::{
    DeviceInfo, EndCause, Event, Grant, Message, Packet, Received, Reply, Request, VERSION,
};
use rustix::event::{PollFd, PollFlags, poll};

use crate::support::{Command, Loop, claim, run_to_end};

/// What the fake answers to one request; `None` closes the connection.
type Answers = Box<dyn FnMut(u32, Request) -> Option<Vec<Packet>> + Send>;

struct Fake(Option<JoinHandle<()>>);

impl Drop for Fake {
    fn drop(&mut self) {
        if let Some(thread) = self.0.take() {
            thread.join().unwrap();
        }
    }
}

fn fake(mut answers: Answers) -> (OwnedFd, Fake) {
    let (ours, theirs) = pair().unwrap();
    let thread = std::thread::spawn(move || {
        loop {
            poll(&mut [PollFd::new(&theirs, PollFlags::IN)], None).unwrap();
            match receive(theirs.as_fd(), &mut Vec::new()).unwrap() {
                Received::Packet { message: Ok(Message::Request(id, request)), .. } => {
                    let Some(packets) = answers(id, request) else { return };
                    for packet in packets {
                        assert!(send(theirs.as_fd(), &packet).unwrap());
                    }
                }
                Received::Closed => return,
                other => panic!("{other:?}"),
            }
        }
    });
    (ours, Fake(Some(thread)))
}

fn plain(id: u32, reply: &Reply) -> Option<Vec<Packet>> {
    Some(vec![encode_reply(id, reply).unwrap().into()])
}

fn welcome() -> Reply {
    let device = DeviceInfo {
        name: "fake".to_owned(),
        driver: "fake".to_owned(),
        vendor: 0,
        device: 0,
        class: 0,
        numa_node: None,
        bus: "fake".to_owned(),
        about_bus: String::new(),
        queues: 1,
        max_entries: 64,
        portal: false,
        submission_entry: 32,
        completion_entry: 16,
    };
    Reply::Welcome { session: 1, max_pending: 4, device }
}

async fn connect(socket: OwnedFd) -> Result<Client, ClientError> {
    let builder = Client::builder().arena_bytes(64 << 10).deadline(Duration::from_millis(200));
    builder.from_fd(socket, "the fake").await
}

#[test]
fn a_broker_of_another_version() {
    let (socket, _fake) = fake(Box::new(|id, _| {
        let mut bytes = encode_refused(id, 1);
        // Its own version, in the header and in the body.
        (bytes[4], bytes[16], bytes[18]) = (9, 8, 9);
        Some(vec![bytes.into()])
    }));
    let error = pollster::block_on(connect(socket)).unwrap_err();
    assert_eq!(
        error.to_string(),
        format!(
            "broker the fake speaks version 9 of the control protocol, this program {VERSION}; \
             use the same release of doorbell on both sides"
        )
    );
}

#[test]
fn a_broker_that_says_nothing() {
    let (socket, _fake) = fake(Box::new(|_, _| Some(Vec::new())));
    let error = pollster::block_on(connect(socket)).unwrap_err();
    assert_eq!(
        error.to_string(),
        "broker the fake: waited 0.200 s for the answer to 'hello'; is it stopped or overloaded?"
    );
}

#[test]
fn a_broker_that_hangs_up_or_talks_nonsense() {
    let (socket, _fake) = fake(Box::new(|_, _| None));
    let error = pollster::block_on(connect(socket)).unwrap_err();
    assert!(matches!(error, ClientError::BrokerGone { .. }), "{error}");

    for bytes in [
        b"nonsense".to_vec(),
        vec![0; 100_000],
        encode_reply(1, &welcome()).unwrap()[..20].to_vec(),
    ] {
        let (socket, _fake) = fake(Box::new(move |_, _| Some(vec![bytes.clone().into()])));
        let error = pollster::block_on(connect(socket)).unwrap_err();
        assert!(matches!(error, ClientError::BrokerGone { .. }), "{error}");
    }

    let (socket, _fake) = fake(Box::new(|id, _| plain(id, &Reply::Done)));
    let error = pollster::block_on(connect(socket)).unwrap_err();
    assert_eq!(error.to_string(), "broker the fake: connect: unusable answer: 'done'");

    // Answers that nobody asked for are passed over.
    let (socket, _fake) = fake(Box::new(|id, _| {
        let mut packets = plain(id.wrapping_add(5), &Reply::Done)?;
        packets.extend(plain(id, &Reply::Done)?);
        Some(packets)
    }));
    let error = pollster::block_on(connect(socket)).unwrap_err();
    assert!(error.to_string().ends_with("'done'"), "{error}");
}

fn grant(signals: bool) -> Grant {
    Grant {
        queue: 1,
        tier: Tier::Cooperative,
        entries: 8,
        slice_offset: 0,
        slice_len: 4096,
        submission_doorbell: 8,
        completion_doorbell: 12,
        non_temporal: false,
        signals: signals.then_some(doorbell::wire::SignalLayout { len: 4096, asleep: 0, armed: 4 }),
    }
}

fn memory() -> OwnedFd {
    Memfd::create("fake", 4096, HugePages::No).unwrap().into_fd()
}

type Fds = fn() -> Vec<OwnedFd>;

/// A fake that is all right but for the grant that it gives.
fn granting(grant: Grant, fds: Fds) -> (OwnedFd, Fake) {
    fake(Box::new(move |id, request| match request {
        Request::Hello { .. } => plain(id, &welcome()),
        Request::DonateArena { .. } => plain(id, &Reply::ArenaMapped { arena: 0, iova: 1 << 32 }),
        Request::Claim { .. } => {
            let bytes = encode_reply(id, &Reply::Granted(grant.clone())).unwrap();
            Some(vec![Packet { bytes, fds: fds() }])
        }
        _ => plain(id, &Reply::Done),
    }))
}

fn event() -> OwnedFd {
    Eventfd::new().unwrap().as_fd().try_clone_to_owned().unwrap()
}

#[test]
fn grants_that_cannot_be() {
    let two = || vec![memory(), event()];
    let four = || vec![memory(), event(), memory(), event()];
    let good = grant(false);
    let layout = |asleep, armed| Grant {
        signals: Some(doorbell::wire::SignalLayout { len: 4096, asleep, armed }),
        ..grant(true)
    };
    let cases: [(&str, Grant, Fds); 8] = [
        ("another size", Grant { entries: 16, ..good.clone() }, two),
        ("doorbell", Grant { submission_doorbell: 4096, ..good.clone() }, two),
        ("doorbell", Grant { completion_doorbell: u64::MAX, ..good.clone() }, two),
        ("doorbell", Grant { submission_doorbell: 6, ..good.clone() }, two),
        ("mmap", Grant { slice_offset: 7, ..good.clone() }, two),
        ("", Grant { slice_len: 0, ..good.clone() }, two),
        ("signal words", layout(4096, 0), four),
        ("signal words", layout(0, 4095), four),
    ];
    for (part, grant, fds) in cases {
        let (socket, _fake) = granting(grant, fds);
        pollster::block_on(async {
            let client = connect(socket).await.unwrap();
            let error = client.claim::<Loop>(QueueSpec::depth(4)).await.unwrap_err();
            assert!(error.to_string().contains(part), "{part}: {error}");
        });
    }
}

#[test]
fn an_end_that_is_told_before_the_grant_is_looked_at_is_not_lost() {
    let (socket, _fake) = fake(Box::new(|id, request| match request {
        Request::Hello { .. } => plain(id, &welcome()),
        Request::DonateArena { .. } => plain(id, &Reply::ArenaMapped { arena: 0, iova: 1 << 32 }),
        Request::Claim { .. } => {
            let bytes = encode_reply(id, &Reply::Granted(grant(false))).unwrap();
            let ended = Event::QueueEnded { queue: 1, cause: EndCause::Revoked, quiesced: true };
            let granted = Packet { bytes, fds: vec![memory(), event()] };
            Some(vec![granted, encode_event(&ended).unwrap().into()])
        }
        _ => plain(id, &Reply::Done),
    }));
    pollster::block_on(async {
        let client = connect(socket).await.unwrap();
        let queue = claim(&client, 4).await;
        // The broker's event may come a moment after the grant.
        assert_eq!(run_to_end(&queue, Command::Nop).await, EndReason::Revoked);
    });
}
