//! Requests under way, by id.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use crossbeam_channel::Sender;

use super::error::LinkError;
use crate::vfio_user::{Command, Frame, Kind};

/// The most requests that may be unanswered, those that were given up among them.
const MOST: usize = 4096;

/// Where an answer goes.
pub(super) type Answer = Sender<Result<Frame, LinkError>>;

#[derive(Debug)]
struct Waiting {
    command: Command,
    until: Instant,
    after: Duration,
    /// `None` once it was given up: its reply is expected still, and thrown away.
    answer: Option<Answer>,
}

/// Requests that were sent and not answered.
#[derive(Debug, Default)]
pub(super) struct Pending {
    next: u16,
    waiting: HashMap<u16, Waiting>,
}

impl Pending {
    /// An id for a request that is about to be sent. An id is used again only after its reply came.
    pub(super) fn add(
        &mut self,
        command: Command,
        (until, after): (Instant, Duration),
        answer: Answer,
    ) -> Result<u16, (Answer, LinkError)> {
        if self.waiting.len() >= MOST {
            return Err((answer, LinkError::Unanswered(self.waiting.len())));
        }
        // Fewer than 65536 are taken, so there is one.
        while self.waiting.contains_key(&self.next) {
            self.next = self.next.wrapping_add(1);
        }
        let id = self.next;
        self.next = self.next.wrapping_add(1);
        self.waiting.insert(id, Waiting { command, until, after, answer: Some(answer) });
        Ok(id)
    }

    /// A reply came.
    ///
    /// # Errors
    /// [`LinkError::Unasked`], [`LinkError::OtherCommand`]: the server cannot be followed any
    /// further.
    pub(super) fn answer(&mut self, frame: Frame) -> Result<(), LinkError> {
        let (id, number) = (frame.header.id, frame.header.number);
        let Some(waiting) = self.waiting.remove(&id) else {
            return Err(LinkError::Unasked { id, number });
        };
        if number != waiting.command.number() {
            let sent = waiting.command;
            let error = LinkError::OtherCommand { id, sent, number };
            if let Some(answer) = waiting.answer {
                let _ = answer.send(Err(error.clone()));
            }
            return Err(error);
        }
        let result = match frame.header.kind {
            Kind::Error { errno } => Err(LinkError::Refused { command: waiting.command, errno }),
            _ => Ok(frame),
        };
        match waiting.answer {
            // Whoever asked may have gone.
            Some(answer) => drop(answer.send(result)),
            None => tracing::debug!(command = %waiting.command, "a late reply is thrown away"),
        }
        Ok(())
    }

    /// Gives up what has waited too long.
    pub(super) fn expire(&mut self, now: Instant) {
        for waiting in self.waiting.values_mut().filter(|waiting| waiting.until <= now) {
            if let Some(answer) = waiting.answer.take() {
                let (command, after) = (waiting.command, waiting.after);
                let _ = answer.send(Err(LinkError::TimedOut { command, after }));
            }
        }
    }

    /// When the next is to be given up.
    pub(super) fn until(&self) -> Option<Instant> {
        self.waiting.values().filter(|waiting| waiting.answer.is_some()).map(|w| w.until).min()
    }

    /// The connection is over: nobody waits any longer.
    pub(super) fn fail(&mut self, error: &LinkError) {
        for (_, waiting) in self.waiting.drain() {
            if let Some(answer) = waiting.answer {
                let _ = answer.send(Err(error.clone()));
            }
        }
    }
}
