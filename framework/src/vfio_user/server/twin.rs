//! The twin socket: DMA_READ and DMA_WRITE on a connection of their own.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::thread::JoinHandle;

use rustix::net::{AddressFamily, SocketFlags, SocketType};

use super::events::wait_any;
use super::link::Link;
use super::peer::PeerMemory;
use super::region::MOST_DATA;
use crate::vfio_user::socket::{Received, Receiver};
use crate::vfio_user::{Kind, Limits};

/// A second connection, with a reader of its own. Dropping it closes it and waits for its reader.
#[derive(Debug)]
pub(super) struct Twin {
    link: Arc<Link>,
    reader: Option<JoinHandle<()>>,
}

impl Twin {
    /// Makes a pair of sockets: ours becomes the way to the client's memory, the other is the
    /// client's. When the client closes its end `first` is closed too.
    pub(super) fn new(peer: &Arc<PeerMemory>, first: &Arc<Link>) -> io::Result<(Self, OwnedFd)> {
        let (family, kind) = (AddressFamily::UNIX, SocketType::STREAM);
        let (ours, theirs) = rustix::net::socketpair(family, kind, SocketFlags::CLOEXEC, None)?;
        let link = Arc::new(Link::new(ours));
        let (twin, memory, first) = (Arc::clone(&link), Arc::clone(peer), Arc::clone(first));
        let reader =
            std::thread::Builder::new().name("vfio-user-twin".into()).spawn(move || {
                let why = read(&twin, &memory);
                tracing::debug!(why, "the twin socket has ended");
                memory.close();
                first.close();
            })?;
        peer.set_link(Arc::clone(&link));
        Ok((Self { link, reader: Some(reader) }, theirs))
    }
}

impl Drop for Twin {
    fn drop(&mut self) {
        self.link.close();
        if let Some(reader) = self.reader.take() {
            // A panic of it was printed; there is nothing of it to clean up.
            let _ = reader.join();
        }
    }
}

/// Takes answers until the connection ends.
fn read(link: &Link, peer: &PeerMemory) -> &'static str {
    let mut receiver = Receiver::new(Limits::new(MOST_DATA as usize, 0));
    loop {
        match receiver.receive(link.socket().as_fd()) {
            Ok(Received::Frame(frame)) => {
                let command = matches!(frame.header.kind, Kind::Command { .. });
                if command || !peer.answered(&frame) {
                    return "what came on it answers nothing";
                }
            }
            Ok(Received::Empty) => {
                if wait_any(&[link.socket()], None).is_err() {
                    return "it cannot be waited for";
                }
            }
            Ok(Received::Closed) => return "it was closed",
            Err(_) => return "it broke",
        }
    }
}
