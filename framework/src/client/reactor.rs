//! The client's thread: it sends and receives control messages, keeps deadlines, and waits for the
//! interrupts of queues that are used outside of a runtime.

use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::ClientError;
use super::link::Link;
use crate::wait::hub::{Extra, Watching};
use crate::wire::{self, Message, Received};

/// How long the thread stays after the last handle is gone, for the broker to confirm releases.
const LINGER: Duration = Duration::from_secs(5);

/// Starts the thread.
pub(crate) fn start(link: Arc<Link>) -> Result<(), ClientError> {
    let what = "starting the client's thread";
    let origin = crate::poll::origin();
    std::thread::Builder::new()
        .name("doorbell-client".to_owned())
        .spawn(move || {
            crate::poll::leave_core(origin);
            let why = match run(&link) {
                Ok(why) => why,
                Err(error) => error.to_string(),
            };
            // The broker sees the end of the connection now, not when the last queue is dropped.
            let _ = rustix::net::shutdown(&link.socket, rustix::net::Shutdown::Both);
            link.fail(&why);
        })
        .map(drop)
        .map_err(|source| ClientError::Os { what, source })
}

/// Runs until the connection is lost or no longer needed; returns why.
fn run(link: &Arc<Link>) -> io::Result<String> {
    let mut watching = Watching::default();
    let mut buffer = Vec::new();
    let mut closed_at = None;
    loop {
        if let Some(why) = receive_all(link, &mut buffer)? {
            return Ok(why);
        }
        let blocked = send_all(link)?;
        if link.state().closing {
            let since = *closed_at.get_or_insert_with(Instant::now);
            if !link.releasing() || since.elapsed() >= LINGER {
                return Ok("the client closed the connection".to_owned());
            }
        }
        watching.admit(&link.hub);
        let linger = closed_at.map(|since| since + LINGER);
        let until = [link.expire(), link.settle(), link.hub.tick(&mut watching), linger];
        let until = until.into_iter().flatten().min();
        let socket = Extra { fd: link.socket.as_fd(), write: blocked };
        watching.wait(link.hub.wake(), Some(socket), until)?;
    }
}

/// Sends what may be sent; true if the socket is full.
fn send_all(link: &Link) -> io::Result<bool> {
    let state = &mut *link.state();
    while state.sent < state.max_pending
        && let Some((_, packet)) = state.outbox.front()
    {
        match wire::socket::send(link.socket.as_fd(), packet) {
            Ok(true) => {
                state.outbox.pop_front();
                state.sent += 1;
            }
            Ok(false) => return Ok(true),
            // The reason may still be waiting to be read: let the receiving side find the end.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {
                state.outbox.clear();
                return Ok(false);
            }
            Err(error) => return Err(error),
        }
    }
    Ok(false)
}

/// Receives what is there; why the connection is over, if it is.
fn receive_all(link: &Link, buffer: &mut Vec<u8>) -> io::Result<Option<String>> {
    loop {
        match wire::socket::receive(link.socket.as_fd(), buffer)? {
            Received::Empty => return Ok(None),
            Received::Closed => {
                return Ok(Some("it closed the connection, or it ended".to_owned()));
            }
            Received::Packet { message: Ok(Message::Reply(id, reply)), fds, .. } => {
                link.answered(id, reply, fds);
            }
            Received::Packet { message: Ok(Message::Event(event)), .. } => link.event(event),
            Received::Packet { message: Ok(Message::Refused(refused)), id, .. } => {
                link.refused(id, refused);
            }
            Received::Packet { message: Ok(Message::Request(..)), .. } => {
                return Ok(Some("it sent a request, which is not its part".to_owned()));
            }
            Received::Packet { message: Err(error), .. } => return Ok(Some(error.to_string())),
        }
    }
}
