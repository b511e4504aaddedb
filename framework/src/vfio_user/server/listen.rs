//! The server's socket: made, taken over from a dead server, removed.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

use super::ServerError;

/// Bytes of a socket's path, at most (`sun_path` without its NUL).
const LONGEST_PATH: usize = 107;

/// A socket that listens. Dropping it removes it from the file system, if it is still ours.
#[derive(Debug)]
pub(super) struct Listener {
    pub(super) fd: OwnedFd,
    pub(super) path: PathBuf,
    inode: (u64, u64),
}

impl Listener {
    /// Listens at `path`. A socket there whose server is dead is replaced.
    pub(super) fn bind(path: &Path, mode: u32) -> Result<Self, ServerError> {
        let error = |what| {
            move |source: io::Error| ServerError::Socket { socket: path.to_owned(), what, source }
        };
        let len = path.as_os_str().len();
        if len > LONGEST_PATH {
            return Err(ServerError::TooLong { socket: path.to_owned(), len });
        }
        remove_stale(path)?;
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let fd = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)
            .map_err(|errno| error("making a socket")(errno.into()))?;
        let address = SocketAddrUnix::new(path)
            .map_err(|errno| error("this is no socket's path")(errno.into()))?;
        rustix::net::bind(&fd, &address).map_err(|errno| error("binding it")(errno.into()))?;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))
            .map_err(error("setting its mode"))?;
        rustix::net::listen(&fd, 8).map_err(|errno| error("listening at it")(errno.into()))?;
        let inode = inode(path).map_err(error("looking at it"))?;
        Ok(Self { fd, path: path.to_owned(), inode })
    }

    pub(super) fn error(&self, what: &'static str, source: io::Error) -> ServerError {
        ServerError::Socket { socket: self.path.clone(), what, source }
    }

    /// Accepts one connection; `None` if none waits any more.
    pub(super) fn accept(&self) -> Result<Option<OwnedFd>, ServerError> {
        use rustix::io::Errno;
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        match rustix::net::accept_with(&self.fd, flags) {
            Ok(socket) => Ok(Some(socket)),
            Err(Errno::AGAIN | Errno::INTR | Errno::CONNABORTED) => Ok(None),
            Err(errno) => Err(self.error("accepting a client", errno.into())),
        }
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

fn inode(path: &Path) -> io::Result<(u64, u64)> {
    let metadata = std::fs::symlink_metadata(path)?;
    Ok((metadata.dev(), metadata.ino()))
}

/// Removes the socket of a server that is dead.
fn remove_stale(path: &Path) -> Result<(), ServerError> {
    let error = |what| {
        move |source: io::Error| ServerError::Socket { socket: path.to_owned(), what, source }
    };
    match std::fs::symlink_metadata(path) {
        Err(missing) if missing.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(other) => return Err(error("looking at it")(other)),
        Ok(metadata) if !metadata.file_type().is_socket() => {
            return Err(ServerError::NoSocket(path.to_owned()));
        }
        Ok(_) => {}
    }
    match UnixStream::connect(path) {
        Err(refused) if refused.kind() == io::ErrorKind::ConnectionRefused => {
            std::fs::remove_file(path).map_err(error("removing a dead server's socket"))
        }
        Err(missing) if missing.kind() == io::ErrorKind::NotFound => Ok(()),
        Ok(_) => Err(ServerError::InUse(path.to_owned())),
        Err(other) => Err(error("trying whether a server listens there")(other)),
    }
}
