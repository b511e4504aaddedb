//! Waiting for a descriptor on the broker's runtime: [`Readiness`].
//!
//! tokio-uring 0.5 has no poll operation, no `recvmsg` with control data and no `accept` for
//! `SOCK_SEQPACKET`. So the broker has one primitive, an io_uring poll (`IORING_OP_POLL_ADD`, handed
//! to tokio-uring as an `UnsubmittedOneshot`), and does the rest by non-blocking system calls.
//!
//! Where io_uring is not to be had (containers often forbid it) the socket loop runs on plain tokio
//! and waits by epoll. That is a property of the thread, set once by [`block_on`].

use std::cell::Cell;
use std::future::Future;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::pin::Pin;
use std::rc::Rc;

use io_uring_06::{cqueue, opcode, types};
use rustix::event::PollFlags;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio_uring::{OneshotOutputTransform, UnsubmittedOneshot};

thread_local! {
    static ON_RING: Cell<bool> = const { Cell::new(false) };
}

/// Runs the socket loop on this thread: on tokio-uring if the kernel lets us, else on plain tokio.
///
/// # Errors
/// The kernel's: no runtime can be had.
pub(super) fn block_on<F: Future>(main: F) -> io::Result<F::Output> {
    match tokio_uring::Runtime::new(&tokio_uring::builder()) {
        Ok(runtime) => {
            ON_RING.set(true);
            let output = runtime.block_on(main);
            // Before the runtime is dropped: what its tasks still wait for is then cancelled by its
            // own end, and no operation can be handed in any more.
            ON_RING.set(false);
            drop(runtime);
            Ok(output)
        }
        Err(error) => {
            tracing::warn!(%error, "no io_uring here: the control sockets are served by epoll");
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            Ok(tokio::task::LocalSet::new().block_on(&runtime, main))
        }
    }
}

type Wait = Pin<Box<dyn Future<Output = io::Result<()>>>>;

/// Waits for a descriptor, again and again. A wait that is given up (its future dropped) goes on and
/// serves the next call.
pub(super) struct Readiness {
    fd: Rc<OwnedFd>,
    write: bool,
    wait: Option<Wait>,
}

impl Readiness {
    /// Until `fd` is readable, hung up or broken.
    pub(super) fn readable(fd: &Rc<OwnedFd>) -> Self {
        Self { fd: Rc::clone(fd), write: false, wait: None }
    }

    /// Until `fd` is writable, hung up or broken.
    pub(super) fn writable(fd: &Rc<OwnedFd>) -> Self {
        Self { fd: Rc::clone(fd), write: true, wait: None }
    }

    /// Waits. Cancel-safe.
    ///
    /// # Errors
    /// The kernel's.
    pub(super) async fn ready(&mut self) -> io::Result<()> {
        let wait = self.wait.get_or_insert_with(|| {
            if ON_RING.get() {
                by_ring(&self.fd, self.write)
            } else {
                by_epoll(&self.fd, self.write)
            }
        });
        let result = wait.as_mut().await;
        self.wait = None;
        result
    }
}

impl Drop for Readiness {
    fn drop(&mut self) {
        if self.wait.take().is_some() && ON_RING.get() {
            cancel(&self.fd);
        }
    }
}

/// Keeps the descriptor open until the operation is over.
struct Held;

impl OneshotOutputTransform for Held {
    type Output = io::Result<()>;
    type StoredData = Rc<OwnedFd>;

    fn transform_oneshot_output(self, _fd: Rc<OwnedFd>, cqe: cqueue::Entry) -> io::Result<()> {
        if cqe.result() < 0 { Err(io::Error::from_raw_os_error(-cqe.result())) } else { Ok(()) }
    }
}

fn by_ring(fd: &Rc<OwnedFd>, write: bool) -> Wait {
    let events = if write { PollFlags::OUT } else { PollFlags::IN };
    let target = types::Fd(fd.as_raw_fd());
    let entry = opcode::PollAdd::new(target, u32::from(events.bits())).build();
    Box::pin(UnsubmittedOneshot::new(Rc::clone(fd), Held, entry).submit())
}

/// Ends the polls of a descriptor that nobody waits for any more (`IORING_ASYNC_CANCEL_FD`, Linux
/// 5.19; an older kernel refuses, and the poll stays until the descriptor has something to say).
fn cancel(fd: &Rc<OwnedFd>) {
    let target = types::CancelBuilder::fd(types::Fd(fd.as_raw_fd())).all();
    let entry = opcode::AsyncCancel2::new(target).build();
    // Dropped at once: the driver keeps the descriptor until the cancellation is done.
    drop(UnsubmittedOneshot::new(Rc::clone(fd), Held, entry).submit());
}

fn by_epoll(fd: &Rc<OwnedFd>, write: bool) -> Wait {
    let fd = Rc::clone(fd);
    Box::pin(async move {
        // A duplicate: one epoll can hold a descriptor once, and a socket is waited for in both
        // directions.
        let fd = fd.try_clone()?;
        let interest = if write { Interest::WRITABLE } else { Interest::READABLE };
        let fd = register(fd, interest)?;
        let ready = if write { fd.writable().await } else { fd.readable().await };
        ready.map(drop)
    })
}

#[allow(
    deprecated,
    reason = "its successor is unsafe, for types whose descriptor may change; `OwnedFd` cannot"
)]
pub(super) fn register(fd: OwnedFd, interest: Interest) -> io::Result<AsyncFd<OwnedFd>> {
    AsyncFd::with_interest(fd, interest)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::wait::Eventfd;
    use std::os::fd::AsFd;

    /// Waits that are given up, waits that are served, and waits that nobody ends.
    async fn waits() {
        let event = Eventfd::new().unwrap();
        let fd = Rc::new(event.as_fd().try_clone_to_owned().unwrap());
        let mut readable = Readiness::readable(&fd);
        for _ in 0..3 {
            let early = tokio::time::timeout(Duration::from_millis(2), readable.ready());
            assert!(early.await.is_err(), "nothing was signalled");
            event.signal();
            readable.ready().await.unwrap();
            assert!(event.take().unwrap());
        }
        Readiness::writable(&fd).ready().await.unwrap();
        // Left waiting: the end of the wait gives the descriptor back.
        let abandoned = tokio::time::timeout(Duration::from_millis(2), readable.ready());
        assert!(abandoned.await.is_err());
        drop(readable);
        while Rc::strong_count(&fd) > 1 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    #[test]
    fn by_whatever_there_is() {
        block_on(waits()).unwrap();
        assert!(!ON_RING.get());
    }

    #[test]
    fn by_epoll_alone() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(waits());
    }

    #[test]
    fn waits_that_are_left_when_the_loop_ends_do_no_harm() {
        let event = Eventfd::new().unwrap();
        let fd = Rc::new(event.as_fd().try_clone_to_owned().unwrap());
        let (leaked, task) = (Rc::clone(&fd), Rc::clone(&fd));
        let kept = block_on(async move {
            let mut readable = Readiness::readable(&leaked);
            let early = tokio::time::timeout(Duration::from_millis(1), readable.ready());
            assert!(early.await.is_err());
            tokio::task::spawn_local(async move {
                let _ = Readiness::readable(&task).ready().await;
            });
            tokio::task::yield_now().await;
            readable
        });
        drop(kept);
    }
}
