//! [`SpinBudget`]: how long a future spins before it parks.

/// How long a future spins before it parks, in looks at the completion ring.
///
/// The first [`QUIET_LOOKS`](Self::QUIET_LOOKS) looks of a wait cost about 3 ns each while nothing
/// arrives; later ones tell the core to pause first (`spin_loop`, 10 to 60 ns depending on the
/// core: about 25 on Zen 3), which a hyper-thread neighbour and the power bill like.
///
/// The modes of waiting are three budgets: [`none`](Self::none) waits for interrupts,
/// [`always`](Self::always) spins, and [`adaptive`](Self::adaptive), the default, does what is
/// cheaper.
///
/// # How it learns
/// Spin or park is the ski rental problem: spinning costs what it takes, parking a fixed sum, paid
/// in system calls and in the delay of the wake-up. Of recent waits it is remembered how many looks
/// each took (by its bit length, so in steps of two), or that it took longer than was spun. From
/// that follows, for each possible budget, what those waits would have cost with it; the cheapest
/// is taken, and doubled for what is a little late. Old waits fade: at 32 all counts are halved. No
/// clock is read.
///
/// A wait that was not spun tells nothing of the device, so one in a while is a probe and tries the
/// limit: 4 waits after the last one, and twice as many after each probe in vain, up to
/// [`PROBE_MOST`](Self::PROBE_MOST). A device slower than the limit, or than parking, thus costs
/// about one look per wait in the long run. A probe that finds a completion worth spinning for is
/// followed by another at once, until it is clear which pays: a device that became fast is noticed
/// within `PROBE_MOST` waits, and known some 30 waits later.
///
/// What it does not do: it does not predict a single wait. A device that is as often fast as slow
/// gets the budget that is cheapest on average.
#[derive(Debug, Clone, Copy)]
pub struct SpinBudget {
    limit: u32,
    adaptive: bool,
    /// Invariant: `current <= limit`.
    current: u32,
    /// Waits until the next probe; the one that finds 0 is it.
    until_probe: u16,
    /// Waits between the last probe and the one after the next. Invariant: 1 to `PROBE_MOST`.
    distance: u16,
    /// The wait that runs is a probe.
    probing: bool,
    /// Recent waits by the bit length of their looks; the last one has all that took more.
    took: [u8; BUCKETS],
    /// Recent waits that took longer than was spun.
    longer: u8,
}

/// Bit lengths that are told apart: 0 to 13, and everything above 8,191 looks.
const BUCKETS: usize = 15;
/// How many waits are remembered before they fade.
const MEMORY: u32 = 32;
/// What parking costs, in quiet looks of 3 ns: about 12 microseconds. From an eventfd to a task that
/// tokio runs it takes 7 on a quiet machine and 10 on a busy one, its delay included; who signals
/// spends 2.5 to 3.5 on waking the thread; the task's own system calls take about one. A wrong
/// guess costs at most the difference per wait, and only with devices that take about as long.
const PARK: u64 = 4_000;
/// What a look after a pause costs, in quiet looks: a pause takes about 25 ns.
const PAUSED: u64 = 8;
/// Waits until the first probe after one that told something.
const PROBE_SOON: u16 = 4;

/// What it costs to spin for so many looks, in quiet ones.
fn cost(looks: u32) -> u64 {
    let quiet = looks.min(SpinBudget::QUIET_LOOKS);
    u64::from(quiet) + PAUSED * u64::from(looks - quiet)
}

/// The most looks of a bucket.
fn top(bucket: usize) -> u32 {
    if bucket + 1 == BUCKETS { u32::MAX } else { (1 << bucket) - 1 }
}

impl SpinBudget {
    /// Looks without a pause between them. A round trip to a device on the next core takes 40 to
    /// 200 looks, and a pause at the wrong moment would add its own length to it.
    pub const QUIET_LOOKS: u32 = 256;
    /// The most waits between two probes of a device that has been slower than the limit.
    pub const PROBE_MOST: u16 = 1_024;
    /// Looks of [`always`](Self::always): half a second to two seconds, by the core's pause.
    pub const ALWAYS_LOOKS: u32 = 40_000_000;

    /// A budget that learns, of at most `limit` looks. With 0 it is [`none`](Self::none).
    #[must_use]
    pub const fn adaptive(limit: u32) -> Self {
        Self {
            limit,
            adaptive: true,
            current: limit,
            until_probe: PROBE_SOON,
            distance: PROBE_SOON,
            probing: false,
            took: [0; BUCKETS],
            longer: 0,
        }
    }

