//! The thread that reads a client's connection.

use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use crossbeam_channel::Sender;

use super::events::{AsFdDyn, Event, wait_any};
use super::link::Link;
use super::listen::Listener;
use super::peer::PeerMemory;
use super::region;
use super::session::{Ended, MOST_FDS};
use crate::deadline::Deadline;
use crate::vfio_user::socket::{Received, Receiver};
use crate::vfio_user::{Frame, Kind, Limits};

/// How long a client may take for its first message, and for the rest of one that it has begun.
const PATIENCE: Duration = Duration::from_secs(10);

/// How long another client may wait for this one to end. The kernel closes the sockets of a client that was
/// killed a little after its end, and who started the next one knows of the end only.
const CHANGE: Duration = Duration::from_millis(500);

/// Reads the connection until it ends. Commands go to `commands`; answers to DMA messages go to
/// `peer` at once. Whoever else connects meanwhile is turned away.
pub(super) fn read(
    link: &Link,
    peer: &PeerMemory,
    commands: &Sender<Frame>,
    [knock, stop, shrunk]: [&OwnedFd; 3],
    listener: &Listener,
) -> Ended {
    let mut receiver = Receiver::new(Limits::new(region::MOST_DATA as usize, MOST_FDS));
    let mut waiting = Some(Deadline::after(PATIENCE));
    // Somebody else waits to be served, and how long yet.
    let mut another: Option<Deadline> = None;
    loop {
        match receiver.receive(link.socket().as_fd()) {
            Ok(Received::Frame(frame)) => {
                waiting = None;
                let command = matches!(frame.header.kind, Kind::Command { .. });
                if command {
                    if commands.send(frame).is_err() {
                        return Ended::Closed;
                    }
                } else if !peer.answered(&frame) {
                    return Ended::Broken("it answered what was not asked".to_owned());
                }
                continue;
            }
            Ok(Received::Empty) => {}
            Ok(Received::Closed) => return Ended::Closed,
            Err(error) => return Ended::Broken(error.to_string()),
        }
        if waiting.is_none() && !receiver.is_between() {
            waiting = Some(Deadline::after(PATIENCE));
        }
        if another.as_ref().is_some_and(Deadline::expired) {
            turn_away(listener);
            another = None;
        }
        let limits = [&waiting, &another].into_iter().flatten().map(Deadline::remaining);
        let events: [&dyn AsFdDyn; 4] = [stop, shrunk, link.socket(), knock];
        // Who waits already is not looked for.
        let events = if another.is_some() { &events[..3] } else { &events[..] };
        match wait_any(events, limits.min()) {
            Ok(Some(Event(0))) => return Ended::Stopped,
            Ok(Some(Event(1))) => {
                return Ended::Broken("its memory shrank while it was mapped".to_owned());
            }
            Ok(Some(Event(2))) => {}
            Ok(Some(_)) => another = Some(Deadline::after(CHANGE)),
            Ok(None) if another.as_ref().is_some_and(Deadline::expired) => {}
            Ok(None) => return Ended::Broken("its message does not come to an end".to_owned()),
            Err(error) => return Ended::Broken(format!("waiting for it: {error}")),
        }
    }
}

/// One client at a time: closing says so, where silence would not.
fn turn_away(listener: &Listener) {
    match listener.accept() {
        Ok(Some(_)) => tracing::warn!("a second client is turned away: one is served already"),
        Ok(None) => {}
        Err(error) => tracing::warn!(%error, "a second client"),
    }
}
