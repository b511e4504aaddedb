//! Who is at the other end of a socket, as the kernel says.

use std::io;
use std::os::fd::OwnedFd;

use rustix::process::{PidfdFlags, pidfd_open};

/// The process that connected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Peer {
    /// 0 for a process of a foreign pid namespace.
    pub(super) pid: i32,
    pub(super) uid: u32,
    pub(super) gid: u32,
    /// `/proc/PID/comm`, or what the program says of itself.
    pub(super) program: String,
}

impl Peer {
    /// `SO_PEERCRED`: the credentials of the process that connected, at that time. Asked through
    /// tokio's type for stream sockets, which serves any Unix socket: rustix's has no room for the
    /// process id 0, which is what a process of a foreign pid namespace has.
    pub(super) fn of(socket: &OwnedFd) -> io::Result<Self> {
        let socket = std::os::unix::net::UnixStream::from(socket.try_clone()?);
        let credentials = tokio::net::UnixStream::from_std(socket)?.peer_cred()?;
        let pid = credentials.pid().unwrap_or(0);
        let comm = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        Ok(Self {
            pid,
            uid: credentials.uid(),
            gid: credentials.gid(),
            program: comm.trim_end().to_owned(),
        })
    }

    /// A descriptor that is readable once the process has ended. (`SO_PEERPIDFD`, Linux 6.5, would
    /// rule out that the process ended and its id was given to another before this call; here the
    /// end of the socket is noticed all the same.)
    ///
    /// `None` if the process is gone already, or of a foreign pid namespace.
    pub(super) fn pidfd(&self) -> Option<OwnedFd> {
        let pid = rustix::process::Pid::from_raw(self.pid)?;
        pidfd_open(pid, PidfdFlags::empty()).ok()
    }
}
