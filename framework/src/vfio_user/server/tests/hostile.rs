//! A client that wants to do harm: nothing hangs, nothing panics, the next client is served.

use rustix::io::Errno;

use super::*;

#[test]
fn commands_that_are_not_offered_are_refused_with_a_reason() {
    let served = Served::new();
    let mut client = served.client();
    let raw = |client: &mut Client, number: u16, payload: &[u8]| {
        let mut bytes = Vec::new();
        let header = [7_u16, number].map(u16::to_ne_bytes).concat();
        bytes.extend(header);
        bytes.extend((16 + payload.len() as u32).to_ne_bytes());
        bytes.extend([0; 8]);
        bytes.extend(payload);
        client.send(bytes, vec![]);
        let frame = client.receive().unwrap();
        assert_eq!((frame.header.id, frame.header.number, frame.payload.len()), (7, number, 0));
        match frame.header.kind {
            Kind::Error { errno } => errno,
            other => panic!("{other:?}"),
        }
    };
    for number in [0, 14, 19, 99, u16::MAX] {
        assert_eq!(raw(&mut client, number, &[0; 8]), errno(Errno::NOSYS), "command {number}");
    }
    let feature = [16_u32, 1 << 18 | 1].map(u32::to_ne_bytes).concat();
    assert_eq!(raw(&mut client, 16, &feature), errno(Errno::OPNOTSUPP));
    assert_eq!(
        raw(&mut client, 6, &[16, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]),
        errno(Errno::OPNOTSUPP)
    );
    // Each known command with too few bytes, and with what is the server's to ask.
    for number in (2..=18).filter(|number| ![13, 14].contains(number)) {
        assert_eq!(raw(&mut client, number, &[1, 2, 3]), errno(Errno::INVAL), "command {number}");
    }
    assert_eq!(raw(&mut client, 13, &[1]), errno(Errno::INVAL), "a reset has no payload");
    assert_eq!(raw(&mut client, 11, &[0; 16]), errno(Errno::INVAL));
    assert_eq!(client.read(pci::CONFIG, 0, 2).unwrap(), [0x34, 0x12]);
}

#[test]
fn descriptors_where_none_belong_are_closed_and_refused() {
    let served = Served::new();
    let mut client = served.client();
    let (kept, sent) = rustix::pipe::pipe().unwrap();
    let refused = client.ask(&Request::DeviceReset, vec![sent]).unwrap_err();
    assert_eq!(refused, errno(Errno::INVAL));
    // The other end of the pipe sees that nobody writes any more.
    wait(&kept, PollFlags::IN);
    let many = (0..17).map(|_| memfd(4096)).collect();
    client.post(&Request::DeviceReset, many);
    assert!(client.is_dismissed());
    served.end();
}

#[test]
fn headers_that_lie_end_the_connection_only() {
    let served = Served::new();
    for (at, bytes) in [
        (4, u32::MAX.to_ne_bytes()),
        (4, (u32::MAX - 15).to_ne_bytes()),
        (4, (3_u32 << 20).to_ne_bytes()),
        (4, 15_u32.to_ne_bytes()),
        (4, 0_u32.to_ne_bytes()),
        (8, 2_u32.to_ne_bytes()),
        // An answer to a question that was never asked.
        (8, 1_u32.to_ne_bytes()),
    ] {
        let mut client = served.free_client();
        let mut message = Request::DeviceReset.message(9, false);
        message[at..at + 4].copy_from_slice(&bytes);
        client.send(message, vec![]);
        assert!(client.is_dismissed(), "{at}: {bytes:?}");
    }
    served.end();
}

#[test]
fn a_client_may_vanish_at_any_byte() {
    let served = Served::new();
    let whole = Request::RegionWrite(RegionData { offset: 0, region: 0, data: &[1; 8] });
    let whole = whole.message(3, false);
    for len in (0..whole.len()).step_by(5) {
        let mut client = served.free_client();
        client.send(whole[..len].to_vec(), vec![]);
    }
    let mut client = served.free_client();
    for byte in &whole {
        client.send(vec![*byte], vec![]);
    }
    assert_eq!(client.receive().unwrap().header.id, 3, "a message may come in any pieces");
    drop(client);
    served.end();
}

#[test]
fn a_client_that_does_not_read_is_let_go() {
    let served = Served::new();
    let mut client = served.client();
    let read = Request::RegionRead(RegionAccess { offset: 0, region: 0, count: 0x4000 });
    let message = read.message(5, false);
    // Until nothing more is taken: the server has stopped reading, or closed.
    let mut outgoing = Outgoing::new(usize::MAX);
    for _ in 0..4_000 {
        outgoing.push(message.clone(), vec![]).unwrap();
    }
    let deadline = crate::Deadline::after(LIMIT);
    while let Ok(false) = outgoing.flush(client.socket.as_fd()) {
        assert!(!deadline.expired(), "the server waits for ever");
        std::thread::yield_now();
    }
    while !client.is_dismissed() {}
    let mut next = served.free_client();
    assert_eq!(next.read(pci::CONFIG, 0, 2).unwrap(), [0x34, 0x12]);
    drop(next);
    served.end();
}
