//! Who is at the other end of a socket, as the kernel says.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::process::{PidfdFlags, pidfd_open};

/// The process that connected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Peer {
    pub(super) pid: i32,
    pub(super) uid: u32,
    pub(super) gid: u32,
    /// `/proc/PID/comm`, or what the program says of itself.
    pub(super) program: String,
}

impl Peer {
    /// `SO_PEERCRED`: the credentials of the process that connected, at that time.
    pub(super) fn of(socket: impl AsFd) -> io::Result<Self> {
        let credentials = rustix::net::sockopt::socket_peercred(socket)?;
        let pid = credentials.pid.as_raw_nonzero().get();
        let comm = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        Ok(Self {
            pid,
            uid: credentials.uid.as_raw(),
            gid: credentials.gid.as_raw(),
            program: comm.trim_end().to_owned(),
        })
    }

    /// A descriptor that is readable once the process has ended. (`SO_PEERPIDFD`, Linux 6.5, would
    /// rule out that the process ended and its id was given to another before this call; here the
    /// end of the socket is noticed all the same.)
    ///
    /// `None` if the process is gone already, or in another pid namespace.
    pub(super) fn pidfd(&self) -> Option<OwnedFd> {
        let pid = rustix::process::Pid::from_raw(self.pid)?;
        pidfd_open(pid, PidfdFlags::empty()).ok()
    }
}
