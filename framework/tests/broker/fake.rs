//! A broker that is none: it answers as a test tells it.

use std::os::fd::{AsFd, OwnedFd};
use std::thread::JoinHandle;
use std::time::Duration;

use doorbell::Tier;
use doorbell::client::{Client, ClientError};
use doorbell::dma::{HugePages, Memfd};
use doorbell::wait::Eventfd;
use doorbell::wire::codec::encode_reply;
use doorbell::wire::socket::{pair, receive, send};
use doorbell::wire::{DeviceInfo, Grant, Message, Packet, Received, Reply, Request};
use rustix::event::{PollFd, PollFlags, poll};

/// What the fake answers to one request; `None` closes the connection.
pub(crate) type Answers = Box<dyn FnMut(u32, Request) -> Option<Vec<Packet>> + Send>;

pub(crate) struct Fake(Option<JoinHandle<()>>);

impl Drop for Fake {
    fn drop(&mut self) {
        if let Some(thread) = self.0.take() {
            thread.join().unwrap();
        }
    }
}

pub(crate) fn fake(mut answers: Answers) -> (OwnedFd, Fake) {
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

pub(crate) fn plain(id: u32, reply: &Reply) -> Option<Vec<Packet>> {
    Some(vec![encode_reply(id, reply).unwrap().into()])
}

pub(crate) fn welcome() -> Reply {
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

pub(crate) async fn connect(socket: OwnedFd) -> Result<Client, ClientError> {
    let builder = Client::builder().arena_bytes(64 << 10).deadline(Duration::from_millis(200));
    builder.from_fd(socket, "the fake").await
}

pub(crate) fn grant(signals: bool) -> Grant {
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
        shadow: None,
    }
}

pub(crate) fn memory() -> OwnedFd {
    Memfd::create("fake", 4096, HugePages::No).unwrap().into_fd()
}

pub(crate) type Fds = fn() -> Vec<OwnedFd>;

/// A fake that is all right but for the grant that it gives.
pub(crate) fn granting(grant: Grant, fds: Fds) -> (OwnedFd, Fake) {
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

pub(crate) fn event() -> OwnedFd {
    Eventfd::new().unwrap().as_fd().try_clone_to_owned().unwrap()
}
