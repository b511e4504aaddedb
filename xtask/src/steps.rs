//! The steps of `test` and `ci`: their order, which failures stop the rest, and the table at the end.

use std::fmt;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use clap::ValueEnum;

/// One step; [`crate::gates`] says what it does. The first line of each is what `--help` shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Step {
    /// Debian packages; comes first whatever else is chosen
    Setup,
    /// Every test and example compiles
    Build,
    /// Unit and integration tests, by cargo-nextest where it is installed
    Tests,
    /// The code in the documentation comments
    Doctests,
    /// Every interleaving of what two threads touch
    Loom,
    /// Formatting
    Fmt,
    /// Lints, with warnings as errors
    Clippy,
    /// API documentation, with warnings as errors
    Docs,
    /// Each crate feature builds without the others, and a client links no broker code
    Features,
    /// The Rust code in the book and the README
    Samples,
    /// The book builds
    Book,
    /// Licences, bans and sources of dependencies
    Deny,
    /// Instructions of the hot paths, against the committed table
    Instructions,
    /// A short run of every fuzz target
    Fuzz,
    /// The virtual lab: real VFIO and iommufd in a guest, on every kernel that there is
    Lab,
}

impl Step {
    /// What `cargo xtask test` runs.
    pub(crate) const TEST: [Self; 5] =
        [Self::Setup, Self::Build, Self::Tests, Self::Doctests, Self::Loom];

    /// What `cargo xtask ci` runs: the tests first, as they say the most.
    pub(crate) const CI: [Self; 15] = [
        Self::Setup,
        Self::Build,
        Self::Tests,
        Self::Doctests,
        Self::Loom,
        Self::Fmt,
        Self::Clippy,
        Self::Docs,
        Self::Features,
        Self::Samples,
        Self::Book,
        Self::Deny,
        Self::Instructions,
        Self::Fuzz,
        Self::Lab,
    ];

    /// Whether its failure makes the later steps pointless: they would fail for the same reason.
    const fn stops_the_rest(self) -> bool {
        matches!(self, Self::Setup | Self::Build)
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let value = self.to_possible_value();
        f.pad(value.as_ref().map_or("", |value| value.get_name()))
    }
}

/// The steps to run: those of `all` that `only` names, or all of them if it names none.
///
/// [`Step::Setup`] always stays: it is a matter of milliseconds where nothing is missing, and without it a later step
/// fails with a linker's message.
pub(crate) fn choose(command: &str, all: &[Step], only: &[Step]) -> Result<Vec<Step>> {
    if let Some(stranger) = only.iter().find(|step| !all.contains(step)) {
        bail!(
            "`cargo xtask {command}` has no step {stranger}: `cargo xtask ci --only {stranger}` runs it"
        );
    }
    let chosen = |step: &Step| only.is_empty() || *step == Step::Setup || only.contains(step);
    Ok(all.iter().copied().filter(chosen).collect())
}

/// How a step ended that did not fail.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Done {
    /// Everything that it checks holds.
    Passed,
    /// It could not check everything, for want of what is not its own: nothing is known about the rest.
    Skipped(String),
}

/// How one step ended.
#[derive(Debug)]
enum Outcome {
    Done(Done),
    Failed(anyhow::Error),
    NotRun,
}

/// How every step ended, and after how long.
#[derive(Debug, Default)]
pub(crate) struct Report {
    rows: Vec<(Step, Outcome, Duration)>,
}

