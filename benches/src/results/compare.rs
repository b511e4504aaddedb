//! Two runs, figure by figure: what changed, and what only looks so.
//!
//! A run measures each load in several rounds, which take turns with all others and with the floors.
//! A figure is said to have changed if no round of one run lies among the rounds of the other, and
//! the medians differ by more than the machine itself did. With five rounds on each side, rounds that
//! differ by chance alone are apart once in 126 comparisons. Where a load has a floor, its times are
//! compared as multiples of the floor of the same round: a machine that is slower today then makes no
//! difference. Where it has none, the figure must have changed by more than any floor did.

use super::{FloorResult, Measurement, Results, Round};

/// Fewer rounds than this on either side are not judged: even five of each are few.
const FEWEST_ROUNDS: usize = 4;

/// A smaller change is none, whatever the rounds say.
const LEAST: f64 = 0.02;

/// Which figure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Figure {
    /// Median latency.
    P50,
    /// 99th percentile.
    P99,
    /// 99.9th percentile.
    P999,
    /// Operations per second.
    Iops,
    /// The client's CPU time per operation.
    Cpu,
}

impl Figure {
    /// All of them, as a table shows them.
    pub const ALL: [Self; 5] = [Self::P50, Self::P99, Self::P999, Self::Iops, Self::Cpu];

    /// Its heading.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::P50 => "p50",
            Self::P99 => "p99",
            Self::P999 => "p99.9",
            Self::Iops => "IOPS",
            Self::Cpu => "CPU/IO",
        }
    }

    fn of_round(self, round: &Round) -> f64 {
        match self {
            Self::P50 => round.p50_ns,
            Self::P99 => round.p99_ns,
            Self::P999 => round.p999_ns,
            Self::Iops => round.iops,
            Self::Cpu => round.cpu_ns,
        }
    }

    fn of(self, one: &Measurement) -> f64 {
        let latency = one.outcome.response.latency();
        match self {
            Self::P50 => latency.p50_ns as f64,
            Self::P99 => latency.p99_ns as f64,
            Self::P999 => latency.p999_ns as f64,
            Self::Iops => one.iops(),
            Self::Cpu => one.cpu_per_operation().0,
        }
    }

    /// True for times, false for rates.
    #[must_use]
    pub fn is_time(self) -> bool {
        self != Self::Iops
    }
}

/// What a change means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Faster, or less CPU time.
    Better,
    /// Slower, or more CPU time.
    Worse,
    /// No more than the figure, or the machine, moves by itself.
    Noise,
    /// Too few rounds to tell.
    TooFew,
}

impl Verdict {
    /// As a table shows it.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Better => "better",
            Self::Worse => "worse",
            Self::Noise => "within noise",
            Self::TooFew => "too few rounds",
        }
    }
}

/// One figure of one load in both runs.
#[derive(Debug, Clone)]
pub struct Change {
    /// The load.
    pub name: String,
    /// The figure.
    pub figure: Figure,
    /// In the old run: nanoseconds, or operations per second.
    pub old: f64,
    /// In this run.
    pub new: f64,
    /// True if it was judged as a multiple of its floor.
    pub by_floor: bool,
    /// What it means.
    pub verdict: Verdict,
}

impl Change {
    /// How much the figure itself changed: 0.1 is a tenth more. `None` if it was 0.
    #[must_use]
    pub fn share(&self) -> Option<f64> {
        (self.old > 0.0).then(|| self.new / self.old - 1.0)
    }
}

/// Two runs side by side.
#[derive(Debug, Clone, Default)]
pub struct Comparison {
    /// Every figure of every load that both have.
    pub changes: Vec<Change>,
    /// The floors of both: name, old and new median in nanoseconds.
    pub floors: Vec<(String, f64, f64)>,
    /// What a reader must know: other machine, loads that only one run has.
    pub notes: Vec<String>,
}

