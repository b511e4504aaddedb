//! Peers that break the protocol. Each gets an error or a closed socket; a witness with a queue
//! notices nothing, and the broker goes on.

use std::io::IoSlice;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use doorbell::dma::{HugePages, Memfd};
use doorbell::wire::codec::{encode_reply, encode_request};
use doorbell::wire::socket::{receive, send};
use doorbell::wire::{Message, Packet, Received, Refusal, Reply, Request, VERSION};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{MemfdFlags, SealFlags};
use rustix::net::{AddressFamily, SendAncillaryBuffer, SendFlags, SocketAddrUnix, SocketType};

use crate::support::{Command, OK, PATIENCE, TestBroker, claim, run, short};

/// A raw connection.
struct Raw(OwnedFd);

impl Raw {
    fn connect(path: &Path) -> Self {
        let fd = rustix::net::socket(AddressFamily::UNIX, SocketType::SEQPACKET, None).unwrap();
        rustix::net::connect(&fd, &SocketAddrUnix::new(path).unwrap()).unwrap();
        Self(fd)
    }

    /// One that has said hello.
    fn greeted(path: &Path) -> Self {
        let raw = Self::connect(path);
        raw.ask(1, &Request::Hello { program: "raw".to_owned() }, Vec::new());
        assert!(matches!(raw.hears(), Some(Message::Reply(1, Reply::Welcome { .. }))));
        raw
    }

    fn ask(&self, id: u32, request: &Request, fds: Vec<OwnedFd>) {
        let bytes = encode_request(id, request).unwrap();
        assert!(send(self.0.as_fd(), &Packet { bytes, fds }).unwrap());
    }

    fn bytes(&self, bytes: &[u8]) {
        let mut control = SendAncillaryBuffer::default();
        let io = [IoSlice::new(bytes)];
        let sent = rustix::net::sendmsg(&self.0, &io, &mut control, SendFlags::NOSIGNAL);
        assert_eq!(sent.unwrap(), bytes.len());
    }

    /// The next message; `None` if the broker has closed.
    fn hears(&self) -> Option<Message> {
        let limit = Timespec { tv_sec: PATIENCE.as_secs() as i64, tv_nsec: 0 };
        let mut fds = [PollFd::new(&self.0, PollFlags::IN)];
        assert_ne!(poll(&mut fds, Some(&limit)).unwrap(), 0, "the broker says nothing");
        match receive(self.0.as_fd(), &mut Vec::new()).unwrap() {
            Received::Packet { message, .. } => Some(message.unwrap()),
            Received::Closed => None,
            Received::Empty => panic!("readable and empty"),
        }
    }

    fn is_closed_after_a_refusal(&self, part: &str) {
        match self.hears() {
            Some(Message::Reply(_, Reply::Refused(Refusal::Protocol(why)))) => {
                assert!(why.contains(part), "{why}");
            }
            other => panic!("{other:?}"),
        }
        assert!(self.hears().is_none());
    }
}

/// A broker with a witness, who must not notice anything.
fn while_others_work(broker: &TestBroker, attack: impl FnOnce(&Path)) {
    let client = broker.connect();
    let queue = pollster::block_on(claim(&client, 8));
    assert_eq!(pollster::block_on(run(&queue, Command::Nop)), OK);
    attack(&broker.socket);
    assert_eq!(pollster::block_on(run(&queue, Command::Nop)), OK);
    // And new clients are served.
    let another = broker.connect();
    let queue = pollster::block_on(claim(&another, 8));
    assert_eq!(pollster::block_on(run(&queue, Command::Nop)), OK);
}

fn status() -> Vec<u8> {
    encode_request(9, &Request::Status).unwrap()
}

#[test]
fn messages_that_are_none() {
    let broker = TestBroker::start("soft:loop");
    while_others_work(&broker, |socket| {
        let cases: [(&str, Vec<u8>); 8] = [
            ("shorter than its header", b"DR".to_vec()),
            ("shorter than its header", status()[..15].to_vec()),
            ("does not begin with", vec![0; 64]),
            ("announces a body", [status(), vec![0]].concat()),
            ("announces a body", encode_request(1, &hello()).unwrap()[..18].to_vec()),
            ("no message has kind 77", patched(status(), 6, 77)),
            ("cannot be read", patched(status(), 16, 250)),
            ("at most 65536 are possible", [status(), vec![0; 70_000]].concat()),
        ];
        for (part, bytes) in cases {
            for raw in [Raw::connect(socket), Raw::greeted(socket)] {
                raw.bytes(&bytes);
                raw.is_closed_after_a_refusal(part);
            }
        }
    });
}

