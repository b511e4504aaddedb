//! The beginning of a connection: the socket, VERSION, DEVICE_GET_INFO.

use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

use super::error::LinkError;
use super::io::{MAX_DATA, MAX_FDS};
use super::link::Link;
use crate::bus::BusError;
use crate::deadline::Deadline;
use crate::vfio_user::message::{DeviceInfo, Version};
use crate::vfio_user::{Capabilities, Command, MAJOR, MINOR, Reply, Request, TwinSocket, pci};

/// What is being done while no server answers; also how that is told from other failures.
pub const CONNECTING: &str = "connecting to its server";

/// Between two looks at a server whose backlog is full.
const LOOK_AGAIN: Duration = Duration::from_millis(5);

/// Connects to a socket.
pub(super) fn connect(
    device: &Arc<str>,
    path: &Path,
    deadline: Deadline,
) -> Result<OwnedFd, BusError> {
    let problem =
        |problem: String| BusError::Open { device: Arc::clone(device), step: CONNECTING, problem };
    let address = SocketAddrUnix::new(path)
        .map_err(|errno| problem(format!("the path is no socket's (too long?): {errno}")))?;
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)
        .map_err(|errno| problem(format!("making a socket: {errno}")))?;
    loop {
        match rustix::net::connect(&socket, &address) {
            Ok(()) => return Ok(socket),
            Err(Errno::INTR) => {}
            // The server's backlog is full; no event tells when there is room.
            Err(Errno::AGAIN) if !deadline.expired() => std::thread::sleep(LOOK_AGAIN),
            Err(Errno::AGAIN) => {
                return Err(problem("others wait for it; it serves one client at a time".into()));
            }
            Err(errno @ (Errno::NOENT | Errno::CONNREFUSED)) => {
                return Err(problem(format!("{errno}; is the server running?")));
            }
            Err(errno) => return Err(problem(errno.to_string())),
        }
    }
}

/// What the server said of itself.
#[derive(Debug)]
pub(super) struct Agreed {
    pub(super) minor: u16,
    pub(super) capabilities: Capabilities,
    pub(super) info: DeviceInfo,
}

/// What we propose.
fn proposal() -> Capabilities {
    Capabilities {
        max_msg_fds: Some(MAX_FDS as u64),
        max_data_xfer_size: Some(MAX_DATA as u64),
        max_dma_maps: Some(65_535),
        pgsizes: Some(4096),
        twin_socket: Some(TwinSocket { supported: true, fd_index: None }),
        write_multiple: Some(true),
    }
}

/// Agrees on a version, and asks what device it is.
pub(super) fn agree(link: &Link) -> Result<Agreed, BusError> {
    let device = &link.shared.name;
    let (minor, capabilities) =
        version(link).map_err(|error| error.opening(device, "agreeing on a version"))?;
    let ask = DeviceInfo { argsz: DeviceInfo::ARGSZ, ..DeviceInfo::default() };
    let info = link.ask_for(&Request::DeviceGetInfo(ask), |reply| match reply {
        Reply::DeviceGetInfo(info) => Some(info),
        _ => None,
    });
    let step = "asking what it is";
    let info = info.map_err(|error| error.opening(device, step))?;
    let open = |problem: String| BusError::Open { device: Arc::clone(device), step, problem };
    if info.flags & DeviceInfo::PCI == 0 {
        return Err(open("it is no PCI device; only those are supported".to_owned()));
    }
    if info.regions <= pci::CONFIG {
        let regions = info.regions;
        return Err(open(format!("it has {regions} regions, and config space is region 7")));
    }
    Ok(Agreed { minor, capabilities, info })
}

fn version(link: &Link) -> Result<(u16, Capabilities), LinkError> {
    let json = proposal().to_json().map_err(|e| LinkError::protocol(Command::Version, &e))?;
    let proposed = Version { major: MAJOR, minor: MINOR, data: json.as_bytes() };
    let frame = link.call(&Request::Version(proposed), Vec::new())?;
    let bad = |problem: String| LinkError::answer(Command::Version, problem);
    let protocol = |error| LinkError::protocol(Command::Version, &error);
    let version = Version::decode(&frame.payload).map_err(protocol)?;
    if version.major != MAJOR || version.minor > MINOR {
        let (major, minor) = (version.major, version.minor);
        return Err(bad(format!(
            "it speaks version {major}.{minor}; this program speaks {MAJOR}.0 to {MAJOR}.{MINOR}"
        )));
    }
    let capabilities = version.capabilities().map_err(protocol)?;
    if capabilities.pgsizes() == 0 {
        return Err(bad("it supports no page size at all".to_owned()));
    }
    let mut fds = frame.fds;
    if capabilities.twin_socket() {
        let index = capabilities.twin_socket.and_then(|twin| twin.fd_index);
        let found = index.and_then(|index| usize::try_from(index).ok());
        let Some(index) = found.filter(|index| *index < fds.len()) else {
            let got = fds.len();
            return Err(bad(format!("its twin socket is descriptor {index:?} of {got} that came")));
        };
        let twin = fds.swap_remove(index);
        let socket = rustix::net::sockopt::socket_type(&twin);
        if socket != Ok(SocketType::STREAM) {
            return Err(bad("its twin socket is no stream socket".to_owned()));
        }
        link.twin(twin)?;
    }
    if !fds.is_empty() {
        return Err(bad(format!(
            "{} descriptor(s) came with it that belong to nothing",
            fds.len()
        )));
    }
    Ok((version.minor, capabilities))
}
