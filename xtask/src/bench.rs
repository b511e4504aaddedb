//! `cargo xtask bench`: every figure of the README beside its floor, from one run.
//!
//! The programs that measure are those of the package `doorbell-figures`; what each figure is, the book says.

use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result};

use crate::exec;
use crate::setup::{self, Purpose};
use crate::workspace::Workspace;

/// Measures, and counts instructions.
const FIGURES: &str = "doorbell-figures";
const INSTRUCTIONS: &str = "doorbell-instructions";

/// Builds in release mode and becomes the program that measures; returns only if something before it failed.
///
/// Its standard streams and exit status are this command's own, so with `json` there is one object on standard output
/// and nothing else.
pub(crate) fn run(workspace: &Workspace, json: bool) -> Result<()> {
    eprintln!("==> setup");
    setup::ensure(Purpose::Demo)?;
    // Without valgrind everything else can be measured all the same.
    if let Err(error) = setup::ensure(Purpose::Ci) {
        eprintln!("instructions may not be counted: {error:#}");
    }
    eprintln!("==> build");
    let program = build(workspace, FIGURES)?;
    let mut figures = Command::new(&program);
    figures.arg("--instructions").arg(build(workspace, INSTRUCTIONS)?);
    if json {
        figures.arg("--json");
    }
    eprintln!("==> bench\n  $ {}", exec::describe(&figures));
    Err(figures.exec()).with_context(|| format!("cannot start {}", program.display()))
}

/// The program that counts instructions, built as it is measured: in release mode.
pub(crate) fn build_instructions(workspace: &Workspace) -> Result<PathBuf> {
    build(workspace, INSTRUCTIONS)
}

fn build(workspace: &Workspace, program: &str) -> Result<PathBuf> {
    let mut cargo = workspace.cargo();
    cargo.args(["build", "--release", "--package", FIGURES, "--bin", program]);
    exec::run_to_stderr(&mut cargo)?;
    Ok(workspace.target.join("release").join(program))
}
