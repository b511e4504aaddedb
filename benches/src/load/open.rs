//! Open loops by callbacks: [`run_open`], and the bookkeeping of every open loop, [`Recorder`].

use std::time::Duration;

use anyhow::{Result, bail, ensure};

use super::{Arrivals, Outcome, PATIENCE, Stop, Time, Work};
use crate::clock::nanos;
use crate::series::Series;

/// The arrivals of an open loop, and what became of each.
#[derive(Debug)]
pub struct Recorder {
    arrivals: Arrivals,
    stop: Stop,
    taken: u64,
    bytes: u64,
    response: Series,
    service: Series,
    /// Intended time of the last arrival that was taken.
    last_ns: u64,
}

impl Recorder {
    /// Nothing has arrived yet.
    ///
    /// # Errors
    /// As [`Series::new`].
    pub fn new(arrivals: Arrivals, stop: Stop) -> Result<Self> {
        let (response, service) = (Series::new()?, Series::new()?);
        Ok(Self { arrivals, stop, taken: 0, bytes: 0, response, service, last_ns: 0 })
    }

    /// When the next operation arrives; `None` if there is no more, or the time is over.
    #[inline]
    #[must_use]
    pub fn next(&self, now: u64) -> Option<u64> {
        let due = self.stop.is_due_ns(self.taken, self.arrivals.peek().max(now));
        (!due).then(|| self.arrivals.peek())
    }

    /// Takes the next arrival: it is to be started. Returns its intended time.
    #[inline]
    pub fn take(&mut self) -> u64 {
        self.taken += 1;
        self.last_ns = self.arrivals.advance();
        self.last_ns
    }

    /// An operation has completed; it moved so many bytes.
    #[inline]
    pub fn done(&mut self, intended: u64, started: u64, now: u64, bytes: u64) {
        self.response.record(now.saturating_sub(intended));
        self.service.record(now.saturating_sub(started));
        self.bytes += bytes;
    }

    /// Everything that was started has completed. Arrivals that were never started count with how
    /// long they had waited at `now`.
    #[must_use]
    pub fn finish(mut self, now: u64) -> Outcome {
        let mut unserved = 0;
        let scheduled_ns = match self.stop {
            Stop::Operations(_) => self.last_ns,
            Stop::After(time) => {
                while self.arrivals.peek() < nanos(time) {
                    let intended = self.arrivals.advance();
                    self.response.record(now.saturating_sub(intended));
                    unserved += 1;
                }
                nanos(time)
            }
        };
        let elapsed = Duration::from_nanos(now);
        self.response.extend(elapsed, self.bytes);
        self.service.extend(elapsed, self.bytes);
        let service = Some(self.service);
        Outcome { response: self.response, service, unserved, scheduled_ns }
    }
}

/// Starts operations as they arrive, at most `depth` at a time; those that find no free slot wait,
/// first come, first served, and the wait counts. It spins on the clock and on the completions, and
/// ends when everything that was started has completed.
///
/// # Errors
/// What `work` reports, or that nothing completes for seconds.
pub fn run_open(
    work: &mut impl Work,
    depth: usize,
    arrivals: Arrivals,
    stop: Stop,
    time: &impl Time,
) -> Result<Outcome> {
    ensure!(depth > 0, "a queue depth of 0 does nothing");
    let mut recorder = Recorder::new(arrivals, stop)?;
    let mut done: Vec<usize> = Vec::with_capacity(depth);
    let mut free: Vec<usize> = (0..depth).rev().collect();
    // Of each slot: intended time, actual start, bytes.
    let mut flying = vec![(0, 0, 0); depth];
    let mut now = time.now();
    let mut moved = now;
    loop {
        let mut posted = false;
        while let (Some(slot), Some(due)) = (free.last(), recorder.next(now)) {
            if due > now {
                break;
            }
            let bytes = work.start(*slot)?;
            flying[*slot] = (recorder.take(), now, bytes);
            free.pop();
            posted = true;
        }
        if posted {
            work.flush();
            moved = now;
        }
        if free.len() == depth && recorder.next(now).is_none() {
            break;
        }
        if free.len() < depth {
            work.reap(&mut done)?;
        }
        now = time.now();
        if !done.is_empty() {
            moved = now;
        } else if free.len() < depth && now - moved > nanos(PATIENCE) {
            bail!("no operation has completed for {PATIENCE:?}");
        }
        for slot in done.drain(..) {
            let (intended, started, bytes) = flying[slot];
            recorder.done(intended, started, now, bytes);
            free.push(slot);
        }
    }
    Ok(recorder.finish(now))
}

#[cfg(test)]
mod tests {
    use super::super::Pattern;
    use super::*;
    use std::cell::Cell;
    use std::collections::VecDeque;
    use std::rc::Rc;