impl Comparison {
    /// Compares a run with an older one.
    #[must_use]
    pub fn new(old: &Results, new: &Results) -> Self {
        let mut all = Self { notes: notes(old, new), ..Self::default() };
        for (before, now) in both(old, new) {
            let name = now.name.clone();
            all.floors.push((name, before.p50_ns() as f64, now.p50_ns() as f64));
        }
        let drift = both(old, new)
            .map(|(before, now)| (median(&now.rounds) / median(&before.rounds) - 1.0).abs())
            .filter(|drift| drift.is_finite())
            .fold(0.0, f64::max);
        for now in &new.results {
            let Some(before) = old.find(&now.what) else { continue };
            // The same key in both: a floor is compared with itself only.
            let floors = old.floor_of(before).zip(new.floor_of(now));
            let floors = floors.filter(|(before, now)| before.key == now.key);
            all.changes
                .extend(Figure::ALL.map(|figure| change(figure, before, now, floors, drift)));
        }
        all
    }

    /// How many figures changed for the better and for the worse.
    #[must_use]
    pub fn counts(&self) -> (usize, usize) {
        let count = |verdict| self.changes.iter().filter(|one| one.verdict == verdict).count();
        (count(Verdict::Better), count(Verdict::Worse))
    }
}

/// The floors that both runs measured.
fn both<'r>(
    old: &'r Results,
    new: &'r Results,
) -> impl Iterator<Item = (&'r FloorResult, &'r FloorResult)> {
    new.floors.iter().filter_map(|now| {
        let before = old.floors.iter().find(|before| before.key == now.key)?;
        Some((before, now))
    })
}

fn notes(old: &Results, new: &Results) -> Vec<String> {
    let mut notes = Vec::new();
    if old.machine != new.machine {
        notes.push(
            "The machine or its kernel is another one: changes say nothing about the program."
                .to_owned(),
        );
    }
    if old.device != new.device {
        notes.push(format!("The device was another one: {}.", old.device));
    }
    if both(old, new).next().is_none() {
        notes.push(
            "No floor was measured in both runs, so a machine that is busier today looks like a \
             slower program; measure both with --floors."
                .to_owned(),
        );
    }
    let missing = |from: &Results, to: &Results| -> Vec<String> {
        let gone = from.results.iter().filter(|one| to.find(&one.what).is_none());
        gone.map(|one| one.what.name()).collect()
    };
    for (which, names) in [("old", missing(old, new)), ("new", missing(new, old))] {
        if !names.is_empty() {
            notes.push(format!("Only in the {which} run: {}.", names.join("; ")));
        }
    }
    notes
}

fn change(
    figure: Figure,
    before: &Measurement,
    now: &Measurement,
    floors: Option<(&FloorResult, &FloorResult)>,
    drift: f64,
) -> Change {
    // CPU time and rates are no multiples of a round trip.
    let floors = floors.filter(|_| figure.is_time() && figure != Figure::Cpu);
    let rounds = |one: &Measurement, floor: Option<&FloorResult>| -> Vec<f64> {
        let figures = one.rounds.iter().map(|round| figure.of_round(round));
        match floor {
            Some(floor) if floor.rounds.len() == one.rounds.len() => {
                figures.zip(&floor.rounds).map(|(figure, floor)| figure / floor).collect()
            }
            _ => figures.collect(),
        }
    };
    let (floor_before, floor_now) = floors.unzip();
    let by_floor = floors.is_some_and(|(one, two)| {
        one.rounds.len() == before.rounds.len() && two.rounds.len() == now.rounds.len()
    });
    let (floor_before, floor_now) = if by_floor { (floor_before, floor_now) } else { (None, None) };
    let (old, new) = (rounds(before, floor_before), rounds(now, floor_now));
    let least = if by_floor { LEAST } else { LEAST.max(drift) };
    Change {
        name: now.what.name(),
        figure,
        old: figure.of(before),
        new: figure.of(now),
        by_floor,
        verdict: judge(&old, &new, least, figure.is_time()),
    }
}

/// What two sets of rounds say.
fn judge(old: &[f64], new: &[f64], least: f64, less_is_better: bool) -> Verdict {
    let usable = |rounds: &[f64]| {
        rounds.len() >= FEWEST_ROUNDS
            && rounds.iter().all(|round| round.is_finite() && *round > 0.0)
    };
    if !usable(old) || !usable(new) {
        return Verdict::TooFew;
    }
    let range = |rounds: &[f64]| {
        rounds.iter().fold((f64::INFINITY, 0.0_f64), |(low, high), round| {
            (low.min(*round), high.max(*round))
        })
    };
    let ((old_low, old_high), (new_low, new_high)) = (range(old), range(new));
    let change = median(new) / median(old) - 1.0;
    if (new_low <= old_high && old_low <= new_high) || change.abs() <= least {
        return Verdict::Noise;
    }
    if (change < 0.0) == less_is_better { Verdict::Better } else { Verdict::Worse }
}

