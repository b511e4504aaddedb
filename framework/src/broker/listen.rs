//! The broker's socket: made, taken over from a dead broker, removed.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{FlockOperation, Mode, OFlags};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

use super::BrokerError;
use crate::deadline::Deadline;

/// Connections that may wait to be accepted.
const BACKLOG: i32 = 128;

/// How long a killed broker's socket may still accept: the kernel ends its io_uring, which holds the
/// socket, some time after the process. Nothing tells when; so this is looked at again and again.
const AFTERLIFE: Duration = Duration::from_millis(300);

/// A socket that listens. Dropping it removes it from the file system, if it is still ours.
#[derive(Debug)]
pub(super) struct Listener {
    pub(super) fd: OwnedFd,
    path: PathBuf,
    inode: (u64, u64),
}

impl Listener {
    /// Listens at `path`. A socket there whose broker is dead is replaced.
    pub(super) fn bind(path: &Path, mode: u32) -> Result<Self, BrokerError> {
        let error = |what: &'static str| {
            let socket = path.to_owned();
            move |source: io::Error| BrokerError::Socket { socket, what, source }
        };
        let parent = match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        // Two brokers that start at once take turns here, so neither removes the other's socket.
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let folder = rustix::fs::open(parent, flags, Mode::empty())
            .map_err(|errno| error("opening its folder")(errno.into()))?;
        lock(&folder).map_err(error("locking its folder (is another broker starting there?)"))?;
        remove_stale(path)?;
        let fd = new_socket().map_err(error("making a socket"))?;
        let address = SocketAddrUnix::new(path)
            .map_err(|errno| error("the path is no socket's (is it too long?)")(errno.into()))?;
        rustix::net::bind(&fd, &address).map_err(|errno| error("binding it")(errno.into()))?;
        let permissions = std::fs::Permissions::from_mode(mode);
        std::fs::set_permissions(path, permissions).map_err(error("setting its mode"))?;
        rustix::net::listen(&fd, BACKLOG)
            .map_err(|errno| error("listening at it")(errno.into()))?;
        let inode = inode(path).map_err(error("looking at it"))?;
        Ok(Self { fd, path: path.to_owned(), inode })
    }
}

/// Accepts one connection; `None` if none waits.
pub(super) fn accept(listener: &OwnedFd) -> io::Result<Option<OwnedFd>> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    match rustix::net::accept_with(listener, flags) {
        Ok(socket) => Ok(Some(socket)),
        Err(
            rustix::io::Errno::AGAIN | rustix::io::Errno::INTR | rustix::io::Errno::CONNABORTED,
        ) => Ok(None),
        Err(errno) => Err(errno.into()),
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        if inode(&self.path).is_ok_and(|inode| inode == self.inode)
            && let Err(error) = std::fs::remove_file(&self.path)
        {
            tracing::warn!(socket = %self.path.display(), %error, "the socket cannot be removed");
        }
    }
}

/// An exclusive lock, waited for at most two seconds.
fn lock(folder: &OwnedFd) -> io::Result<()> {
    let deadline = Deadline::after(Duration::from_secs(2));
    loop {
        match rustix::fs::flock(folder, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(()),
            Err(rustix::io::Errno::WOULDBLOCK) if !deadline.expired() => {
                std::thread::sleep(Duration::from_millis(5));
            }
            Err(errno) => return Err(errno.into()),
        }
    }
}

fn new_socket() -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    Ok(rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?)
}

fn inode(path: &Path) -> io::Result<(u64, u64)> {
    let metadata = std::fs::symlink_metadata(path)?;
    Ok((metadata.dev(), metadata.ino()))
}

/// Removes the socket of a dead broker: one that refuses connections.
fn remove_stale(path: &Path) -> Result<(), BrokerError> {
    let socket = || path.to_owned();
    let os = |what| move |source| BrokerError::Socket { socket: path.to_owned(), what, source };
    match std::fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(source) => return Err(os("looking at it")(source)),
        Ok(metadata) if !metadata.file_type().is_socket() => {
            return Err(BrokerError::NotASocket { socket: socket() });
        }
        Ok(_) => {}
    }
    let address = SocketAddrUnix::new(path).map_err(|errno| os("naming it")(errno.into()))?;
    let deadline = Deadline::after(AFTERLIFE);
    loop {
        let probe = new_socket().map_err(os("making a socket"))?;
        match rustix::net::connect(&probe, &address) {
            Err(rustix::io::Errno::CONNREFUSED) => {
                tracing::info!(socket = %path.display(), "replacing the socket of a dead broker");
                return std::fs::remove_file(path).map_err(os("removing the dead broker's socket"));
            }
            Ok(()) if !deadline.expired() => std::thread::sleep(Duration::from_millis(5)),
            // Connected, or its backlog is full, or it is of another type: somebody is there.
            _ => return Err(BrokerError::SocketInUse { socket: socket() }),
        }
    }
}