    /// A clock that moves when the device is looked at, or the clock is.
    #[derive(Clone, Default)]
    struct Simulated(Rc<Cell<u64>>);

    impl Time for Simulated {
        fn now(&self) -> u64 {
            self.0.set(self.0.get() + 10);
            self.0.get()
        }
    }

    /// One operation after the other, `each` long; what would begin inside of `stall` begins at its
    /// end.
    struct Device {
        clock: Simulated,
        each: u64,
        stall: (u64, u64),
        busy_until: u64,
        started: VecDeque<(usize, u64)>,
    }

    impl Device {
        fn new(each: u64, stall: (u64, u64)) -> Self {
            let clock = Simulated::default();
            Self { clock, each, stall, busy_until: 0, started: VecDeque::new() }
        }
    }

    impl Work for Device {
        fn start(&mut self, slot: usize) -> Result<u64> {
            let mut begin = self.busy_until.max(self.clock.0.get());
            if (self.stall.0..self.stall.1).contains(&begin) {
                begin = self.stall.1;
            }
            self.busy_until = begin + self.each;
            self.started.push_back((slot, self.busy_until));
            Ok(512)
        }

        fn flush(&mut self) {}

        fn reap(&mut self, done: &mut Vec<usize>) -> Result<()> {
            let now = self.clock.now();
            while self.started.front().is_some_and(|(_, end)| *end <= now) {
                done.extend(self.started.pop_front().map(|(slot, _)| slot));
            }
            Ok(())
        }
    }

    fn simulate(mut device: Device, depth: usize, rate: f64, stop: Stop) -> Outcome {
        let clock = device.clock.clone();
        let arrivals = Arrivals::new(rate, Pattern::Fixed, 1);
        run_open(&mut device, depth, arrivals, stop, &clock).unwrap()
    }

    const SECOND: Stop = Stop::After(Duration::from_secs(1));

    #[test]
    fn a_stall_is_seen_by_everything_that_arrived_during_it() {
        // 10,000 arrivals in a second; for 50 ms of it the device stands still.
        let device = Device::new(10_000, (300_000_000, 350_000_000));
        let outcome = simulate(device, 4, 10_000.0, SECOND);
        assert_eq!((outcome.completed(), outcome.unserved), (10_000, 0));
        assert!(!outcome.is_saturated());
        let response = &outcome.response;
        // 500 arrived in the stall, 100 us apart; the backlog of 50 ms is worked off in 5.6 ms.
        let waited = response.count_between(1_000_000, u64::MAX);
        assert!((530..=560).contains(&waited), "{waited}");
        assert!(response.quantile_ns(0.5) < 12_000);
        assert!((30_000_000..50_100_000).contains(&response.quantile_ns(0.98)));
        assert!((49_000_000..50_200_000).contains(&response.slowest_ns()));
        // Counted from the start, only the four in flight saw it: the omission.
        let service = outcome.service.unwrap();
        assert_eq!(service.count_between(1_000_000, u64::MAX), 4);
        assert!(service.quantile_ns(0.99) < 50_000);
    }

    #[test]
    fn arrivals_that_are_too_fast_saturate_and_are_not_left_out() {
        // Room for 10,000 in a second, and 20,000 arrive.
        let outcome = simulate(Device::new(100_000, (0, 0)), 2, 20_000.0, SECOND);
        assert!(outcome.is_saturated());
        let served = outcome.completed();
        assert!((9_900..=10_010).contains(&served), "{served}");
        assert_eq!(outcome.response.operations(), 20_000);
        assert_eq!(outcome.unserved, 20_000 - served);
        assert!(outcome.response.quantile_ns(0.5) > 100_000_000);
        assert_eq!(outcome.response.bytes(), served * 512);
    }

    #[test]
    fn a_number_of_operations_is_served_to_the_last() {
        let outcome = simulate(Device::new(100_000, (0, 0)), 2, 20_000.0, Stop::Operations(2_000));
        assert_eq!((outcome.completed(), outcome.unserved), (2_000, 0));
        assert!(outcome.is_saturated(), "it takes twice as long as its arrivals");
        assert!((99_000_000..101_000_000).contains(&outcome.response.slowest_ns()));
    }

    #[test]
    fn a_device_that_never_answers_ends_the_loop() {
        let mut device = Device::new(u64::MAX / 8, (0, 0));
        let clock = device.clock.clone();
        // A look lasts a second here, so that the deadline comes soon.
        struct Fast(Simulated);
        impl Time for Fast {
            fn now(&self) -> u64 {
                self.0.now() * 100_000_000
            }
        }
        let arrivals = Arrivals::new(1e9, Pattern::Fixed, 1);
        let stop = Stop::Operations(3);
        let error = run_open(&mut device, 2, arrivals, stop, &Fast(clock)).unwrap_err();
        assert!(error.to_string().contains("no operation has completed"), "{error}");
    }
}