fn median(rounds: &[f64]) -> f64 {
    let mut sorted = rounds.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => 0.0,
        len if len.is_multiple_of(2) => f64::midpoint(sorted[middle - 1], sorted[middle]),
        _ => sorted[middle],
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{sample, slower};
    use super::*;

    fn verdict<'c>(comparison: &'c Comparison, name: &str, figure: Figure) -> &'c Change {
        let found = comparison.changes.iter().find(|one| one.name == name && one.figure == figure);
        found.unwrap()
    }

    #[test]
    fn a_run_beside_itself_has_not_changed() {
        let comparison = Comparison::new(&sample(), &sample());
        assert_eq!(comparison.changes.len(), 5 * sample().results.len());
        assert_eq!(comparison.counts(), (0, 0));
        assert!(comparison.notes.is_empty(), "{:?}", comparison.notes);
        assert_eq!(comparison.changes[0].share(), Some(0.0));
    }

    #[test]
    fn a_slower_program_is_told_from_a_slower_machine() {
        let old = sample();
        // Floors and figures alike: the machine.
        let comparison = Comparison::new(&old, &slower(&old, 1.3, 1.3));
        let change = verdict(&comparison, "read 4 KiB, QD 1", Figure::P50);
        assert!(change.by_floor && change.verdict == Verdict::Noise, "{change:?}");
        // Without a floor of its own a figure must have changed by more than the floors.
        let change = verdict(&comparison, "read 4 KiB, QD 32", Figure::P50);
        assert!(!change.by_floor && change.verdict == Verdict::Noise, "{change:?}");
        // The figures only: the program.
        let comparison = Comparison::new(&old, &slower(&old, 1.0, 1.3));
        for name in ["read 4 KiB, QD 1", "read 4 KiB, QD 32"] {
            let change = verdict(&comparison, name, Figure::P50);
            assert_eq!(change.verdict, Verdict::Worse, "{change:?}");
            assert!((0.25..0.35).contains(&change.share().unwrap()), "{change:?}");
        }
        let back = Comparison::new(&slower(&old, 1.0, 1.3), &old);
        assert_eq!(verdict(&back, "read 4 KiB, QD 32", Figure::P50).verdict, Verdict::Better);
        assert_eq!(verdict(&back, "read 4 KiB, QD 32", Figure::Iops).verdict, Verdict::Better);
    }

    #[test]
    fn rounds_among_each_other_are_noise_and_few_say_nothing() {
        let old = [100.0, 104.0, 98.0, 120.0, 101.0];
        assert_eq!(judge(&old, &[119.0, 130.0, 125.0, 140.0, 122.0], 0.02, true), Verdict::Noise);
        assert_eq!(judge(&old, &[121.0, 130.0, 125.0, 140.0, 122.0], 0.02, true), Verdict::Worse);
        assert_eq!(judge(&old, &[121.0, 130.0, 125.0, 140.0, 122.0], 0.02, false), Verdict::Better);
        assert_eq!(judge(&old, &[121.0, 130.0, 125.0, 140.0, 122.0], 0.3, true), Verdict::Noise);
        assert_eq!(judge(&old, &[200.0; 3], 0.02, true), Verdict::TooFew);
        assert_eq!(judge(&old, &[0.0; 5], 0.02, true), Verdict::TooFew);
    }

    #[test]
    fn what_cannot_be_compared_is_said() {
        let (mut old, new) = (sample(), sample());
        old.results.remove(0);
        old.floors.clear();
        old.machine.kernel = "other".to_owned();
        let notes = Comparison::new(&old, &new).notes.join("\n");
        for part in ["machine", "--floors", "Only in the new run: flush, QD 1"] {
            assert!(notes.contains(part), "{part}: {notes}");
        }
    }
}
