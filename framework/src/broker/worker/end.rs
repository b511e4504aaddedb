//! Ending queues by the proof chain, and resetting the device when it does not let go of one.

use std::time::Duration;

use super::Worker;
use super::records::{Held, Live, QueueState};
use crate::bus::{QueueToken, Quiesced, Recovered};
use crate::deadline::Deadline;
use crate::driver::Scope;
use crate::wire::{EndCause, Event, Refusal, Reply, Timeout};

/// What a driver gets beyond its deadline before the broker goes on without it.
const GRACE: Duration = Duration::from_millis(500);

impl Worker {
    /// Takes a queue from the device. Returns once the device is done with it, whoever ended it.
    ///
    /// Chain: the driver's proof that the queue is quiesced (or the device's reset), then the bus's
    /// that the doorbell is revoked.
    pub(super) async fn end_queue(
        &self,
        session: u64,
        queue: u16,
        cause: EndCause,
    ) -> Result<(), Refusal> {
        let live = {
            let records = &mut *self.records.borrow_mut();
            let Some(found) = records.queue_mut(session, queue) else {
                return Err(Refusal::NotYours { queue });
            };
            match std::mem::replace(&mut found.state, QueueState::Ending) {
                QueueState::Live(live) => Some(live),
                other => {
                    found.state = other;
                    None
                }
            }
        };
        let Some(Live { token, slice, made_at }) = live else {
            return self.until_ended(session, queue).await;
        };
        match self.quiesce(token, made_at).await {
            Some(quiesced) => self.revoke_doorbell(session, slice, quiesced, cause),
            None => self.stick(session, queue),
        }
        self.until_ended(session, queue).await
    }

    /// Waits for the end of a queue that someone else is ending.
    async fn until_ended(&self, session: u64, queue: u16) -> Result<(), Refusal> {
        let state = |records: &super::Records| {
            let session = records.sessions.get(&session)?;
            session.queues.get(&queue).map(|queue| match queue.state {
                QueueState::Ended(..) => Some(true),
                QueueState::Stuck => Some(false),
                _ => None,
            })
        };
        let limit = self.timeouts.quiesce + self.timeouts.recover + GRACE * 4;
        let over = self.until(limit, |records| !matches!(state(records), Some(None))).await;
        let stuck = || {
            let device = &self.name;
            Refusal::Driver(format!(
                "device {device} does not let go of queue {queue}; it stays taken"
            ))
        };
        match (over, state(&self.records.borrow()).flatten()) {
            (true, Some(false)) => Err(stuck()),
            (true, _) => Ok(()),
            (false, _) => Err(self.late(&format!("the end of queue {queue}"), limit)),
        }
    }

    /// The first proof. `None` if the device cannot be made to let go.
    async fn quiesce(&self, token: QueueToken, made_at: u64) -> Option<Quiesced> {
        let (queue, partition) = (token.queue(), token.partition());
        let limit = self.timeouts.quiesce;
        let asked = self.driver.quiesce_queue(token, Deadline::after(limit));
        let token = match tokio::time::timeout(limit + GRACE, asked).await {
            Ok(Ok(quiesced)) => return Some(quiesced),
            Ok(Err((token, error))) => {
                tracing::warn!(device = %self.name, queue, %error, "the queue does not quiesce");
                token
            }
            Err(_) => {
                tracing::warn!(device = %self.name, queue, "the driver overran its deadline");
                // The token went down with the driver's future.
                QueueToken::mint(queue, partition)
            }
        };
        let mut last = self.reset.lock().await;
        if self.records.borrow().resets > made_at
            && let Some(recovered) = &*last
        {
            return Some(token.quiesced_by(recovered));
        }
        let recovered = self.recover(Scope::Queue(queue)).await?;
        let quiesced = token.quiesced_by(&recovered);
        self.all_were_reset(&recovered, EndCause::DeviceReset);
        *last = Some(recovered);
        Some(quiesced)
    }

    /// Resets the device. If that fails it is out of service for good.
    pub(super) async fn recover(&self, scope: Scope) -> Option<Recovered> {
        if self.records.borrow().out_of_service.is_some() {
            return None;
        }
        let limit = self.timeouts.recover;
        tracing::warn!(device = %self.name, ?scope, "resetting the device");
        let asked = self.driver.recover(scope, Deadline::after(limit));
        let why = match tokio::time::timeout(limit + GRACE, asked).await {
            Ok(Ok(recovered)) => {
                self.records.borrow_mut().resets += 1;
                return Some(recovered);
            }
            Ok(Err(error)) => error.to_string(),
            Err(_) => format!("its driver did not recover it in {:.3} s", limit.as_secs_f64()),
        };
        self.out_of_service(&why);
        None
    }

    /// A reset ended every queue that was alive.
    pub(super) fn all_were_reset(&self, recovered: &Recovered, cause: EndCause) {
        for (session, live) in self.take_all_live() {
            let quiesced = live.token.quiesced_by(recovered);
            self.revoke_doorbell(session, live.slice, quiesced, cause);
        }
    }

