//! The instructions of every hot path, compared with the table in `benches/instructions.json`.
//!
//! callgrind counts the same at each run, so a rise of more than [`MOST_RISE`] is the code's, and fails the step with
//! the numbers. A fall is good news: the table is then to be renewed, or a later rise would hide behind it. Another
//! compiler makes other code; where the table is of another one than this machine has, nothing can be compared, and the
//! step is skipped and says so.
//!
//! `cargo xtask instructions --bless` writes the table anew.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, bail};
use serde_json::{Map, Value, json};

use crate::bench;
use crate::exec;
use crate::setup::{self, Purpose};
use crate::steps::Done;
use crate::workspace::Workspace;

/// More than this part of what the table says is a failure.
const MOST_RISE: f64 = 0.02;

/// So many digits are kept behind the point.
const DIGITS: f64 = 100.0;

/// Instructions of one operation, by case.
type Counts = BTreeMap<String, f64>;

/// What was committed.
#[derive(Debug, PartialEq)]
struct Table {
    /// What made the code that was counted.
    compiler: String,
    counts: Counts,
}

impl Table {
    fn parse(text: &str) -> Result<Self> {
        let value: Value = serde_json::from_str(text)?;
        let compiler = value["compiler"].as_str().context("no compiler")?.to_owned();
        let cases = value["instructions"].as_object().context("no instructions")?;
        let count = |(name, count): (&String, &Value)| {
            Ok((name.clone(), count.as_f64().with_context(|| format!("{name} is no number"))?))
        };
        Ok(Self { compiler, counts: cases.iter().map(count).collect::<Result<_>>()? })
    }

    fn text(&self) -> Result<String> {
        let counts: Map<String, Value> =
            self.counts.iter().map(|(name, count)| (name.clone(), json!(count))).collect();
        let table = json!({ "compiler": self.compiler, "instructions": counts });
        Ok(serde_json::to_string_pretty(&table)? + "\n")
    }
}

/// How one case stands against the table.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Change {
    /// Within the limit, both ways.
    Same,
    Risen,
    Fallen,
    /// The table has no such case.
    New,
    /// The table has it, and nothing counts it any more.
    Gone,
}

/// One case: what the table says, what was counted, and what that means.
#[derive(Debug, Clone, PartialEq)]
struct Line {
    name: String,
    was: Option<f64>,
    now: Option<f64>,
    change: Change,
}

/// Compares every case that either has.
fn compare(was: &Counts, now: &Counts) -> Vec<Line> {
    let names = was.keys().chain(now.keys().filter(|name| !was.contains_key(*name)));
    let line = |name: &String| {
        let (was, now) = (was.get(name).copied(), now.get(name).copied());
        let change = match (was, now) {
            (Some(was), Some(now)) if now > was * (1.0 + MOST_RISE) => Change::Risen,
            (Some(was), Some(now)) if now < was * (1.0 - MOST_RISE) => Change::Fallen,
            (Some(_), Some(_)) => Change::Same,
            (Some(_), None) => Change::Gone,
            (None, _) => Change::New,
        };
        Line { name: name.clone(), was, now, change }
    };
    names.map(line).collect()
}

/// The comparison as a table for people.
fn shown(lines: &[Line]) -> String {
    let mut text = format!("{:<24} {:>9} {:>9} {:>8}\n", "one operation", "table", "now", "change");
    let number = |count: Option<f64>| count.map_or("-".to_owned(), |count| format!("{count:.1}"));
    for Line { name, was, now, change } in lines {
        let percent =
            was.zip(*now).map(|(was, now)| format!("{:+.1} %", (now / was - 1.0) * 100.0));
        let remark = match change {
            Change::Same => "",
            Change::Risen => "  ROSE",
            Change::Fallen => "  fell: bless it",
            Change::New => "  not in the table: bless it",
            Change::Gone => "  no longer counted: bless it",
        };
        // Writing to a String cannot fail.
        let _ = writeln!(
            text,
            "{name:<24} {:>9} {:>9} {:>8}{remark}",
            number(*was),
            number(*now),
            percent.unwrap_or_else(|| "-".to_owned())
        );
    }
    text
}

/// The problem in one line, if there is one: a rise, or a case that the table and the program do not share.
fn verdict(lines: &[Line]) -> Result<()> {
    let bad: Vec<_> = lines
        .iter()
        .filter_map(|Line { name, was, now, change }| match (change, was, now) {
            (Change::Risen, Some(was), Some(now)) => {
                let percent = (now / was - 1.0) * 100.0;
                Some(format!(
                    "{name} rose from {was:.1} to {now:.1} instructions ({percent:+.1} %)"
                ))
            }
            (Change::New, ..) => Some(format!("{name} is not in the table")),
            (Change::Gone, ..) => Some(format!("{name} is no longer counted")),
            _ => None,
        })
        .collect();
    if bad.is_empty() {
        return Ok(());
    }
    bail!("{}; if that is meant: cargo xtask instructions --bless", bad.join(", "))
}

/// The step of `ci`.
///
/// # Errors
/// If a case rose by more than the limit, or the table has other cases than are counted.
pub(crate) fn perform(workspace: &Workspace) -> Result<Done> {
    if !exec::succeeds(Command::new("valgrind").arg("--version")) {
        return Ok(Done::Skipped("valgrind is not installed".to_owned()));
    }
    let now = count(workspace)?;
    let path = path(workspace);
    let text = fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
    let was = Table::parse(&text).with_context(|| format!("reading {}", path.display()))?;
    let lines = compare(&was.counts, &now.counts);
    eprint!("{}", shown(&lines));
    if was.compiler != now.compiler {
        let (theirs, ours) = (was.compiler, now.compiler);
        return Ok(Done::Skipped(format!(
            "not comparable: the table is of {theirs}, this is {ours}"
        )));
    }
    verdict(&lines)?;
    Ok(Done::Passed)
}

