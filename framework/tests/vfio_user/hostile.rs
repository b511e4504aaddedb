//! Servers that do not behave: each bad behaviour is a typed error within the deadline.

use std::io::Write;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use doorbell::bus::vfio_user::{CONNECTING, Mapping, Options, VfioUserBus};
use doorbell::bus::{Bus, BusError, Width};
use doorbell::deadline::Deadline;
use doorbell::dma::{Access, HugePages, Memfd};
use doorbell::vfio_user::message::*;
use doorbell::vfio_user::{Command, Frame, Reply, Request, TwinSocket, pci};

use crate::server::*;

fn impatient() -> Options {
    Options { timeout: Duration::from_millis(300), ..options() }
}

/// Opening ends with an error that says so.
fn refused(model: Model, hook: Hook, wanted: &str) {
    let (_server, bus) = open(model, hook, &impatient());
    let error = bus.map(|_| ()).unwrap_err();
    let text = error.to_string();
    assert!(text.starts_with("device vfio-user:/test.sock: "), "{text}");
    assert!(text.contains(wanted), "'{text}' does not say '{wanted}'");
}

fn file(len: u64) -> OwnedFd {
    Memfd::create("file", len as usize, HugePages::No).unwrap().into_fd()
}

fn version(json: &'static [u8]) -> Hook {
    instead(Command::Version, move |frame| {
        Instead::reply(frame, &Reply::Version(Version { major: 0, minor: 1, data: json }))
    })
}

