//! Every message of the specification's tables, written out as bytes (little-endian hosts).
#![cfg(target_endian = "little")]

use super::message::*;
use super::*;

/// Bytes from hexadecimal; blanks separate the fields of a table.
fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u32> = text.chars().filter_map(|c| c.to_digit(16)).collect();
    assert_eq!(digits.len(), text.chars().filter(|c| !c.is_whitespace()).count(), "{text}");
    digits.chunks(2).map(|pair| (pair[0] << 4 | pair[1]) as u8).collect()
}

fn frame(bytes: &[u8]) -> Frame {
    let mut framer = Framer::new(Limits::new(4096, 0));
    assert!(framer.feed(&bytes[..HEADER], []).unwrap().is_none() || bytes.len() == HEADER);
    if bytes.len() > HEADER {
        return framer.feed(&bytes[HEADER..], []).unwrap().unwrap();
    }
    Framer::new(Limits::new(4096, 0)).feed(bytes, []).unwrap().unwrap()
}

/// The command is these bytes, and these bytes are the command.
fn command(text: &str, request: &Request<'_>) {
    let bytes = hex(text);
    assert_eq!(request.message(0x1234, false), bytes, "{request:?}");
    let frame = frame(&bytes);
    assert_eq!(frame.header.id, 0x1234);
    assert_eq!(frame.header.kind, Kind::Command { no_reply: false });
    let command = frame.command().unwrap();
    assert_eq!(command, request.command());
    assert_eq!(&Request::decode(command, &frame.payload).unwrap(), request);
    cut(command, &frame.payload, |payload| Request::decode(command, payload).is_err());
}

/// The reply is these bytes, and these bytes are the reply.
fn reply(text: &str, reply: &Reply<'_>) {
    let bytes = hex(text);
    assert_eq!(reply.message(0x1234), bytes, "{reply:?}");
    let frame = frame(&bytes);
    assert_eq!((frame.header.id, frame.header.kind), (0x1234, Kind::Reply));
    let command = frame.command().unwrap();
    assert_eq!(command, reply.command());
    assert_eq!(&Reply::decode(command, &frame.payload).unwrap(), reply);
    cut(command, &frame.payload, |payload| Reply::decode(command, payload).is_err());
}

/// What has lost its end is an error, where the end is not optional data.
fn cut(command: Command, payload: &[u8], is_refused: impl Fn(&[u8]) -> bool) {
    let optional = match command {
        Command::Version => 4,
        Command::DeviceFeature => 8,
        // A shorter answer is a cut one: `argsz` says so.
        Command::DeviceGetRegionInfo | Command::DeviceGetRegionIoFds => {
            payload.len().min(if command == Command::DeviceGetRegionInfo { 32 } else { 16 })
        }
        _ => payload.len(),
    };
    for len in 0..optional.min(payload.len()) {
        assert!(is_refused(&payload[..len]), "{command} cut to {len} bytes");
    }
}

#[test]
fn version() {
    let version = Version { major: 0, minor: 1, data: b"{}" };
    command("3412 0100 17000000 00000000 00000000  0000 0100 7b7d00", &Request::Version(version));
    reply("3412 0100 17000000 01000000 00000000  0000 0100 7b7d00", &Reply::Version(version));
    for (payload, data) in
        [("0000 0100", &b""[..]), ("0000 0100 7b7d", b"{}"), ("0000 0100 00 ff", b"")]
    {
        assert_eq!(Version::decode(&hex(payload)).unwrap(), Version { data, ..version });
    }
}

