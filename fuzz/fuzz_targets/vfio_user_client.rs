//! What a client reads: replies, and the server's commands.
#![no_main]

use doorbell::vfio_user::{Framer, Kind, Limits, Reply, Request};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    // The first byte says in how large pieces the rest arrives.
    let Some((piece, mut rest)) = bytes.split_first() else { return };
    let mut framer = Framer::new(Limits::new(1 << 16, 0));
    while !rest.is_empty() {
        let len = framer.wanted().min(usize::from(*piece) + 1).min(rest.len());
        let (now, later) = rest.split_at(len);
        rest = later;
        let frame = match framer.feed(now, []) {
            Ok(Some(frame)) => frame,
            Ok(None) => continue,
            Err(_) => break,
        };
        assert_eq!(frame.payload.len(), frame.header.payload());
        let Ok(command) = frame.command() else { continue };
        match frame.header.kind {
            Kind::Reply => {
                if let Ok(reply) = Reply::decode(command, &frame.payload) {
                    // What was understood can be said.
                    assert_eq!(reply.command(), command);
                    let _ = reply.message(frame.header.id);
                }
                if let Ok(Reply::Version(version)) = Reply::decode(command, &frame.payload) {
                    let _ = version.capabilities();
                }
            }
            Kind::Command { no_reply } if command.is_servers() => {
                if let Ok(request) = Request::decode(command, &frame.payload) {
                    let again = request.message(frame.header.id, no_reply);
                    assert_eq!(again.get(16..), Some(&frame.payload[..]));
                }
            }
            Kind::Command { .. } | Kind::Error { .. } => {}
        }
    }
    let _ = framer.end();
});
