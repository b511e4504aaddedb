//! The server's own commands where they are none, on the twin socket: refused, or the end of the connection.

use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;

use doorbell::bus::vfio_user::VfioUserBus;
use doorbell::bus::{Bus, BusError, Width};
use doorbell::dma::{HugePages, Memfd};
use doorbell::vfio_user::message::*;
use doorbell::vfio_user::socket::Received;
use doorbell::vfio_user::{Frame, Kind, Limits, Outgoing, Receiver, Request, TwinSocket};

use crate::server::*;

/// A bus, and the server's end of its twin socket.
fn open_with_twin() -> (Server, VfioUserBus, UnixStream) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let mut model = Model::default();
    model.capabilities.twin_socket = Some(TwinSocket { supported: true, fd_index: Some(0) });
    model.twin = Some(theirs.into());
    let (server, bus) = open(model, honest(), &options());
    (server, bus.unwrap(), ours)
}

fn send(socket: &UnixStream, bytes: Vec<u8>, fds: Vec<OwnedFd>) {
    let mut outgoing = Outgoing::new(1 << 20);
    outgoing.push(bytes, fds).unwrap();
    assert!(outgoing.flush(socket.as_fd()).unwrap());
}

fn receive(socket: &UnixStream) -> Frame {
    let mut receiver = Receiver::new(Limits::new(1 << 20, 0));
    loop {
        match receiver.receive(socket.as_fd()).unwrap() {
            Received::Frame(frame) => break frame,
            Received::Empty => assert!(readable(socket)),
            Received::Closed => panic!("closed"),
        }
    }
}

/// A command of any number and payload.
fn raw(number: u16, flags: u32, payload: &[u8]) -> Vec<u8> {
    let mut bytes = [7_u16, number].map(u16::to_ne_bytes).concat();
    bytes.extend([16 + payload.len() as u32, flags, 0].map(u32::to_ne_bytes).concat());
    bytes.extend(payload);
    bytes
}

#[test]
fn what_is_no_command_of_a_server_is_refused_and_the_connection_goes_on() {
    let (_server, bus, twin) = open_with_twin();
    const READ: u16 = 11;
    const WRITE: u16 = 12;
    let lying = [[0_u64, u64::MAX].map(u64::to_ne_bytes).concat(), vec![1; 8]].concat();
    for (number, payload, errno) in [
        (0, &[][..], 95),
        (1, &[0; 8], 95),
        (14, &[0; 64], 95),
        (99, &[0; 3], 95),
        (u16::MAX, &[], 95),
        (READ, &[], 22),
        (READ, &[0; 15], 22),
        (READ, &[0; 17], 22),
        (WRITE, &[0; 15], 22),
        (WRITE, &lying, 22),
    ] {
        send(&twin, raw(number, 0, payload), vec![]);
        let frame = receive(&twin);
        let said = (frame.header.id, frame.header.number, frame.header.kind);
        assert_eq!(said, (7, number, Kind::Error { errno }), "{} bytes", payload.len());
    }
    // Nobody waits for an answer to this one, so the next answer is to another.
    send(&twin, raw(99, 1 << 4, &[]), vec![]);
    let file = Memfd::create("file", 4096, HugePages::No).unwrap().into_fd();
    let read = Request::DmaRead(DmaRead { address: 0, count: 1 });
    send(&twin, read.message(8, false), vec![file]);
    let frame = receive(&twin);
    assert_eq!((frame.header.id, frame.header.kind), (8, Kind::Error { errno: 22 }));
    bus.read(0, 0, Width::B4).unwrap();
    assert!(bus.events().is_empty(), "none of it was an access to memory");
}

#[test]
fn a_twin_that_breaks_the_protocol_or_off_is_the_end() {
    for (bytes, torn) in [
        // An answer, where nothing is ever asked.
        (raw(11, 1, &[0; 16]), false),
        // Neither a command nor a reply.
        (raw(11, 7, &[0; 16]), false),
        // In the middle of a message.
        (raw(11, 0, &[0; 16])[..20].to_vec(), true),
        (Vec::new(), true),
    ] {
        let (_server, bus, twin) = open_with_twin();
        if !bytes.is_empty() {
            send(&twin, bytes, vec![]);
        }
        if torn {
            drop(twin);
        }
        removed(&bus);
        let error = bus.read(0, 0, Width::B4).unwrap_err();
        assert!(matches!(error, BusError::Gone { .. }), "{error}");
    }
}
