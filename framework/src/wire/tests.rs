//! Round trips, and bytes that are no message.

use proptest::prelude::*;

use super::codec::{
    Header, Refused, decode, encode_event, encode_refused, encode_reply, encode_request,
};
use super::*;
use crate::dma::{Access, Fault};
use crate::poll::{PollerCounters, PollerState};
use crate::tier::Tier;

fn tier() -> impl Strategy<Value = Tier> {
    prop_oneof![
        Just(Tier::Cooperative),
        Just(Tier::Paged),
        Just(Tier::Mediated),
        Just(Tier::Isolated),
    ]
}

fn place() -> impl Strategy<Value = Place> {
    (any::<u32>(), any::<u64>()).prop_map(|(arena, offset)| Place { arena, offset })
}

fn poller() -> impl Strategy<Value = PollerAbout> {
    (".{0,20}", any::<[Option<u32>; 3]>(), ".{0,80}").prop_map(
        |(name, [cpu, node, memory], trouble)| PollerAbout { name, cpu, node, memory, trouble },
    )
}

fn request() -> impl Strategy<Value = Request> {
    prop_oneof![
        ".{0,80}".prop_map(|program| Request::Hello { program }),
        any::<u64>().prop_map(|len| Request::DonateArena { len }),
        any::<u32>().prop_map(|arena| Request::ReleaseArena { arena }),
        (any::<u32>(), tier(), proptest::option::of(place()), place()).prop_map(
            |(entries, at_least, submission, completion)| Request::Claim {
                entries,
                at_least,
                submission,
                completion
            }
        ),
        any::<u16>().prop_map(|queue| Request::ReleaseQueue { queue }),
        (any::<u32>(), poller())
            .prop_map(|(poller, about)| Request::ReportPoller { poller, about }),
        any::<(u16, u32)>().prop_map(|(queue, poller)| Request::PolledBy { queue, poller }),
        (any::<u16>(), any::<Option<u16>>(), any::<bool>())
            .prop_map(|(queue, tag, last)| Request::TimedOut { queue, tag, last }),
        prop::collection::vec(any::<u8>(), 0..2000)
            .prop_map(|operation| Request::Admin { operation }),
        Just(Request::Status),
        Just(Request::Reset),
        prop_oneof![
            any::<i32>().prop_map(RevokeTarget::Pid),
            any::<u64>().prop_map(RevokeTarget::Session),
            any::<u16>().prop_map(RevokeTarget::Queue),
        ]
        .prop_map(|target| Request::Revoke { target }),
    ]
}

fn device() -> impl Strategy<Value = DeviceInfo> {
    let text = (".{0,40}", ".{0,20}", ".{0,10}", ".{0,60}");
    (text, any::<[u16; 3]>(), any::<[u32; 4]>(), any::<Option<u32>>()).prop_map(
        |(text, [vendor, device, queues], [class, a, b, c], numa_node)| DeviceInfo {
            name: text.0,
            driver: text.1,
            vendor,
            device,
            class,
            numa_node,
            bus: text.2,
            about_bus: text.3,
            queues,
            max_entries: a,
            portal: a > b,
            submission_entry: b,
            completion_entry: c,
        },
    )
}

fn grant() -> impl Strategy<Value = Grant> {
    let words = (any::<Option<[u64; 3]>>(), any::<Option<[u64; 5]>>());
    let pair = |[value, event]: [u64; 2]| ShadowWords { value, event };
    (any::<u16>(), tier(), any::<u32>(), any::<[u64; 4]>(), words).prop_map(
        move |(queue, tier, entries, [a, b, c, d], (signals, shadow))| Grant {
            queue,
            tier,
            entries,
            slice_offset: a,
            slice_len: b,
            submission_doorbell: c,
            completion_doorbell: d,
            non_temporal: a > b,
            signals: signals.map(|[len, asleep, armed]| SignalLayout { len, asleep, armed }),
            shadow: shadow.map(|[len, a, b, c, d]| ShadowLayout {
                len,
                submission: pair([a, b]),
                completion: pair([c, d]),
            }),
        },
    )
}

fn status() -> impl Strategy<Value = StatusReport> {
    let session = (any::<[u64; 4]>(), any::<[u32; 6]>(), ".{0,20}", tier()).prop_map(
        |(
            [session, iova, bytes, quota],
            [uid, gid, entries, pending, queues, mappings],
            program,
            tier,
        )| {
            let queue =
                QueueStatus { id: uid as u16, entries, tier, ended: Some(EndCause::Revoked) };
            SessionStatus {
                session,
                pid: gid as i32,
                uid,
                gid,
                program,
                operator: uid > gid,
                function: (uid > gid).then(|| format!("vf{uid}")),
                queues: vec![queue; (entries % 5) as usize],
                arenas: vec![ArenaStatus { id: gid, iova, bytes }],
                pollers: vec![PollerStatus {
                    about: PollerAbout {
                        name: "poller".to_owned(),
                        cpu: Some(uid),
                        node: None,
                        memory: Some(gid),
                        trouble: String::new(),
                    },
                    queues: vec![uid as u16; (gid % 3) as usize],
                    counters: (uid > gid).then_some(PollerCounters {
                        state: PollerState::Asleep,
                        turns: iova,
                        busy_turns: bytes,
                        polls: quota,
                        sleeps: session,
                        wakes: 1,
                        asleep_us: 2,
                        alive_us: 3,
                        tasks: 4,
                        queues: u64::MAX,
                    }),
                }],
                quota: QuotaStatus { queues, bytes: quota, mappings },
                pending,
            }
        },
    );
    let fault = any::<[u64; 2]>().prop_map(|[iova, len]| Fault { iova, len, access: Access::Read });
    let sessions = prop::collection::vec(session, 0..4);
    (device(), sessions, prop::option::of(fault), any::<[u64; 3]>()).prop_map(
        |(device, sessions, last_fault, [faults, resets, bytes])| StatusReport {
            broker_pid: 1,
            broker_version: "0".to_owned(),
            protocol: VERSION,
            spec: "soft:x".to_owned(),
            device,
            out_of_service: None,
            faults,
            last_fault,
            resets,
            sessions,
            sessions_omitted: 0,
            reclaims: vec![ReclaimReport {
                session: resets,
                pid: 7,
                cause: ReclaimCause::Died,
                queues: 1,
                mappings: 2,
                bytes,
                micros: faults,
                quarantined: 0,
            }],
            quarantined_bytes: bytes,
            quarantined_queues: vec![3],
            virtual_functions: vec![FunctionStatus {
                index: 1,
                state: FunctionState::Given { session: resets, name: "vf1".to_owned() },
            }],
        },
    )
}

