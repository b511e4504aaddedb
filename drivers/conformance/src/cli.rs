//! The command line of `conformance`.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail};
use clap::{Parser, ValueEnum};
use serde::Serialize;

use crate::plan::{self, Check, Verdict};
use crate::rig::{Rig, Setup};
use crate::{edu, nvme};

/// Checks that a device does on its bus what every driver and bus must do.
///
/// It starts a broker for the device and client processes, kills and revokes some, and compares all
/// data. IT DESTROYS WHAT IS ON THE DEVICE: it is for labs. One line for each check, and a status
/// other than zero if any failed.
#[derive(Debug, Parser)]
#[command(
    name = "conformance",
    version,
    max_term_width = 100,
    after_help = "\
Examples:
  conformance --device soft:nvme,ram=64M --driver nvme
  conformance --device 0000:00:05.0 --driver edu
  conformance --device 0000:00:04.0,bus=cdev --driver nvme --only sizes --only killed --seed 7"
)]
struct Cli {
    /// The device, as `doorbell serve` takes it
    #[arg(long, value_name = "SPEC", required_unless_present = "list")]
    device: Option<String>,
    /// The driver that is meant to drive it
    #[arg(long)]
    driver: Driver,
    /// The doorbell program; by default the one beside this program
    #[arg(long, value_name = "FILE")]
    doorbell: Option<PathBuf>,
    /// Where the broker is to listen
    #[arg(long, value_name = "PATH")]
    socket: Option<PathBuf>,
    /// One more argument of `doorbell serve`; may be repeated
    #[arg(long, value_name = "ARGUMENT", allow_hyphen_values = true)]
    serve: Vec<String>,
    /// Only this check; may be repeated
    #[arg(long, value_name = "NAME")]
    only: Vec<String>,
    /// List the checks and end
    #[arg(long)]
    list: bool,
    /// Repeat the random choices of an earlier run
    #[arg(long)]
    seed: Option<u64>,
    /// The file behind the first namespace, to look at its contents from outside
    #[arg(long, value_name = "FILE")]
    image: Option<PathBuf>,
    /// A command that takes the device away, for the check `removed`
    #[arg(long, value_name = "COMMAND")]
    unplug: Option<String>,
    /// Go on with a disk that holds data, and destroy it
    #[arg(long)]
    overwrite: bool,
    /// Print one JSON object instead of lines
    #[arg(long)]
    json: bool,
}

/// The drivers that have a plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Driver {
    /// NVMe controllers.
    Nvme,
    /// QEMU's `edu` device.
    Edu,
}

impl Driver {
    /// Its plan.
    #[must_use]
    pub fn checks(self) -> &'static [Check] {
        match self {
            Self::Nvme => nvme::CHECKS,
            Self::Edu => edu::CHECKS,
        }
    }
}

/// Runs a plan, or the part of it that `only` names, after refusing a device with data on it.
///
/// # Errors
/// If the device is not served, or holds data that may not be destroyed.
pub fn check(
    driver: Driver,
    setup: Setup,
    only: &[String],
    each: impl FnMut(&Verdict),
) -> Result<Vec<Verdict>> {
    let mut rig = Rig::new(setup)?;
    rig.serve()?;
    if driver == Driver::Nvme && !rig.setup.overwrite {
        nvme::refuse_data(&rig)?;
    }
    Ok(plan::run(&mut rig, driver.checks(), only, each))
}

/// What `--json` prints.
#[derive(Debug, Serialize)]
struct Report<'a> {
    device: &'a str,
    seed: u64,
    passed: usize,
    failed: usize,
    skipped: usize,
    checks: &'a [Verdict],
}

pub(crate) fn run() -> ExitCode {
    plan::exit(execute(Cli::parse()))
}

fn print(text: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{text}")?;
    Ok(out.flush()?)
}

fn execute(cli: Cli) -> Result<()> {
    let checks = cli.driver.checks();
    if cli.list {
        return checks
            .iter()
            .try_for_each(|check| print(&format!("{:<12} {}", check.name, check.what)));
    }
    if let Some(stranger) =
        cli.only.iter().find(|name| !checks.iter().any(|check| check.name == **name))
    {
        bail!("there is no check {stranger}; --list shows what there is");
    }
    let device = cli.device.context("no --device")?;
    let seed = cli.seed.unwrap_or_else(any_seed);
    let own = std::env::current_exe().context("finding this program")?;
    let setup = Setup {
        device: device.clone(),
        doorbell: cli.doorbell.map_or_else(|| beside(&own), Ok)?,
        client: (own, Vec::new()),
        socket: cli.socket,
        serve: cli.serve,
        seed,
        image: cli.image,
        unplug: cli.unplug,
        overwrite: cli.overwrite,
    };
    if !cli.json {
        print(&format!("{device}: seed {seed}"))?;
    }
    let tell = |verdict: &Verdict| {
        if !cli.json {
            // Whoever reads the lines may have gone; the exit status says it as well.
            let _ = print(&line(verdict));
        }
    };
    let verdicts = check(cli.driver, setup, &cli.only, tell)?;
    let count = |result| verdicts.iter().filter(|verdict| verdict.result == result).count();
    let (passed, failed, skipped) = (count("passed"), count("failed"), count("skipped"));
    let report = Report { device: &device, seed, passed, failed, skipped, checks: &verdicts };
    if cli.json {
        print(&serde_json::to_string_pretty(&report)?)?;
    } else {
        print(&format!("{device}: {passed} passed, {failed} failed, {skipped} skipped"))?;
    }
    match failed {
        0 => Ok(()),
        _ => bail!("device {device}: {failed} checks failed; repeat them with --seed {seed}"),
    }
}

fn line(verdict: &Verdict) -> String {
    let why = verdict.why.as_ref().map_or_else(String::new, |why| format!(": {why}"));
    format!("{:<8} {}{why}", verdict.result, verdict.name)
}

/// The `doorbell` program in the folder of this one.
fn beside(own: &std::path::Path) -> Result<PathBuf> {
    let program = own.with_file_name("doorbell");
    if !program.is_file() {
        bail!("there is no {}; name the doorbell program with --doorbell", program.display());
    }
    Ok(program)
}

/// A seed that no other run has had, most likely.
fn any_seed() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    (now.as_nanos() as u64) ^ u64::from(std::process::id())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent_and_so_are_the_plans() {
        Cli::command().debug_assert();
        for driver in [Driver::Nvme, Driver::Edu] {
            let mut names: Vec<_> = driver.checks().iter().map(|check| check.name).collect();
            names.sort_unstable();
            names.dedup();
            assert_eq!(names.len(), driver.checks().len(), "two checks of one name");
        }
    }
}
