//! The software controller over vfio-user, with memory that only messages reach: what a virtual machine
//! with memory of its own sees.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test program: helpers may fail as tests do"
)]

use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::thread::JoinHandle;
use std::time::Duration;

use doorbell::soft::HarnessOptions;
use doorbell::vfio_user::message::{
    DmaData, DmaMap, DmaWritten, IrqAction, IrqData, RegionAccess, RegionData, SetIrqs, Version,
};
use doorbell::vfio_user::server::{Server, ServerError, ServerOptions, Stopper};
use doorbell::vfio_user::socket::{Received, Receiver};
use doorbell::vfio_user::{Command, Frame, Kind, Limits, Outgoing, Reply, Request, pci};
use doorbell_nvme::soft::SoftNvme;
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};

const ASQ: u64 = 0x1000;
const ACQ: u64 = 0x2000;
const DATA: u64 = 0x4000;
const CSTS: u64 = 0x1c;
const INTMS: u64 = 0x0c;
const INTMC: u64 = 0x10;
const TAIL: u64 = 0x1000;
/// CAP.DSTRD is 4.
const HEAD: u64 = 0x1000 + (4 << 4);

fn ready(fd: impl AsFd, flags: PollFlags, limit: Duration) -> bool {
    let limit = Timespec::try_from(limit).unwrap();
    poll(&mut [PollFd::new(&fd, flags)], Some(&limit)).unwrap() > 0
}

/// A host that answers the server's commands only when it is told to.
struct Host {
    socket: UnixStream,
    receiver: Receiver,
    memory: Vec<u8>,
    waiting: Vec<Frame>,
    tail: u32,
    stopper: Stopper,
    server: Option<JoinHandle<Result<(), ServerError>>>,
    _folder: tempfile::TempDir,
}

impl Host {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("nvme.sock");
        let device = SoftNvme::builder().ram(1 << 20).queues(2).dbbuf(true).build().unwrap();
        let options = ServerOptions::at(&path);
        let harness = HarnessOptions { name: "soft:nvme".into(), ..HarnessOptions::default() };
        let mut server = Server::bind(Box::new(device), harness, &options).unwrap();
        let stopper = server.stopper();
        let server = Some(std::thread::spawn(move || server.run()));
        let socket = UnixStream::connect(&path).unwrap();
        let receiver = Receiver::new(Limits::new(1 << 20, 16));
        let (memory, waiting) = (vec![0; 1 << 20], Vec::new());
        let mut host =
            Self { socket, receiver, memory, waiting, tail: 0, stopper, server, _folder: folder };
        host.ask(&Request::Version(Version { major: 0, minor: 1, data: b"" }), vec![]);
        host.write(pci::CONFIG, 4, &[6, 0]);
        let flags = DmaMap::READABLE | DmaMap::WRITEABLE;
        let map = DmaMap { argsz: 32, flags, offset: 0, address: 0, size: 1 << 20 };
        host.ask(&Request::DmaMap(map), vec![]);
        host
    }

    fn send(&mut self, bytes: Vec<u8>, fds: Vec<OwnedFd>) {
        let mut outgoing = Outgoing::new(usize::MAX);
        outgoing.push(bytes, fds).unwrap();
        while !outgoing.flush(self.socket.as_fd()).unwrap() {
            ready(&self.socket, PollFlags::OUT, Duration::from_secs(30));
        }
    }

    fn receive(&mut self) -> Frame {
        loop {
            match self.receiver.receive(self.socket.as_fd()).unwrap() {
                Received::Frame(frame) => return frame,
                Received::Empty => {
                    let limit = Duration::from_secs(30);
                    assert!(ready(&self.socket, PollFlags::IN, limit), "waited in vain");
                }
                Received::Closed => panic!("the server has closed the connection"),
            }
        }
    }

    /// Waits for the answer to a command. The server's commands wait meanwhile.
    fn ask(&mut self, request: &Request<'_>, fds: Vec<OwnedFd>) -> Frame {
        self.send(request.message(1, false), fds);
        loop {
            let frame = self.receive();
            match frame.header.kind {
                Kind::Reply => return frame,
                Kind::Command { .. } => self.waiting.push(frame),
                Kind::Error { errno } => panic!("{} is refused: {errno}", request.command()),
            }
        }
    }

    fn write(&mut self, region: u32, offset: u64, data: &[u8]) {
        self.ask(&Request::RegionWrite(RegionData { offset, region, data }), vec![]);
    }

    fn read32(&mut self, offset: u64) -> u32 {
        let asked = RegionAccess { offset, region: 0, count: 4 };
        let frame = self.ask(&Request::RegionRead(asked), vec![]);
        match Reply::decode(Command::RegionRead, &frame.payload).unwrap() {
            Reply::RegionRead(data) => u32::from_le_bytes(data.data.try_into().unwrap()),
            other => panic!("{other:?}"),
        }
    }

    /// Answers one command of the server's.
    fn serve(&mut self, frame: &Frame) {
        let id = frame.header.id;
        let command = frame.command().unwrap();
        let answer = match Request::decode(command, &frame.payload).unwrap() {
            Request::DmaRead(read) => {
                let from = read.address as usize;
                let data = &self.memory[from..from + read.count as usize];
                Reply::DmaRead(DmaData { address: read.address, data }).message(id)
            }
            Request::DmaWrite(write) => {
                let (address, at) = (write.address, write.address as usize);
                self.memory[at..at + write.data.len()].copy_from_slice(write.data);
                let count = write.data.len() as u64;
                Reply::DmaWrite(DmaWritten { address, count }).message(id)
            }
            other => panic!("{other:?}"),
        };
        self.send(answer, vec![]);
    }

    /// The server's next command.
    fn next(&mut self) -> Frame {
        if self.waiting.is_empty() { self.receive() } else { self.waiting.remove(0) }
    }

    fn enable(&mut self) {
        self.write(0, 0x24, &0x001f_001f_u32.to_le_bytes());
        self.write(0, 0x28, &ASQ.to_le_bytes());
        self.write(0, 0x30, &ACQ.to_le_bytes());
        self.write(0, 0x14, &0x0046_0001_u32.to_le_bytes());
        while self.read32(CSTS) & 1 == 0 {}
    }

    /// Rings for an Identify Controller.
    fn identify(&mut self) {
        self.submit(6, DATA, 0);
    }

    /// Rings for an admin command with CDW10 = 1.
    fn submit(&mut self, opcode: u8, prp1: u64, prp2: u64) {
        let at = ASQ as usize + self.tail as usize * 64;
        let entry = &mut self.memory[at..at + 64];
        entry.fill(0);
        entry[0] = opcode;
        entry[2] = self.tail as u8;
        entry[24..32].copy_from_slice(&prp1.to_le_bytes());
        entry[32..40].copy_from_slice(&prp2.to_le_bytes());
        entry[40] = 1;
        self.tail += 1;
        let tail = self.tail;
        self.write(0, TAIL, &tail.to_le_bytes());
    }

    fn completed(&self) -> bool {
        let phase = ACQ as usize + (self.tail as usize - 1) * 16 + 14;
        self.memory[phase] & 1 == 1
    }

    fn set_pin(&mut self, action: IrqAction, fd: Option<OwnedFd>) {
        let data = if fd.is_some() { IrqData::Eventfd } else { IrqData::None };
        let irqs = SetIrqs { index: pci::INTX_IRQ, start: 0, count: 1, action, data };
        self.ask(&Request::DeviceSetIrqs(irqs), fd.into_iter().collect());
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        self.stopper.stop();
        if let Some(server) = self.server.take() {
            server.join().unwrap().unwrap();
        }
    }
}

