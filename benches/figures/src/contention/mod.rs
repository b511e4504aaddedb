//! Many producers on one device queue.
//!
//! Who completes? On two cores there is nobody left. So a round has two parts. **Submitting**: the
//! producers, one thread on each core, meet at a barrier, and each places its share of commands as
//! fast as it can, with a flush after each batch; this is timed. **Recycling**: after another barrier
//! the device runs and everything is reaped, by one producer after the other; this is not. The
//! device is that of [`crate::in_thread`], the same for all contenders.
//!
//! A figure is the time from the first producer's start to the last one's end, divided by the
//! commands of one producer: what one command costs the one who submits it. Producers that never
//! wait for each other would show the figure of one producer alone.
//!
//! **Did they overlap?** A virtual machine may run its cores one after the other. A round counts only
//! if the producers were at work together for most of the shortest one's time. And each contender
//! tells how often the turn changed in the rounds that count: neighbours in the device's ring that
//! come from different producers, values of a counter that somebody else has moved, exchanges that
//! failed. Producers that ran one after the other would show one change in a round.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use crossbeam_utils::CachePadded;
use doorbell_bench::{clock, cores};

use crate::median;

mod array;
mod atomics;
mod locked;
mod shared;
mod single;

/// Commands that all producers have in flight at the end of a round.
pub(crate) const CAPACITY: u16 = 512;

/// The part of the shortest producer's time that all of them must have been at work together.
const TOGETHER: f64 = 0.8;

/// The longest that a producer waits for the others.
const PATIENCE: Duration = Duration::from_secs(10);

/// What contends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Contender {
    /// A queue of its own for each producer: no contention at all.
    Single,
    /// One queue in `Shared` mode.
    Shared,
    /// One queue behind a mutex, locked for each command and for each flush.
    Mutex,
    /// crossbeam's `ArrayQueue` of entries, from which the first producer also feeds the queue: it is
    /// the one submitter thread.
    ArrayQueue,
    /// Nothing but a `fetch_add` on one word for each command.
    FetchAdd,
    /// Nothing but a compare-and-exchange loop on one word for each command.
    CompareExchange,
}

impl Contender {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::Single,
        Self::Shared,
        Self::Mutex,
        Self::ArrayQueue,
        Self::FetchAdd,
        Self::CompareExchange,
    ];

    /// As it stands in a table.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Single => "a queue for each producer",
            Self::Shared => "a shared queue",
            Self::Mutex => "a mutex around the queue",
            Self::ArrayQueue => "ArrayQueue, one submitter",
            Self::FetchAdd => "fetch_add",
            Self::CompareExchange => "compare-and-exchange loop",
        }
    }

    /// One round after the other for about `time`, by a producer on each of `on`, with a flush after
    /// each `batch` commands.
    ///
    /// # Errors
    /// If a thread cannot be pinned, a command fails, or a producer waits for seconds.
    pub fn measure(self, on: &[Option<usize>], batch: usize, time: Duration) -> Result<Contended> {
        let count = on.len();
        match self {
            Self::Single => run(single::producers(count)?, on, batch, time),
            Self::Shared => run(shared::producers(count)?, on, batch, time),
            Self::Mutex => run(locked::producers(count)?, on, batch, time),
            Self::ArrayQueue => run(array::producers(count)?, on, batch, time),
            Self::FetchAdd => run(atomics::adders(count), on, batch, time),
            Self::CompareExchange => run(atomics::exchangers(count), on, batch, time),
        }
    }
}

/// What was measured.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Contended {
    /// Nanoseconds of one command of one producer: the median of the rounds that count, or `None` if
    /// none does because the producers did not overlap.
    pub ns: Option<f64>,
    /// Rounds that count, and all of them.
    pub rounds: (usize, usize),
    /// How often the turn changed between producers, for each command of the rounds that count;
    /// `None` if nothing is shared, or none counts.
    pub turns: Option<f64>,
}