fn hello() -> Request {
    Request::Hello { program: "raw".to_owned() }
}

fn patched(mut bytes: Vec<u8>, at: usize, byte: u8) -> Vec<u8> {
    bytes[at] = byte;
    bytes
}

#[test]
fn messages_out_of_place() {
    let broker = TestBroker::start("soft:loop");
    while_others_work(&broker, |socket| {
        let raw = Raw::connect(socket);
        raw.bytes(&status());
        raw.is_closed_after_a_refusal("first message must be 'hello'");
        let raw = Raw::greeted(socket);
        raw.ask(2, &hello(), Vec::new());
        raw.is_closed_after_a_refusal("'hello' comes once");
        for raw in [Raw::connect(socket), Raw::greeted(socket)] {
            raw.bytes(&encode_reply(1, &Reply::Done).unwrap());
            raw.is_closed_after_a_refusal("clients send requests only");
        }
    });
}

#[test]
fn another_version_is_answered_in_words_that_both_understand() {
    let broker = TestBroker::start("soft:loop");
    while_others_work(&broker, |socket| {
        let raw = Raw::connect(socket);
        raw.bytes(&patched(encode_request(5, &hello()).unwrap(), 4, 200));
        match raw.hears() {
            Some(Message::Refused(refused)) => {
                let says = (refused.lowest, refused.highest, refused.refused);
                assert_eq!(says, (VERSION, VERSION, 200));
            }
            other => panic!("{other:?}"),
        }
        assert!(raw.hears().is_none());
    });
}

#[test]
fn the_wrong_number_of_descriptors() {
    let broker = TestBroker::start("soft:loop");
    let fd = || Memfd::create("t", 4096, HugePages::No).unwrap().into_fd();
    while_others_work(&broker, |socket| {
        let donate = Request::DonateArena { len: 4096 };
        for (request, count, part) in [
            (&donate, 0, "takes 1 descriptor(s) and 0 came"),
            (&donate, 2, "takes 1 descriptor(s) and 2 came"),
            (&Request::Status, 1, "takes 0 descriptor(s) and 1 came"),
            (&Request::Status, 4, "takes 0 descriptor(s) and 4 came"),
        ] {
            let raw = Raw::greeted(socket);
            raw.ask(2, request, (0..count).map(|_| fd()).collect());
            raw.is_closed_after_a_refusal(part);
        }
        // More than any message has.
        let raw = Raw::greeted(socket);
        let fds: Vec<OwnedFd> = (0..40).map(|_| fd()).collect();
        let borrowed: Vec<_> = fds.iter().map(AsFd::as_fd).collect();
        let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(40))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        assert!(control.push(rustix::net::SendAncillaryMessage::ScmRights(&borrowed)));
        let io = status();
        let io = [IoSlice::new(&io)];
        rustix::net::sendmsg(&raw.0, &io, &mut control, SendFlags::NOSIGNAL).unwrap();
        raw.is_closed_after_a_refusal("descriptors");
    });
    // None of them stayed open here: the broker is this process.
    let name = "doorbell-leak-test";
    let open = || {
        let links = std::fs::read_dir("/proc/self/fd").unwrap();
        let paths = links.filter_map(|link| std::fs::read_link(link.ok()?.path()).ok());
        paths.filter(|path| path.to_string_lossy().contains(name)).count()
    };
    let fd = || Memfd::create(name, 4096, HugePages::No).unwrap().into_fd();
    let raw = Raw::greeted(&broker.socket);
    raw.ask(2, &Request::Status, vec![fd(), fd()]);
    raw.is_closed_after_a_refusal("descriptor");
    let deadline = doorbell::Deadline::after(PATIENCE);
    while open() > 0 {
        assert!(!deadline.expired(), "{} are still open", open());
        std::thread::yield_now();
    }
}

