//! Counts the instructions and allocations of one operation of each hot path.
//!
//! Without arguments it runs itself under callgrind, twice for each case, and prints a table; with
//! `--json` one object. `doorbell-instructions CASE OPERATIONS` is what it runs, and can be run under
//! any profiler.
#![forbid(unsafe_code)]
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "what it prints is its purpose")]

use std::collections::BTreeMap;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use doorbell_figures::cases::{CASES, Case, Cost};
use doorbell_figures::counting::Counting;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn count() -> Result<BTreeMap<&'static str, Cost>> {
    let program = std::env::current_exe().context("finding this program's own file")?;
    CASES.into_iter().map(|case| Ok((case.name, case.count(&program)?))).collect()
}

fn run(arguments: &[&str]) -> Result<()> {
    match arguments {
        [] => {
            let counts = count()?;
            println!("{:<22} {:>14} {:>14}", "one operation", "instructions", "allocations");
            for (name, Cost { instructions, allocations }) in counts {
                println!("{name:<22} {instructions:>14.1} {allocations:>14.1}");
            }
        }
        ["--json"] => println!("{}", serde_json::to_string(&count()?)?),
        [name, operations] => {
            let names = || CASES.map(|case| case.name).join(", ");
            let case = Case::named(name)
                .with_context(|| format!("no case {name}; there are {}", names()))?;
            let operations = operations.parse().context("how many operations?")?;
            println!("allocations {}", case.run(operations)?);
        }
        _ => bail!("usage: doorbell-instructions [--json | CASE OPERATIONS]"),
    }
    Ok(())
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match run(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("doorbell-instructions: {error:#}");
            ExitCode::FAILURE
        }
    }
}
