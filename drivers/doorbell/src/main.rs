//! The doorbell program: serve, export, status, revoke, reset, bench, demo, list, bind, unbind, check,
//! nvme, edu.
#![forbid(unsafe_code)]

use std::io::Write;
use std::process::ExitCode;

use anyhow::Result;
use clap::Parser;
use clap::error::ErrorKind;

mod bench;
mod cli;
mod connect;
mod data;
mod demo;
mod edu;
mod export;
mod logging;
mod nvme;
mod output;
mod registry;
mod serve;
mod sockets;
mod status;
mod tools;

use cli::{Cli, Command};

fn main() -> ExitCode {
    // This program is also the other side of its floors.
    if let Some(outcome) = doorbell_bench::floors::peer::run_if_asked() {
        return ended(outcome);
    }
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return misused(&error),
    };
    let serves = matches!(cli.command, Command::Serve(_) | Command::Export(_));
    logging::start(if serves { "info" } else { "error" });
    ended(run(&cli.command))
}

fn run(command: &Command) -> Result<()> {
    match command {
        Command::Serve(args) => serve::run(args),
        Command::Export(args) => export::run(args),
        Command::Status(args) => status::run(args),
        Command::Revoke(args) => status::revoke(args),
        Command::Reset(args) => status::reset(args),
        Command::Demo(args) => demo::run(args),
        Command::Bench(args) => bench::run(args),
        Command::Nvme(command) => nvme::run(command),
        Command::Edu(command) => edu::run(command),
        Command::List(args) => tools::list::run(args),
        Command::Bind(args) => tools::bind::bind(args),
        Command::Unbind(args) => tools::bind::unbind(args),
        Command::Check(args) => tools::check::run(args),
        Command::DemoClient { role } => demo::role::run(role),
        Command::BenchClient { setup } => bench::clients::run(setup),
    }
}

/// A failure is one line.
fn ended(outcome: Result<()>) -> ExitCode {
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if output::reader_is_gone(&error) => ExitCode::SUCCESS,
        Err(error) => {
            complain(&output::one_line(&error));
            ExitCode::FAILURE
        }
    }
}

/// A command line that cannot be understood: one line as well. Help is no failure.
fn misused(error: &clap::Error) -> ExitCode {
    if error.exit_code() == 0 || error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand
    {
        // Nothing can be done if it cannot be printed.
        let _ = error.print();
        return if error.exit_code() == 0 { ExitCode::SUCCESS } else { ExitCode::from(2) };
    }
    let text = error.to_string();
    // The first paragraph says what is wrong; usage and the rest are in the help.
    let first: Vec<&str> =
        text.lines().take_while(|line| !line.trim().is_empty()).map(str::trim).collect();
    let said = first.join(" ");
    complain(&format!("{}; --help says what there is", said.trim_start_matches("error: ")));
    ExitCode::from(2)
}

fn complain(line: &str) {
    // Nothing can be done if standard error is closed.
    let _ = writeln!(std::io::stderr(), "doorbell: {line}");
}
