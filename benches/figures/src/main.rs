//! Measures every figure beside its floor and prints a table, or with `--json` one object and nothing
//! else on standard output. `cargo xtask bench` builds and runs it.
#![forbid(unsafe_code)]
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "what it prints is its purpose")]

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::Parser;
use doorbell_bench::floors::peer;
use doorbell_figures::counting::Counting;
use doorbell_figures::run::{self, Options};
use doorbell_figures::{served, table};

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Every figure beside its floor, in one run.
#[derive(Debug, Parser)]
struct Arguments {
    /// Print one JSON object instead of the tables
    #[arg(long)]
    json: bool,
    /// Seconds to measure, beyond what starting and ending takes
    #[arg(long, default_value_t = 60.0)]
    seconds: f64,
    /// The program that counts instructions
    #[arg(long, value_name = "PROGRAM")]
    instructions: Option<PathBuf>,
    /// Where to make a small image: a folder on a disk (the default is this program's own)
    #[arg(long)]
    folder: Option<PathBuf>,
}

fn run(arguments: Arguments) -> Result<()> {
    ensure!((0.0..=3600.0).contains(&arguments.seconds), "--seconds takes 0 to 3600");
    let folder = match arguments.folder {
        Some(folder) => folder,
        None => {
            let mut program = std::env::current_exe().context("finding this program's own file")?;
            program.pop();
            program
        }
    };
    let measured = run::run(&Options {
        time: Duration::from_secs_f64(arguments.seconds),
        instructions: arguments.instructions,
        folder,
    })?;
    if arguments.json {
        println!("{}", serde_json::to_string(&measured.figures())?);
    } else {
        print!("{}", table::text(&measured));
    }
    Ok(())
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let outcome = peer::run_if_asked()
        .or_else(|| served::run_if_asked(&arguments))
        .unwrap_or_else(|| run(Arguments::parse()));
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("doorbell-figures: {error:#}");
            ExitCode::FAILURE
        }
    }
}