/// The command: counts and compares, or with `bless` writes the table.
///
/// # Errors
/// As [`perform`]; and without valgrind, for then there is nothing to do.
pub(crate) fn run(workspace: &Workspace, bless: bool) -> Result<()> {
    setup::ensure(Purpose::Ci)?;
    if !bless {
        return match perform(workspace)? {
            Done::Passed => Ok(()),
            Done::Skipped(why) => bail!("{why}"),
        };
    }
    let table = count(workspace)?;
    let path = path(workspace);
    fs::write(&path, table.text()?).with_context(|| format!("writing {}", path.display()))?;
    eprintln!("{} cases written to {}", table.counts.len(), path.display());
    Ok(())
}

fn path(workspace: &Workspace) -> PathBuf {
    workspace.root.join("benches/instructions.json")
}

/// Builds the program and counts every case.
fn count(workspace: &Workspace) -> Result<Table> {
    let program = bench::build_instructions(workspace)?;
    let mut counting = Command::new(program);
    counting.arg("--json");
    eprintln!("  $ {}", exec::describe(&counting));
    let counts = parse_counts(&exec::capture(&mut counting)?)?;
    Ok(Table { compiler: compiler(workspace)?, counts })
}

/// Reads what `doorbell-instructions --json` printed.
fn parse_counts(text: &str) -> Result<Counts> {
    let value: Value = serde_json::from_str(text).context("reading counts")?;
    let cases = value.as_object().context("counts are an object")?;
    let count = |(name, cost): (&String, &Value)| {
        let instructions = cost["instructions"].as_f64();
        let count = instructions.with_context(|| format!("{name} has no count"))?;
        Ok((name.clone(), (count * DIGITS).round() / DIGITS))
    };
    cases.iter().map(count).collect()
}

/// Version and target of the compiler that cargo uses here.
fn compiler(workspace: &Workspace) -> Result<String> {
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let said = exec::capture(Command::new(rustc).arg("-vV").current_dir(&workspace.root))?;
    parse_compiler(&said).context("cannot make sense of `rustc -vV`")
}

fn parse_compiler(said: &str) -> Option<String> {
    let version = said.lines().next()?;
    let host = said.lines().find_map(|line| line.strip_prefix("host: "))?;
    Some(format!("{version}, {host}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(of: &[(&str, f64)]) -> Counts {
        of.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect()
    }

    fn changes(was: &[(&str, f64)], now: &[(&str, f64)]) -> Vec<Change> {
        compare(&counts(was), &counts(now)).iter().map(|line| line.change).collect()
    }

    #[test]
    fn two_in_a_hundred_is_the_limit_both_ways() {
        let was = [("a", 100.0)];
        for (now, change) in [
            (102.0, Change::Same),
            (102.1, Change::Risen),
            (98.0, Change::Same),
            (97.9, Change::Fallen),
        ] {
            assert_eq!(changes(&was, &[("a", now)]), [change], "{now}");
        }
    }

    #[test]
    fn cases_that_come_and_go_are_told() {
        assert_eq!(changes(&[("a", 1.0)], &[("b", 1.0)]), [Change::Gone, Change::New]);
        let lines = compare(&counts(&[("a", 1.0)]), &counts(&[("b", 1.0)]));
        let error = verdict(&lines).unwrap_err().to_string();
        assert!(error.contains("a is no longer counted, b is not in the table"), "{error}");
    }

    #[test]
    fn a_rise_fails_with_the_numbers_and_a_fall_does_not() {
        let lines =
            compare(&counts(&[("a", 100.0), ("b", 50.0)]), &counts(&[("a", 110.0), ("b", 40.0)]));
        let error = verdict(&lines).unwrap_err().to_string();
        assert!(error.starts_with("a rose from 100.0 to 110.0 instructions (+10.0 %)"), "{error}");
        let table = shown(&lines);
        assert!(table.contains("50.0      40.0  -20.0 %  fell: bless it\n"), "{table}");
        assert!(verdict(&compare(&counts(&[("b", 50.0)]), &counts(&[("b", 40.0)]))).is_ok());
    }

    #[test]
    fn a_table_survives_the_way_to_the_file() {
        let table =
            Table { compiler: "rustc 1, host".to_owned(), counts: counts(&[("a", 196.25)]) };
        assert_eq!(Table::parse(&table.text().unwrap()).unwrap(), table);
        for bad in ["", "{}", r#"{"compiler":"x"}"#, r#"{"compiler":"x","instructions":{"a":"b"}}"#]
        {
            assert!(Table::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn what_the_programs_print_is_understood() {
        let printed = r#"{"a":{"instructions":12.3456,"allocations":0.0}}"#;
        assert_eq!(parse_counts(printed).unwrap(), counts(&[("a", 12.35)]));
        assert!(parse_counts(r#"{"a":{}}"#).is_err());
        let said =
            "rustc 1.95.0 (59807616e 2026-04-14)\nbinary: rustc\nhost: x86_64-unknown-linux-gnu\n";
        let compiler = parse_compiler(said).unwrap();
        assert_eq!(compiler, "rustc 1.95.0 (59807616e 2026-04-14), x86_64-unknown-linux-gnu");
        assert_eq!(parse_compiler("rustc"), None);
    }
}
