//! Waiting for one of several descriptors.

use std::io;
use std::os::fd::AsFd;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// Which descriptor is readable, by its place in the list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Event(pub(super) usize);

/// Waits until a descriptor is readable, or was closed by its peer: the first of the list that is.
/// `None` if the time is over.
pub(super) fn wait_any(fds: &[&dyn AsFdDyn], limit: Option<Duration>) -> io::Result<Option<Event>> {
    let mut polled: Vec<_> =
        fds.iter().map(|fd| PollFd::from_borrowed_fd(fd.fd(), PollFlags::IN)).collect();
    let limit = limit.map(|limit| Timespec {
        tv_sec: limit.as_secs().try_into().unwrap_or(i64::MAX),
        tv_nsec: limit.subsec_nanos().into(),
    });
    loop {
        match poll(&mut polled, limit.as_ref()) {
            Ok(_) => break,
            Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(polled.iter().position(|fd| !fd.revents().is_empty()).map(Event))
}

/// [`AsFd`] for lists of different types.
pub(super) trait AsFdDyn {
    /// The descriptor.
    fn fd(&self) -> std::os::fd::BorrowedFd<'_>;
}

impl<T: AsFd> AsFdDyn for T {
    fn fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.as_fd()
    }
}
