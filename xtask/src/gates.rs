//! What each step of `test` and `ci` does.

use std::env;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::exec;
use crate::fuzz;
use crate::instructions;
use crate::lab;
use crate::samples;
use crate::setup::{self, Purpose};
use crate::steps::{Done, Step};
use crate::tools;
use crate::workspace::{Package, Workspace};

/// The packages with lock-free structures: their tests with `loom` in the path are models, built with `--cfg loom`.
const LOOM_PACKAGES: [&str; 1] = ["doorbell-queues"];

/// Runs one step.
///
/// # Errors
/// If the step did not pass, in one line; what exactly was wrong, the step's programs have printed themselves.
pub(crate) fn perform(step: Step, workspace: &Workspace, purpose: Purpose) -> Result<Done> {
    let done = match step {
        Step::Setup => setup::ensure(purpose),
        Step::Build => exec::run(workspace.cargo().args(["test", "--workspace", "--no-run"])),
        Step::Tests => tests(workspace),
        Step::Doctests => exec::run(workspace.cargo().args(["test", "--workspace", "--doc"])),
        Step::Loom => LOOM_PACKAGES.iter().try_for_each(|package| loom(workspace, package)),
        Step::Fmt => exec::run(workspace.cargo().args(["fmt", "--all", "--check"])),
        Step::Clippy => clippy(workspace),
        Step::Docs => docs(workspace),
        Step::Features => features(workspace),
        Step::Samples => samples::check(workspace),
        Step::Book => book(workspace),
        Step::Deny => deny(workspace),
        Step::Instructions => return instructions::perform(workspace),
        Step::Fuzz => return fuzz::perform(workspace),
        Step::Lab => return lab::perform(workspace, &lab::Options::ci()),
    };
    done.map(|()| Done::Passed)
}

/// Unit and integration tests. cargo-nextest is faster and gives each test a process of its own; without it, cargo's own
/// runner does. Neither stops at the first failure.
fn tests(workspace: &Workspace) -> Result<()> {
    let mut cargo = workspace.cargo();
    if exec::succeeds(workspace.cargo().args(["nextest", "--version"])) {
        cargo.args(["nextest", "run", "--workspace", "--no-fail-fast"]);
    } else {
        cargo.args(["test", "--workspace", "--tests", "--no-fail-fast"]);
    }
    exec::run(&mut cargo)
}

/// The loom models of one package, in release mode as they walk through very many interleavings.
fn loom(workspace: &Workspace, package: &str) -> Result<()> {
    let flags = env::var("RUSTFLAGS").unwrap_or_default();
    let command = || {
        let mut cargo = workspace.cargo();
        cargo.env("RUSTFLAGS", format!("{flags} --cfg loom").trim_start());
        cargo.args(["test", "--package", package, "--release", "--lib", "--target-dir"]);
        cargo.arg(workspace.target.join("loom"));
        cargo.arg("loom");
        cargo
    };
    // The filter makes "no model at all" a success of cargo's; here it would be a gate that checks nothing.
    let listing = exec::capture(command().args(["--", "--list"]))?;
    if !listing.lines().any(|line| line.ends_with(": test")) {
        bail!("{package} has no loom model: no test with `loom` in its path");
    }
    exec::run(&mut command())
}

/// All lints on all targets, with warnings as errors.
fn clippy(workspace: &Workspace) -> Result<()> {
    let mut cargo = workspace.cargo();
    cargo.args(["clippy", "--workspace", "--all-targets", "--all-features"]);
    exec::run(cargo.args(["--", "--deny", "warnings"]))
}

/// The API documentation of the workspace's own crates.
fn docs(workspace: &Workspace) -> Result<()> {
    let flags = env::var("RUSTDOCFLAGS").unwrap_or_default();
    let mut cargo = workspace.cargo();
    cargo.env("RUSTDOCFLAGS", format!("{flags} --deny warnings").trim_start());
    exec::run(cargo.args(["doc", "--workspace", "--no-deps"]))
}

