//! Loads: which operation begins when, and how long each one took.
//!
//! * **Closed loop** ([`run`], [`run_futures`]): a fixed number in flight; the next operation begins
//!   when one has completed. It finds the most that a device can do. It hides stalls: while the
//!   device stands still nothing is asked of it, so a stall of a second is one slow operation.
//! * **Open loop** ([`run_open`], [`Feed`]): operations arrive at a given rate, whatever the device
//!   does, as they do from users. Latency counts from the intended arrival. A stall of a second
//!   makes every arrival of that second slow, and percentiles show it. (Tools that count from the
//!   actual start leave these waits out: "coordinated omission".)
//!
//! [`run`] and [`run_open`] drive a [`Work`] by callbacks and spin; a [`Feed`] serves tasks of an
//! async runtime, which sleep until the next arrival or completion.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use serde::{Deserialize, Serialize};

use crate::clock::nanos;
use crate::series::Series;

mod arrivals;
mod closed;
mod feed;
mod open;

pub use arrivals::{Arrivals, Pattern};
pub use closed::{run, run_futures};
pub use feed::{Feed, Ticket, yield_once};
pub use open::{Recorder, run_open};

/// The longest that a loop waits for any completion at all.
const PATIENCE: Duration = Duration::from_secs(10);

/// Looks in vain between two readings of the clock.
const LOOKS_PER_CHECK: u32 = 1 << 14;

/// When a loop starts no more operations.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Stop {
    /// After this time.
    After(Duration),
    /// After this many operations.
    Operations(u64),
}

impl Stop {
    #[inline]
    fn is_due(self, started: u64, elapsed: Duration) -> bool {
        match self {
            Self::After(time) => elapsed >= time,
            Self::Operations(wanted) => started >= wanted,
        }
    }

    /// As [`is_due`](Self::is_due), with the time in nanoseconds.
    #[inline]
    fn is_due_ns(self, started: u64, elapsed: u64) -> bool {
        match self {
            Self::After(time) => elapsed >= nanos(time),
            Self::Operations(wanted) => started >= wanted,
        }
    }

    /// One of `parts` equal parts; the first ones get what does not divide.
    #[must_use]
    pub fn part(self, part: u64, parts: u64) -> Self {
        let parts = parts.max(1);
        match self {
            Self::After(time) => Self::After(time / u32::try_from(parts).unwrap_or(u32::MAX)),
            Self::Operations(all) => Self::Operations(all / parts + u64::from(part < all % parts)),
        }
    }
}

/// Time since a load began, in nanoseconds. The wall clock, or a simulated one.
pub trait Time {
    /// Nanoseconds since the load began.
    fn now(&self) -> u64;
}

/// The wall clock.
#[derive(Debug, Clone, Copy)]
pub struct Wall(Instant);

impl Wall {
    /// The load begins now.
    #[must_use]
    pub fn start() -> Self {
        Self(Instant::now())
    }
}

impl Time for Wall {
    #[inline]
    fn now(&self) -> u64 {
        nanos(self.0.elapsed())
    }
}

/// Operations that are started by number and complete by number: a queue driven by `post` and
/// `reap`.
pub trait Work {
    /// Starts one more operation as number `slot`, which is below the depth and not in flight.
    /// Returns the bytes it moves.
    ///
    /// # Errors
    /// Ends the loop.
    fn start(&mut self, slot: usize) -> Result<u64>;

    /// Tells the device of everything started.
    fn flush(&mut self);

    /// Adds the slots of what has completed to `done`, without waiting.
    ///
    /// # Errors
    /// Ends the loop.
    fn reap(&mut self, done: &mut Vec<usize>) -> Result<()>;
}

/// What a load saw.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Outcome {
    /// Latencies. Of an open loop: of every arrival, from its intended time; an arrival that was
    /// never started counts with how long it had waited at the end.
    pub response: Series,
    /// Open loop only: latencies from the actual start, which leaves out the wait for a free slot.
    /// What has completed, and nothing else.
    pub service: Option<Series>,
    /// Arrivals of an open loop that were never started.
    pub unserved: u64,
    /// How long the arrivals of an open loop take, in nanoseconds, if none waits.
    pub scheduled_ns: u64,
}

impl Outcome {
    /// What a closed loop saw.
    #[must_use]
    pub fn closed(response: Series) -> Self {
        Self { response, service: None, unserved: 0, scheduled_ns: 0 }
    }

    /// How many operations completed.
    #[must_use]
    pub fn completed(&self) -> u64 {
        self.service.as_ref().unwrap_or(&self.response).operations()
    }

    /// True if the arrivals of an open loop came faster than they were served: more than one in a
    /// hundred was never started, or the whole took 2 % (at least 5 ms) longer than its arrivals.
    #[must_use]
    pub fn is_saturated(&self) -> bool {
        let spare = (self.scheduled_ns / 50).max(5_000_000);
        self.service.is_some()
            && (self.unserved > self.response.operations() / 100
                || nanos(self.response.elapsed()) > self.scheduled_ns.saturating_add(spare))
    }

    /// Adds what the same load saw later.
    pub fn append(&mut self, later: &Self) {
        self.response.append(&later.response);
        self.add(later, Series::append);
        self.scheduled_ns = self.scheduled_ns.saturating_add(later.scheduled_ns);
    }

    /// Adds what another client saw at the same time.
    pub fn join(&mut self, other: &Self) {
        self.response.join(&other.response);
        self.add(other, Series::join);
        self.scheduled_ns = self.scheduled_ns.max(other.scheduled_ns);
    }

    fn add(&mut self, other: &Self, how: fn(&mut Series, &Series)) {
        if let (Some(service), Some(more)) = (&mut self.service, &other.service) {
            how(service, more);
        }
        self.unserved = self.unserved.saturating_add(other.unserved);
    }
}

#[cold]
fn check_patience(since: &mut Option<Instant>) -> Result<()> {
    if since.get_or_insert_with(Instant::now).elapsed() > PATIENCE {
        bail!("no operation has completed for {PATIENCE:?}");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_make_the_whole() {
        let parts: Vec<Stop> = (0..3).map(|part| Stop::Operations(11).part(part, 3)).collect();
        assert_eq!(parts, [Stop::Operations(4), Stop::Operations(4), Stop::Operations(3)]);
        let time = Stop::After(Duration::from_secs(3)).part(2, 3);
        assert_eq!(time, Stop::After(Duration::from_secs(1)));
    }

    #[test]
    fn clients_side_by_side_take_no_longer_than_one() {
        let outcome = || {
            let mut series = Series::new().unwrap();
            series.record(100);
            series.extend(Duration::from_secs(1), 10);
            Outcome { service: Some(series.clone()), unserved: 1, ..Outcome::closed(series) }
        };
        let (mut joined, mut appended) = (outcome(), outcome());
        joined.join(&outcome());
        appended.append(&outcome());
        assert_eq!(joined.completed() + appended.completed(), 4);
        assert_eq!(joined.response.elapsed(), Duration::from_secs(1));
        assert_eq!(appended.response.elapsed(), Duration::from_secs(2));
        assert_eq!((joined.unserved, joined.response.bytes()), (2, 20));
    }
}