    /// No queue is served any more, and the device may still use their memory.
    pub(super) fn out_of_service(&self, why: &str) {
        tracing::error!(device = %self.name, why, "the device is out of service");
        self.records.borrow_mut().out_of_service = Some(why.to_owned());
        for (session, live) in self.take_all_live() {
            self.stick(session, live.token.queue());
        }
        for session in self.records.borrow().sessions.values() {
            session.out.event(Event::DeviceGone);
        }
    }

    fn take_all_live(&self) -> Vec<(u64, Live)> {
        let records = &mut *self.records.borrow_mut();
        let mut taken = Vec::new();
        for (number, session) in &mut records.sessions {
            for queue in session.queues.values_mut() {
                match std::mem::replace(&mut queue.state, QueueState::Ending) {
                    QueueState::Live(live) => taken.push((*number, live)),
                    other => queue.state = other,
                }
            }
        }
        taken
    }

    /// The second proof; after it the queue has ended.
    fn revoke_doorbell(
        &self,
        session: u64,
        slice: Option<Held>,
        quiesced: Quiesced,
        cause: EndCause,
    ) {
        let queue = quiesced.queue();
        let revoked = match slice {
            None => quiesced.revoked(),
            Some(Held { slice, pages, alone }) => match self.bus.revoke(slice, quiesced) {
                Ok(revoked) => {
                    self.records.borrow_mut().pages.give_back(session, &pages, alone);
                    revoked
                }
                Err(error) => {
                    tracing::error!(device = %self.name, queue, %error, "a doorbell cannot be revoked");
                    return self.stick(session, queue);
                }
            },
        };
        let records = &mut *self.records.borrow_mut();
        let mut vector = None;
        if let Some(found) = records.queue_mut(session, queue) {
            found.state = QueueState::Ended(cause, revoked);
            vector = found.vector.take();
        }
        if let Some(vector) = vector
            && records.leave_vector(vector)
        {
            self.bus.retire_signals(vector);
        }
        tracing::info!(device = %self.name, session, queue, ?cause, "queue ended");
        if cause != EndCause::Released
            && let Some(out) = records.out(session)
        {
            out.event(Event::QueueEnded { queue, cause, quiesced: true });
        }
        self.changed.notify_waiters();
    }

    /// The queue is lost: nothing of it is used again.
    fn stick(&self, session: u64, queue: u16) {
        let records = &mut *self.records.borrow_mut();
        if let Some(found) = records.queue_mut(session, queue) {
            found.state = QueueState::Stuck;
        }
        if let Some(out) = records.out(session) {
            let cause = EndCause::DeviceGone;
            out.event(Event::QueueEnded { queue, cause, quiesced: false });
        }
        self.changed.notify_waiters();
    }

    /// Ends a queue at its client's wish, or takes the client's word that it has seen the end. The
    /// id is free after this.
    pub(super) async fn release_queue(&self, session: u64, queue: u16) -> Result<Reply, Refusal> {
        self.end_queue(session, queue, EndCause::Released).await?;
        let records = &mut *self.records.borrow_mut();
        let Some(holder) = records.sessions.get_mut(&session) else {
            return Err(Refusal::NotYours { queue });
        };
        match holder.queues.remove(&queue).map(|queue| queue.state) {
            Some(QueueState::Ended(_, revoked)) => {
                records.free_queues.insert(revoked.queue());
                Ok(Reply::Done)
            }
            _ => Err(Refusal::NotYours { queue }),
        }
    }

    /// A command outlived its time limit: first the driver may abort it, then the queue ends.
    pub(super) async fn timed_out(
        &self,
        session: u64,
        queue: u16,
        tag: Option<u16>,
        last: bool,
    ) -> Result<Reply, Refusal> {
        if self.records.borrow_mut().queue_mut(session, queue).is_none() {
            return Err(Refusal::NotYours { queue });
        }
        tracing::warn!(device = %self.name, session, queue, ?tag, last, "a command timed out");
        if !last {
            let Some(tag) = tag else { return Ok(Reply::TimeoutHandled(Timeout::AbortRequested)) };
            let limit = self.timeouts.abort;
            let asked = self.driver.abort(queue, tag, Deadline::after(limit));
            match tokio::time::timeout(limit + GRACE, asked).await {
                Ok(Ok(())) => return Ok(Reply::TimeoutHandled(Timeout::AbortRequested)),
                Ok(Err(error)) => {
                    tracing::warn!(device = %self.name, queue, tag, %error, "not aborted");
                }
                Err(_) => tracing::warn!(device = %self.name, queue, tag, "abort takes too long"),
            }
        }
        self.end_queue(session, queue, EndCause::TimedOut).await?;
        Ok(Reply::TimeoutHandled(Timeout::QueueEnded))
    }
}