#[test]
fn dma_map_and_unmap() {
    command(
        "3412 0200 30000000 00000000 00000000
         20000000 03000000 0010000000000000 0000000001000000 0000200000000000",
        &Request::DmaMap(DmaMap {
            argsz: 32,
            flags: DmaMap::READABLE | DmaMap::WRITEABLE,
            offset: 0x1000,
            address: 0x1_0000_0000,
            size: 0x20_0000,
        }),
    );
    reply("3412 0200 10000000 01000000 00000000", &Reply::DmaMap);
    let unmap = DmaUnmap { argsz: 24, flags: 0, address: 0x1_0000_0000, size: 0x20_0000 };
    let fields = "18000000 00000000 0000000001000000 0000200000000000";
    command(&format!("3412 0300 28000000 00000000 00000000 {fields}"), &Request::DmaUnmap(unmap));
    reply(&format!("3412 0300 28000000 01000000 00000000 {fields}"), &Reply::DmaUnmap(unmap));
}

#[test]
fn device_info() {
    command(
        "3412 0400 20000000 00000000 00000000  10000000 00000000 00000000 00000000",
        &Request::DeviceGetInfo(DeviceInfo { argsz: 16, ..DeviceInfo::default() }),
    );
    let flags = DeviceInfo::RESET | DeviceInfo::PCI;
    reply(
        "3412 0400 20000000 01000000 00000000  10000000 03000000 09000000 05000000",
        &Reply::DeviceGetInfo(DeviceInfo { argsz: 16, flags, regions: 9, irqs: 5 }),
    );
}

#[test]
fn region_info() {
    command(
        "3412 0500 30000000 00000000 00000000
         20000000 00000000 07000000 00000000 0000000000000000 0000000000000000",
        &Request::DeviceGetRegionInfo(RegionInfo { argsz: 32, index: 7, ..RegionInfo::default() }),
    );
    let flags = RegionInfo::READ | RegionInfo::WRITE;
    let plain = RegionInfo { argsz: 32, flags, index: 7, size: 0x1000, ..RegionInfo::default() };
    reply(
        "3412 0500 30000000 01000000 00000000
         20000000 03000000 07000000 00000000 0010000000000000 0000000000000000",
        &Reply::DeviceGetRegionInfo(RegionInfoReply::new(plain, Vec::new())),
    );
    let areas = vec![
        SparseArea { offset: 0x1000, size: 0x1000 },
        SparseArea { offset: 0x3000, size: 0x1000 },
    ];
    let capabilities = vec![
        RegionCapability::SparseMmap(areas),
        RegionCapability::Type { kind: 5, subtype: 6 },
        RegionCapability::MsixMappable,
    ];
    let info = RegionInfo { index: 0, flags: flags | RegionInfo::MMAP, size: 0x4000, ..plain };
    let info = RegionInfo { offset: 0x8000, ..info };
    let answer = RegionInfoReply::new(info, capabilities);
    reply(
        "3412 0500 78000000 01000000 00000000
         68000000 0f000000 00000000 20000000 0040000000000000 0080000000000000
         0100 0100 50000000  02000000 00000000
            0010000000000000 0010000000000000 0030000000000000 0010000000000000
         0200 0100 60000000  05000000 06000000
         0300 0100 00000000",
        &Reply::DeviceGetRegionInfo(answer.clone()),
    );
    let mut cut = Vec::new();
    answer.cut().encode(&mut cut);
    assert_eq!(cut, hex("68000000 0f000000 00000000 20000000 0040000000000000 0080000000000000"));
    // And as the kernel does it: no offset.
    let kernels = hex("68000000 0f000000 00000000 00000000 0040000000000000 0080000000000000");
    for cut in [cut, kernels] {
        let read = RegionInfoReply::decode(&cut).unwrap();
        assert!(read.is_cut(cut.len()) && read.capabilities.is_empty());
    }
}