fn reply() -> impl Strategy<Value = Reply> {
    prop_oneof![
        (any::<u64>(), any::<u32>(), device()).prop_map(|(session, max_pending, device)| {
            Reply::Welcome { session, max_pending, device }
        }),
        (any::<u32>(), any::<u64>()).prop_map(|(arena, iova)| Reply::ArenaMapped { arena, iova }),
        grant().prop_map(Reply::Granted),
        Just(Reply::Done),
        Just(Reply::TimeoutHandled(Timeout::AbortRequested)),
        prop::collection::vec(any::<u8>(), 0..2000).prop_map(|reply| Reply::Admin { reply }),
        status().prop_map(|report| Reply::Status(Box::new(report))),
        any::<[u32; 2]>().prop_map(|[queues, sessions]| Reply::Revoked { queues, sessions }),
        (any::<[u64; 3]>()).prop_map(|[asked, held, allowed]| {
            Reply::Refused(Refusal::Quota { limit: Limit::Bytes, asked, held, allowed })
        }),
    ]
}

proptest! {
    #[test]
    fn requests_come_back(id: u32, request in request()) {
        let bytes = encode_request(id, &request).unwrap();
        prop_assert_eq!(decode(&bytes), Ok(Message::Request(id, request)));
    }

    #[test]
    fn replies_come_back(id: u32, reply in reply()) {
        let bytes = encode_reply(id, &reply).unwrap();
        prop_assert_eq!(decode(&bytes), Ok(Message::Reply(id, reply)));
    }

    #[test]
    fn arbitrary_bytes_are_an_error_or_a_message(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        let _ = decode(&bytes);
    }

    #[test]
    fn arbitrary_bodies_are_an_error_or_a_message(
        kind in 0u16..6,
        body in prop::collection::vec(any::<u8>(), 0..400),
    ) {
        let mut bytes = b"DRBL".to_vec();
        bytes.extend(VERSION.to_le_bytes());
        bytes.extend(kind.to_le_bytes());
        bytes.extend([1, 0, 0, 0]);
        bytes.extend((body.len() as u32).to_le_bytes());
        bytes.extend(body);
        let _ = decode(&bytes);
    }

    #[test]
    fn damaged_messages_are_an_error_or_a_message(reply in reply(), at: prop::sample::Index, byte: u8) {
        let mut bytes = encode_reply(1, &reply).unwrap();
        let at = at.index(bytes.len());
        bytes[at] = byte;
        let _ = decode(&bytes);
    }

    #[test]
    fn cut_messages_are_errors(request in request(), at: prop::sample::Index) {
        let bytes = encode_request(1, &request).unwrap();
        let cut = &bytes[..at.index(bytes.len())];
        prop_assert!(decode(cut).is_err());
    }
}

#[test]
fn events_come_back() {
    let ended = Event::QueueEnded { queue: 3, cause: EndCause::TimedOut, quiesced: true };
    for event in [ended, Event::DeviceGone] {
        assert_eq!(decode(&encode_event(&event).unwrap()), Ok(Message::Event(event)));
    }
}

#[test]
fn a_message_of_another_version_is_told_apart_from_rubbish() {
    let mut bytes = encode_request(7, &Request::Status).unwrap();
    bytes[4] = 9;
    assert_eq!(decode(&bytes), Err(WireError::Version { theirs: 9, ours: VERSION }));
    let (header, _) = Header::decode(&bytes).unwrap();
    assert_eq!((header.version, header.id), (9, 7));
    // Its refusal is understood whatever version it comes from, and may have grown.
    let mut bytes = encode_refused(7, 9);
    bytes[4] = 200;
    bytes.push(0);
    bytes[12] += 1;
    let refused = Refused { lowest: VERSION, highest: VERSION, refused: 9 };
    assert_eq!(decode(&bytes), Ok(Message::Refused(refused)));
}

#[test]
fn what_is_too_long_is_not_sent() {
    let operation = vec![0; MAX_MESSAGE];
    let error = encode_request(1, &Request::Admin { operation }).unwrap_err();
    assert!(matches!(error, WireError::TooLong(_)), "{error}");
}