/// One of the threads that submit to the same device.
pub(crate) trait Producer: Send {
    /// How many commands the producers place together in a round.
    const ROUND: usize = CAPACITY as usize;

    /// Places one command. The producers together place no more than [`Producer::ROUND`] in a round.
    fn submit(&mut self) -> Result<()>;

    /// Tells the device of everything placed.
    fn flush(&mut self);

    /// Ends this producer's part of a round, in which all of them place `expected` commands
    /// together.
    fn finish(&mut self, expected: usize) -> Result<()> {
        let _ = expected;
        Ok(())
    }

    /// Runs the device and reaps, while the others rest. Producers that share a queue leave it to the
    /// first.
    fn recycle(&mut self) -> Result<()>;

    /// How often the turn changed between producers so far, as far as this one knows after its
    /// recycling; `None` if nothing is shared.
    fn turns(&self) -> Option<u64>;
}

/// What the threads share.
struct Rounds {
    epoch: Instant,
    arrived: CachePadded<AtomicU32>,
    /// Not zero: no further round.
    over: CachePadded<AtomicU32>,
    began: Vec<CachePadded<AtomicU64>>,
    ended: Vec<CachePadded<AtomicU64>>,
    /// Turns of this round, as each producer counted them.
    turns: Vec<CachePadded<AtomicU64>>,
}

/// One round.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Judged {
    /// Nanoseconds of one command.
    ns: f64,
    /// Whether the producers overlapped.
    counts: bool,
    turns: u64,
}

impl Rounds {
    fn now(&self) -> u64 {
        clock::nanos(self.epoch.elapsed())
    }

    /// Waits until all producers have come here as often as this one, which is the `times`th time.
    fn meet(&self, times: &mut u32) -> Result<()> {
        *times = times.wrapping_add(self.began.len() as u32);
        // AcqRel: what each did before is visible to all of them after.
        self.arrived.fetch_add(1, Ordering::AcqRel);
        let (mut looks, mut since) = (0_u32, None);
        // The count may be ahead by those that are at the next barrier already.
        while (self.arrived.load(Ordering::Acquire).wrapping_sub(*times) as i32) < 0 {
            std::hint::spin_loop();
            looks = looks.wrapping_add(1);
            if looks.is_multiple_of(1 << 10) {
                std::thread::yield_now();
                if since.get_or_insert_with(Instant::now).elapsed() > PATIENCE {
                    bail!("a producer did not come to the barrier within {PATIENCE:?}");
                }
            }
        }
        Ok(())
    }

    /// What became of a round in which each producer placed `commands`. While all of them rest.
    fn judge(&self, commands: usize) -> Judged {
        let load = |times: &[CachePadded<AtomicU64>]| -> Vec<u64> {
            times.iter().map(|at| at.load(Ordering::Relaxed)).collect()
        };
        let (began, ended) = (load(&self.began), load(&self.ended));
        let edge = |times: &[u64]| {
            let (first, last) = (times.iter().min(), times.iter().max());
            (first.copied().unwrap_or(0), last.copied().unwrap_or(0))
        };
        let ((first, last_begin), (first_end, last)) = (edge(&began), edge(&ended));
        let shortest = began.iter().zip(&ended).map(|(from, to)| to.saturating_sub(*from)).min();
        let together = first_end.saturating_sub(last_begin) as f64;
        Judged {
            ns: last.saturating_sub(first) as f64 / commands as f64,
            counts: together >= TOGETHER * shortest.unwrap_or(0) as f64,
            turns: load(&self.turns).iter().sum(),
        }
    }
}

