//! Servers that do not behave: each bad behaviour is a typed error within the deadline.

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use doorbell::bus::BusError;
use doorbell::bus::vfio_user::{CONNECTING, Options, VfioUserBus};
use doorbell::dma::{HugePages, Memfd};
use doorbell::vfio_user::message::*;
use doorbell::vfio_user::{Command, Frame, Reply, TwinSocket, pci};

use crate::server::*;

pub(crate) fn impatient() -> Options {
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
