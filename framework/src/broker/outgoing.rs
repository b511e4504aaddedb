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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::codec::decode;
    use crate::wire::{DeviceInfo, Message, QuotaStatus, SessionStatus};

    fn session(session: u64) -> SessionStatus {
        SessionStatus {
            session,
            pid: 1,
            uid: 1,
            gid: 1,
            program: "p".repeat(64),
            operator: false,
            function: None,
            queues: Vec::new(),
            arenas: Vec::new(),
            pollers: Vec::new(),
            quota: QuotaStatus { queues: 1, bytes: 1, mappings: 1 },
            pending: 0,
        }
    }

    fn report(sessions: u64) -> Box<StatusReport> {
        let device = DeviceInfo {
            name: "d".to_owned(),
            driver: "d".to_owned(),
            vendor: 0,
            device: 0,
            class: 0,
            numa_node: None,
            bus: "b".to_owned(),
            about_bus: String::new(),
            queues: 1,
            max_entries: 2,
            portal: false,
            submission_entry: 8,
            completion_entry: 8,
        };
        Box::new(StatusReport {
            broker_pid: 1,
            broker_version: String::new(),
            protocol: 1,
            spec: String::new(),
            device,
            out_of_service: None,
            faults: 0,
            last_fault: None,
            resets: 0,
            sessions: (0..sessions).map(session).collect(),
            sessions_omitted: 0,
            reclaims: Vec::new(),
            quarantined_bytes: 0,
            quarantined_queues: Vec::new(),
            virtual_functions: Vec::new(),
        })
    }

    #[test]
    fn a_report_that_is_too_long_says_what_is_missing() {
        let (out, mut receiver, _closing) = Outgoing::new();
        out.reply(1, Reply::Status(report(5000)), Vec::new());
        let packet = receiver.try_recv().unwrap().packet;
        let Ok(Message::Reply(1, Reply::Status(seen))) = decode(&packet.bytes) else {
            panic!("no status");
        };
        assert!(seen.sessions.len() > 300);
        assert_eq!(seen.sessions.len() as u32 + seen.sessions_omitted, 5000);
    }

    #[test]
    fn a_client_that_does_not_read_is_cut_off() {
        let (out, _receiver, closing) = Outgoing::new();
        for id in 0..CAPACITY as u32 {
            out.reply(id, Reply::Done, Vec::new());
            assert!(!closing.asked.load(Ordering::Relaxed));
        }
        out.reply(0, Reply::Done, Vec::new());
        assert!(closing.asked.load(Ordering::Relaxed));
    }
}