#[test]
fn versions_that_do_not_fit() {
    for (major, minor) in [(1, 0), (0, 2)] {
        let hook = instead(Command::Version, move |frame| {
            Instead::reply(frame, &Reply::Version(Version { major, minor, data: b"{}" }))
        });
        refused(Model::default(), hook, &format!("speaks version {major}.{minor}"));
    }
    refused(Model::default(), version(b"{"), "VERSION: the version data");
    refused(Model::default(), version(b"\xff\xfe"), "VERSION: the version data");
    refused(Model::default(), version(br#"{"capabilities":{"pgsizes":0}}"#), "no page size");
    refused(Model::default(), version(br#"{"capabilities":{"max_msg_fds":-3}}"#), "VERSION");
    refused(
        Model::default(),
        version(br#"{"capabilities":{"twin_socket":{"supported":true}}}"#),
        "twin",
    );
    let mut model = Model::default();
    model.capabilities.twin_socket = Some(TwinSocket { supported: true, fd_index: Some(7) });
    refused(model, honest(), "twin socket is descriptor");
    let mut model = Model::default();
    model.capabilities.twin_socket = Some(TwinSocket { supported: true, fd_index: Some(0) });
    model.twin = Some(file(4096));
    refused(model, honest(), "no stream socket");
    let model = Model { twin: Some(file(4096)), ..Model::default() };
    refused(model, honest(), "belong to nothing");
}

#[test]
fn servers_that_say_nothing_or_go() {
    for command in [
        Command::Version,
        Command::DeviceGetInfo,
        Command::DeviceGetRegionInfo,
        Command::DeviceGetIrqInfo,
        Command::DeviceSetIrqs,
        Command::RegionRead,
        Command::RegionWrite,
    ] {
        let silence = instead(command, |_| Instead::Silence);
        refused(Model::default(), silence, &format!("the device server to answer {command}"));
        let close = instead(command, |_| Instead::Close);
        refused(Model::default(), close, "closed the connection");
        let refuse = instead(command, |frame: &Frame| {
            Instead::Bytes(error_message(frame.header.id, frame.header.number, 1), Vec::new())
        });
        refused(Model::default(), refuse, &format!("refused {command}: Operation not permitted"));
    }
}

#[test]
fn messages_that_are_none() {
    let bytes = |change: fn(&mut Vec<u8>)| {
        instead(Command::DeviceGetInfo, move |frame| {
            let info = DeviceInfo { argsz: 16, flags: 3, regions: 9, irqs: 5 };
            let mut bytes = Reply::DeviceGetInfo(info).message(frame.header.id);
            change(&mut bytes);
            Instead::Bytes(bytes, Vec::new())
        })
    };
    for (change, wanted) in [
        (
            (|b| b[4..8].copy_from_slice(&u32::MAX.to_ne_bytes())) as fn(&mut Vec<u8>),
            "4294967295 bytes",
        ),
        (|b| b[4..8].copy_from_slice(&3u32.to_ne_bytes()), "message size"),
        (|b| b[8] = 7, "neither a command nor a reply"),
        (|b| b[0] ^= 0x55, "to a request never made"),
        (|b| b[2] = 13, "a reply to command 13"),
        (|b| b[2] = 99, "a reply to command 99"),
        (
            |b| {
                b[4] -= 4;
                b.truncate(28);
            },
            "12 bytes came",
        ),
        (|b| b[20] = 1, "no PCI device"),
        (|b| b[24] = 7, "it has 7 regions"),
        (|b| b[24] = 0, "it has 0 regions"),
    ] {
        refused(Model::default(), bytes(change), wanted);
    }
    let torn = instead(Command::DeviceGetInfo, |_| Instead::Close);
    let (server, socket) = Server::start(Model::default(), torn);
    server.send(&[1, 2, 3]);
    let error = VfioUserBus::over("vfio-user:/test.sock".into(), socket, &impatient()).unwrap_err();
    assert!(matches!(error, BusError::Open { .. }), "{error}");
}

/// An answer about BAR0, with descriptors.
fn bar(
    change: impl Fn(&mut RegionInfo, &mut Vec<RegionCapability>) + Send + 'static,
    fds: impl Fn() -> Vec<OwnedFd> + Send + 'static,
) -> Hook {
    instead(Command::DeviceGetRegionInfo, move |frame| {
        if frame.payload[8] != 0 {
            return Instead::Model;
        }
        let flags = RegionInfo::READ | RegionInfo::WRITE | RegionInfo::MMAP;
        let mut info = RegionInfo { flags, size: BAR_SIZE, ..RegionInfo::default() };
        let mut capabilities = Vec::new();
        change(&mut info, &mut capabilities);
        let reply = Reply::DeviceGetRegionInfo(RegionInfoReply::new(info, capabilities));
        Instead::Bytes(reply.message(frame.header.id), fds())
    })
}

fn area(offset: u64, size: u64) -> SparseArea {
    SparseArea { offset, size }
}

#[test]
fn regions_that_cannot_be() {
    let one = || vec![file(BAR_SIZE)];
    for (size, wanted) in
        [(u64::MAX, "its size is"), (1 << 60, "its size is"), (0x8000, "file has")]
    {
        refused(Model::default(), bar(move |info, _| info.size = size, one), wanted);
    }
    for (offset, wanted) in
        [(0x1000, "file has"), (0x800, "cannot be mapped"), (u64::MAX - 0xfff, "cannot be mapped")]
    {
        refused(Model::default(), bar(move |info, _| info.offset = offset, one), wanted);
    }
    refused(Model::default(), bar(|info, _| info.index = 3, one), "it is about region 3");
    for areas in [
        vec![area(0x4000, 0x1000)],
        vec![area(0x3000, 0x2000)],
        vec![area(u64::MAX - 0xfff, 0x1000)],
        vec![area(0x1001, 0x1000)],
        vec![area(0x1000, 0x1000), area(0x1000, 0x1000)],
        vec![area(0, 0x4000), area(0x2000, 0x1000)],
    ] {
        let change = move |_: &mut RegionInfo, caps: &mut Vec<RegionCapability>| {
            caps.push(RegionCapability::SparseMmap(areas.clone()));
        };
        refused(Model::default(), bar(change, one), "area");
    }
}

#[test]
fn descriptors_that_do_not_belong() {
    refused(Model::default(), bar(|_, _| {}, Vec::new), "no descriptor came");
    refused(
        Model::default(),
        bar(|_, _| {}, || vec![file(BAR_SIZE), file(BAR_SIZE)]),
        "2 descriptors",
    );
    let plain = |info: &mut RegionInfo, _: &mut Vec<RegionCapability>| info.flags = 3;
    refused(Model::default(), bar(plain, || vec![file(BAR_SIZE)]), "1 descriptors came, 0 belong");
    refused(
        Model::default(),
        bar(|_, _| {}, || vec![file(BAR_SIZE - 0x1000)]),
        "its file has 0x3000 bytes",
    );
    let socket = || vec![UnixStream::pair().unwrap().0.into()];
    refused(Model::default(), bar(|_, _| {}, socket), "no file of memory");
    let null = || vec![std::fs::File::open("/dev/null").unwrap().into()];
    refused(Model::default(), bar(|_, _| {}, null), "no file of memory");
    let many = || (0..17).map(|_| file(4096)).collect();
    refused(Model::default(), bar(|_, _| {}, many), "17 or more descriptors");
    let read = instead(Command::RegionRead, |frame| {
        let data = RegionData { offset: 0, region: pci::CONFIG, data: &[0x34, 0x12] };
        Instead::Bytes(Reply::RegionRead(data).message(frame.header.id), vec![file(4096)])
    });
    refused(Model::default(), read, "1 descriptor(s) came with it");
}

#[test]
fn answers_that_grow_without_end() {
    let growing = |step: u32| {
        let mut argsz = 8192;
        instead(Command::DeviceGetRegionInfo, move |frame| {
            argsz += step;
            let info =
                RegionInfo { argsz, flags: RegionInfo::CAPS, size: 1, ..RegionInfo::default() };
            let mut bytes =
                Reply::DeviceGetRegionInfo(RegionInfoReply { info, capabilities: Vec::new() });
            if let Reply::DeviceGetRegionInfo(reply) = &mut bytes {
                reply.info.cap_offset = 32;
            }
            Instead::reply(frame, &bytes)
        })
    };
    refused(Model::default(), growing(4096), "longer whenever it is asked for");
    refused(Model::default(), growing(2 << 20), "1048576 are taken");
}

#[test]
fn capabilities_that_form_a_loop() {
    let looping = instead(Command::DeviceGetRegionInfo, |frame| {
        let info = RegionInfo { size: 4096, ..RegionInfo::default() };
        let caps = vec![RegionCapability::MsixMappable, RegionCapability::MsixMappable];
        let reply = RegionInfoReply::new(info, caps);
        let mut bytes = Reply::DeviceGetRegionInfo(reply).message(frame.header.id);
        let last = bytes.len() - 4;
        bytes[last..].copy_from_slice(&32u32.to_ne_bytes());
        Instead::Bytes(bytes, Vec::new())
    });
    refused(Model::default(), looping, "form a loop");
    let mut model = Model::default();
    model.config[0x51] = 0x40;
    model.config[0x50] = 9;
    refused(model, honest(), "does not end");
    let mut model = Model::default();
    model.config[0x34] = 0x08;
    refused(model, honest(), "lies in the header");
    let mut model = Model::default();
    model.config[..4].fill(0xff);
    refused(model, honest(), "nobody is there");
}

#[test]
fn reads_that_answer_something_else() {
    for (offset, region, data) in
        [(0, 7, &[1u8, 2, 3][..]), (0, 7, &[]), (4, 7, &[1, 2]), (0, 0, &[1, 2])]
    {
        let hook = instead(Command::RegionRead, move |frame| {
            Instead::reply(frame, &Reply::RegionRead(RegionData { offset, region, data }))
        });
        refused(Model::default(), hook, "asked for were 2 at 0x0 of 7");
    }
    let lie = instead(Command::RegionRead, |frame| {
        let data = RegionData { offset: 0, region: 7, data: &[1, 2] };
        let mut bytes = Reply::RegionRead(data).message(frame.header.id);
        bytes[28..32].copy_from_slice(&u32::MAX.to_ne_bytes());
        Instead::Bytes(bytes, Vec::new())
    });
    refused(Model::default(), lie, "announces 4294967295 bytes");
}

#[test]
fn a_late_reply_is_thrown_away() {
    let mut late = None;
    let hook = instead(Command::RegionRead, move |frame| {
        let reply = |id, value: u8| {
            let data = &[value, 0, 0, 0][..];
            Reply::RegionRead(RegionData { offset: 0x30, region: 0, data }).message(id)
        };
        match (frame.payload[0], late) {
            (0x30, None) => {
                late = Some(frame.header.id);
                Instead::Silence
            }
            // The late one first, then that of this read.
            (0x30, Some(id)) if id != frame.header.id => {
                let both = [reply(id, 1), reply(frame.header.id, 2)].concat();
                Instead::Bytes(both, Vec::new())
            }
            _ => Instead::Model,
        }
    });
    let (_server, bus) = open(Model::default(), hook, &impatient());
    let bus = bus.unwrap();
    let error = bus.read(0, 0x30, Width::B4).unwrap_err();
    assert!(matches!(error, BusError::TimedOut { .. }), "{error}");
    assert!(error.to_string().contains("answer REGION_READ"), "{error}");
    assert_eq!(bus.read(0, 0x30, Width::B4).unwrap(), 2);
    assert!(bus.events().is_empty());
}

/// The device is gone, and everything says so.
fn gone(bus: &VfioUserBus, how: &str) {
    removed(bus);
    let errors = [
        bus.read(0, 0, Width::B4).unwrap_err(),
        bus.write(0, 0, Width::B4, 0).unwrap_err(),
        bus.config_read(0, Width::B4).unwrap_err(),
        bus.reset(Deadline::after(Duration::from_secs(5))).unwrap_err(),
    ];
    for error in errors {
        assert!(matches!(error, BusError::Gone { .. }), "{error}");
        let text = error.to_string();
        assert!(text.starts_with("device vfio-user:/test.sock: it is gone"), "{text}");
        assert!(text.contains(how), "{text}");
    }
    assert!(bus.events().is_empty(), "said once");
}

#[test]
fn a_reply_to_a_request_never_made_ends_the_connection() {
    let (server, bus) = open(Model::default(), honest(), &impatient());
    let bus = bus.unwrap();
    server.send(&Reply::DeviceReset.message(0xbeef));
    gone(&bus, "a request never made");
}

#[test]
fn garbage_ends_the_connection() {
    let (server, bus) = open(Model::default(), honest(), &impatient());
    let bus = bus.unwrap();
    server.send(&[0xff; 64]);
    gone(&bus, "the connection to the device server failed");
}

#[test]
fn a_server_that_dies_ends_what_waits() {
    for torn in [false, true] {
        let hook =
            instead(Command::RegionRead, |frame| match (frame.payload[0], frame.payload[8]) {
                (0x40, 0) => Instead::Silence,
                _ => Instead::Model,
            });
        let (server, bus) = open(Model::default(), hook, &options());
        let bus = bus.unwrap();
        let arena = Memfd::create("arena", 4096, HugePages::No).unwrap();
        let id = doorbell::bus::proof::PartitionId(1);
        let mapping = bus.dma().map(id, 0, &arena, 0, 4096, Access::Read).unwrap();
        let reads = || {
            let model = server.model.lock().unwrap();
            model.seen.iter().filter(|command| **command == Command::RegionRead).count()
        };
        let before = reads();
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| bus.read(0, 0x40, Width::B4).unwrap_err());
            eventually("the read", || (reads() > before).then_some(()));
            if torn {
                server.send(&[1, 0, 9, 0, 40, 0, 0, 0, 1]);
            }
            server.die();
            let error = waiting.join().unwrap();
            assert!(matches!(error, BusError::Gone { .. }), "{error}");
        });
        gone(&bus, "the device server");
        let error = bus.dma().map(id, 0x1000, &arena, 0, 4096, Access::Read).unwrap_err();
        assert!(error.to_string().contains("vfio-user:/test.sock"), "{error}");
        let none = std::collections::BTreeSet::new();
        let proof = doorbell::bus::PartitionQuiesced::of(id, &none, Vec::new()).unwrap();
        let _ = bus.dma().unmap(mapping, &proof).unwrap();
    }
}

#[test]
fn a_server_that_does_not_read_holds_up_nobody() {
    let (mut ours, theirs) = UnixStream::pair().unwrap();
    // Commands whose answers nobody takes.
    let read = Request::DmaRead(DmaRead { address: 0, count: 1 << 20 });
    let flood = std::thread::spawn(move || {
        let bytes = read.message(1, false);
        ours.set_write_timeout(Some(Duration::from_secs(1))).unwrap();
        while ours.write_all(&bytes).is_ok() {}
        ours
    });
    let bus = VfioUserBus::over("vfio-user:/test.sock".into(), theirs.into(), &impatient());
    assert!(matches!(bus.unwrap_err(), BusError::Open { .. }));
    drop(flood.join().unwrap());
}

#[test]
fn messages_in_pieces_are_put_together() {
    let hook = Box::new(|frame: &Frame, command| match command {
        Command::RegionRead if frame.payload[0] == 0x50 && frame.payload[8] == 0 => {
            Instead::Silence
        }
        _ => Instead::Model,
    });
    let (server, bus) = open(Model::default(), hook, &options());
    let bus = bus.unwrap();
    let before = server.model.lock().unwrap().seen.len();
    std::thread::scope(|scope| {
        let read = scope.spawn(|| bus.read(0, 0x50, Width::B8).unwrap());
        eventually("the read", || (server.model.lock().unwrap().seen.len() > before).then_some(()));
        // Ids count up from 0.
        let id = before as u16;
        let data = RegionData { offset: 0x50, region: 0, data: &[1, 2, 3, 4, 5, 6, 7, 8] };
        for byte in Reply::RegionRead(data).message(id) {
            server.send(&[byte]);
            std::thread::yield_now();
        }
        assert_eq!(read.join().unwrap(), 0x0807_0605_0403_0201);
    });
}

#[test]
fn a_refused_map_is_no_mapping() {
    let hook = instead(Command::DmaMap, |frame| {
        Instead::Bytes(error_message(frame.header.id, frame.header.number, 17), Vec::new())
    });
    let (_server, bus) = open(Model::default(), hook, &impatient());
    let bus = bus.unwrap();
    let arena = Memfd::create("arena", 4096, HugePages::No).unwrap();
    for _ in 0..2 {
        let id = doorbell::bus::proof::PartitionId(1);
        let error = bus.dma().map(id, 0, &arena, 0, 4096, Access::Read).unwrap_err();
        assert!(error.to_string().contains("refused DMA_MAP: File exists"), "{error}");
    }
}

#[test]
fn a_relay_whose_server_refuses_is_trouble() {
    let hook = instead(Command::RegionWrite, |frame| match frame.payload[1] {
        0x10 => Instead::Bytes(error_message(frame.header.id, frame.header.number, 5), Vec::new()),
        _ => Instead::Model,
    });
    let options = Options { mapping: Mapping::Nothing, ..impatient() };
    let (_server, bus) = open(Model::default(), hook, &options);
    let bus = bus.unwrap();
    let memory = bus.map(0, 0x1000, 8).unwrap();
    let signals = bus.signals(0).unwrap();
    memory.write(0, &3_u32).unwrap();
    rustix::io::write(&signals.words.unwrap().kick, &1u64.to_ne_bytes()).unwrap();
    assert!(readable(bus.event_fd().unwrap().unwrap()));
    let events = bus.events();
    assert!(matches!(events[..], [doorbell::bus::DeviceEvent::Failed { .. }]), "{events:?}");
}

#[test]
fn nobody_at_the_socket() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.sock");
    let open = |path: &std::path::Path| VfioUserBus::open_spec(path).unwrap_err();
    let error = open(&path);
    assert!(matches!(error, BusError::Open { step: CONNECTING, .. }), "{error}");
    assert!(error.to_string().ends_with("is the server running?"), "{error}");
    std::fs::write(&path, b"").unwrap();
    assert!(matches!(open(&path), BusError::Open { step: CONNECTING, .. }));
    let long = folder.path().join("x".repeat(120));
    assert!(open(&long).to_string().contains("too long"));
    let option = folder.path().join("x.sock,timeout=soon");
    assert!(open(&option).to_string().contains("timeout=soon"));
    // Somebody listens and never accepts: VERSION is not answered.
    let path = folder.path().join("y.sock");
    let _listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
    let mut spec = path.into_os_string();
    spec.push(",timeout=0.3");
    let error = open(std::path::Path::new(&spec));
    assert!(error.to_string().contains("is another client connected"), "{error}");
}
