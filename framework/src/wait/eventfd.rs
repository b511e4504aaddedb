//! An eventfd: a counter that one side adds to and the other waits for.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

use doorbell_queues::Kick;
use rustix::event::EventfdFlags;
use rustix::io::Errno;

/// A non-blocking eventfd.
#[derive(Debug)]
pub struct Eventfd {
    fd: OwnedFd,
}

impl Eventfd {
    /// A new one, at 0, closed on exec.
    ///
    /// # Errors
    /// The kernel's: no descriptor is left.
    pub fn new() -> io::Result<Self> {
        let flags = EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK;
        Ok(Self { fd: rustix::event::eventfd(0, flags)? })
    }

    /// Adds one. A counter that is full stays readable, so nothing is lost.
    pub fn signal(&self) {
        loop {
            match rustix::io::write(&self.fd, &1u64.to_ne_bytes()) {
                Err(Errno::INTR) => {}
                Ok(_) | Err(Errno::AGAIN) => return,
                Err(error) => {
                    tracing::error!(%error, "writing an eventfd failed: a wake-up is lost");
                    return;
                }
            }
        }
    }

    /// Takes what was added; false if that is nothing.
    ///
    /// # Errors
    /// The kernel's: the descriptor is no eventfd.
    pub fn take(&self) -> io::Result<bool> {
        let mut count = [0; 8];
        loop {
            match rustix::io::read(&self.fd, &mut count) {
                Ok(_) => return Ok(true),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return Ok(false),
                Err(errno) => return Err(errno.into()),
            }
        }
    }
}

impl From<OwnedFd> for Eventfd {
    /// Takes a descriptor from elsewhere and makes it non-blocking.
    fn from(fd: OwnedFd) -> Self {
        if let Err(error) = rustix::io::ioctl_fionbio(&fd, true) {
            tracing::warn!(%error, "an interrupt's descriptor cannot be made non-blocking");
        }
        Self { fd }
    }
}

impl AsFd for Eventfd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl AsRawFd for Eventfd {
    fn as_raw_fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }
}

impl Kick for Eventfd {
    fn kick(&self) {
        self.signal();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_signalled_is_taken_once() {
        let event = Eventfd::new().unwrap();
        assert!(!event.take().unwrap());
        event.signal();
        event.signal();
        assert!(event.take().unwrap());
        assert!(!event.take().unwrap());
    }
}
