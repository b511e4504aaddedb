//! Every figure of speed beside its floor, measured in one run: a flush and 4 KiB reads between a
//! client and a broker of their own processes, the same with the device in a device server (bus
//! `vfio-user`), and submit plus complete in one thread.
//!
//! `cargo bench -p doorbell-figures --bench round_trip`, with `-- --json` for one JSON object instead
//! of the table. It takes half a minute. Floors and figures take turns, so that what else the
//! machine does falls on both. Nothing is asserted about time: the last column is what is aimed at,
//! on a quiet machine with two cores.
//!
//! It measures only if it is given `--bench`, as `cargo bench` does; as a test it has nothing to
//! say and ends at once.
#![forbid(unsafe_code)]
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "what it prints is its purpose")]

use std::process::ExitCode;

use anyhow::Result;
use doorbell_bench::floors::peer;
use doorbell_bench::{Placement, cores};
use doorbell_figures::served;

#[path = "round_trip/measure.rs"]
mod measure;
#[path = "round_trip/table.rs"]
mod table;

/// What a filter is compared with: `cargo bench -- round` means this benchmark too.
const NAME: &str = "round_trip";

/// What the command line asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Asked {
    /// To be listed or tested, or for another benchmark.
    Nothing,
    /// The table.
    Table,
    /// One JSON object.
    Json,
}

fn asked(arguments: &[String]) -> Asked {
    let has = |word: &str| arguments.iter().any(|argument| argument == word);
    if has("--list") || has("--test") || !has("--bench") {
        return Asked::Nothing;
    }
    // Other options are for the other benchmarks of the same `cargo bench`.
    let mut filters = arguments.iter().filter(|argument| !argument.starts_with('-')).peekable();
    if filters.peek().is_some() && !filters.any(|filter| NAME.contains(filter.as_str())) {
        return Asked::Nothing;
    }
    if has("--json") { Asked::Json } else { Asked::Table }
}

fn run(arguments: &[String]) -> Result<()> {
    let asked = asked(arguments);
    if asked == Asked::Nothing {
        return Ok(());
    }
    let placement = Placement::choose()?;
    let served = served::Served::start(served::DEVICE, placement)?;
    let behind_server = served::Served::behind_server(placement)?;
    if let Some(cores) = placement {
        // Before the client's thread is started: it stays here as well.
        cores::pin_to(cores.client)?;
    }
    if asked == Asked::Table {
        eprintln!("measuring for {} s", measure::TIME.as_secs());
    }
    let measured =
        pollster::block_on(measure::run(served.socket(), behind_server.socket(), placement))?;
    served.stop()?;
    behind_server.stop()?;
    let lines = table::lines(&measured);
    match asked {
        Asked::Json => println!("{}", table::json(&lines, &measured, placement)?),
        Asked::Table | Asked::Nothing => print!("{}", table::text(&lines, &measured, placement)),
    }
    Ok(())
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let outcome = peer::run_if_asked()
        .or_else(|| served::run_if_asked(&arguments))
        .unwrap_or_else(|| run(&arguments));
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{NAME}: {error:#}");
            ExitCode::FAILURE
        }
    }
}
