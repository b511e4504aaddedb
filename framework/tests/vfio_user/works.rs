//! Servers that behave.

use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex};

use doorbell::bus::proof::PartitionId;
use doorbell::bus::{Bus, BusError, DeviceEvent, PartitionQuiesced, Width};
use doorbell::deadline::Deadline;
use doorbell::dma::{Access, DmaError, Fault, HugePages, Memfd, Prefault};
use doorbell::tier::Tier;
use doorbell::vfio_user::message::*;
use doorbell::vfio_user::socket::Received;
use doorbell::vfio_user::{Command, Frame, Kind, Limits, Receiver, Reply, Request, TwinSocket};

use crate::server::*;

const SOON: std::time::Duration = std::time::Duration::from_secs(20);

#[test]
fn a_device_is_taken_in() {
    let (server, bus) = open(Model::default(), honest(), &options());
    let bus = bus.unwrap();
    let identity = bus.identity();
    assert_eq!((identity.vendor, identity.device, identity.class), (0x1234, 0x5678, 0x01_0802));
    assert_eq!(&*identity.name, "vfio-user:/test.sock");
    assert_eq!(bus.kind(), "vfio-user");
    let [bar] = bus.regions() else { panic!("{:?}", bus.regions()) };
    assert_eq!((bar.index, bar.size), (0, BAR_SIZE));
    assert_eq!(bar.mappable, [AREA]);
    assert_eq!(u32::from(bus.vectors()), VECTORS);
    assert!(bus.about().contains("1 area(s) mapped"), "{}", bus.about());
    let model = server.model.lock().unwrap();
    assert_eq!(model.config[4..6], [0x06, 0x04], "memory, bus master, no INTx");
    assert_eq!(model.config[0x44], 0, "powered on");
    assert_eq!(model.config[0x53] & 0xc0, 0x80, "MSI-X on, not masked");
    let starts: Vec<_> = model.irqs.iter().map(|(start, fds)| (*start, fds.len())).collect();
    assert_eq!(starts, [(0, 2), (2, 2), (4, 1)], "two descriptors a message");
}

#[test]
fn registers_and_config_space_go_by_messages() {
    let (server, bus) = open(Model::default(), honest(), &options());
    let bus = bus.unwrap();
    for (offset, width, value) in [
        (0, Width::B1, 0xfe),
        (2, Width::B2, 0xfedc),
        (4, Width::B4, 0xfedc_ba98),
        (8, Width::B8, 0xfedc_ba98_7654_3210),
    ] {
        bus.write(0, offset, width, value).unwrap();
        assert_eq!(bus.read(0, offset, width).unwrap(), value);
    }
    assert_eq!(server.model.lock().unwrap().bar[4..8], [0x98, 0xba, 0xdc, 0xfe]);
    for (region, offset) in
        [(0, BAR_SIZE), (0, BAR_SIZE - 4), (0, 4), (0, u64::MAX), (1, 0), (7, 0)]
    {
        let error = bus.read(region, offset, Width::B8).unwrap_err();
        assert!(matches!(error, BusError::OutOfRegion { .. }), "{error}");
    }
    assert_eq!(bus.config_read(0, Width::B4).unwrap(), 0x5678_1234);
    bus.config_write(0x3c, Width::B1, 7).unwrap();
    assert_eq!(bus.config_read(0x3c, Width::B2).unwrap(), 7);
    for (offset, width) in [(256, Width::B1), (255, Width::B2), (1, Width::B4), (0, Width::B8)] {
        let error = bus.config_read(offset, width).unwrap_err();
        assert!(matches!(error, BusError::Config { .. }), "{error}");
    }
}

#[test]
fn the_doorbell_area_is_the_servers_own_memory() {
    let (server, bus) = open(Model::default(), honest(), &options());
    let bus = bus.unwrap();
    let theirs = server.model.lock().unwrap().memory.map(Prefault::No).unwrap();
    bus.map(0, 0x1008, 8).unwrap().write(4, &0xabcd_u32).unwrap();
    assert_eq!(theirs.read::<u32>(0x100c).unwrap(), 0xabcd);
    let slice = bus.export(0, 0x1010, 8, Tier::Cooperative).unwrap();
    assert_eq!((slice.offset, slice.len, slice.region_offset), (0x1000, 0x1000, 0x1000));
    assert_eq!(slice.tier, Tier::Cooperative);
    let mapped = doorbell::dma::map_fd(slice.fd.as_fd(), slice.offset, 0x1000, Prefault::No);
    assert_eq!(mapped.unwrap().read::<u32>(0xc).unwrap(), 0xabcd);
    let error = bus.export(0, 0x1010, 8, Tier::Paged).unwrap_err();
    assert!(matches!(error, BusError::Tier { best: Tier::Cooperative, .. }), "{error}");
    let signals = bus.signals(0).unwrap();
    assert!(signals.words.is_none(), "such a device is not woken");
    assert!(matches!(bus.signals(5), Err(BusError::Vector { vectors: 5, .. })));
}