#[test]
fn capability_chains_that_lie() {
    let chain = |at: &str, cap: &str| {
        let fixed = "08000000 00000000 0040000000000000 0000000000000000";
        let bytes = hex(&format!("38000000 08000000 00000000 {at}{}{cap}", &fixed[17..]));
        assert_eq!(bytes.len(), 0x38);
        RegionInfoReply::decode(&bytes)
    };
    let end = "0000000000000000 00000000";
    for (at, cap) in [
        // To itself; into the fixed part; to the end; far away; its areas are not there.
        ("20000000", format!("0900 0100 20000000 00000000{end}")),
        ("20000000", format!("0900 0100 08000000 00000000{end}")),
        ("20000000", format!("0900 0100 34000000 00000000{end}")),
        ("f0ffffff", format!("0900 0100 00000000 00000000{end}")),
        ("20000000", format!("0100 0100 00000000 02000000{end}")),
        ("20000000", format!("0100 0100 00000000 ffffffff{end}")),
    ] {
        let error = chain(at, &cap).unwrap_err();
        assert!(error.to_string().starts_with("DEVICE_GET_REGION_INFO"), "{error}");
    }
    // Each begins inside of the one before and claims what follows as its own.
    let mut many = hex("30100000 08000000 00000000 20000000 0040000000000000 0000000000000000");
    for at in (40u32..0x1020).step_by(8) {
        many.extend(hex("0100 0100"));
        many.extend(at.to_ne_bytes());
    }
    many.resize(0x1030, 1);
    assert!(RegionInfoReply::decode(&many).is_err());
    let other = chain("20000000", &format!("0900 0200 00000000 00000000{end}")).unwrap();
    assert_eq!(other.capabilities, [RegionCapability::Other { id: 9, version: 2 }]);
}

#[test]
fn region_io_fds() {
    let request = RegionIoFds { argsz: 0x1000, index: 2, ..RegionIoFds::default() };
    command(
        "3412 0600 20000000 00000000 00000000  00100000 00000000 02000000 00000000",
        &Request::DeviceGetRegionIoFds(request),
    );
    let part =
        IoFd { offset: 0x1000, size: 4, fd_index: 1, kind: IoFd::IOREGIONFD, flags: 2, data: 0x77 };
    reply(
        "3412 0600 48000000 01000000 00000000  38000000 00000000 02000000 01000000
         0010000000000000 0400000000000000 01000000 01000000 02000000 00000000 7700000000000000",
        &Reply::DeviceGetRegionIoFds(RegionIoFds {
            argsz: 56,
            flags: 0,
            index: 2,
            count: 1,
            parts: vec![part],
        }),
    );
    let lie = hex("10000000 00000000 02000000 ffffffff");
    assert!(RegionIoFds::decode_reply(&lie).is_err());
}

#[test]
fn irqs() {
    command(
        "3412 0700 20000000 00000000 00000000  10000000 00000000 02000000 00000000",
        &Request::DeviceGetIrqInfo(IrqInfo { argsz: 16, index: 2, ..IrqInfo::default() }),
    );
    let flags = IrqInfo::EVENTFD | IrqInfo::NORESIZE;
    reply(
        "3412 0700 20000000 01000000 00000000  10000000 09000000 02000000 20000000",
        &Reply::DeviceGetIrqInfo(IrqInfo { argsz: 16, flags, index: 2, count: 32 }),
    );
    let set = SetIrqs {
        index: 2,
        start: 3,
        count: 4,
        action: IrqAction::Trigger,
        data: IrqData::Eventfd,
    };
    let fields = "02000000 03000000 04000000";
    let fixed = "3412 0800 24000000 00000000 00000000  14000000";
    command(&format!("{fixed} 24000000 {fields}"), &Request::DeviceSetIrqs(set));
    let none = SetIrqs { action: IrqAction::Unmask, data: IrqData::None, ..set };
    command(&format!("{fixed} 11000000 {fields}"), &Request::DeviceSetIrqs(none));
    let bools = SetIrqs { action: IrqAction::Mask, data: IrqData::Bool(&[1, 0, 0, 1]), ..set };
    command(
        &format!("3412 0800 28000000 00000000 00000000  18000000 0a000000 {fields} 01000001"),
        &Request::DeviceSetIrqs(bools),
    );
    reply("3412 0800 10000000 01000000 00000000", &Reply::DeviceSetIrqs);
    for flags in ["00000000", "20000000", "04000000", "25000000", "3c000000", "64000000"] {
        let error = SetIrqs::decode(&hex(&format!("14000000 {flags} {fields}"))).unwrap_err();
        assert!(matches!(error, ProtocolError::Field { field: "flags", .. }), "{error}");
    }
    let wraps = hex("14000000 24000000 02000000 ffffffff 01000000");
    assert!(SetIrqs::decode(&wraps).is_err());
    let short = hex("14000000 0a000000 02000000 00000000 05000000 01010101");
    assert!(matches!(SetIrqs::decode(&short), Err(ProtocolError::Count { .. })));
}