/// The rounds of all producers.
fn run<P: Producer>(
    producers: Vec<P>,
    on: &[Option<usize>],
    batch: usize,
    time: Duration,
) -> Result<Contended> {
    ensure!(producers.len() == on.len() && !on.is_empty() && batch > 0, "no producers");
    let each = P::ROUND / on.len();
    let times = || on.iter().map(|_| CachePadded::default()).collect();
    let rounds = Rounds {
        epoch: Instant::now(),
        arrived: CachePadded::default(),
        over: CachePadded::default(),
        began: times(),
        ended: times(),
        turns: times(),
    };
    let outcomes = std::thread::scope(|scope| {
        let threads: Vec<_> = producers
            .into_iter()
            .zip(on)
            .enumerate()
            .map(|(index, (producer, core))| {
                let (rounds, core) = (&rounds, *core);
                scope.spawn(move || produce(producer, index, core, rounds, (each, batch), time))
            })
            .collect();
        let joined = threads.into_iter().map(|thread| match thread.join() {
            Ok(outcome) => outcome,
            Err(_) => bail!("a producer panicked"),
        });
        joined.collect::<Vec<Result<Part>>>()
    });
    let parts = outcomes.into_iter().collect::<Result<Vec<_>>>()?;
    let shares = parts.iter().any(|part| part.shares);
    let judged: Vec<Judged> = parts.into_iter().flat_map(|part| part.rounds).collect();
    ensure!(!judged.is_empty(), "there was no round");
    let counted = || judged.iter().filter(|round| round.counts);
    let samples: Vec<f64> = counted().map(|round| round.ns).collect();
    let rounds = (samples.len(), judged.len());
    let turns = counted().map(|round| round.turns).sum::<u64>() as f64;
    let commands = (rounds.0 * each * on.len()) as f64;
    let some = rounds.0 > 0;
    Ok(Contended {
        ns: some.then(|| median(samples)),
        rounds,
        turns: (shares && some).then(|| turns / commands),
    })
}

/// What one producer brings home.
struct Part {
    /// Of the first producer: each round.
    rounds: Vec<Judged>,
    /// Whether anything is shared, as far as this one knows.
    shares: bool,
}

/// The life of one producer. Everybody goes to the same barriers, whatever happens.
fn produce<P: Producer>(
    mut producer: P,
    index: usize,
    core: Option<usize>,
    rounds: &Rounds,
    (each, batch): (usize, usize),
    time: Duration,
) -> Result<Part> {
    let mut outcome = core.map_or(Ok(()), cores::pin_to);
    let mut met = 0;
    let (mut judged, mut counted) = (Vec::new(), 0);
    let (count, begin) = (rounds.began.len(), Instant::now());
    for round in 0_u64.. {
        rounds.meet(&mut met)?;
        if rounds.over.load(Ordering::Acquire) != 0 {
            break;
        }
        // Again, for the first to come here have waited at the barrier with the last.
        rounds.meet(&mut met)?;
        let (began, ended) = (&rounds.began[index], &rounds.ended[index]);
        began.store(rounds.now(), Ordering::Relaxed);
        if outcome.is_ok() {
            outcome = submit_all(&mut producer, each, batch, each * count);
        }
        ended.store(rounds.now(), Ordering::Relaxed);
        rounds.meet(&mut met)?;
        for turn in 0..count {
            if turn == index && outcome.is_ok() {
                outcome = producer.recycle();
                let so_far = producer.turns().unwrap_or(0);
                rounds.turns[index].store(so_far - counted, Ordering::Relaxed);
                counted = so_far;
            }
            rounds.meet(&mut met)?;
        }
        if index == 0 && round > 0 {
            // The first round touches memory for the first time.
            judged.push(rounds.judge(each));
        }
        let enough = index == 0 && round > 0 && begin.elapsed() >= time;
        if enough || outcome.is_err() {
            rounds.over.store(1, Ordering::Release);
        }
    }
    outcome.with_context(|| format!("producer {index}"))?;
    Ok(Part { rounds: judged, shares: producer.turns().is_some() })
}

#[inline(never)]
fn submit_all<P: Producer>(
    producer: &mut P,
    each: usize,
    batch: usize,
    expected: usize,
) -> Result<()> {
    let mut left = each;
    while left > 0 {
        let now = left.min(batch);
        for _ in 0..now {
            producer.submit()?;
        }
        producer.flush();
        left -= now;
    }
    producer.finish(expected)
}

#[cfg(test)]
mod tests;
