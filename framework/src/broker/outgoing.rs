//! What goes to a client: a bounded queue between the device's worker and the client's session.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::{Notify, mpsc};

use crate::wire::codec::{encode_event, encode_reply};
use crate::wire::{Event, Packet, Refusal, Reply, StatusReport, WireError};

/// Packets that may wait for a client to read. A client within its limit of pending requests cannot
/// fill this with replies; one that does not read is cut off.
pub(super) const CAPACITY: usize = 256;

/// One packet on its way.
#[derive(Debug)]
pub(super) struct Out {
    pub(super) packet: Packet,
    /// True if it answers a request.
    pub(super) answers: bool,
}

/// The worker's end. Cloning it gives another.
#[derive(Debug, Clone)]
pub(super) struct Outgoing {
    queue: mpsc::Sender<Out>,
    closing: Arc<Closing>,
}

/// Tells a session to end.
#[derive(Debug, Default)]
pub(super) struct Closing {
    asked: AtomicBool,
    notify: Notify,
}

impl Closing {
    pub(super) fn ask(&self) {
        self.asked.store(true, Ordering::Release);
        self.notify.notify_one();
    }

    /// Until the session is told to end. Cancel-safe.
    pub(super) async fn asked(&self) {
        while !self.asked.load(Ordering::Acquire) {
            self.notify.notified().await;
        }
    }
}

impl Outgoing {
    pub(super) fn new() -> (Self, mpsc::Receiver<Out>, Arc<Closing>) {
        let (queue, receiver) = mpsc::channel(CAPACITY);
        let closing = Arc::new(Closing::default());
        (Self { queue, closing: Arc::clone(&closing) }, receiver, closing)
    }

    /// Answers a request.
    pub(super) fn reply(&self, id: u32, reply: Reply, fds: Vec<OwnedFd>) {
        let bytes = match encode_reply(id, &reply) {
            Ok(bytes) => bytes,
            Err(error) => match shortened(id, reply, &error) {
                Some(bytes) => bytes,
                None => return self.close(),
            },
        };
        self.send(Out { packet: Packet { bytes, fds }, answers: true });
    }

    /// Tells something.
    pub(super) fn event(&self, event: Event) {
        match encode_event(&event) {
            Ok(bytes) => self.send(Out { packet: bytes.into(), answers: false }),
            Err(error) => tracing::error!(%error, ?event, "an event cannot be encoded"),
        }
    }

    fn send(&self, out: Out) {
        // Closed: the session is over. Full: the client does not read.
        if let Err(mpsc::error::TrySendError::Full(_)) = self.queue.try_send(out) {
            tracing::warn!("a client does not read what it is sent: closing its connection");
            self.close();
        }
    }

    /// Ends the connection, once what was sent before is out.
    pub(super) fn close(&self) {
        self.closing.ask();
    }
}

/// A reply that is too long for a message: a status report loses sessions, anything else becomes
/// an error.
fn shortened(id: u32, reply: Reply, error: &WireError) -> Option<Vec<u8>> {
    let Reply::Status(mut report) = reply else {
        let refusal = Refusal::Driver(format!("the reply cannot be sent: {error}"));
        return encode_reply(id, &Reply::Refused(refusal)).ok();
    };
    while !report.sessions.is_empty() {
        halve(&mut report);
        if let Ok(bytes) = encode_reply(id, &Reply::Status(report.clone())) {
            return Some(bytes);
        }
    }
    None
}

fn halve(report: &mut StatusReport) {
    let keep = report.sessions.len() / 2;
    report.sessions_omitted += (report.sessions.len() - keep) as u32;
    report.sessions.truncate(keep);
}
