//! Builds what runs in the guests.

use std::path::PathBuf;

use anyhow::{Context, Result};
use serde_json::Value;

use crate::exec;
use crate::workspace::Workspace;

/// The programs that run in the guest: their packages.
const PACKAGES: [&str; 3] = ["doorbell-cli", "doorbell-conformance", "doorbell-lab"];

/// The lab's guests are of this kind.
const TARGET: &str = "x86_64-unknown-linux-gnu";

/// Builds the programs, and returns the folder that they lie in.
pub(super) fn build(workspace: &Workspace) -> Result<PathBuf> {
    let mut build = workspace.cargo();
    build.arg("build");
    build.args(PACKAGES.iter().flat_map(|package| ["--package", package]));
    exec::run_to_stderr(&mut build)?;
    Ok(workspace.target.join("debug"))
}

/// Builds the framework's own test program, and returns it.
pub(super) fn framework_tests(workspace: &Workspace) -> Result<PathBuf> {
    let mut build = workspace.cargo();
    build.args(["test", "--package", "doorbell", "--lib", "--features", "vfio", "--no-run"]);
    build.arg("--message-format=json-render-diagnostics");
    eprintln!("  $ {}", exec::describe(&build));
    executable(&exec::capture(&mut build)?).context("cargo names no test program of the framework")
}

/// The last program in cargo's messages, which are one JSON object a line.
fn executable(messages: &str) -> Option<PathBuf> {
    let of = |line: &str| {
        let message: Value = serde_json::from_str(line).ok()?;
        message["executable"].as_str().map(PathBuf::from)
    };
    messages.lines().rev().find_map(of)
}

/// Builds the first program of guests whose kernel comes in modules, and returns it.
pub(super) fn init(workspace: &Workspace) -> Result<PathBuf> {
    let mut build = workspace.cargo();
    // Linked statically, as nothing else is there when it runs; for a named target, so that what cargo itself runs
    // while it builds is not.
    build.env("RUSTFLAGS", "-C target-feature=+crt-static");
    build.args([
        "build",
        "--package",
        "doorbell-lab",
        "--no-default-features",
        "--bin",
        "lab-init",
    ]);
    build.args(["--target", TARGET]);
    exec::run_to_stderr(&mut build)?;
    Ok(workspace.target.join(TARGET).join("debug/lab-init"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_program_is_the_one() {
        let messages = "{\"reason\":\"compiler-artifact\",\"executable\":null}\nnoise\n\
            {\"executable\":\"/target/doorbell-1\"}\n{\"reason\":\"build-finished\",\"success\":true}\n";
        assert_eq!(executable(messages), Some(PathBuf::from("/target/doorbell-1")));
        assert_eq!(executable(""), None);
    }
}