#[test]
fn region_accesses() {
    let access = RegionAccess { offset: 0x14, region: 1, count: 4 };
    let data = RegionData { offset: 0x14, region: 1, data: &[1, 2, 3, 4] };
    let fixed = "1400000000000000 01000000 04000000";
    command(&format!("3412 0900 20000000 00000000 00000000 {fixed}"), &Request::RegionRead(access));
    reply(
        &format!("3412 0900 24000000 01000000 00000000 {fixed} 01020304"),
        &Reply::RegionRead(data),
    );
    command(
        &format!("3412 0a00 24000000 00000000 00000000 {fixed} 01020304"),
        &Request::RegionWrite(data),
    );
    reply(&format!("3412 0a00 20000000 01000000 00000000 {fixed}"), &Reply::RegionWrite(access));
    let silent = Request::RegionWrite(data).message(7, true);
    assert_eq!(silent, hex(&format!("0700 0a00 24000000 10000000 00000000 {fixed} 01020304")));
    assert_eq!(frame(&silent).header.kind, Kind::Command { no_reply: true });
    let lie = hex("1400000000000000 01000000 ffffffff 01020304");
    assert!(matches!(
        Reply::decode(Command::RegionRead, &lie),
        Err(ProtocolError::Count { announced: 0xffff_ffff, got: 4, .. })
    ));
}

#[test]
fn dma_accesses() {
    let fixed = "0000000001000000 0300000000000000";
    let read = DmaRead { address: 0x1_0000_0000, count: 3 };
    let data = DmaData { address: 0x1_0000_0000, data: &[7, 8, 9] };
    command(&format!("3412 0b00 20000000 00000000 00000000 {fixed}"), &Request::DmaRead(read));
    reply(&format!("3412 0b00 23000000 01000000 00000000 {fixed} 070809"), &Reply::DmaRead(data));
    command(
        &format!("3412 0c00 23000000 00000000 00000000 {fixed} 070809"),
        &Request::DmaWrite(data),
    );
    let written = DmaWritten { address: 0x1_0000_0000, count: 3 };
    reply(
        "3412 0c00 1c000000 01000000 00000000  0000000001000000 03000000",
        &Reply::DmaWrite(written),
    );
    assert_eq!(DmaWritten::decode(&hex(fixed)).unwrap(), written, "a count of 8 bytes");
    assert!(DmaWritten::decode(&hex(&format!("{fixed} 00"))).is_err());
}

#[test]
fn reset() {
    command("3412 0d00 10000000 00000000 00000000", &Request::DeviceReset);
    reply("3412 0d00 10000000 01000000 00000000", &Reply::DeviceReset);
}