#[test]
fn a_register_read_goes_before_a_dma_read_that_waits() {
    let mut host = Host::new();
    host.enable();
    host.identify();
    let fetch = host.next();
    assert_eq!(fetch.command().unwrap(), Command::DmaRead);
    // This host answers nothing before it has its own answer.
    for _ in 0..5 {
        assert_eq!(host.read32(CSTS), 1);
    }
    host.serve(&fetch);
    while !host.completed() {
        let frame = host.next();
        host.serve(&frame);
    }
    let data = DATA as usize;
    assert_eq!(host.memory[data..data + 2], 0xdb01_u16.to_le_bytes());
    let status = u16::from_le_bytes(host.memory[0x200e..0x2010].try_into().unwrap());
    assert_eq!(status >> 1, 0, "the command did not fail");
}

/// A look at a shadow doorbell must not be a message.
#[test]
fn shadow_doorbells_in_memory_that_is_not_shared_are_refused() {
    const DOORBELL_BUFFER_CONFIG: u8 = 0x7c;
    const DATA_TRANSFER_ERROR: u16 = 0x04;
    let mut host = Host::new();
    host.enable();
    host.submit(DOORBELL_BUFFER_CONFIG, 0x8000, 0x9000);
    while !host.completed() {
        let frame = host.next();
        host.serve(&frame);
    }
    let status = u16::from_le_bytes(host.memory[0x200e..0x2010].try_into().unwrap());
    assert_eq!(status >> 1 & 0x7ff, DATA_TRANSFER_ERROR);
    // It goes on with registers.
    host.identify();
    while !host.completed() {
        let frame = host.next();
        host.serve(&frame);
    }
    let data = DATA as usize;
    assert_eq!(host.memory[data..data + 2], 0xdb01_u16.to_le_bytes());
}

#[test]
fn the_pin_is_level_triggered() {
    let mut host = Host::new();
    let event = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).unwrap();
    let fired = || rustix::io::read(&event, &mut [0; 8]).is_ok();
    host.set_pin(IrqAction::Trigger, Some(event.try_clone().unwrap()));
    host.enable();
    host.identify();
    while !host.completed() {
        let frame = host.next();
        assert!(!fired(), "data first");
        host.serve(&frame);
    }
    assert!(ready(&event, PollFlags::IN, Duration::from_secs(30)));
    assert!(fired() && !fired());
    host.read32(CSTS);
    assert!(!fired(), "it has masked itself");
    host.set_pin(IrqAction::Unmask, None);
    host.read32(CSTS);
    assert!(fired(), "nothing was consumed");
    host.write(0, INTMS, &1_u32.to_le_bytes());
    host.set_pin(IrqAction::Unmask, None);
    host.read32(CSTS);
    assert!(!fired(), "masked on the device");
    host.write(0, INTMC, &1_u32.to_le_bytes());
    host.read32(CSTS);
    assert!(fired());
    host.write(0, HEAD, &1_u32.to_le_bytes());
    host.set_pin(IrqAction::Unmask, None);
    host.read32(CSTS);
    assert!(!fired(), "all is consumed");
}