#[test]
fn interrupts_reach_the_holder_until_the_vector_is_retired() {
    let (server, bus) = open(Model::default(), honest(), &options());
    let bus = bus.unwrap();
    let raise = |fd: &OwnedFd| rustix::io::write(fd, &1u64.to_ne_bytes()).unwrap();
    let fired = |fd: &OwnedFd| rustix::io::read(fd, &mut [0; 8]).is_ok();
    let old = bus.signals(3).unwrap().interrupt;
    raise(&server.model.lock().unwrap().irqs[1].1[1]);
    assert!(fired(&old));
    bus.retire_signals(3);
    let new = bus.signals(3).unwrap().interrupt;
    let model = server.model.lock().unwrap();
    let (start, fds) = model.irqs.last().unwrap();
    assert_eq!((*start, fds.len()), (3, 1));
    raise(&fds[0]);
    assert!(fired(&new) && !fired(&old));
}

#[test]
fn a_reset_is_asked_for_and_interrupts_are_set_again() {
    let (server, bus) = open(Model::default(), honest(), &options());
    let bus = bus.unwrap();
    server.model.lock().unwrap().config[4] = 0;
    bus.reset(Deadline::after(SOON)).unwrap();
    let model = server.model.lock().unwrap();
    assert!(model.seen.contains(&Command::DeviceReset));
    assert_eq!((model.irqs.len(), model.config[4]), (6, 0x06));
}

fn memory(len: usize) -> Memfd {
    Memfd::create("arena", len, HugePages::No).unwrap()
}

#[test]
fn memory_is_mapped_by_its_descriptor() {
    let mut model = Model::default();
    model.capabilities.max_dma_maps = Some(2);
    let (server, bus) = open(model, honest(), &options());
    let bus = bus.unwrap();
    let (space, arena) = (bus.dma(), memory(0x10000));
    let id = PartitionId(1);
    let map = |iova, offset, len| space.map(id, iova, &arena, offset, len, Access::Read);
    let first = map(0x1_0000_0000, 0x1000, 0x2000).unwrap();
    let seen = server.model.lock().unwrap().maps[0];
    let wanted =
        DmaMap { argsz: 32, flags: 1, offset: 0x1000, address: 0x1_0000_0000, size: 0x2000 };
    assert_eq!(seen, wanted);
    for (iova, offset, len) in [
        (0x1_0000_0000, 0, 0x1000),
        (0x1_0000_1000, 0, 0x10000),
        (0x800, 0, 0x1000),
        (0, 0x800, 0x1000),
        (0, 0, 0),
        (0xfee0_0000, 0, 0x1000),
        ((1 << 48) - 0x1000, 0, 0x2000),
    ] {
        let error = map(iova, offset, len).unwrap_err();
        assert!(matches!(error, DmaError::BadRange { .. }), "{error}");
    }
    assert!(matches!(map(0, 0, 0x11000), Err(DmaError::BadArena { .. })), "beyond its end");
    map(0, 0, 0x1000).unwrap();
    let error = map(0x2000, 0, 0x1000).unwrap_err();
    assert!(error.to_string().contains("takes 2 maps"), "{error}");
    let quiesced = |id| PartitionQuiesced::of(id, &std::collections::BTreeSet::new(), Vec::new());
    let (first, error) = space.unmap(first, &quiesced(PartitionId(2)).unwrap()).unwrap_err();
    assert!(matches!(error, DmaError::BadRange { .. }), "{error}");
    let unmapped = space.unmap(first, &quiesced(id).unwrap()).unwrap();
    assert_eq!(unmapped.into_range(), (0x1_0000_0000, 0x2000));
    map(0x2000, 0, 0x1000).unwrap();
}

/// Sends a command of the server's and waits for its answer.
fn ask(socket: &UnixStream, receiver: &mut Receiver, request: &Request<'_>) -> Frame {
    use std::io::Write;
    (&mut &*socket).write_all(&request.message(0x77, false)).unwrap();
    loop {
        match receiver.receive(socket.as_fd()).unwrap() {
            Received::Frame(frame) => break frame,
            Received::Empty => assert!(readable(socket)),
            Received::Closed => panic!("closed"),
        }
    }
}

