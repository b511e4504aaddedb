//! What a server reads: commands.
#![no_main]

use doorbell::vfio_user::message::{FeatureData, error_message};
use doorbell::vfio_user::{Framer, Kind, Limits, Request};
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
        let Kind::Command { no_reply } = frame.header.kind else { continue };
        let Ok(command) = frame.command() else {
            assert_eq!(error_message(frame.header.id, frame.header.number, 22).len(), 16);
            continue;
        };
        let Ok(request) = Request::decode(command, &frame.payload) else { continue };
        assert_eq!(request.command(), command);
        let again = request.message(frame.header.id, no_reply);
        // What was understood is understood again, and means the same.
        let read = Request::decode(command, again.get(16..).unwrap_or_default());
        assert_eq!(read.as_ref(), Ok(&request));
        match &request {
            Request::Version(version) => drop(version.capabilities()),
            Request::DeviceFeature(feature) => {
                let _ = FeatureData::decode(feature.index(), feature.data);
            }
            _ => {}
        }
    }
    let _ = framer.end();
});
