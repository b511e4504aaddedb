//! What the connection's thread waits for, in an io_uring: descriptors that become ready, and time.
//!
//! The one place of this bus with `unsafe` code: putting an entry into a submission queue.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::time::Duration;

use io_uring::{IoUring, opcode, types};

/// How many things can be watched.
pub(super) const WATCHES: usize = 8;

/// Waits for descriptors. Each watch is for one event, and is then set up again.
///
/// # Invariants
/// Only entries that carry no address are submitted.
pub(super) struct Ring {
    ring: IoUring,
    armed: [bool; WATCHES],
}

impl std::fmt::Debug for Ring {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ring").field("armed", &self.armed).finish_non_exhaustive()
    }
}

impl Ring {
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self { ring: IoUring::new(2 * WATCHES as u32)?, armed: [false; WATCHES] })
    }

    /// Watches for `events` (poll(2)) under `token`, which is less than [`WATCHES`], unless it is
    /// watched for already.
    pub(super) fn watch(
        &mut self,
        token: usize,
        fd: BorrowedFd<'_>,
        events: u32,
    ) -> io::Result<()> {
        let Some(armed @ false) = self.armed.get_mut(token) else { return Ok(()) };
        let entry = opcode::PollAdd::new(types::Fd(fd.as_raw_fd()), events);
        let entry = entry.build().user_data(token as u64);
        // SAFETY:
        // * the entry carries no address;
        // * the kernel takes a reference to the descriptor's file when the entry is submitted. A
        //   descriptor that was closed before that gives an error, and another one in its place
        //   gives a wake-up too many.
        let pushed = unsafe { self.ring.submission().push(&entry) };
        pushed.map_err(|_| io::Error::other("the io_uring is full"))?;
        *armed = true;
        Ok(())
    }

    /// Waits until a watch fires or `limit` has passed; calls `fired` with the tokens.
    pub(super) fn wait(
        &mut self,
        limit: Option<Duration>,
        mut fired: impl FnMut(usize),
    ) -> io::Result<()> {
        let waited = match limit {
            Some(limit) => {
                let limit = types::Timespec::from(limit);
                let args = types::SubmitArgs::new().timespec(&limit);
                self.ring.submitter().submit_with_args(1, &args)
            }
            None => self.ring.submit_and_wait(1),
        };
        match waited {
            Ok(_) => {}
            // Time is up, or a signal came: the caller looks at everything and waits again.
            Err(error) if matches!(error.raw_os_error(), Some(ETIME | EINTR)) => {}
            // The kernel is short of memory for the moment: the entries are still there.
            Err(error) if matches!(error.raw_os_error(), Some(EAGAIN | EBUSY)) => {
                std::thread::sleep(Duration::from_millis(1));
            }
            Err(error) => return Err(error),
        }
        for entry in self.ring.completion() {
            let token = entry.user_data() as usize;
            if let Some(armed) = self.armed.get_mut(token) {
                *armed = false;
                fired(token);
            }
        }
        Ok(())
    }
}

const EINTR: i32 = rustix::io::Errno::INTR.raw_os_error();
const EAGAIN: i32 = rustix::io::Errno::AGAIN.raw_os_error();
const EBUSY: i32 = rustix::io::Errno::BUSY.raw_os_error();
const ETIME: i32 = rustix::io::Errno::TIME.raw_os_error();