impl Report {
    /// The steps that failed, in the order they ran. Those not run are not among them.
    pub(crate) fn failed(&self) -> Vec<Step> {
        let failed = |outcome: &Outcome| matches!(outcome, Outcome::Failed(_));
        self.rows.iter().filter(|row| failed(&row.1)).map(|row| row.0).collect()
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{:<12} {:<8} {:>8}", "step", "result", "seconds")?;
        for (step, outcome, took) in &self.rows {
            let seconds = took.as_secs_f64();
            match outcome {
                Outcome::Done(Done::Passed) => {
                    writeln!(f, "{step:<12} {:<8} {seconds:>8.1}", "ok")?;
                }
                Outcome::Done(Done::Skipped(why)) => {
                    writeln!(f, "{step:<12} {:<8} {seconds:>8.1}  {why}", "skipped")?;
                }
                Outcome::Failed(error) => {
                    writeln!(f, "{step:<12} {:<8} {seconds:>8.1}  {error:#}", "FAILED")?;
                }
                Outcome::NotRun => writeln!(f, "{step:<12} {:<8} {:>8}", "not run", "-")?,
            }
        }
        let total: Duration = self.rows.iter().map(|row| row.2).sum();
        writeln!(f, "{:<12} {:<8} {:>8.1}", "total", "", total.as_secs_f64())
    }
}

/// Runs `steps` in order. A failure is recorded and the rest goes on, unless it [stops the rest](Step::stops_the_rest).
pub(crate) fn run(steps: &[Step], mut perform: impl FnMut(Step) -> Result<Done>) -> Report {
    let mut report = Report::default();
    let mut stopped = false;
    for &step in steps {
        if stopped {
            report.rows.push((step, Outcome::NotRun, Duration::ZERO));
            continue;
        }
        eprintln!("==> {step}");
        let started = Instant::now();
        let outcome = match perform(step) {
            Ok(done) => Outcome::Done(done),
            Err(error) => {
                eprintln!("==> {step} failed: {error:#}");
                stopped = step.stops_the_rest();
                Outcome::Failed(error)
            }
        };
        report.rows.push((step, outcome, started.elapsed()));
    }
    report
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::anyhow;

    #[test]
    fn ci_starts_with_all_of_test_and_knows_every_step() {
        assert_eq!(Step::CI[..Step::TEST.len()], Step::TEST);
        assert_eq!(Step::CI, Step::value_variants());
    }

    #[test]
    fn only_keeps_the_order_and_the_set_up() {
        let chosen = choose("ci", &Step::CI, &[Step::Deny, Step::Fmt]).unwrap();
        assert_eq!(chosen, [Step::Setup, Step::Fmt, Step::Deny]);
        assert_eq!(choose("test", &Step::TEST, &[]).unwrap(), Step::TEST);
    }

    #[test]
    fn a_step_of_ci_is_not_one_of_test() {
        let error = choose("test", &Step::TEST, &[Step::Book]).unwrap_err();
        assert_eq!(
            error.to_string(),
            "`cargo xtask test` has no step book: `cargo xtask ci --only book` runs it"
        );
    }

    #[test]
    fn a_failing_gate_does_not_hide_the_next_one() {
        let report = run(&[Step::Fmt, Step::Clippy, Step::Docs], |step| match step {
            Step::Docs => Ok(Done::Passed),
            _ => Err(anyhow!("no good")),
        });
        assert_eq!(report.failed(), [Step::Fmt, Step::Clippy]);
        let table = report.to_string();
        assert!(table.contains("fmt          FAILED        0.0  no good\n"), "{table}");
        assert!(table.contains("docs         ok            0.0\n"), "{table}");
    }

    #[test]
    fn a_skip_is_neither_a_pass_nor_a_failure() {
        let report = run(&[Step::Lab], |_| Ok(Done::Skipped("no network".to_owned())));
        assert!(report.failed().is_empty());
        let table = report.to_string();
        assert!(table.contains("lab          skipped       0.0  no network\n"), "{table}");
    }

    #[test]
    fn nothing_runs_after_tests_that_do_not_build() {
        let mut ran = vec![];
        let report = run(&Step::TEST, |step| {
            ran.push(step);
            if step == Step::Build { Err(anyhow!("it does not build")) } else { Ok(Done::Passed) }
        });
        assert_eq!(ran, [Step::Setup, Step::Build]);
        assert_eq!(report.failed(), [Step::Build]);
        assert!(report.to_string().contains("loom         not run         -\n"), "{report}");
    }
}
