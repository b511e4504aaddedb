//! Clients against brokers that are none: of another version, silent, or talking nonsense.

use doorbell::client::{ClientError, QueueSpec};
use doorbell::driver::ShadowWords;
use doorbell::queues::EndReason;
use doorbell::wire::codec::{encode_event, encode_refused, encode_reply};
use doorbell::wire::{EndCause, Event, Grant, Packet, Reply, Request, ShadowLayout, VERSION};

use crate::fake::{Fds, connect, event, fake, grant, granting, memory, plain, welcome};
use crate::support::{Command, Loop, claim, run_to_end};

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

#[test]
fn grants_that_cannot_be() {
    let two = || vec![memory(), event()];
    let four = || vec![memory(), event(), memory(), event()];
    let good = grant(false);
    let layout = |asleep, armed| Grant {
        signals: Some(doorbell::wire::SignalLayout { len: 4096, asleep, armed }),
        ..grant(true)
    };
    let three = || vec![memory(), event(), memory()];
    let unsealed = || {
        let file = rustix::fs::memfd_create("fake", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
        rustix::fs::ftruncate(&file, 4096).unwrap();
        vec![memory(), event(), file]
    };
    let shadow = |len, [a, b, c, d]: [u64; 4]| {
        let pair = |value, event| ShadowWords { value, event };
        let layout = ShadowLayout { len, submission: pair(a, b), completion: pair(c, d) };
        Grant { shadow: Some(layout), ..grant(false) }
    };
    let cases: [(&str, Grant, Fds); 16] = [
        ("another size", Grant { entries: 16, ..good.clone() }, two),
        ("doorbell", Grant { submission_doorbell: 4096, ..good.clone() }, two),
        ("doorbell", Grant { completion_doorbell: u64::MAX, ..good.clone() }, two),
        ("doorbell", Grant { submission_doorbell: 6, ..good.clone() }, two),
        ("mmap", Grant { slice_offset: 7, ..good.clone() }, two),
        ("", Grant { slice_len: 0, ..good.clone() }, two),
        ("signal words", layout(4096, 0), four),
        ("signal words", layout(0, 4095), four),
        ("shadow doorbell", shadow(4096, [4096, 0, 4, 8]), three),
        ("shadow doorbell", shadow(4096, [0, 4093, 4, 8]), three),
        ("shadow doorbell", shadow(4096, [0, 4, 6, 8]), three),
        ("shadow doorbell", shadow(4096, [0, 4, 8, u64::MAX - 3]), three),
        ("shadow doorbells have 4096 bytes", shadow(8192, [0, 4, 8, 12]), three),
        ("shadow doorbells have 4096 bytes", shadow(0, [0, 4, 8, 12]), three),
        ("F_SEAL", shadow(4096, [0, 4, 8, 12]), unsealed),
        ("descriptor", shadow(4096, [0, 4, 8, 12]), four),
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
