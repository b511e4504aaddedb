//! Connections that were good and are not any more, and answers that come late, in pieces or not at all.

use std::io::Write;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use doorbell::bus::vfio_user::{Mapping, Options, VfioUserBus};
use doorbell::bus::{Bus, BusError, Width};
use doorbell::deadline::Deadline;
use doorbell::dma::{Access, HugePages, Memfd};
use doorbell::vfio_user::message::*;
use doorbell::vfio_user::{Command, Frame, Reply, Request};

use crate::hostile::impatient;
use crate::server::*;

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
