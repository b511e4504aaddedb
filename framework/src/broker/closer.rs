//! Closes descriptors that strangers sent.
//!
//! Closing a descriptor can block for as long as its maker likes (a file of a FUSE file system asks
//! its server first). So whatever is not known to be a memfd is closed on a thread of its own, and
//! neither the socket loop nor the device's worker ever waits for a stranger.
//!
//! What it does not do: it cannot make such a close finish. The descriptors then stay in the table.

use std::os::fd::OwnedFd;
use std::sync::mpsc;

/// The way to the thread. Cloning it gives another; the thread ends with the last.
#[derive(Debug, Clone)]
pub(super) struct Closer {
    to: mpsc::Sender<Vec<OwnedFd>>,
}

impl Closer {
    /// Starts the thread.
    pub(super) fn start() -> std::io::Result<Self> {
        let (to, from) = mpsc::channel::<Vec<OwnedFd>>();
        std::thread::Builder::new()
            .name("doorbell-closer".to_owned())
            .spawn(move || from.into_iter().for_each(drop))?;
        Ok(Self { to })
    }

    /// Closes descriptors, some time.
    pub(super) fn close(&self, fds: Vec<OwnedFd>) {
        if !fds.is_empty()
            && let Err(mpsc::SendError(fds)) = self.to.send(fds)
        {
            // Cannot be: the thread ends after the last sender. Better open than blocked.
            std::mem::forget(fds);
        }
    }
}
