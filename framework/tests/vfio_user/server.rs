//! A device server in a thread, whose every answer a test can replace.

use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use doorbell::bus::vfio_user::{Options, VfioUserBus};
use doorbell::bus::{BusError, DeviceEvent};
use doorbell::dma::{HugePages, Memfd};
use doorbell::vfio_user::message::*;
use doorbell::vfio_user::socket::Received;
use doorbell::vfio_user::{
    Capabilities, Command, Frame, Kind, Limits, Outgoing, Receiver, Reply, Request, pci,
};

pub(crate) const BAR_SIZE: u64 = 0x4000;
pub(crate) const AREA: std::ops::Range<u64> = 0x1000..0x2000;
pub(crate) const VECTORS: u32 = 5;

/// What a server says and does. The fields are what tests look at or change.
pub(crate) struct Model {
    pub(crate) capabilities: Capabilities,
    pub(crate) config: Vec<u8>,
    pub(crate) bar: Vec<u8>,
    pub(crate) memory: Memfd,
    /// What was asked, in order.
    pub(crate) seen: Vec<Command>,
    /// Descriptors of each DEVICE_SET_IRQS.
    pub(crate) irqs: Vec<(u32, Vec<OwnedFd>)>,
    /// Each DMA_MAP.
    pub(crate) maps: Vec<DmaMap>,
    /// Register writes: offset and bytes.
    pub(crate) writes: Vec<(u64, Vec<u8>)>,
    /// The client's end of a twin socket, once.
    pub(crate) twin: Option<OwnedFd>,
}

impl Default for Model {
    fn default() -> Self {
        let mut config = vec![0; 256];
        config[0..4].copy_from_slice(&[0x34, 0x12, 0x78, 0x56]);
        config[6] = 0x10; // a list of capabilities
        config[9..12].copy_from_slice(&[0x02, 0x08, 0x01]);
        config[0x34] = 0x40;
        config[0x40..0x48].copy_from_slice(&[0x01, 0x50, 0, 0, 3, 0, 0, 0]); // D3
        config[0x50..0x54].copy_from_slice(&[0x11, 0x00, 4, 0x40]);
        let capabilities = Capabilities { max_msg_fds: Some(2), ..Capabilities::default() };
        Self {
            capabilities,
            config,
            bar: vec![0; BAR_SIZE as usize],
            memory: Memfd::create("bar", BAR_SIZE as usize, HugePages::No).unwrap(),
            seen: Vec::new(),
            irqs: Vec::new(),
            maps: Vec::new(),
            writes: Vec::new(),
            twin: None,
        }
    }
}

/// What a test makes of a request instead of the model's answer.
pub(crate) enum Instead {
    /// The model answers.
    Model,
    /// These bytes, with these descriptors.
    Bytes(Vec<u8>, Vec<OwnedFd>),
    /// Nothing.
    Silence,
    /// The connection ends.
    Close,
}

impl Instead {
    pub(crate) fn reply(frame: &Frame, reply: &Reply<'_>) -> Self {
        Self::Bytes(reply.message(frame.header.id), Vec::new())
    }
}

pub(crate) type Hook = Box<dyn FnMut(&Frame, Command) -> Instead + Send>;

impl Model {
    pub(crate) fn answer(&mut self, frame: &mut Frame) -> (Vec<u8>, Vec<OwnedFd>) {
        let id = frame.header.id;
        let command = frame.command().unwrap();
        let payload = std::mem::take(&mut frame.payload);
        let refuse = |errno| (error_message(id, command.number(), errno), Vec::new());
        let reply = match Request::decode(command, &payload).unwrap() {
            Request::Version(version) => {
                assert!(version.capabilities().unwrap().twin_socket());
                let json = self.capabilities.to_json().unwrap();
                let version = Version { data: json.as_bytes(), ..version };
                let fds = self.twin.take().into_iter().collect();
                return (Reply::Version(version).message(id), fds);
            }
            Request::DeviceGetInfo(_) => Reply::DeviceGetInfo(DeviceInfo {
                argsz: 16,
                flags: DeviceInfo::RESET | DeviceInfo::PCI,
                regions: pci::REGIONS,
                irqs: pci::IRQS,
            }),
            Request::DeviceGetRegionInfo(info) => return self.region(id, info),
            Request::DeviceGetIrqInfo(info) => {
                let count = if info.index == pci::MSIX_IRQ { VECTORS } else { 0 };
                Reply::DeviceGetIrqInfo(IrqInfo { argsz: 16, flags: 1, count, ..info })
            }
            Request::DeviceSetIrqs(set) => {
                let fds = std::mem::take(&mut frame.fds);
                assert_eq!((set.index, set.count as usize), (pci::MSIX_IRQ, fds.len()));
                self.irqs.push((set.start, fds));
                Reply::DeviceSetIrqs
            }
            Request::RegionRead(access) => {
                let space = if access.region == pci::CONFIG { &self.config } else { &self.bar };
                let at = access.offset as usize;
                let Some(data) = space.get(at..at + access.count as usize) else {
                    return refuse(22);
                };
                let (offset, region) = (access.offset, access.region);
                Reply::RegionRead(RegionData { offset, region, data })
            }
            Request::RegionWrite(data) => {
                self.write(&data);
                let (offset, region) = (data.offset, data.region);
                let count = data.data.len() as u32;
                Reply::RegionWrite(RegionAccess { offset, region, count })
            }
            Request::RegionWriteMulti(multi) => {
                for write in &multi.writes {
                    let (offset, region) = (write.offset, write.region);
                    self.write(&RegionData { offset, region, data: write.data() });
                }
                Reply::RegionWriteMulti(multi.writes.len() as u64)
            }
            Request::DmaMap(map) => {
                self.maps.push(map);
                assert_eq!(frame.fds.len(), 1);
                Reply::DmaMap
            }
            Request::DmaUnmap(unmap) => Reply::DmaUnmap(unmap),
            Request::DeviceReset => Reply::DeviceReset,
            _ => return refuse(95),
        };
        (reply.message(id), Vec::new())
    }