/// Each crate feature alone, so that a program gets what it asks for and no more: no feature leans on another one that
/// it does not name. Then the one promise about linking that matters most: a client program has no broker code in it.
fn features(workspace: &Workspace) -> Result<()> {
    for package in &workspace.packages {
        for feature in &package.features {
            exec::run(workspace.cargo().args(feature_alone("check", package, feature)))?;
        }
    }
    for package in &workspace.packages {
        if package.features.iter().any(|feature| feature == "client") {
            let mut cargo = workspace.cargo();
            cargo.args(feature_alone("tree", package, "client"));
            cargo.args(["--edges", "normal", "--prefix", "none", "--format", TREE_FORMAT]);
            let enabled = enabled_features(&exec::capture(&mut cargo)?, "doorbell")
                .with_context(|| format!("{} does not depend on doorbell", package.name))?;
            if enabled.iter().any(|feature| feature == "broker") {
                bail!("feature client of {} enables doorbell's feature broker", package.name);
            }
        }
    }
    Ok(())
}

/// The arguments that make cargo look at one feature of one package.
fn feature_alone<'a>(command: &'a str, package: &'a Package, feature: &'a str) -> [&'a str; 6] {
    [command, "--package", &package.name, "--no-default-features", "--features", feature]
}

/// What `cargo tree` is to print for each package: name, version and source, a tab, its enabled features.
const TREE_FORMAT: &str = "{p}\t{f}";

/// The features that a listing in [`TREE_FORMAT`] shows for a package, or `None` if the package is not in it.
fn enabled_features(tree: &str, package: &str) -> Option<Vec<String>> {
    let mut rows = tree.lines().filter_map(|line| line.split_once('\t'));
    let (_, features) = rows.find(|(name, _)| name.split(' ').next() == Some(package))?;
    // A package that was listed before has "(*)" behind its features.
    let features = features.split(' ').next()?;
    Some(features.split(',').map(str::to_owned).collect())
}

/// The book. mdbook goes on after a page that it cannot assemble; here its warnings are errors.
fn book(workspace: &Workspace) -> Result<()> {
    let mut mdbook = Command::new(tools::MDBOOK.ensure(workspace)?);
    mdbook.current_dir(&workspace.root).args(["build", "book"]);
    eprintln!("  $ {}", exec::describe(&mdbook));
    let output = mdbook.output().context("cannot start mdbook")?;
    let log = String::from_utf8_lossy(&output.stderr);
    eprint!("{log}");
    if !output.status.success() {
        bail!("mdbook failed ({})", output.status);
    }
    if let Some(line) = log.lines().find(|line| line.contains("WARN") || line.contains("ERROR")) {
        bail!("mdbook built the book with complaints, the first is: {}", line.trim());
    }
    Ok(())
}

/// Licences, bans and sources, after `deny.toml`.
fn deny(workspace: &Workspace) -> Result<()> {
    let mut deny = Command::new(tools::CARGO_DENY.ensure(workspace)?);
    deny.current_dir(&workspace.root);
    // Why each duplicate is there fills pages; `cargo tree --invert NAME` answers it for one.
    deny.args(["check", "--hide-inclusion-graph", "licenses", "bans", "sources"]);
    exec::run(&mut deny)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn features_are_those_of_the_package_asked_for() {
        let tree = "doorbell-nvme v0.1.0 (/src/nvme)\tclient,soft\ndoorbell v0.1.0 (/src)\tbroker,client (*)\n\
                    doorbell-queues v0.1.0 (/src/queues)\t\n";
        assert_eq!(enabled_features(tree, "doorbell").unwrap(), ["broker", "client"]);
        assert_eq!(enabled_features(tree, "doorbell-nvme").unwrap(), ["client", "soft"]);
        assert_eq!(enabled_features(tree, "doorbell-queues").unwrap(), [""]);
        assert_eq!(enabled_features(tree, "door"), None);
        assert_eq!(enabled_features("", "doorbell"), None);
    }
}