    /// Each wait looks once and parks: interrupt mode. The least processor time, and the wake-up's
    /// microseconds at each wait.
    #[must_use]
    pub const fn none() -> Self {
        Self::fixed(0)
    }

    /// Each wait spins up to `looks`, whatever the device does.
    #[must_use]
    pub const fn fixed(looks: u32) -> Self {
        let budget = Self::adaptive(looks);
        Self { adaptive: false, ..budget }
    }

    /// Each wait spins for as long as a device can be expected to take: polled mode. A wait of more
    /// than [`ALWAYS_LOOKS`](Self::ALWAYS_LOOKS) parks all the same, so that time limits hold and
    /// the end of a queue is noticed.
    ///
    /// Take care: nothing else runs on the thread during a wait, the core is busy for all of it,
    /// and with fewer free cores than such threads the device's own may not get to run. It is for a
    /// thread that has nothing else to do on a core that nobody else needs.
    #[must_use]
    pub const fn always() -> Self {
        Self::fixed(Self::ALWAYS_LOOKS)
    }

    /// Looks allowed for the wait that begins now, after a first one that is always allowed.
    #[inline]
    pub fn begin(&mut self) -> u32 {
        if self.current == self.limit {
            return self.limit;
        }
        self.begin_below()
    }

    /// Below the limit, now and then a wait is a probe.
    fn begin_below(&mut self) -> u32 {
        self.until_probe = self.until_probe.saturating_sub(1);
        self.probing = self.until_probe == 0;
        if self.probing { self.limit } else { self.current }
    }

    /// A completion came after `looks` looks. At the first one nothing was waited for, and nothing
    /// is learnt.
    #[inline]
    pub fn hit(&mut self, looks: u32) {
        if looks > 0 && self.adaptive {
            self.learn_hit(looks);
        }
    }

    #[inline(never)]
    fn learn_hit(&mut self, looks: u32) {
        let bucket = ((u32::BITS - looks.leading_zeros()) as usize).min(BUCKETS - 1);
        self.took[bucket] += 1;
        if self.probing {
            self.probing = false;
            if looks <= self.current {
                // The probe told nothing new.
                self.until_probe = self.distance;
            } else if cost(looks) < PARK {
                // Later than the budget would have seen, and worth it: more of that is wanted.
                self.distance = PROBE_SOON;
                self.until_probe = 1;
            } else {
                self.probed_in_vain();
            }
        }
        self.learn();
    }

    /// The budget ran out and the wait parked.
    #[inline]
    pub fn missed(&mut self) {
        if self.adaptive && self.limit > 0 {
            self.learn_miss();
        }
    }

    #[inline(never)]
    fn learn_miss(&mut self) {
        if self.probing {
            self.probing = false;
            self.probed_in_vain();
        } else if self.current == 0 {
            // Nothing was spun: nothing is known of how long it took.
            return;
        }
        self.longer += 1;
        self.learn();
    }

    fn probed_in_vain(&mut self) {
        self.distance = (self.distance * 2).min(Self::PROBE_MOST);
        self.until_probe = self.distance;
    }

    /// Takes the budget with which the remembered waits would have cost least.
    fn learn(&mut self) {
        let known: u32 = self.took.iter().map(|count| u32::from(*count)).sum();
        let all = known + u32::from(self.longer);
        let (mut best, mut least) = (0, u64::from(all) * PARK);
        let (mut hits, mut spun) = (0, 0);
        for (bucket, count) in self.took.iter().enumerate() {
            let count = u64::from(*count);
            if count == 0 {
                continue;
            }
            let most = top(bucket).min(self.limit);
            hits += count;
            spun += count * cost(most);
            let total = spun + (u64::from(all) - hits) * (cost(most) + PARK);
            if total < least {
                (best, least) = (most, total);
            }
        }
        self.current = best.saturating_mul(2).min(self.limit);
        if all >= MEMORY {
            self.took.iter_mut().for_each(|count| *count /= 2);
            self.longer /= 2;
        }
    }
}

impl Default for SpinBudget {
    /// Learns; about 20 microseconds at most.
    fn default() -> Self {
        Self::adaptive(1_000)
    }
}

#[cfg(test)]
#[cfg(not(loom))]
#[path = "budget_tests.rs"]
mod tests;
