//! A plan: its checks, how they are run, and what is told of them.

use std::io::Write;
use std::process::ExitCode;

use anyhow::Result;
use serde::Serialize;

use crate::rig::Rig;

/// How a check ended that did not fail.
#[derive(Debug)]
pub enum Outcome {
    /// It holds.
    Passed,
    /// This device or bus cannot do it, or it was not asked for; why.
    Skipped(String),
}

/// Why a check is skipped.
///
/// # Errors
/// None: it is the value of a check that cannot be made.
pub fn skip(why: impl Into<String>) -> Result<Outcome> {
    Ok(Outcome::Skipped(why.into()))
}

/// One thing that must hold. It leaves the broker serving and everything released.
#[derive(Debug, Clone, Copy)]
pub struct Check {
    /// Its name, for `--only`.
    pub name: &'static str,
    /// What it shows, in a line.
    pub what: &'static str,
    /// Makes the check.
    pub run: fn(&mut Rig) -> Result<Outcome>,
}

/// What came of a check.
#[derive(Debug, Clone, Serialize)]
pub struct Verdict {
    /// The check's name.
    pub name: &'static str,
    /// `passed`, `failed` or `skipped`.
    pub result: &'static str,
    /// Why it failed or was skipped.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
}

/// Runs the checks that are meant, in order; `each` hears of every verdict at once. A check that
/// failed does not end the run: the broker is started anew for the next one.
pub fn run(
    rig: &mut Rig,
    checks: &[Check],
    only: &[String],
    mut each: impl FnMut(&Verdict),
) -> Vec<Verdict> {
    let meant = |check: &&Check| only.is_empty() || only.iter().any(|name| name == check.name);
    let mut verdicts = Vec::new();
    for check in checks.iter().filter(meant) {
        let outcome = rig.serve().and_then(|()| (check.run)(rig));
        let (result, why) = match outcome {
            Ok(Outcome::Passed) => ("passed", None),
            Ok(Outcome::Skipped(why)) => ("skipped", Some(why)),
            Err(error) => {
                let mut why = one_line(&error);
                if let Err(error) = rig.start_over() {
                    why = format!("{why}; and then: {}", one_line(&error));
                }
                ("failed", Some(why))
            }
        };
        let verdict = Verdict { name: check.name, result, why };
        each(&verdict);
        verdicts.push(verdict);
    }
    verdicts
}

/// An error with its causes, as one line.
#[must_use]
pub fn one_line(error: &anyhow::Error) -> String {
    let mut text = String::new();
    for cause in error.chain().map(ToString::to_string) {
        if !text.contains(&cause) {
            text = if text.is_empty() { cause } else { format!("{text}: {cause}") };
        }
    }
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// The exit status of an outcome; a failure is told in one line.
#[must_use]
pub fn exit(outcome: Result<()>) -> ExitCode {
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Nothing can be done if standard error is closed.
            let _ = writeln!(std::io::stderr(), "conformance: {}", one_line(&error));
            ExitCode::FAILURE
        }
    }
}