#[test]
fn region_write_multi() {
    let writes = vec![
        SmallWrite::new(0, 0x1000, &[1, 0, 0, 0]).unwrap(),
        SmallWrite::new(0, 0x1008, &[2, 0, 0, 0, 0, 0, 0, 9]).unwrap(),
    ];
    assert_eq!(writes[0].data(), [1, 0, 0, 0]);
    command(
        "3412 0f00 48000000 00000000 00000000  0200000000000000
         0010000000000000 00000000 04000000 0100000000000000
         0810000000000000 00000000 08000000 0200000000000009",
        &Request::RegionWriteMulti(WriteMulti { writes }),
    );
    reply("3412 0f00 18000000 01000000 00000000  0200000000000000", &Reply::RegionWriteMulti(2));
    for lie in [
        "ffffffffffffffff".to_owned(),
        "0100000000000000 0010000000000000 00000000 09000000 0100000000000000".to_owned(),
        "0100000000000000 0010000000000000 00000000 00000000 0100000000000000".to_owned(),
    ] {
        assert!(WriteMulti::decode(&hex(&lie)).is_err(), "{lie}");
    }
    assert!(SmallWrite::new(0, 0, &[]).is_none() && SmallWrite::new(0, 0, &[0; 9]).is_none());
}

#[test]
fn device_features() {
    let get = DeviceFeature { argsz: 16, flags: DeviceFeature::GET | 1, data: &[] };
    command(
        "3412 1000 18000000 00000000 00000000  10000000 01000100",
        &Request::DeviceFeature(get),
    );
    let data = hex("0100000000000000");
    reply(
        "3412 1000 20000000 01000000 00000000  10000000 01000100 0100000000000000",
        &Reply::DeviceFeature(DeviceFeature { data: &data, ..get }),
    );
    for flags in ["01000000", "01000300"] {
        assert!(DeviceFeature::decode(&hex(&format!("08000000 {flags}"))).is_err());
    }
    let start = FeatureData::DmaLoggingStart { page_size: 4096, ranges: vec![(0x1000, 0x2000)] };
    let report = FeatureData::DmaLoggingReport {
        iova: 0x1000,
        length: 0x2000,
        page_size: 4096,
        bitmap: vec![3],
    };
    for (data, text) in [
        (FeatureData::Migration { flags: 5 }, "0500000000000000"),
        (FeatureData::DeviceState { state: 3, data_fd: 0 }, "03000000 00000000"),
        (start, "0010000000000000 01000000 00000000 0010000000000000 0020000000000000"),
        (FeatureData::DmaLoggingStop, ""),
        (report, "0010000000000000 0020000000000000 0010000000000000 0300000000000000"),
    ] {
        let mut bytes = Vec::new();
        data.encode(&mut bytes);
        assert_eq!(bytes, hex(text), "{data:?}");
        assert_eq!(FeatureData::decode(data.index(), &bytes).unwrap().unwrap(), data);
    }
    assert_eq!(FeatureData::decode(3, &[]).unwrap(), None);
}

#[test]
fn migration_data() {
    command(
        "3412 1100 18000000 00000000 00000000  00100000 f80f0000",
        &Request::MigDataRead(MigDataRead { argsz: 0x1000, size: 0xff8 }),
    );
    reply(
        "3412 1100 1b000000 01000000 00000000  0b000000 03000000 616263",
        &Reply::MigDataRead(MigData { argsz: 11, data: b"abc" }),
    );
    command(
        "3412 1200 1b000000 00000000 00000000  0b000000 03000000 616263",
        &Request::MigDataWrite(MigData { argsz: 11, data: b"abc" }),
    );
    reply("3412 1200 10000000 01000000 00000000", &Reply::MigDataWrite);
}

#[test]
fn errors_are_a_header_alone() {
    let bytes = error_message(0x1234, 99, 22);
    assert_eq!(bytes, hex("3412 6300 10000000 21000000 16000000"));
    let frame = frame(&bytes);
    assert_eq!(frame.header.kind, Kind::Error { errno: 22 });
    assert_eq!(frame.command().unwrap_err(), ProtocolError::Command(99));
}

#[test]
fn commands_have_their_numbers() {
    for (command, number) in Command::ALL.into_iter().zip((1..=13).chain(15..=18)) {
        assert_eq!((command.number(), Command::from_number(number).unwrap()), (number, command));
    }
    for number in [0, 14, 19, u16::MAX] {
        assert_eq!(Command::from_number(number).unwrap_err(), ProtocolError::Command(number));
    }
}
