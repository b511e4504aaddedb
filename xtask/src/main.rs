//! Set-up, tests, checks, benchmarks and the demo, each by one command: `cargo xtask <command>`.
//!
//! The commands only start other programs (cargo, apt-get, mdbook, cargo-deny, cargo-fuzz, doorbell) and add up what these say.
//! Nothing here is printed to standard output: it belongs to the programs, so that `cargo xtask demo -- --json` and
//! `cargo xtask bench --json` are one JSON object and nothing else. Every command runs without a terminal and asks nothing.
//!
//! | module | what it holds |
//! |---|---|
//! | [`setup`] | the Debian packages: what is missing, and how to install it |
//! | [`steps`] | the steps of `test` and `ci`, their order, and the closing table |
//! | [`gates`] | what each step does |
//! | [`mod@bench`] | the programs that measure |
//! | [`instructions`] | instructions of the hot paths, compared with a table |
//! | [`fuzz`] | a short run of every fuzz target |
//! | [`lab`] | the virtual lab: which machines to boot with which kernels, and the table of proofs |
//! | [`samples`] | the Rust code blocks of the book and the README, made into doc tests |
//! | [`tools`] | cargo tools of a known version, built once into the target folder |
//! | [`workspace`], [`exec`] | what cargo says about this workspace; starting programs |
#![forbid(unsafe_code)]
#![allow(
    clippy::print_stderr,
    reason = "a command-line program: standard error is where its progress goes"
)]

mod bench;
mod demo;
mod exec;
mod fuzz;
mod gates;
mod instructions;
mod lab;
mod samples;
mod setup;
mod steps;
mod tools;
mod workspace;

use std::ffi::OsString;
use std::process::ExitCode;

use anyhow::{Result, bail};
use clap::{Parser, Subcommand};

use setup::Purpose;
use steps::Step;
use workspace::Workspace;

/// Set-up, tests, checks, benchmarks and the demo of Doorbell, each by one command.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Install the Debian packages that are missing, and nothing else
    ///
    /// As root, or through `sudo` if that asks for no password; otherwise one line says what to install. `demo`, `test`
    /// and `ci` do this by themselves.
    Setup {
        /// What the machine is to be made ready for
        #[arg(long = "for", value_name = "PURPOSE", value_enum, default_value_t = Purpose::Test)]
        purpose: Purpose,
    },
    /// Build in release mode and run the demo: real data through a software device, no hardware needed
    ///
    /// Ends by itself within a minute after the build. What follows `--` goes to `doorbell demo`, for example
    /// `cargo xtask demo -- --json`, which prints one JSON object on standard output and nothing else there.
    Demo {
        /// Arguments of `doorbell demo`
        #[arg(last = true)]
        args: Vec<OsString>,
    },
    /// Measure every figure beside its floor, in less than five minutes after the build
    ///
    /// Prints tables in Markdown, as in the README. On a machine that does other work at the same time the times mean
    /// little; the ratios mean more.
    Bench {
        /// Print one JSON object on standard output, and nothing else there
        #[arg(long)]
        json: bool,
    },
    /// Count the instructions of every hot path and compare them with the committed table
    Instructions {
        /// Write the table anew
        #[arg(long)]
        bless: bool,
    },
    /// Run all tests: unit and integration tests, doc tests, loom models
    Test {
        /// Run this step only (may be given more than once)
        #[arg(long, value_name = "STEP", value_enum)]
        only: Vec<Step>,
    },
    /// Boot the virtual lab: a Linux guest whose kernel hands devices to the broker, by VFIO and iommufd
    ///
    /// No root and no hardware is needed. QEMU is the one on PATH, or Debian's packages unpacked into a cache folder; the
    /// kernels are what DOORBELL_LAB_KERNEL names (a bzImage, or a folder that holds some), and Debian's own. Something
    /// that cannot be had is a skip, in one line.
    Lab(lab::Options),
    /// Run all tests, then the slower gates: fmt, clippy, docs, features, the book, licences, instructions, fuzzing, the lab
    ///
    /// A gate that fails does not stop the ones after it; the closing table names every one. Only where packages are
    /// missing or the tests do not build, nothing more is tried.
    Ci {
        /// Run this step only (may be given more than once)
        #[arg(long, value_name = "STEP", value_enum)]
        only: Vec<Step>,
    },
}

fn main() -> ExitCode {
    match run(Cli::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> Result<()> {
    match command {
        Command::Setup { purpose } => setup::ensure(purpose),
        Command::Demo { args } => demo::run(&Workspace::load()?, &args),
        Command::Bench { json } => bench::run(&Workspace::load()?, json),
        Command::Instructions { bless } => instructions::run(&Workspace::load()?, bless),
        Command::Lab(options) => lab::run(&Workspace::load()?, &options),
        Command::Test { only } => run_steps("test", &Step::TEST, &only, Purpose::Test),
        Command::Ci { only } => run_steps("ci", &Step::CI, &only, Purpose::Ci),
    }
}

/// Runs the steps of `command`, or those in `only`, and prints the table of results.
fn run_steps(command: &str, all: &[Step], only: &[Step], purpose: Purpose) -> Result<()> {
    let chosen = steps::choose(command, all, only)?;
    let workspace = Workspace::load()?;
    let report = steps::run(&chosen, |step| gates::perform(step, &workspace, purpose));
    eprint!("\n{report}");
    let failed = report.failed();
    if failed.is_empty() {
        return Ok(());
    }
    let names: Vec<_> = failed.iter().map(ToString::to_string).collect();
    bail!("cargo xtask {command} failed at: {}", names.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }

    #[test]
    fn what_follows_the_two_dashes_is_the_demos() {
        let cli = Cli::parse_from(["cargo xtask", "demo", "--", "--json", "--seconds", "3"]);
        let Command::Demo { args } = cli.command else { panic!("not the demo") };
        assert_eq!(args, ["--json", "--seconds", "3"]);
    }

    #[test]
    fn only_may_be_repeated() {
        let cli = Cli::parse_from(["cargo xtask", "ci", "--only", "fmt", "--only", "deny"]);
        let Command::Ci { only } = cli.command else { panic!("not ci") };
        assert_eq!(only, [Step::Fmt, Step::Deny]);
    }
}
