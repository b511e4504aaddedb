//! The server from a scripted client's side: exact answers, and whatever a hostile one can do.

mod dma;
mod hostile;
mod irqs;
mod messages;
mod regions;
mod start;

use std::collections::VecDeque;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::{Server, ServerError, ServerOptions, Stopper};
use crate::soft::testing::{CopyEngine, options};
use crate::vfio_user::message::{DmaMap, RegionAccess, RegionData, Version};
use crate::vfio_user::socket::{Received, Receiver};
use crate::vfio_user::{Command, Frame, Kind, Limits, Outgoing, Reply, Request, pci};

/// How long anything may take before a test fails.
const LIMIT: Duration = Duration::from_secs(30);

/// A copy engine that is served.
struct Served {
    path: PathBuf,
    stopper: Stopper,
    thread: Option<JoinHandle<Result<(), ServerError>>>,
    _folder: tempfile::TempDir,
}

impl Served {
    fn new() -> Self {
        Self::with(|_| {})
    }

    fn with(change: impl FnOnce(&mut ServerOptions)) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("copy.sock");
        let mut served = ServerOptions::at(&path);
        change(&mut served);
        let mut server = Server::bind(Box::new(CopyEngine::default()), options(), &served).unwrap();
        let stopper = server.stopper();
        let thread = Some(std::thread::spawn(move || server.run()));
        Self { path, stopper, thread, _folder: folder }
    }

    fn connect(&self) -> Client {
        Client::new(UnixStream::connect(&self.path).unwrap())
    }

    /// A client that has agreed on a version.
    fn client(&self) -> Client {
        let mut client = self.connect();
        client.greet(b"");
        client
    }

    /// A client that has agreed on a version, once the one before it is gone.
    fn free_client(&self) -> Client {
        let deadline = crate::Deadline::after(LIMIT);
        loop {
            let mut client = self.connect();
            let version = Request::Version(Version { major: 0, minor: 1, data: b"" });
            let mut outgoing = Outgoing::new(usize::MAX);
            outgoing.push(version.message(1, false), vec![]).unwrap();
            // A connection that was turned away already cannot be written to.
            if outgoing.flush(client.socket.as_fd()).is_ok() && client.receive().is_some() {
                return client;
            }
            assert!(!deadline.expired(), "the server does not get free");
        }
    }

    fn end(mut self) {
        self.stopper.stop();
        self.thread.take().unwrap().join().unwrap().unwrap();
        assert!(!self.path.exists(), "the socket is removed");
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        self.stopper.stop();
    }
}

/// A client that says what it is told to say.
struct Client {
    socket: UnixStream,
    receiver: Receiver,
    id: u16,
    /// Commands of the server that came before the answer to one of ours: it need not wait with them.
    before: VecDeque<Frame>,
}

impl Client {
    fn new(socket: UnixStream) -> Self {
        Self {
            socket,
            receiver: Receiver::new(Limits::new(2 << 20, 16)),
            id: 100,
            before: VecDeque::new(),
        }
    }

    fn send(&mut self, bytes: Vec<u8>, fds: Vec<OwnedFd>) {
        let mut outgoing = Outgoing::new(usize::MAX);
        outgoing.push(bytes, fds).unwrap();
        while !outgoing.flush(self.socket.as_fd()).unwrap() {
            wait(&self.socket, PollFlags::OUT);
        }
    }

    /// The next message; `None` if the server has closed the connection.
    fn receive(&mut self) -> Option<Frame> {
        self.before.pop_front().or_else(|| self.hear())
    }

    fn hear(&mut self) -> Option<Frame> {
        loop {
            match self.receiver.receive(self.socket.as_fd()) {
                Ok(Received::Frame(frame)) => return Some(frame),
                Ok(Received::Empty) => wait(&self.socket, PollFlags::IN),
                Ok(Received::Closed) | Err(_) => return None,
            }
        }
    }

    fn post(&mut self, request: &Request<'_>, fds: Vec<OwnedFd>) -> u16 {
        self.id += 1;
        self.send(request.message(self.id, false), fds);
        self.id
    }

    /// The answer to a command; its errno if it was refused.
    fn answer(&mut self, id: u16, command: Command) -> Result<Frame, u32> {
        let frame = loop {
            let frame = self.hear().expect("an answer");
            match frame.header.kind {
                Kind::Command { .. } => self.before.push_back(frame),
                _ => break frame,
            }
        };
        assert_eq!((frame.header.id, frame.command().unwrap()), (id, command));
        match frame.header.kind {
            Kind::Reply => Ok(frame),
            Kind::Error { errno } => Err(errno),
            Kind::Command { .. } => panic!("a command instead of an answer"),
        }
    }

    fn ask(&mut self, request: &Request<'_>, fds: Vec<OwnedFd>) -> Result<Frame, u32> {
        let id = self.post(request, fds);
        self.answer(id, request.command())
    }

    fn greet(&mut self, data: &[u8]) -> Frame {
        self.ask(&Request::Version(Version { major: 0, minor: 1, data }), vec![]).unwrap()
    }

    fn read(&mut self, region: u32, offset: u64, count: u32) -> Result<Vec<u8>, u32> {
        let frame =
            self.ask(&Request::RegionRead(RegionAccess { offset, region, count }), vec![])?;
        match Reply::decode(Command::RegionRead, &frame.payload).unwrap() {
            Reply::RegionRead(data) => {
                assert_eq!((data.offset, data.region), (offset, region));
                Ok(data.data.to_vec())
            }
            other => panic!("{other:?}"),
        }
    }

    fn read64(&mut self, offset: u64) -> u64 {
        u64::from_le_bytes(self.read(0, offset, 8).unwrap().try_into().unwrap())
    }

    fn write(&mut self, region: u32, offset: u64, data: &[u8]) -> Result<(), u32> {
        let frame = self.ask(&Request::RegionWrite(RegionData { offset, region, data }), vec![])?;
        let count = data.len() as u32;
        let expected = Reply::RegionWrite(RegionAccess { offset, region, count });
        assert_eq!(Reply::decode(Command::RegionWrite, &frame.payload).unwrap(), expected);
        Ok(())
    }

    fn write64(&mut self, offset: u64, value: u64) {
        self.write(0, offset, &value.to_le_bytes()).unwrap();
    }

    /// Memory decode and bus mastering.
    fn enable(&mut self) {
        self.write(pci::CONFIG, 4, &[6, 0]).unwrap();
    }

    fn map(&mut self, address: u64, size: u64, fd: Option<OwnedFd>) -> Result<(), u32> {
        let flags = DmaMap::READABLE | DmaMap::WRITEABLE;
        let map = DmaMap { argsz: DmaMap::ARGSZ, flags, offset: 0, address, size };
        self.ask(&Request::DmaMap(map), fd.into_iter().collect()).map(drop)
    }

    /// The server has closed the connection.
    fn is_dismissed(&mut self) -> bool {
        self.receive().is_none()
    }
}

/// Waits for a socket or an eventfd; panics if it takes too long.
fn wait(fd: impl AsFd, flags: PollFlags) {
    let limit = Timespec::try_from(LIMIT).unwrap();
    let mut polled = [PollFd::new(&fd, flags)];
    assert!(poll(&mut polled, Some(&limit)).unwrap() > 0, "waited in vain for the server");
}

fn memfd(len: u64) -> OwnedFd {
    let fd = rustix::fs::memfd_create("guest", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
    rustix::fs::ftruncate(&fd, len).unwrap();
    fd
}

fn errno(errno: rustix::io::Errno) -> u32 {
    errno.raw_os_error().unsigned_abs()
}