#[test]
fn the_server_reads_and_writes_memory_by_messages() {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let mut model = Model::default();
    model.capabilities.twin_socket = Some(TwinSocket { supported: true, fd_index: Some(0) });
    model.twin = Some(theirs.into());
    let (_server, bus) = open(model, honest(), &options());
    let bus = bus.unwrap();
    assert!(bus.about().ends_with("twin socket"), "{}", bus.about());
    let arena = memory(0x3000);
    let ours_memory = arena.map(Prefault::No).unwrap();
    ours_memory.write(0x1ffc, &0x1122_3344_u32).unwrap();
    bus.dma().map(PartitionId(1), 0x10000, &arena, 0x1000, 0x1000, Access::Read).unwrap();
    bus.dma().map(PartitionId(1), 0x20000, &arena, 0, 0x1000, Access::ReadWrite).unwrap();

    let mut receiver = Receiver::new(Limits::new(1 << 20, 0));
    let read = |address, count| Request::DmaRead(DmaRead { address, count });
    let frame = ask(&ours, &mut receiver, &read(0x10ffc, 4));
    let wanted = Reply::DmaRead(DmaData { address: 0x10ffc, data: &[0x44, 0x33, 0x22, 0x11] });
    assert_eq!(Reply::decode(Command::DmaRead, &frame.payload).unwrap(), wanted);
    let write = |address| Request::DmaWrite(DmaData { address, data: b"hello" });
    let frame = ask(&ours, &mut receiver, &write(0x20003));
    let wanted = Reply::DmaWrite(DmaWritten { address: 0x20003, count: 5 });
    assert_eq!(Reply::decode(Command::DmaWrite, &frame.payload).unwrap(), wanted);
    let mut bytes = [0; 5];
    ours_memory.copy_out(3, &mut bytes).unwrap();
    assert_eq!(&bytes, b"hello");

    for (request, errno) in [
        (read(0x10ffd, 4), 14),
        (write(0x10000), 14),
        (read(0x30000, 1), 14),
        (read(u64::MAX, 2), 14),
        (read(0x10000, u64::MAX), 22),
        (read(0x10000, (1 << 20) + 1), 22),
        (Request::DeviceReset, 95),
    ] {
        let frame = ask(&ours, &mut receiver, &request);
        assert_eq!(frame.header.kind, Kind::Error { errno }, "{request:?}");
    }
    let events = bus.events();
    let fault = Fault { iova: 0x10000, len: 5, access: Access::Write };
    assert_eq!(events.len(), 4, "{events:?}");
    assert!(events.contains(&DeviceEvent::Fault(fault)), "{events:?}");
    bus.read(0, 0, Width::B4).unwrap();
}

#[test]
fn answers_may_come_in_any_order() {
    // The first of two reads is answered after the second.
    let held = Arc::new(Mutex::new(None::<u16>));
    let hook = instead(Command::RegionRead, move |frame| {
        let reply = |id: u16, at: u64, value: u8| {
            let data = &[value, 0, 0, 0][..];
            Reply::RegionRead(RegionData { offset: at, region: 0, data }).message(id)
        };
        let Ok(Request::RegionRead(access)) = Request::decode(Command::RegionRead, &frame.payload)
        else {
            return Instead::Model;
        };
        match access.offset {
            0x20 => {
                *held.lock().unwrap() = Some(frame.header.id);
                Instead::Silence
            }
            0x24 => match held.lock().unwrap().take() {
                Some(first) => {
                    let both = [reply(frame.header.id, 0x24, 2), reply(first, 0x20, 1)].concat();
                    Instead::Bytes(both, Vec::new())
                }
                None => Instead::reply(
                    frame,
                    &Reply::RegionRead(RegionData { offset: 0x24, region: 0, data: &[9, 0, 0, 0] }),
                ),
            },
            _ => Instead::Model,
        }
    });
    let (server, bus) = open(Model::default(), hook, &options());
    let bus = bus.unwrap();
    let before = server.model.lock().unwrap().seen.len();
    std::thread::scope(|scope| {
        let first = scope.spawn(|| bus.read(0, 0x20, Width::B4).unwrap());
        eventually("the first read", || {
            (server.model.lock().unwrap().seen.len() > before).then_some(())
        });
        eventually("the second read's answer", || {
            (bus.read(0, 0x24, Width::B4).unwrap() == 2).then_some(())
        });
        assert_eq!(first.join().unwrap(), 1);
    });
}

#[test]
fn doorbells_that_the_server_takes_away_are_a_failure_and_no_crash() {
    let fd = rustix::fs::memfd_create("bar", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
    rustix::fs::ftruncate(&fd, BAR_SIZE).unwrap();
    let theirs = fd.try_clone().unwrap();
    let hook = instead(Command::DeviceGetRegionInfo, move |frame| {
        if frame.payload[8] != 0 {
            return Instead::Model;
        }
        let flags = RegionInfo::READ | RegionInfo::WRITE | RegionInfo::MMAP;
        let info = RegionInfo { flags, size: BAR_SIZE, ..RegionInfo::default() };
        let reply = Reply::DeviceGetRegionInfo(RegionInfoReply::new(info, Vec::new()));
        Instead::Bytes(reply.message(frame.header.id), vec![theirs.try_clone().unwrap()])
    });
    let (_server, bus) = open(Model::default(), hook, &options());
    let bus = bus.unwrap();
    let memory = bus.map(0, 0x1000, 8).unwrap();
    memory.write(0, &1_u32).unwrap();
    rustix::fs::ftruncate(&fd, 0).unwrap();
    memory.write(0, &2_u32).unwrap();
    assert!(readable(bus.event_fd().unwrap().unwrap()));
    let events = bus.events();
    assert!(matches!(events[..], [DeviceEvent::Failed { .. }]), "{events:?}");
    assert!(bus.events().is_empty(), "said once");
}