#[test]
fn arenas_that_are_none_are_refused_and_the_connection_stays() {
    let broker = TestBroker::start("soft:loop");
    let memfd = |size: u64, seals: SealFlags| {
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let fd = rustix::fs::memfd_create("t", flags).unwrap();
        rustix::fs::ftruncate(&fd, size).unwrap();
        rustix::fs::fcntl_add_seals(&fd, seals).unwrap();
        fd
    };
    let sealed = SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL;
    while_others_work(&broker, |socket| {
        let raw = Raw::greeted(socket);
        let (pipe, _other) = rustix::pipe::pipe().unwrap();
        let cases: [(&str, u64, OwnedFd); 9] = [
            ("no seals", 4096, pipe),
            ("no seals", 4096, tempfile::tempfile().unwrap().into()),
            ("no seals", 4096, std::fs::File::open("/dev/null").unwrap().into()),
            ("not sealed with F_SEAL_SHRINK", 4096, memfd(4096, SealFlags::GROW)),
            ("not sealed with F_SEAL_SEAL", 4096, memfd(4096, SealFlags::SHRINK | SealFlags::GROW)),
            ("whole number of pages", 4096, memfd(100, sealed)),
            ("it has 4096 bytes and 8192 were announced", 8192, memfd(4096, sealed)),
            ("it has 4096 bytes and 100 were announced", 100, memfd(4096, sealed)),
            ("it has 4096 bytes and", !4095, memfd(4096, sealed)),
        ];
        for (part, len, fd) in cases {
            raw.ask(2, &Request::DonateArena { len }, vec![fd]);
            match raw.hears() {
                Some(Message::Reply(2, Reply::Refused(Refusal::BadArena(why)))) => {
                    assert!(why.contains(part), "{part}: {why}");
                }
                other => panic!("{part}: {other:?}"),
            }
        }
        raw.ask(3, &Request::DonateArena { len: 4096 }, vec![memfd(4096, sealed)]);
        assert!(matches!(
            raw.hears(),
            Some(Message::Reply(3, Reply::ArenaMapped { arena: 0, .. }))
        ));
    });
}

#[test]
fn requests_about_what_is_not_theirs() {
    use doorbell::Tier;
    use doorbell::wire::{Place, RevokeTarget};
    let broker = TestBroker::start("soft:loop");
    while_others_work(&broker, |socket| {
        let raw = Raw::greeted(socket);
        let place = |arena, offset| Place { arena, offset };
        let claim = |entries, submission, completion| Request::Claim {
            entries,
            at_least: Tier::Cooperative,
            submission: Some(submission),
            completion,
        };
        let memfd = Memfd::create("t", 8192, HugePages::No).unwrap();
        raw.ask(2, &Request::DonateArena { len: 8192 }, vec![memfd.into_fd()]);
        raw.hears();
        let good = place(0, 0);
        for request in [
            claim(16, good, place(1, 0)),
            claim(16, place(0, 8192), good),
            claim(16, place(0, u64::MAX - 4095), good),
            claim(16, place(0, 8), good),
            claim(256, place(0, 4096), good),
            claim(0, good, good),
            claim(1, good, good),
            claim(u32::MAX, good, good),
            // A portal, which this device has not.
            Request::Claim {
                entries: 16,
                at_least: Tier::Cooperative,
                submission: None,
                completion: good,
            },
            Request::ReleaseQueue { queue: 1 },
            Request::ReleaseQueue { queue: 999 },
            Request::TimedOut { queue: 1, tag: Some(1), last: true },
            Request::ReleaseArena { arena: 7 },
            Request::Revoke { target: RevokeTarget::Queue(77) },
            Request::Revoke { target: RevokeTarget::Pid(-1) },
        ] {
            raw.ask(3, &request, Vec::new());
            match raw.hears() {
                Some(Message::Reply(3, Reply::Refused(_))) => {}
                other => panic!("{request:?}: {other:?}"),
            }
        }
    });
}

#[test]
fn one_that_says_nothing_is_closed() {
    let broker = TestBroker::with("soft:loop", |builder| builder.timeouts(short()));
    while_others_work(&broker, |socket| {
        let silent = Raw::connect(socket);
        assert!(silent.hears().is_none());
    });
}

#[test]
fn one_that_sends_without_reading_is_closed() {
    let broker = TestBroker::with("soft:loop", |builder| builder.timeouts(short()));
    while_others_work(&broker, |socket| {
        let raw = Raw::greeted(socket);
        let status = status();
        let mut sent = 0;
        loop {
            let mut control = SendAncillaryBuffer::default();
            let io = [IoSlice::new(&status)];
            match rustix::net::sendmsg(&raw.0, &io, &mut control, SendFlags::NOSIGNAL) {
                Ok(_) => sent += 1,
                Err(rustix::io::Errno::PIPE | rustix::io::Errno::CONNRESET) => break,
                Err(error) => panic!("{error}"),
            }
            assert!(sent < 1_000_000, "nobody minds");
        }
    });
}

#[test]
fn many_connections_that_come_and_go() {
    let broker = TestBroker::start("soft:loop");
    while_others_work(&broker, |socket| {
        for round in 0..200 {
            let raw = if round % 2 == 0 { Raw::connect(socket) } else { Raw::greeted(socket) };
            if round % 3 == 0 {
                raw.bytes(&status());
            }
        }
    });
    broker.until("the sessions to be forgotten", |status| status.sessions.len() == 1);
}