    fn write(&mut self, data: &RegionData<'_>) {
        let at = data.offset as usize;
        let space = if data.region == pci::CONFIG {
            &mut self.config
        } else {
            self.writes.push((data.offset, data.data.to_vec()));
            &mut self.bar
        };
        space[at..at + data.data.len()].copy_from_slice(data.data);
    }

    fn region(&self, id: u16, ask: RegionInfo) -> (Vec<u8>, Vec<OwnedFd>) {
        let rw = RegionInfo::READ | RegionInfo::WRITE;
        let index = ask.index;
        let info = |flags, size| RegionInfo { index, flags, size, ..RegionInfo::default() };
        let (info, areas) = match ask.index {
            pci::CONFIG => (info(rw, self.config.len() as u64), Vec::new()),
            0 => {
                let area = SparseArea { offset: AREA.start, size: AREA.end - AREA.start };
                let sparse = RegionCapability::SparseMmap(vec![area]);
                (info(rw | RegionInfo::MMAP, BAR_SIZE), vec![sparse])
            }
            _ => (info(0, 0), Vec::new()),
        };
        let is_bar = ask.index == 0;
        let fds = is_bar.then(|| self.memory.as_fd().try_clone_to_owned().unwrap());
        let reply = Reply::DeviceGetRegionInfo(RegionInfoReply::new(info, areas));
        (reply.message(id), fds.into_iter().collect())
    }
}

/// A server that runs.
pub(crate) struct Server {
    pub(crate) model: Arc<Mutex<Model>>,
    pub(crate) socket: UnixStream,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    /// Serves the other end of the socket that comes back.
    pub(crate) fn start(model: Model, hook: Hook) -> (Self, OwnedFd) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let socket = ours.try_clone().unwrap();
        let model = Arc::new(Mutex::new(model));
        let shared = Arc::clone(&model);
        let thread = std::thread::spawn(move || serve(&ours, &shared, hook));
        (Self { model, socket, thread: Some(thread) }, theirs.into())
    }

    /// The connection ends, as if the server had died.
    pub(crate) fn die(&self) {
        let _ = self.socket.shutdown(std::net::Shutdown::Both);
    }

    pub(crate) fn send(&self, bytes: &[u8]) {
        (&self.socket).write_all(bytes).unwrap();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.die();
        let thread = self.thread.take().unwrap().join();
        if !std::thread::panicking() {
            thread.unwrap();
        }
    }
}

/// Waits until a socket is readable; false after a minute.
pub(crate) fn readable(fd: impl AsFd) -> bool {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    let limit = Timespec { tv_sec: 60, tv_nsec: 0 };
    poll(&mut [PollFd::new(&fd, PollFlags::IN)], Some(&limit)).unwrap() == 1
}

fn serve(socket: &UnixStream, model: &Mutex<Model>, mut hook: Hook) {
    let mut receiver = Receiver::new(Limits::new(1 << 20, 16));
    let mut outgoing = Outgoing::new(16 << 20);
    loop {
        let mut frame = match receiver.receive(socket.as_fd()) {
            Ok(Received::Frame(frame)) => frame,
            Ok(Received::Empty) if readable(socket) => continue,
            _ => return,
        };
        if !matches!(frame.header.kind, Kind::Command { .. }) {
            // An answer to a message that a test sent; it looks for itself.
            continue;
        }
        let command = frame.command().unwrap();
        model.lock().unwrap().seen.push(command);
        let (bytes, fds) = match hook(&frame, command) {
            Instead::Model => model.lock().unwrap().answer(&mut frame),
            Instead::Bytes(bytes, fds) => (bytes, fds),
            Instead::Silence => continue,
            Instead::Close => {
                let _ = socket.shutdown(std::net::Shutdown::Both);
                return;
            }
        };
        if outgoing.push(bytes, fds).is_err() || outgoing.flush(socket.as_fd()).is_err() {
            return;
        }
    }
}

/// No answer is replaced.
pub(crate) fn honest() -> Hook {
    Box::new(|_, _| Instead::Model)
}

/// One command is answered otherwise.
pub(crate) fn instead(
    of: Command,
    mut answer: impl FnMut(&Frame) -> Instead + Send + 'static,
) -> Hook {
    Box::new(move |frame, command| if command == of { answer(frame) } else { Instead::Model })
}

pub(crate) fn options() -> Options {
    Options { timeout: Duration::from_secs(20), ..Options::new("/test.sock") }
}

/// A bus over a server.
pub(crate) fn open(
    model: Model,
    hook: Hook,
    options: &Options,
) -> (Server, Result<VfioUserBus, BusError>) {
    let (server, socket) = Server::start(model, hook);
    let bus = VfioUserBus::over("vfio-user:/test.sock".into(), socket, options);
    (server, bus)
}

/// Waits for a condition.
pub(crate) fn eventually<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let until = Instant::now() + Duration::from_secs(60);
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < until, "waited for {what}");
        std::thread::yield_now();
    }
}

/// Waits until the bus says that the device is gone.
pub(crate) fn removed(bus: &VfioUserBus) {
    use doorbell::bus::Bus;
    let fd = bus.event_fd().unwrap().unwrap();
    assert!(readable(&fd), "the event descriptor");
    eventually("the removal", || bus.events().contains(&DeviceEvent::Removed).then_some(()));
}
